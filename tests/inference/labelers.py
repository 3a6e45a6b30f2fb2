"""Labelers for worker processes, which import this file only: they count, wait, or die."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from segkit.inference.label_shards import Counts, Label, label_shards
from segkit.sample import ImageRef, Sample
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Taxonomy

IMAGES = 22


def write_bare_set(folder: Path) -> ShardSet:
    """22 samples without images and labels."""
    taxonomy = Taxonomy.from_json(
        {"name": "one", "categories": [{"id": 1, "name": "cat", "kind": "thing"}]}
    )
    samples = (
        (Sample(f"{number:02}", f"{number}.png", 8, 8, image=ImageRef()), None)
        for number in range(IMAGES)
    )
    header = Header(name="d", kind="instance", taxonomy=taxonomy, command="test", images_by="none")
    return write_set(folder, samples, header)


def label(
    samples: Iterable[Sample], seen: list[str] | None = None
) -> Iterator[tuple[Sample, Counts]]:
    for sample in samples:
        if seen is not None:
            seen.append(sample.id)
        yield sample, {"images": 1, "odd": int(sample.id) % 2}


def open_plainly(device: str) -> Label:
    return label


def label_slowly(device: str) -> Label:
    def slow(samples: Iterable[Sample]) -> Iterator[tuple[Sample, Counts]]:
        for labeled_sample in label(samples):
            time.sleep(0.02)
            yield labeled_sample

    return slow


def open_killing(deaths: Path, times: int, device: str) -> Label:
    """Kill the process at one image, a number of times."""

    def kill(samples: Iterable[Sample]) -> Iterator[tuple[Sample, Counts]]:
        for sample, counts in label(samples):
            if sample.id == "10" and len(list(deaths.iterdir())) < times:
                (deaths / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield sample, counts

    return kill


def labeled(
    data: Path, out: Path, open_label: Callable[[str], Label], **options: Any
) -> tuple[ShardSet, Counts]:
    opened = ShardSet.open(data)
    return label_shards(out, opened, open_label, Header.from_set(opened, "label"), **options)
