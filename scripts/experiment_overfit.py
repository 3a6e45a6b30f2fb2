"""Overfit check: train on 8 COCO panoptic images and evaluate on them; PQ must exceed 90.

    python scripts/real.py                               # makes the shard sets
    python scripts/experiment_overfit.py --data real-out/sets/coco-train --out overfit

The script selects the images whose smallest segment is largest (masks of 64 x 64 cells resolve no
small ones) and trains without augmentation. A bug anywhere between annotation and metric keeps PQ
below 90.
"""

import argparse
from pathlib import Path

from experiments import run_script
from rich.console import Console

from segkit.commands.common import stderr, table
from segkit.sample import Sample
from segkit.shards.reader import ShardSet
from segkit.shards.split import split
from segkit.training.train import train
from segkit.training.trainer import Callbacks

NO_AUGMENTATION = (
    "data.scale_min=1.0",
    "data.scale_max=1.0",
    "data.zoom_probability=0.0",
    "data.flip=false",
    "data.color_jitter=0.0",
    "loss.box_prompts=0.0",
    "model.freeze_norm=true",
    "optimizer.lr=1e-3",
    "optimizer.backbone_lr_factor=1.0",
    "optimizer.weight_decay=0.0",
    "optimizer.warmup_steps=20",
    "optimizer.ema_decay=0.9",
)
"""Overrides that also turn regularization off."""


def smallest_share(sample: Sample) -> float:
    """Area of the smallest segment over the image's; 0 without segments, or with a crowd."""
    if not sample.segments or any(segment.is_crowd for segment in sample.segments):
        return 0.0
    return min(segment.area for segment in sample.segments) / (sample.width * sample.height)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path("real-out/sets/coco-train"), help="a panoptic shard set"
    )
    parser.add_argument("--out", type=Path, default=Path("overfit"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument(
        "--min-segments", type=int, default=4, help="fewest segments of a selected image"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--weights", type=Path, help="backbone weights (default: random)")
    arguments = parser.parse_args()
    data = ShardSet.open(arguments.data)
    samples = [s for s in data.samples() if len(s.segments) >= arguments.min_segments]
    selected = sorted(samples, key=smallest_share, reverse=True)[: arguments.images]
    parts = {sample.id: "few" for sample in selected}
    made_by = {"images": arguments.images, "min_segments": arguments.min_segments}
    few = str(split(data, arguments.out / "sets", parts, made_by, force=False)["few"].path)
    overrides = [
        *NO_AUGMENTATION,
        f"data.image_size={arguments.size}",
        f"data.batch_size={arguments.images}",
        f"inference.image_size={arguments.size}",
        f"training.evaluate_every={max(1, arguments.steps // 6)}",
    ]
    if arguments.weights:
        overrides.append(f'model.backbone_weights="{arguments.weights.resolve()}"')
    rows: list[tuple[str, ...]] = []

    def note(step: int, _: str, metrics: dict[str, dict[str, float]]) -> None:
        rows.append((str(step), *(f"{metrics['all'][key]:.1f}" for key in ("pq", "sq", "rq"))))
        stderr.print(*rows[-1])

    train(
        "dataseg-mini",
        [(few, 1.0)],
        arguments.out / "run",
        eval_data=[few],
        steps=arguments.steps,
        overrides=overrides,
        callbacks=Callbacks(on_evaluation=note),
    )
    segments = sum(len(sample.segments) for sample in selected)
    Console().print(
        table(f"{len(selected)} images, {segments} segments", ("step", "PQ", "SQ", "RQ"), rows)
    )


if __name__ == "__main__":
    run_script(main)
