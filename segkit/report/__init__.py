"""Report: the result of an evaluation as one HTML file that loads nothing from elsewhere.

build.py     put the report together: headline figures, sections, images, provenance
sections.py  write the sections of each task
figures.py   compute bars, scatter plots, histograms and confusion matrices
gallery.py   embed the worst and the best images
ranking.py   rank images: the worst and the best
preview.py   draw images of a set: one, a grid, or beside predictions
page.py      fill the templates: the page and its parts
templates/   HTML of the page, of its parts (macros) and of their drawings; the style sheet
"""
