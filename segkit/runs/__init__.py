"""Runs, the versioned directories that training writes and inference reads.

run_manifest.py       manifest.json of a run
checkpoint_digests.py the digests of a checkpoint's files
check_run.py          check the files of a run, or the checkpoints of an interrupted one
open_run.py           a run by its name, without torch; a public model is imported
run.py                Run: the model with its class embeddings; read from a folder
calibration.py        calibration.json: maps from the score of a mask to the IoU to expect
calibrated_version.py publish a run with a calibration
content_files.py      write the recipe, taxonomies, text embeddings and weights of a run
import_checkpoint.py  a public Mask2Former of Hugging Face as a run
init_from.py          initial weights from a run or from a Mask2Former of Hugging Face
"""
