"""Panoptic quality by the two thresholds of panoptic output, from one pass of the model.

    python scripts/experiment_thresholds.py --checkpoint real-out/run --data
    real-out/sets/coco-train

`inference.score` is the lowest class probability of a segment, `inference.overlap` the smallest
fraction of its mask that better segments leave it. Choose both on images that no reported figure
uses, such as training images.
"""

import argparse
from itertools import product

from experiments import run_script
from rich.console import Console

from segkit.commands.common import table
from segkit.commands.progress import progress_bar
from segkit.inference.outputs import predicted_sample
from segkit.inference.pipeline import Image, ModelOutput, infer
from segkit.inference.postprocess import panoptic
from segkit.metrics.evaluate import evaluate
from segkit.recipes.schema import InferenceConfig
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.sample import Sample
from segkit.shards.reader import ShardSet

SCORES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
OVERLAPS = (0.0, 0.3, 0.6, 0.8)


def predictions(run: Run, data: ShardSet, configs: list[InferenceConfig]) -> list[list[Sample]]:
    """The panoptic predictions for all images, for each configuration."""
    classes = run.class_embeddings(data.taxonomy)

    def read(sample: Sample) -> tuple[Sample, Image]:
        return sample, data.image(sample)

    def postprocess(output: ModelOutput[Sample]) -> list[Sample]:
        logits = (output.class_logits, output.mask_logits)
        masks = [panoptic(*logits, output.crop, classes.is_thing, config) for config in configs]
        return [predicted_sample(output.record, regions, data.taxonomy) for regions in masks]

    predictions: list[list[Sample]] = [[] for _ in configs]
    outputs = infer(run.model, classes, data.samples(), read, postprocess, run.recipe.inference)
    with progress_bar("predict", len(data)) as advance:
        for samples in outputs:
            for column, sample in zip(predictions, samples, strict=True):
                column.append(sample)
            advance()
    return predictions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True, help="a panoptic set")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scores", type=float, nargs="+", default=SCORES)
    parser.add_argument("--overlaps", type=float, nargs="+", default=OVERLAPS)
    arguments = parser.parse_args()
    run, data = load_run(arguments.checkpoint, arguments.device), ShardSet.open(arguments.data)
    grid = list(product(arguments.scores, arguments.overlaps))
    configs = [run.recipe.inference.model_copy(update={"score": s, "overlap": o}) for s, o in grid]
    rows = []
    for (score, overlap), samples in zip(grid, predictions(run, data, configs), strict=True):
        metrics = evaluate(data, samples, "panoptic").metrics
        figures = [metrics[group]["pq"] for group in ("all", "things", "stuff")]
        segments = sum(len(sample.segments) for sample in samples)
        rows.append((f"{score:g}", f"{overlap:g}", *figures, segments))
    Console().print(
        table("Panoptic quality", ("score", "overlap", "PQ", "things", "stuff", "segments"), rows)
    )


if __name__ == "__main__":
    run_script(main)
