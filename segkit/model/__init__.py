"""The DaTaSeg model: images, class embeddings and box prompts in, masks with class logits out.

dataseg.py              DataSeg, the whole model, and its Outputs
backbone.py             image -> features, from any timm model
weights_file.py         the file of a backbone's initial weights
vitdet.py               a plain ViT as a backbone
swin.py                 Swin on images of any size
pixel_decoder.py        features -> three scales and F: feature pyramid or deformable attention
deformable.py           multi-scale deformable attention
sampling.py             its inner loop: weighted bilinear samples
transformer_decoder.py  queries -> masks, by masked attention to the scales
text_classifier.py      queries -> class logits and probabilities, by class embeddings
cell_classifier.py      cells of the three scales -> class logits, by the same classifier
box_prompt_encoder.py   boxes and labels -> queries
prompt_maps.py          a box prompt and its neighbors as maps beside the image
box_coding.py           boxes as numbers relative to the boxes of cells and queries
query_selection.py      the cells that resemble names of things
foreground.py           foreground queries: box prompts at predicted boxes
box_mask_head.py        mask refinement in the frame of a box
weight_transfer.py      class weights -> additions to mask embeddings (Mask^X R-CNN)
layers.py               MLP, checkpointed layers, position encodings
hf.py                   Hugging Face Mask2Former checkpoints
hf_names.py             their weight names
hf_processor.py         their image sizes and pixel statistics
linear_head.py          their class heads as text heads with the same logits
"""
