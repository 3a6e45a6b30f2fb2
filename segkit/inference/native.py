"""Predictions in the files that other programs score: COCO results, COCO panoptic, index PNGs."""

from collections.abc import Callable
from pathlib import Path

from segkit.benchmark.results import write_results
from segkit.export.coco import export_panoptic
from segkit.export.semantic_png import export_semantic
from segkit.shards.reader import ShardSet

RESULTS = "results.json"
_VOIDS = (255, 0, 65535)
"""Indices that PNGs use for pixels of no class, the usual one first."""


def write_native(predictions: ShardSet, folder: Path) -> Path:
    """Write a prediction set in the format of its kind; returns the folder.

    instance: `results.json`, COCO results; panoptic: `panoptic_<name>.json` and its folder of PNGs;
    semantic: `masks/`, `labels.txt` and `taxonomy.json`. Image ids are the set's own, read as
    numbers where they are numbers.

    Raises:
        InputError: the folder is not empty, or a class id does not fit in a PNG.
    """
    FORMATS[predictions.manifest.kind](predictions, folder)
    return folder


def _instances(predictions: ShardSet, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder / RESULTS, predictions.samples())


def _panoptic(predictions: ShardSet, folder: Path) -> None:
    export_panoptic(predictions, folder)


def _semantic(predictions: ShardSet, folder: Path) -> None:
    void = next(index for index in _VOIDS if index not in predictions.taxonomy.by_id)
    export_semantic(predictions, folder, void=void)


FORMATS: dict[str, Callable[[ShardSet, Path], None]] = {
    "instance": _instances,
    "panoptic": _panoptic,
    "semantic": _semantic,
}
"""How the predictions of a task are written."""
