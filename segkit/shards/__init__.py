"""Shard sets on disk: versions of image tars, Parquet labels and a manifest.

manifest.py        the manifest of a version
manifest_file.py   the file of a manifest, with the digest of its content
header.py          the part of a manifest that a command gives
versions.py        find the published versions of a directory
publish.py         publish a version: staging, locks, atomic rename
unfinished.py      records of unfinished versions: fingerprint, inputs, whether precious
leftovers.py       delete what only an unfinished version needed
upload.py          publish to an object store
arrow.py           samples as rows of an Arrow table
label_files.py     open files of labels, and check their rows
label_columns.py   read some columns of the labels, without segments
shard.py           write one shard: image tar and labels
sidecar.py         record finished shards, for resuming
writer.py          write sets, layers and views
relative_names.py  names that lead from a folder to a file
locations.py       the files that a version names: parts, tars of parents, image files
reader.py          `ShardSet`: samples and images of a version
coco_image_ids.py  image ids in COCO files, of exports and results
read_ahead.py      fetch coming images from a store
byte_cache.py      a bounded cache of what was read from a store
labeled_image.py   one image with its labels, for notebooks and scripts
lineage.py         describe a version and its ancestors
validate.py        check the files and rows of a version
check_manifest.py  check digests, ledger, taxonomy and parents
rules.py           the rules of labels that conversion and validation share
consistency.py     check one sample
sample_spill.py    samples in a temporary file, for another order
diff.py            compare two sets
merge_sets.py      several sets as one
split.py           parts of a set
zero_shot_split.py seen and unseen parts of a set
prune.py           delete old versions that nothing refers to
relabel.py         a set in another taxonomy
join_segments.py   segments that are one region in other classes
leakage.py         images that two sets share
"""
