"""Image files and pictures: decoding, checking, drawing.

decode.py         pixels and size of an image file
check.py          whether an image file is complete
png.py            PNG checksums; segment ids and class indices in PNGs
draw.py           segments painted over an image
contact_sheet.py  a grid of pictures with captions
"""
