"""Panoptic quality by the two thresholds of panoptic output, from one pass of the model.

    python scripts/experiment_thresholds.py --checkpoint real-out/run --data
    real-out/sets/coco-train

`inference.score` is the least class probability of a segment, `inference.overlap` the least share
of its mask that better segments leave to it. Choose them on images that no reported figure is
measured on, such as training images.
"""

import argparse
from dataclasses import replace
from itertools import product

from rich.console import Console

from segkit.commands.common import counting, table
from segkit.inference.forward_pass import Proposed, propose
from segkit.inference.postprocess import answer, to_segments
from segkit.metrics.evaluate import evaluate
from segkit.recipes.schema import InferenceConfig
from segkit.runs.run import Run, load_run
from segkit.sample import Sample
from segkit.shards.reader import ShardSet

SCORES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
OVERLAPS = (0.0, 0.3, 0.6, 0.8)


def predictions(run: Run, data: ShardSet, configs: list[InferenceConfig]) -> list[list[Sample]]:
    """For each configuration, the panoptic predictions for all images."""
    classes = run.class_embeddings(data.taxonomy)

    def finish(found: Proposed[Sample]) -> list[Sample]:
        given = (found.class_logits, found.mask_logits, found.crop, classes.is_thing)
        answers = [answer("panoptic", *given, config) for config in configs]
        return [
            replace(found.record, segments=to_segments(masks, data.taxonomy)) for masks in answers
        ]

    made: list[list[Sample]] = [[] for _ in configs]
    with counting("predict", len(data)) as advance:
        read = lambda sample: (sample, data.image(sample))  # noqa: E731
        for each in propose(
            run.model, classes.text, data.samples(), read, finish, run.recipe.inference
        ):
            for column, sample in zip(made, each, strict=True):
                column.append(sample)
            advance()
    return made


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
    for (score, overlap), found in zip(grid, predictions(run, data, configs), strict=True):
        pq = evaluate(data, found, "panoptic").metrics
        shown = [pq[group]["pq"] for group in ("all", "things", "stuff")]
        rows.append(
            (f"{score:g}", f"{overlap:g}", *shown, sum(len(sample.segments) for sample in found))
        )
    Console().print(
        table("Panoptic quality", ("score", "overlap", "PQ", "things", "stuff", "segments"), rows)
    )


if __name__ == "__main__":
    main()
