"""segkit: one segmentation model from every kind of annotation.

The package exports what users need, and imports each on first use: `import segkit` is fast and
imports neither torch nor OpenCV.
"""

import os
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.data.torch_dataset import TorchDataset
    from segkit.inference.open_teacher import open_teacher
    from segkit.inference.predictor import Predictor, open_run, segment_boxes
    from segkit.inference.pseudolabel import pseudolabel
    from segkit.metrics.evaluate import evaluate
    from segkit.runs.open_run import load_run
    from segkit.shards.reader import ShardSet
    from segkit.sources.engine import convert
    from segkit.training.selftrain import selftrain
    from segkit.training.train import train

    open = ShardSet.open

# OpenCV reads its limit once; this one is `segkit.images.png.MAX_PIXELS`, a sixth of its own.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "178956970")
# It prints lines of C++ on a damaged image; segkit names file and remedy.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

__version__ = "0.1.0"
__all__ = [
    "Predictor",
    "ShardSet",
    "TorchDataset",
    "__version__",
    "convert",
    "evaluate",
    "load_run",
    "open",
    "open_run",
    "open_teacher",
    "pseudolabel",
    "segment_boxes",
    "selftrain",
    "train",
]

_EXPORTS = {
    "Predictor": ("segkit.inference.predictor", "Predictor"),
    "ShardSet": ("segkit.shards.reader", "ShardSet"),
    "TorchDataset": ("segkit.data.torch_dataset", "TorchDataset"),
    "convert": ("segkit.sources.engine", "convert"),
    "evaluate": ("segkit.metrics.evaluate", "evaluate"),
    "load_run": ("segkit.runs.open_run", "load_run"),
    "open": ("segkit.shards.reader", "ShardSet.open"),
    "open_run": ("segkit.inference.predictor", "open_run"),
    "open_teacher": ("segkit.inference.open_teacher", "open_teacher"),
    "pseudolabel": ("segkit.inference.pseudolabel", "pseudolabel"),
    "segment_boxes": ("segkit.inference.predictor", "segment_boxes"),
    "selftrain": ("segkit.training.selftrain", "selftrain"),
    "train": ("segkit.training.train", "train"),
}
"""Exported name -> module and attribute."""


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'segkit' has no attribute {name!r}")
    module, attribute = _EXPORTS[name]
    try:
        return attrgetter(attribute)(import_module(module))
    except ImportError as error:
        from segkit.extras import as_missing_extra

        if missing := as_missing_extra(error, f"segkit.{name}"):
            raise missing from error
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
