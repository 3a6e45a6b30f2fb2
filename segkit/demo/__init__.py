"""Demo: every stage of segkit on generated scenes.

demo.py      generate, convert, train, pseudolabel, predict, evaluate, draw
scenes.py    paint a scene: stuff in the background, things in front
shapes.py    outlines of the things and the pixels that they cover
textures.py  surfaces of things and stuff
layouts.py   write scenes in the layouts of COCO panoptic, ADE20K and Objects365
sheet.py     draw the contact sheet
"""
