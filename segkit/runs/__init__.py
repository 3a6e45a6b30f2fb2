"""Runs, the versioned directories that training writes and inference reads.

run_manifest.py  manifest.json of a run; open a run without torch
run.py           Run: the model with its class embeddings; load_run
init_from.py     initial weights from a run or from a Mask2Former of Hugging Face
"""
