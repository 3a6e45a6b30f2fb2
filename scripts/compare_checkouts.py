"""Benchmark segkit beside another checkout: CPU seconds to convert, evaluate, read and load sets.

    git worktree add ../before COMMIT
    python scripts/compare_checkouts.py ../before [--real DIR] [--rounds 5] [--only eval]

Both checkouts run in the packages of this environment, each in processes of its own that alternate,
on one thread. Each converts and writes its own sets, from the same inputs, by its own scripts. A
figure is the user and system time of a process (getrusage), the least of all repetitions and
rounds, so that other work on the machine has little effect.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
IMAGES = {"convert": 300, "eval": 200}
"""Generated images of the inputs."""
BATCHES, BATCH = 8, 8
Work = dict[str, Callable[[], Any]]
Dataset = namedtuple("Dataset", "name shards weight")
"""A data set as every checkout reads it: earlier ones unpack a tuple."""


def prepare(folder: Path, real: Path | None) -> None:
    """Write the inputs of all groups, and the sets of the checkout that runs."""
    from bench_convert import generate
    from bench_data import generate as generate_scenes
    from eval_inputs import generated_set, real_set, write_inputs

    from segkit.sources.coco_panoptic import open_coco_panoptic
    from segkit.sources.engine import ConvertOptions, convert

    generate(folder / "generated", IMAGES["convert"])
    sets = {"generated": generated_set(IMAGES["eval"], 80)}
    generate_scenes(folder / "data")
    if real:
        sets["COCO val"] = real_set(real)
        panoptic = real / "coco/annotations/panoptic_val2017.json"
        source = open_coco_panoptic(panoptic, real / "coco/val2017")
        convert(source, folder / "data/COCO val", ConvertOptions(workers=1), arguments={})
    for name, (names, pairs) in sets.items():
        (folder / "eval" / name).mkdir(parents=True)
        write_inputs(folder / "eval" / name, names, pairs)


def convert_work(folder: Path, real: Path | None) -> Work:
    """Conversions, each into a directory that is deleted."""
    from segkit.sources.coco_instances import open_coco_instances
    from segkit.sources.coco_panoptic import open_coco_panoptic
    from segkit.sources.engine import ConvertOptions, convert

    def run(open_source: Callable[..., Any], annotations: Path, images: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            options = ConvertOptions(workers=1)
            convert(open_source(annotations, images), Path(out) / "set", options, arguments={})

    generated = (folder / "generated/panoptic.json", folder / "generated/images")
    work: Work = {"convert generated panoptic": partial(run, open_coco_panoptic, *generated)}
    if real:
        sources = {"panoptic": open_coco_panoptic, "instances": open_coco_instances}
        for name, open_source in sources.items():
            inputs = real / f"coco/annotations/{name}_val2017.json", real / "coco/val2017"
            work[f"convert COCO val {name}"] = partial(run, open_source, *inputs)
    return work


def eval_work(folder: Path, real: Path | None) -> Work:
    """Evaluations from shard sets and from files."""
    from segkit.metrics.evaluate import EvalOptions, evaluate
    from segkit.metrics.predictions import open_predictions
    from segkit.shards.reader import ShardSet

    def run(data: Path, task: Any, file: str = "predictions", by: Any = "mask") -> None:
        truth = ShardSet.open(data / "truth")
        predictions = open_predictions(str(data / file), truth)
        evaluate(truth, predictions, task, EvalOptions(iou_type=by))

    work: Work = {}
    for data in sorted((folder / "eval").iterdir()):
        for task in ("panoptic", "semantic", "instance"):
            work[f"evaluate {data.name} {task}"] = partial(run, data, task)
        for task, file in (("panoptic", "panoptic"), ("instance", "instances")):
            title = f"evaluate {data.name} {task}, from files"
            work[title] = partial(run, data, task, f"{file}_predictions.json")
        work[f"evaluate {data.name} instance, by boxes"] = partial(run, data, "instance", by="box")
    return work


def data_work(folder: Path, real: Path | None) -> Work:
    """Opening of sets, reading of samples by order and by index, and the training loader."""
    from segkit.data.mix import DataMix
    from segkit.recipes.schema import DataConfig
    from segkit.shards.reader import ShardSet

    def in_order(shards: ShardSet) -> None:
        for _ in shards.samples():
            pass

    def by_index(shards: ShardSet) -> None:
        shards = ShardSet(shards.path, shards.manifest)  # its caches are empty
        for index in range(len(shards)):
            shards.sample(index)

    def load(path: Path) -> None:
        config = DataConfig(image_size=256, batch_size=BATCH, zoom_probability=0.3, workers=0)
        data = [Dataset("set", ShardSet.open(path), 1.0)]
        batches = DataMix(data, config, seed=0).batches(0, 10**6)
        for _ in islice(batches, BATCHES):
            pass

    work: Work = {}
    for path in sorted((folder / "data").iterdir()):
        if (path / "v1").is_dir():
            shards, name = ShardSet.open(path), path.name
            work[f"open {name}"] = partial(ShardSet.open, path)
            work[f"read {name} in order"] = partial(in_order, shards)
            work[f"read {name} by index"] = partial(by_index, shards)
            work[f"load {name}, from opening to batch {BATCHES}"] = partial(load, path)
    return work


GROUPS = {"convert": convert_work, "eval": eval_work, "data": data_work}
"""Group -> its pieces of work, and how they are named."""
REPETITIONS = {"convert": 3, "eval": 6, "data": 6}


def measure(group: str, folder: Path, real: Path | None) -> dict[str, float]:
    """CPU seconds of each piece of work; each runs once before, for imports and caches."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    seconds = {}
    for name, work in GROUPS[group](folder, real).items():
        work()
        costs = []
        for _ in range(REPETITIONS[group]):
            start = cpu_seconds()
            work()
            costs.append(cpu_seconds() - start)
        seconds[name] = min(costs)
    return seconds


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def call(checkout: Path, *arguments: str) -> str:
    """Output of this script in a process that imports the package and scripts of a checkout."""
    paths = os.pathsep.join(map(str, (checkout, checkout / "scripts")))
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": paths}
    # -P: the folder of this script must not come before those of the checkout
    command = [sys.executable, "-P", "-W", "ignore", __file__, str(checkout), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr[-2000:]}")
    return done.stdout


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Print the table."""
    checkouts = {"before": options.checkout.resolve(), "now": ROOT}
    real = ["--real", str(options.real.resolve())] if options.real.is_dir() else []
    for side, checkout in checkouts.items():
        (folder / side).mkdir()
        call(checkout, *real, "--folder", str(folder / side), "--group", "prepare")
    print("| work | before, s | now, s | now / before |\n| --- | --- | --- | --- |")
    for group in options.only or GROUPS:
        best: dict[str, dict[str, float]] = {side: {} for side in checkouts}
        for _ in range(options.rounds):
            for side, checkout in checkouts.items():
                arguments = [*real, "--folder", str(folder / side), "--group", group]
                for name, cost in json.loads(call(checkout, *arguments).splitlines()[-1]).items():
                    best[side][name] = min(cost, best[side].get(name, cost))
        for name, now in best["now"].items():
            before = best["before"][name]
            print(f"| {name} | {before:.4f} | {now:.4f} | {now / before:.2f} |", flush=True)


def main() -> None:
    """Read the command line; print the table, or the figures of a process of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="the other checkout of segkit")
    data = Path(os.environ.get("SEGKIT_REAL_DATA", "../shared/data"))
    parser.add_argument("--real", type=Path, default=data, help="folder that holds coco/")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each side and group")
    parser.add_argument("--only", action="append", choices=GROUPS, help="groups to measure")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--group", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.group is None:
        with tempfile.TemporaryDirectory() as folder:
            compare(options, Path(folder))
        return
    real = options.real if options.real.is_dir() else None
    if options.group == "prepare":
        prepare(options.folder, real)
    else:
        print(json.dumps(measure(options.group, options.folder, real)))


if __name__ == "__main__":
    main()
