"""segkit: one segmentation model from every kind of annotation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.inference.boxes import segment_boxes
    from segkit.runs.run import load_run

__version__ = "0.1.0"
__all__ = ["__version__", "load_run", "segment_boxes"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: importing segkit must not import torch.
    if name == "segment_boxes":
        from segkit.inference.boxes import segment_boxes

        return segment_boxes
    if name == "load_run":
        from segkit.runs.run import load_run

        return load_run
    raise AttributeError(f"module 'segkit' has no attribute {name!r}")
