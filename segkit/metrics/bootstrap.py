"""Bootstrap over images: percentile intervals, and the paired comparison of two predictions."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Figures = Callable[[Floats | None], dict[str, float]]
"""Headline figures in percent for (I,) weights of the images (how often each is drawn; None: once);
NaN where undefined."""
CONFIDENCE = 0.95
SEED = 0


def compute_intervals(figures: Figures, images: int, samples: int) -> dict[str, Any]:
    """Percentile intervals, the `bootstrap` object of metrics.json.

    Args:
        figures: of one evaluation.
        images: number of images I.
        samples: number of draws.

    Returns:
        `samples`, `confidence`, `seed` and, of each figure in `intervals`, [low, high] in percent
        (None where it is undefined).
    """
    drawn = [figures(weights) for weights in _draws(images, samples)]
    intervals = {name: _interval([row[name] for row in drawn]) for name in drawn[0]}
    return {
        "samples": samples,
        "confidence": CONFIDENCE,
        "seed": SEED,
        "intervals": intervals,
    }


def compute_differences(
    first: Figures, second: Figures, images: int, samples: int
) -> dict[str, Any]:
    """Compare two predictions for the same images, figure by figure.

    Each draw of images is evaluated for both, so that hard images affect both alike.

    Args:
        first: figures of prediction a.
        second: figures of prediction b.
        images: number of images I.
        samples: number of draws.

    Returns:
        `samples`, `confidence`, `seed` and, of each figure in `figures`: `a`, `b`, `difference`
        (b - a), `interval` of the difference, and `b_better`, the share of draws in which b is
        ahead.
    """
    a, b = first(None), second(None)
    drawn = [(first(weights), second(weights)) for weights in _draws(images, samples)]
    figures: dict[str, Any] = {}
    for name in a:
        differences = np.array([row_b[name] - row_a[name] for row_a, row_b in drawn])
        differences = differences[~np.isnan(differences)]
        b_better = None
        if len(differences):
            b_better = float(np.mean(differences > 0) + np.mean(differences == 0) / 2)
        figures[name] = {
            "a": _defined(a[name]),
            "b": _defined(b[name]),
            "difference": _defined(b[name] - a[name]),
            "interval": _interval(differences.tolist()),
            "b_better": b_better,
        }
    return {"samples": samples, "confidence": CONFIDENCE, "seed": SEED, "figures": figures}


def _draws(images: int, samples: int) -> Iterator[Floats]:
    """(I,) how often each image is drawn, for `samples` draws of I images with replacement."""
    rng = np.random.default_rng(SEED)
    for _ in range(samples):
        drawn = rng.integers(images, size=images)
        yield np.bincount(drawn, minlength=images).astype(np.float64)


def _interval(values: Sequence[float]) -> list[float | None]:
    defined = np.array(values)[~np.isnan(values)]
    if not len(defined):
        return [None, None]
    edge = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(defined, [edge, 100 - edge]).tolist()
    return [low, high]


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
