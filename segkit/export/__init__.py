"""Native formats from shard sets.

coco.py              COCO instances and COCO panoptic
semantic_png.py      index PNGs of class ids
yolo.py              YOLO-seg
prediction_files.py  prediction sets in the formats that other programs score
destination.py       directory, file names and report of an export
"""
