"""Zero-shot class heads: a second stage on the features of a frozen run (PADing, CVPR 2023).

check_bank_inputs.py  refuse a run and a set that do not belong together, without torch
bank.py               FeatureBank: query embeddings of seen classes, on disk
collect_bank.py       run + seen set -> bank: one pass of the frozen model
settings.py           the settings of the second stage
generator.py          class embeddings and noise -> query embeddings
feature_losses.py     maximum mean discrepancy, parts of features, alignment
second_stage.py       train the generator, and a class head on real and generated features
class_heads.py        the trained head as a version of the run
"""
