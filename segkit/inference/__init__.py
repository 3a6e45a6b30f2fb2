"""Inference: images and a trained run in, labeled masks out.

predictor.py        Predictor: segment images or boxes from Python
predicted_masks.py  the masks that it returns
pipeline.py         the loop: load, batch by shape, run the model, post-process, in order
postprocess.py      proposals -> labeled masks, by task
mask2former.py      the same, equal to transformers' post-processing of Mask2Former
predict_boxes.py    box prompts -> masks, each on an enlarged crop
pseudolabel.py      replace the boxes of a set by masks, as a label layer
outputs.py          write predictions as samples, shard sets and pictures
upscale.py          mask logits at the pixels of the original image, in bands
input_files.py      find, name and check image files
streams.py          prefetch, batch_by_shape, reorder, unbatch
"""
