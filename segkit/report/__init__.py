"""Report: a result, such as that of an evaluation, as one HTML file that loads nothing else.

build.py            put the report together: headline figures, sections, images, provenance
sections.py         write the sections of each task
figures.py          compute bars, scatter plots, histograms and confusion matrices
gallery.py          embed the worst and the best images
ranking.py          rank images: the worst and the best
preview.py          draw images of a set: one, a grid, or beside predictions
labeling.py         put the report of a label layer together
labeled_boxes.py    the boxes of a layer as rows, with scores and IoU
compared_masks.py   IoU of a layer beside box, ellipse, GrabCut and other layers
object_gallery.py   embed the worst, the median and the best masks
reliability.py      section and page of a calibration
environment.py      what is installed on this machine, for `doctor`
page.py             fill the templates: the page and its parts
templates/          HTML of the page, of its parts (macros) and of their drawings; the style sheet
"""
