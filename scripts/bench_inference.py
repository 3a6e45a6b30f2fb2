"""Benchmark `predict` and `pseudolabel` against the bare forward pass, by number of workers.

    python scripts/bench_inference.py [--images 500] [--checkpoint RUN] [--boxes SET] [--ray]
        [--repeats 3] [--markdown FILE]

Every row labels the same images with the same run: the model's forward passes by themselves, on
the inputs that the command gave it; on a CPU, half of them in each of two processes at once, which
bounds what two workers can reach, and one process on one core, since its post-processing takes a
part of a second one; one process; two processes; with --ray, two actors of a Ray cluster of this
machine. The last column is relative to one process on one core, where that is measured. Rows take
turns; a figure is the best of `--repeats`. `images/s` includes the start of workers and the loading
of models; the columns after it leave out the time until every worker has labeled its first images.
On a CPU every process has one thread; on a machine with one GPU, only one process is measured.
Without --checkpoint, the run is `dataseg-mini` after one step on generated scenes, which are also
the data.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from experiments import run_script
from forward_passes import Inputs, record_inputs, replay

from segkit.inference.open_teacher import TeacherSpec
from segkit.inference.outputs import predict_set
from segkit.inference.pseudolabel import pseudolabel
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.shards.reader import ShardSet
from segkit.workers.devices import Workers

OnImages = Callable[[int], None]
Turn = Callable[[OnImages], object]
"""Labels all images; calls its argument with the number of each few that are done."""
AT_ONCE = 1e-3
"""Seconds: images that are reported without a longer pause are of one shard."""
BARE, BARE_TWICE, ONE_CORE = "bare", "bare, two processes", "one process, one core"
COLUMNS = (
    "command",
    "workers",
    "images/s",
    "started: images/s",
    "boxes/s",
    "per worker, of the bare forward pass",
    "times one process",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=500, help="number of generated scenes")
    parser.add_argument("--checkpoint", type=Path, help="a run instead of an untrained one")
    parser.add_argument("--boxes", type=Path, help="a set with boxes instead of scenes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ray", action="store_true", help="add two actors of Ray")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        boxes = ShardSet.open(options.boxes) if options.boxes else scenes(folder, options.images)
        checkpoint = options.checkpoint or untrained(boxes, folder)
        run = load_run(checkpoint, "auto")
        workers = {"one process": Workers()}
        if torch.cuda.device_count() != 1:
            workers["two processes"] = Workers(count=2)
            if options.ray:
                workers["two actors of Ray"] = Workers("ray", 2)

        def predict(chosen: Workers, on_images: OnImages) -> None:
            out = folder / "predicted"
            predict_set(run, boxes, "panoptic", out, workers=chosen, on_images=on_images)

        def label(chosen: Workers, on_images: OnImages) -> None:
            spec, out = TeacherSpec(str(checkpoint), "box-prompts"), folder / "masks"
            pseudolabel(run, boxes, out, workers=chosen, spec=spec, on_images=on_images)

        images, count = len(boxes), boxes.manifest.statistics.boxes_only
        rows = compare("predict", images, 0, run, predict, workers, options.repeats)
        rows += compare("pseudolabel", images, count, run, label, workers, options.repeats)
    # here as in the functions below, since every worker process imports this script
    from experiments import markdown

    text = markdown(COLUMNS, rows)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, "utf-8")


def scenes(folder: Path, images: int) -> ShardSet:
    """Generated scenes with boxes."""
    from segkit.demo.layouts import write_native_sets
    from segkit.sources.engine import ConvertOptions, convert
    from segkit.sources.objects365 import open_objects365

    native = write_native_sets(folder / "native", train=images, val=1, seed=0)
    source = open_objects365(native.objects365_boxes("train"), native.objects365_images)
    convert(source, folder / "boxes", ConvertOptions(workers=1))
    return ShardSet.open(folder / "boxes")


def untrained(data: ShardSet, folder: Path) -> Path:
    """A run of one step."""
    from cuda_bench import SHIPPED

    from segkit.training.train import train

    settings = [*SHIPPED, "data.batch_size=2", "data.image_size=128"]
    return train(
        "dataseg-mini", [(str(data.path), 1.0)], folder / "run", steps=1, overrides=settings
    )


def compare(
    name: str,
    images: int,
    boxes: int,
    run: Run,
    label: Callable[[Workers, OnImages], object],
    workers: dict[str, Workers],
    repeats: int,
) -> list[tuple[str, ...]]:
    """Rows of a command: rates of the bare forward passes and of each number of workers."""
    inputs = record_inputs(run.model, lambda: label(Workers(), lambda images: None))
    counts = {BARE_TWICE: 2} | {key: value.count or 1 for key, value in workers.items()}
    turns: dict[str, Turn] = {BARE: lambda on_images: replay(run, inputs)}
    if run.device.type == "cpu" and hasattr(os, "sched_setaffinity"):
        turns[BARE_TWICE] = lambda on_images: replay_twice(run, inputs)
        turns[ONE_CORE] = lambda on_images: on_one_core(partial(label, Workers(), on_images))
    turns |= {key: partial(label, value) for key, value in workers.items()}
    seconds: dict[str, list[float]] = {key: [] for key in turns}
    rates: dict[str, list[float]] = {key: [] for key in turns}
    for _ in range(repeats):
        for key, turn in turns.items():
            total, rate = time_of(turn, images, counts.get(key, 1))
            seconds[key].append(total)
            rates[key].append(rate)
    best = {key: max(values) for key, values in rates.items()}
    one = best.get(ONE_CORE, best["one process"])
    return [
        (
            name,
            key,
            f"{images / min(seconds[key]):.3g}",
            f"{rate:.3g}",
            f"{boxes / images * rate:.3g}" if boxes else "-",
            f"{rate / best[BARE] / counts.get(key, 1):.2f}",
            f"{rate / one:.2f}",
        )
        for key, rate in best.items()
    ]


def replay_twice(run: Run, inputs: list[Inputs]) -> None:
    """Run half of the forward passes in each of two processes."""
    context = multiprocessing.get_context("fork")
    halves = [context.Process(target=replay, args=(run, inputs[half::2])) for half in (0, 1)]
    for process in halves:
        process.start()
    for process in halves:
        process.join()
        assert process.exitcode == 0


def on_one_core(work: Callable[[], object]) -> None:
    """Run a function, and the threads that it starts, on the first of this process's cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        work()
    finally:
        os.sched_setaffinity(0, cores)


def time_of(turn: Turn, images: int, workers: int) -> tuple[float, float]:
    """Seconds of a turn, until the device has finished; images per second after the start."""
    times: list[float] = []
    started = time.perf_counter()
    turn(lambda images: times.extend([time.perf_counter()] * images))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    total = time.perf_counter() - started
    # workers report whole shards, and begin their first ones together
    first = workers * sum(moment - times[0] < AT_ONCE for moment in times)
    if not 0 < first < images:
        return total, images / total
    return total, (images - first) / (times[-1] - times[first - 1])


if __name__ == "__main__":
    run_script(main)
