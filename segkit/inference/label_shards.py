"""Write a label layer shard by shard, in this process or by workers; a killed run resumes.

A set and nothing else decides which image goes to which shard, and a shard's images share no batch
with those of another. So the bytes of a layer do not depend on the number of workers.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from segkit import __version__, storage
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.manifest import Ledger
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.shard import write_shard
from segkit.shards.sidecar import DamagedShardError, Shard, read_shard
from segkit.shards.writer import check_destination, finish, relocated, view_header
from segkit.workers.devices import Workers

MIN_ROWS, MAX_ROWS, SHARDS = 32, 1024, 64
"""A set is cut into about 64 shards, of 32 to 1024 images each: enough for many devices, and small
enough that little is lost by a kill."""
Counts = Mapping[str, int]
Label = Callable[[Iterable[Sample]], Iterator[tuple[Sample, Counts]]]
"""Samples of a shard -> in order, the samples with other segments, each with counts of them."""


def rows_per_shard(images: int) -> int:
    """Images of each shard of a layer over a set of that many images."""
    return min(MAX_ROWS, max(MIN_ROWS, -(-images // SHARDS)))


@dataclass(frozen=True)
class LabelTask:
    """What every worker needs: a set, and where the shards of its layer are written."""

    data: ShardSet
    stage: Path
    home: Path
    """Directory that names in the version are relative to, see `Staging`."""
    open_label: Callable[[str], Label]
    """Opens the model on a device. Picklable, if there are workers."""
    shard_rows: int
    """Images of a shard."""
    threads: int | None = None
    """Of torch, in a worker without a GPU; None in the caller's process."""

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-len(self.data) // self.shard_rows)

    def rows(self, index: int) -> range:
        """The images of a shard."""
        start = index * self.shard_rows
        return range(start, min(len(self.data), start + self.shard_rows))

    def open_worker(self, device: str) -> Callable[[int], int]:
        """Open the model in this process; returns the function that writes a shard."""
        label = self.open_label(device)
        on_cpu = device == "cpu" and "torch" in sys.modules  # GrabCut and shapes do without it
        if on_cpu and self.threads is not None and "OMP_NUM_THREADS" not in os.environ:
            import torch

            torch.set_num_threads(self.threads)
        return partial(self.write, label)

    def write(self, label: Label, index: int, on_image: Callable[[], None] = lambda: None) -> int:
        """Write a shard; returns its number of images."""
        image_roots: dict[str, str] = {}
        counts: Counter[str] = Counter()

        def labeled() -> Iterator[tuple[Sample, ShardSet]]:
            samples = (self.data.sample(row) for row in self.rows(index))
            for sample, of_sample in label(samples):
                counts.update(of_sample)
                yield sample, self.data
                on_image()

        notes: dict[str, Any] = {"image_roots": image_roots, "counts": counts}
        records = relocated(labeled(), self.home, image_roots)
        return write_shard(self.stage, index, records, notes=notes).counts.images

    def finished(self, index: int) -> Shard | None:
        """A shard that was written before and is intact."""
        try:
            return read_shard(self.stage, index)
        except DamagedShardError:
            return None


def label_shards(
    destination: str | Path,
    data: ShardSet,
    open_label: Callable[[str], Label],
    header: Header,
    *,
    workers: Workers = Workers(),
    force: bool = True,
    on_image: Callable[[], None] = lambda: None,
) -> tuple[ShardSet, Counter[str]]:
    """Publish new labels for the images of a set.

    If the process is killed, the next call with the same set and header continues at the next
    shard.

    Args:
        destination: directory of the new set's versions.
        data: the set that holds the images.
        open_label: opens the model on a device (`auto` in this process); picklable if there are
            workers.
        header: usually `Header.from_set(data, ...)`; its arguments and parents decide whether
            another run's shards can be used. The set becomes the first parent.
        workers: the devices.
        force: as of `finish`.
        on_image: called once for each image, for those of finished shards too.

    Returns:
        The version, and the counts of all samples together.
    """
    destination = storage.location(destination)
    check_destination(destination, (data,))
    with staging(destination, _fingerprint(data, header), resume=True) as stage:
        threads = None if workers.in_process else workers.threads
        rows = rows_per_shard(len(data))
        task = LabelTask(data, stage.path, stage.home, open_label, rows, threads)
        _write_missing(task, workers, on_image)
        shards = [read_shard(stage.path, index, verify=False) for index in range(task.count)]
        notes = [shard.notes for shard in shards if shard is not None]
        image_roots = {
            name: digest for note in notes for name, digest in note["image_roots"].items()
        }
        header = view_header(header, (data,), stage.home, image_roots)
        layer = finish(stage, task.count, header, Ledger(), force=force)
        return layer, sum((Counter(note["counts"]) for note in notes), Counter())


def _write_missing(task: LabelTask, workers: Workers, on_image: Callable[[], None]) -> None:
    missing = []
    for index in range(task.count):
        if task.finished(index) is None:
            missing.append(index)
        else:
            for _ in task.rows(index):
                on_image()
    if not missing:
        return
    if workers.in_process:
        label = task.open_label("auto")
        for index in missing:
            task.write(label, index, on_image)
        return
    folders = [path for path in (task.data.path, task.stage) if not storage.is_remote(path)]
    for images in workers.run(task.open_worker, [(index,) for index in missing], folders):
        for _ in range(images):
            on_image()


def _fingerprint(data: ShardSet, header: Header) -> dict[str, Any]:
    """What decides the labels: an interrupted run with another one is not continued."""
    return {
        "command": header.command,
        "version": __version__,
        "arguments": dict(header.arguments),
        "data": data.manifest.digest,
        "parents": [parent.digest for parent in header.parents],
        "taxonomy": header.taxonomy.to_json(),
    }
