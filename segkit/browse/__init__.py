"""Browse: a shard set, with predictions beside it, in the FiftyOne App.

connect.py     import FiftyOne and start its database
media.py       write images and class maps as the files that FiftyOne reads
labels.py      segments as FiftyOne's segmentations and detections
image_facts.py  figures of each image, quarantined labels, leaks
appearance.py  visible fields, colors by class name, saved views
dataset.py     load a set into FiftyOne's database, or update it, and open the App
review.py      tags of the App -> a label layer
"""
