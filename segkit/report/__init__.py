"""Report: the result of an evaluation as one HTML file that loads nothing from elsewhere.

build.py     choose the sections of a report for a task
figures.py   draw bars, scatter plots, histograms and confusion matrices
gallery.py   embed the worst and the best images
page.py      assemble the page; HTML elements and tables
style.py     the style sheet
"""
