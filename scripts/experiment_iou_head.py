"""Does a head on the query of a box prompt predict the IoU of its mask better than the score does?

    python scripts/experiment_iou_head.py --checkpoint real-out/labeler \\
        --data real-out/coco-instances --masks real-out/sets/coco-val real-out/sets/coco-train

SAM predicts the IoU of each mask from the query that made it. Here the run is frozen, and small
networks learn the same: from the query's embedding, from the score, and from both. They are fitted
to half of the images of --data and checked on the other half, and fitted to each set of --masks
and checked on --data. All sets have true masks; those of --data are not the run's training data.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from experiments import markdown, run_script
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.commands.progress import progress_bar
from segkit.inference.calibrate import ScoredBoxes, score_boxes
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.shards.reader import ShardSet

SEEDS = range(5)
"""Of the networks, whose predictions are averaged, and of the halves."""
WIDTH, STEPS, WEIGHT_DECAY, DROPOUT = 64, 300, 0.05, 0.2
INPUTS = {"score": (1, 3), "query": (3, None), "query, score and size": (0, None)}
"""First and last column of the inputs of each head."""


@dataclass(frozen=True)
class Boxes:
    """Boxes with the IoU of their masks, and what a head can know of them."""

    scored: ScoredBoxes
    inputs: Tensor
    """(Q, 3 + hidden_dim): logarithm of the box's area, score, its square, and the query."""


@contextmanager
def recorded_queries(run: Run) -> Iterator[list[Tensor]]:
    """Collect the last layer's queries (B, hidden_dim) of each batch of box prompts."""
    queries: list[Tensor] = []

    def record(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        queries.append(arguments[0][:, -1, 0].float().cpu())

    hook = run.model.text_classifier.register_forward_pre_hook(record)
    try:
        yield queries
    finally:
        hook.remove()


def collect(run: Run, data: ShardSet) -> Boxes:
    """Segment the boxes of a set with true masks."""
    with recorded_queries(run) as queries, progress_bar(data.manifest.name, len(data)) as advance:
        scored = score_boxes(run, data, on_image=advance)
    embeddings = torch.cat(queries)  # (Q, hidden_dim), in the order of the boxes
    assert len(embeddings) == len(scored.iou)
    columns = np.stack((np.log(scored.area), scored.score, scored.score**2), axis=1)
    return Boxes(scored, torch.cat((torch.from_numpy(columns).float(), embeddings), dim=1))


def predict(fitted: Boxes, rows: NDArray[np.bool_], checked: Tensor, name: str) -> NDArray[Any]:
    """Fit heads to some rows of boxes and average their expected IoU of the inputs (Q, D)."""
    first, last = INPUTS[name]
    inputs, iou = fitted.inputs[rows][:, first:last], torch.from_numpy(fitted.scored.iou[rows])
    mean, deviation = inputs.mean(0), inputs.std(0) + 1e-6
    new = (checked[:, first:last] - mean) / deviation
    total = torch.zeros(len(new))
    for seed in SEEDS:
        torch.manual_seed(seed)
        head = nn.Sequential(
            nn.Linear(inputs.shape[1], WIDTH), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(WIDTH, 1)
        )
        optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=WEIGHT_DECAY)
        for _ in range(STEPS):
            chosen = torch.randint(len(inputs), (128,))
            output = head((inputs[chosen] - mean) / deviation)[:, 0].sigmoid()
            loss = F.mse_loss(output, iou[chosen].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            total += head.eval()(new)[:, 0].sigmoid()
    return (total / len(SEEDS)).numpy()


def figures(expected: NDArray[Any], iou: NDArray[Any]) -> tuple[float, float]:
    """Rank correlation with the IoU, and mean error of a box."""
    return float(spearmanr(expected, iou).statistic), float(np.abs(expected - iou).mean())


def halves(boxes: Boxes, name: str) -> list[tuple[float, float]]:
    """Figures on one half of the images of a head that was fitted to the other."""
    results = []
    for seed in SEEDS:
        fitted = boxes.scored.in_half(seed)
        iou = boxes.scored.iou[~fitted]
        if name == "raw":
            results.append(figures(boxes.scored.score[~fitted], iou))
        else:
            results.append(figures(predict(boxes, fitted, boxes.inputs[~fitted], name), iou))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True, help="a set with images and true masks")
    parser.add_argument("--masks", nargs="*", default=[], help="further sets with true masks")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    run = load_run(arguments.checkpoint, arguments.device)
    checked = collect(run, ShardSet.open(arguments.data))
    rows: list[tuple[str, ...]] = []
    for name in ("raw", *INPUTS):
        columns = np.array(halves(checked, name)).T
        spread = (f"{x.mean():.3f} ± {x.std(ddof=1):.3f}" for x in columns)
        rows.append(("half of these images, 5 halves", name, *spread))
    for place in arguments.masks:
        fitted = collect(run, ShardSet.open(place))
        every = np.ones(len(fitted.scored.iou), bool)
        for name in INPUTS:
            expected = predict(fitted, every, checked.inputs, name)
            values = (f"{x:.3f}" for x in figures(expected, checked.scored.iou))
            rows.append((place, name, *values))
    print(markdown(("fitted to", "head reads", "Spearman with the IoU", "mean error"), rows))


if __name__ == "__main__":
    run_script(main)
