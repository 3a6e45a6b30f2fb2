"""Image files and pictures: decoding, checking, drawing.

decode.py           pixels and size of an image file
check.py            whether an image file is complete
orientation.py      EXIF orientations: read, apply and remove them
png.py              PNG checksums; segment ids and class indices in PNGs
palette.py          the color of each class name
label_placement.py  places for class names that keep clear of each other
draw.py             segments painted over an image
picture_grid.py     captioned pictures in a grid
contact_sheet.py    pictures in rows and columns with headings
"""
