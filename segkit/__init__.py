"""segkit: one segmentation model from every kind of annotation."""

__version__ = "0.1.0"
