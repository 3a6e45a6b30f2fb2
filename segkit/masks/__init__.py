"""Masks as COCO run lengths: coding, boxes and overlaps; no other room decodes a mask.

rle.py          encode, decode and combine the run lengths of one mask or of a label map
run_lengths.py  decode the strings of many masks at once; the format itself
boxes.py        tight boxes of masks; the pixels and simple masks of a box
brush_rle.py    run lengths of Label Studio's brush masks
iou.py          intersection over union of boxes and masks
supervision.py  masks for the supervision library
"""
