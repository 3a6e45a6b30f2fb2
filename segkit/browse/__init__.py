"""Browse: a shard set, with predictions beside it, in the FiftyOne App.

connect.py   import FiftyOne and start its database
media.py     write images and class maps as the files that FiftyOne reads
labels.py    segments as FiftyOne's segmentations and detections
dataset.py   load a set into FiftyOne's database and open the App
"""
