"""Published benchmarks: their data and their figures.

published.py             published figures, and the benchmark that a set belongs to
objects365_instances.py  the 1,000 Objects365 images with masks: ground truth and evaluation
"""
