"""Benchmark the training loader per sample, against JPEG decoding as its limit.

    python scripts/bench_data.py [SET ...] [--size 256 --size 512] [--workers 0 --workers 2]

SET is a converted shard set; by default, generated scenes of 128 x 128 pixels. "decode" is one
process that only reads images from their tar and decodes them: the limit, of which N workers can
reach N times as much. "loader" is complete batches as the training loop gets them (jitter, zoom,
flip, colors, masks). The last column is the loader's speed as a fraction of the limit. "verify ms"
is the SHA-256 of an image's bytes, which `data.verify_images` takes at the first read of each image
in a process, and the other columns leave out.
"""

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import torch
from rich.console import Console
from rich.table import Table

from segkit.data.batch import Batch
from segkit.data.check_sets import NamedDataset
from segkit.data.mix import DataMix
from segkit.demo.layouts import write_native_sets
from segkit.recipes.schema import DataConfig
from segkit.shards.reader import ShardSet
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import ConvertOptions, convert

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", metavar="SET")
    parser.add_argument(
        "--size", type=int, action="append", help="side of the crop (default 256, 512, 1024)"
    )
    parser.add_argument(
        "--workers", type=int, action="append", help="worker processes (default 0 and 2)"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options.sets or [generate(Path(folder))], options)


def generate(folder: Path) -> str:
    """A set of the demo's scenes."""
    native = write_native_sets(folder / "native", train=64, val=1, seed=0)
    source = open_coco_panoptic(native.coco_panoptic("train"), native.coco_images("train"))
    convert(source, folder / "scenes", ConvertOptions(workers=1), arguments={})
    return str(folder / "scenes")


def measure(sets: list[str], options: argparse.Namespace) -> None:
    """Print one table of all sets."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    table = Table(
        title=f"{os.cpu_count()} cores, batches of {BATCH}; ms are CPU time, on which other load "
        "has little effect"
    )
    for title in (
        "set",
        "targets",
        "crop",
        "workers",
        "decode ms",
        "loader ms",
        "verify ms",
        "decode/s",
        "loader/s",
        "of limit",
    ):
        table.add_column(title, justify="left" if title == "set" else "right", no_wrap=True)
    for spec in sets:
        shards = ShardSet.open(spec)
        decode = decode_rate(shards, options.seconds)
        verify = verify_milliseconds(shards, options.seconds)
        for size in options.size or (256, 512, 1024):
            for workers in options.workers or (0, 2):
                config = DataConfig(
                    image_size=size,
                    batch_size=BATCH,
                    zoom_probability=0.3,
                    workers=workers,
                    verify_images=False,
                )
                loader, targets = loader_rate(shards, config, options.seconds)
                fraction = loader.samples / (decode.samples * max(1, workers))
                table.add_row(
                    Path(spec).name,
                    f"{targets:.1f}",
                    str(size),
                    str(workers),
                    f"{decode.milliseconds:.1f}",
                    "" if workers else f"{loader.milliseconds:.1f}",
                    f"{verify:.2f}",
                    f"{decode.samples:.0f}",
                    f"{loader.samples:.0f}",
                    f"{fraction:.0%}",
                )
    Console(width=120).print(table)


class Rate(NamedTuple):
    """The speed of a measurement."""

    samples: float
    """Per second of wall time."""
    milliseconds: float
    """CPU time per sample in this process, without workers."""


def decode_rate(shards: ShardSet, seconds: float) -> Rate:
    """The rate of reading and decoding, on one core."""
    samples = [sample for _, sample in zip(range(500), shards.samples(), strict=False)]
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        shards.image(samples[count % len(samples)], verify=False)
        count += 1
    return _rate(count, start, cpu)


def verify_milliseconds(shards: ShardSet, seconds: float) -> float:
    """CPU time per image that verification adds to reading."""
    samples = [sample for _, sample in zip(range(500), shards.samples(), strict=False)]
    images = [shards.image_bytes(sample, verify=False) for sample in samples]
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds / 4:
        hashlib.sha256(images[count % len(images)]).hexdigest()
        count += 1
    return _rate(count, start, cpu).milliseconds


def loader_rate(shards: ShardSet, config: DataConfig, seconds: float) -> tuple[Rate, float]:
    """The rate of the loader once its workers run, and the targets per sample."""
    mix = DataMix([NamedDataset("set", shards, 1.0)], config, seed=0)
    batches: Iterator[tuple[int, Batch]] = mix.batches(0, 1_000_000)
    for _ in range(3 + 2 * config.workers):  # start-up, caches and prefetched batches
        next(batches)
    count, targets, start, cpu = 0, 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        _, batch = next(batches)
        count += len(batch)
        targets += sum(len(target) for target in batch.targets)
    return _rate(count, start, cpu), targets / count


def _rate(count: int, start: float, cpu: float) -> Rate:
    return Rate(count / (time.perf_counter() - start), 1000 * (time.process_time() - cpu) / count)


if __name__ == "__main__":
    main()
