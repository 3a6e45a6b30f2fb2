"""Native formats from shard sets.

coco.py              COCO instances and COCO panoptic
coco_records.py      image records and ids of COCO
semantic_png.py      index PNGs of class ids
yolo.py              YOLO: boxes or polygons, several sets as splits
mask_polygon.py      a mask as one polygon, for YOLO
voc_xml.py           Pascal VOC boxes
label_studio_tasks.py  tasks of Label Studio with predictions, to be corrected there
cvat_dump.py         CVAT for images 1.1
labelme_files.py     labelme
prediction_files.py  prediction sets in the formats that other programs score
xml_text.py          names that XML allows, elements as indented text
image_names.py       a file name for each image, before anything is written
destination.py       image files and report of an export
"""
