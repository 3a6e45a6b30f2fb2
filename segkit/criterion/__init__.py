"""Losses: from model outputs and targets to a dict of weighted terms.

set_criterion.py     SetCriterion: MERGE, matching, class and mask losses of a batch
pooled_targets.py    targets at the stride of the mask logits
merge_proposals.py   MERGE: group proposals of one class, merge their masks and class logits
matcher.py           HungarianMatcher: matching costs, their transfer, the assignment
box_prompts.py       sample box prompts for a training step; the losses of their masks
dense_loss.py        cross-entropy of cells, on masks and in boxes
box_assist.py        masks that a model predicts for boxes, to assist their training
query_groups.py      foreground and learned queries: allowed pairs, costs and losses of boxes
denoising.py         foreground queries at noised true boxes, and their losses
known_classes.py     class loss of box prompts and denoising queries, whose targets are known
sigmoid_classes.py   focal loss of each class against background
losses.py            focal, dice, cross-entropy, projection and pairwise terms, as loss and cost
color_affinity.py    neighboring pixels of similar color, for the pairwise term
point_sampling.py    uniform and uncertain points, strided samples, logits at points
partial_labels.py    images that are annotated for some classes only; proposals on void
"""
