"""Inference: images and a trained run in, labeled masks out.

predictor.py        Predictor: segment images or boxes from Python
predicted_masks.py  the masks that it returns
pipeline.py         the loop: load, batch by shape, run the model, post-process, in order
postprocess.py      proposals -> labeled masks, by task
head_boxes.py       boxes of instances by the box head of their queries
dense.py            the same from the classes of cells and proposals together
mask2former.py      the same, equal to transformers' post-processing of Mask2Former
predict_boxes.py    box prompts -> masks, each on an enlarged crop
match_proposals.py  proposals -> masks of boxes, by class and overlap
box_masks.py        ImagePrompts and BoxMask: the boxes of an image, and their masks
pseudolabel.py      replace the boxes of a set by masks of a teacher, as a label layer
overlaps.py         give each pixel to one mask of an image
calibration_set.py  the boxes with true masks that a calibration needs
calibrate.py        fit and check the calibration of a run's mask scores
teacher.py          Teacher: the interface, boxes -> masks and scores
open_teacher.py     teachers by name: check, fetch, load
run_teacher.py      teacher: a trained run, or a public Mask2Former
sam.py              teacher: SAM, SAM 2 or SAM-HQ by transformers
grabcut.py          teacher: OpenCV's GrabCut
shape_teachers.py   teachers: the filled box and its ellipse
mask_statistics.py  figures of the pseudo-masks of a set
outputs.py          write predictions as samples, shard sets and pictures
upscale.py          mask logits at the pixels of the original image, in bands
input_files.py      find, name and check image files
label_shards.py     write a label layer shard by shard, by any number of workers
streams.py          prefetch, batch_by_shape, reorder, unbatch
"""
