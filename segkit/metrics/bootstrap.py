"""What another draw of images would have given: percentile intervals, and paired comparison of two
predictions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.metrics import detections, panoptic, semantic
from segkit.metrics.evaluate import Measured, thing_classes
from segkit.taxonomy import Taxonomy

Floats = NDArray[np.float64]
Figures = Callable[[Floats | None], dict[str, float]]
"""Headline figures in percent for weights of the images (how often each is drawn; None: once); NaN
where undefined."""
CONFIDENCE = 0.95


def figures_of(measured: Measured, taxonomy: Taxonomy) -> Figures:
    """The headline figures of an evaluation as a function of the images drawn, those of boundaries
    beside the others.

    Raises:
        InputError: instances were evaluated without `EvalOptions.details`.
    """
    classes = len(taxonomy.categories)
    things = np.array([category.kind == "thing" for category in taxonomy.categories])
    task = measured.metrics["task"]
    if task == "semantic" and measured.semantic is not None:
        pixels = measured.semantic
        return lambda weights: _defined(
            semantic.means(semantic.confusion(pixels, classes, weights))
        )
    if task == "panoptic":
        rows = {"": measured.panoptic, "boundary ": measured.outlined}
        return _named(
            {a: partial(_panoptic, r, classes, things) for a, r in rows.items() if r is not None}
        )
    if measured.detections is None:
        raise InputError("the evaluation kept no detections", hint="evaluate with details")
    found = {"": measured.detections, "boundary ": measured.outlined_detections}
    number = len(thing_classes(taxonomy))
    return _named({a: partial(_instance, r, number) for a, r in found.items() if r is not None})


def _named(parts: Mapping[str, Figures]) -> Figures:
    """Figures of several kinds as one, with the kind before their names."""
    return lambda weights: {
        before + name: v for before, part in parts.items() for name, v in part(weights).items()
    }


def _panoptic(
    rows: panoptic.PanopticRows, classes: int, things: NDArray[np.bool_], weights: Floats | None
) -> dict[str, float]:
    counts = panoptic.count(rows, classes, weights)
    whole = panoptic.mean_quality(counts, things | ~things)
    parts = {
        "pq things": panoptic.mean_quality(counts, things)["pq"],
        "pq stuff": panoptic.mean_quality(counts, ~things)["pq"],
    }
    return _defined({"pq": whole["pq"], **parts, "sq": whole["sq"], "rq": whole["rq"]})


def _instance(
    rows: detections.DetectionRows, classes: int, weights: Floats | None
) -> dict[str, float]:
    precision = detections.average_precision(rows, classes, weights)
    present = precision[:, ~np.isnan(precision[0])]
    if not present.size:
        return dict.fromkeys(("ap", "ap50", "ap75"), float("nan"))
    by_threshold = 100 * present.mean(axis=1)
    return {
        "ap": float(by_threshold.mean()),
        "ap50": float(by_threshold[0]),
        "ap75": float(by_threshold[5]),
    }


def _defined(values: dict[str, Any]) -> dict[str, float]:
    return {name: float("nan") if value is None else float(value) for name, value in values.items()}


def draws(images: int, samples: int, seed: int) -> Iterator[Floats]:
    """How often each image is drawn, for `samples` draws of as many images as there are, with
    replacement."""
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.bincount(rng.integers(images, size=images), minlength=images).astype(np.float64)


def intervals(figures: Figures, images: int, samples: int, seed: int = 0) -> dict[str, Any]:
    """`samples`, `confidence`, and for each figure [low, high] in percent (null where it is
    undefined)."""
    drawn = [figures(weights) for weights in draws(images, samples, seed)]
    found = {name: _range([row[name] for row in drawn]) for name in drawn[0]}
    return {"samples": samples, "confidence": CONFIDENCE, "seed": seed, "intervals": found}


def compare(
    first: Figures, second: Figures, images: int, samples: int, seed: int = 0
) -> dict[str, Any]:
    """Two predictions for the same images, figure by figure.

    Each draw of images is scored for both, so that hard images weigh on both alike. Of every
    figure: `a`, `b`, `difference` (b - a), `interval` of the difference, and `b_better`, the share
    of draws in which b is ahead.
    """
    a, b = first(None), second(None)
    pairs = [(first(weights), second(weights)) for weights in draws(images, samples, seed)]
    result: dict[str, Any] = {}
    for name in a:
        gained = np.array([two[name] - one[name] for one, two in pairs])
        gained = gained[~np.isnan(gained)]
        ahead = float(np.mean(gained > 0) + np.mean(gained == 0) / 2) if len(gained) else None
        result[name] = {
            "a": _number(a[name]),
            "b": _number(b[name]),
            "difference": _number(b[name] - a[name]),
            "interval": _range(gained.tolist()),
            "b_better": ahead,
        }
    return {"samples": samples, "confidence": CONFIDENCE, "seed": seed, "figures": result}


def _range(values: Sequence[float]) -> list[float | None]:
    defined = np.array(values)[~np.isnan(values)]
    if not len(defined):
        return [None, None]
    edge = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(defined, [edge, 100 - edge]).tolist()
    return [low, high]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
