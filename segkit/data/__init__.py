"""Training data: shard sets in, batches of augmented crops and their targets out.

check_sets.py     what the data sets of a run must have; imports no PyTorch
mask_policy.py    which classes train with masks, with boxes, or not at all
mix.py            DataMix: the batches of several data sets, by step
schedule.py       which data set and which samples a step takes
augment.py        Crop: scale, cut, pad and mirror image, masks and boxes; color jitter
targets.py        the targets of a crop from the segments of its sample
batch.py          Batch and Targets; collate and uncollate them
torch_dataset.py  a set as a map-style dataset for other training code
"""
