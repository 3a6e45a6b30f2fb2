"""Write labels shard by shard, in this process or by workers; a killed run resumes.

The images and nothing else decide which of them go to which shard, and a shard's images share no
batch with those of another. So the bytes of a version do not depend on the number of workers.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from segkit import __version__, storage
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.manifest import Ledger
from segkit.shards.publish import Staging, staging
from segkit.shards.reader import ShardSet
from segkit.shards.shard import rows_per_shard, write_shard
from segkit.shards.sidecar import DamagedShardError, Shard, read_shard
from segkit.shards.writer import (
    check_destination,
    finish,
    input_digests,
    relocated,
    view_header,
)
from segkit.workers.devices import Workers

Counts = Mapping[str, int]
Label = Callable[[Iterable[Any]], Iterator[tuple[Sample, Counts]]]
"""Items of a shard -> in order, their samples with new segments, each with counts of them."""
OnLabeled = Callable[[int, Counts], None]
"""Called with the number of images that were just labeled, and the sums of their counts."""


class Items(Protocol):
    """The images that are labeled, in order. Picklable."""

    @property
    def folder(self) -> Path:
        """Where the images are."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:
        """What a `Label` takes of an image."""

    def records(
        self, samples: Iterable[Sample], image_roots: dict[str, str]
    ) -> Iterator[tuple[Sample, None]]:
        """The rows of labeled samples; adds the tars that they name, as `relocated` does."""


@dataclass(frozen=True)
class SetItems:
    """The samples of a set, whose images a layer names relative to its own directory."""

    data: ShardSet
    home: Path
    """Directory that names in the version are relative to, see `Staging`."""

    @property
    def folder(self) -> Path:
        """The version's directory."""
        return self.data.path

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int, /) -> Sample:
        return self.data.sample(index, check_masks=True)

    def records(
        self, samples: Iterable[Sample], image_roots: dict[str, str]
    ) -> Iterator[tuple[Sample, None]]:
        """The samples with images relative to the version."""
        return relocated(((sample, self.data) for sample in samples), self.home, image_roots)


@dataclass(frozen=True)
class LabelTask:
    """What every worker needs: the images, and where the shards of their labels are written."""

    items: Items
    stage: Path
    open_label: Callable[[str], Label]
    """Opens the model on a device. Picklable, if there are workers."""
    shard_rows: int
    """Images of a shard."""
    threads: int | None = None
    """Of torch, in a worker without a GPU; None in the caller's process."""

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-len(self.items) // self.shard_rows)

    def rows(self, index: int) -> range:
        """The images of a shard."""
        start = index * self.shard_rows
        return range(start, min(len(self.items), start + self.shard_rows))

    def open_worker(self, device: str) -> Callable[[int], tuple[int, Counts]]:
        """Open the model in this process; returns the function that writes a shard."""
        label = self.open_label(device)
        on_cpu = device == "cpu" and "torch" in sys.modules  # GrabCut and shapes do without it
        if on_cpu and self.threads is not None and not os.environ.get("OMP_NUM_THREADS"):
            import torch

            torch.set_num_threads(self.threads)
        return partial(self.write, label)

    def write(
        self, label: Label, index: int, on_labeled: OnLabeled = lambda images, counts: None
    ) -> tuple[int, Counts]:
        """Write a shard; returns its number of images and the sums of their counts."""
        image_roots: dict[str, str] = {}
        counts: Counter[str] = Counter()

        def labeled() -> Iterator[Sample]:
            for sample, of_sample in label(self.items[row] for row in self.rows(index)):
                counts.update(of_sample)
                yield sample
                on_labeled(1, of_sample)

        notes: dict[str, Any] = {"image_roots": image_roots, "counts": counts}
        records = self.items.records(labeled(), image_roots)
        return write_shard(self.stage, index, records, notes=notes).counts.images, counts

    def finished(self, index: int) -> Shard | None:
        """A shard that was written before and is intact."""
        try:
            return read_shard(self.stage, index)
        except DamagedShardError:
            return None


def label_shards(
    destination: storage.StrPath,
    data: ShardSet,
    open_label: Callable[[str], Label],
    header: Header,
    *,
    workers: Workers = Workers(),
    force: bool = True,
    on_labeled: OnLabeled = lambda images, counts: None,
    on_resume: Callable[[int], None] = lambda images: None,
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
        on_labeled: called as images are labeled; if there are workers, once for each shard.
        on_resume: called before, with the number of images in the finished shards.

    Returns:
        The version, and the counts of all samples together.
    """
    destination = storage.location(destination)
    check_destination(destination, (data,))
    fingerprint = {**fingerprint_of(header), "data": data.manifest.digest}
    inputs = input_digests((data,), header)
    with staging(destination, fingerprint, inputs=inputs, resume=True) as stage:
        items = SetItems(data, stage.home)
        shards = write_shards(stage, items, open_label, workers, on_labeled, on_resume)
        notes = [shard.notes for shard in shards if shard is not None]
        image_roots = {
            name: digest for note in notes for name, digest in note["image_roots"].items()
        }
        header = view_header(header, (data,), stage.destination, image_roots)
        layer = finish(stage, len(shards), header, Ledger(), force=force)
        return layer, sum((Counter(note["counts"]) for note in notes), Counter())


def write_shards(
    stage: Staging,
    items: Items,
    open_label: Callable[[str], Label],
    workers: Workers,
    on_labeled: OnLabeled,
    on_resume: Callable[[int], None],
) -> list[Shard | None]:
    """Label all images, but for those of finished shards; returns the shards.

    None stands for one that was deleted meanwhile, which `finish` refuses.

    Args:
        stage: where they are written.
        items: the images.
        open_label, workers, on_labeled, on_resume: as of `label_shards`.
    """
    threads = None if workers.in_process else workers.threads
    task = LabelTask(items, stage.path, open_label, rows_per_shard(len(items)), threads)
    missing = [index for index in range(task.count) if task.finished(index) is None]
    if resumed := len(items) - sum(len(task.rows(index)) for index in missing):
        on_resume(resumed)
    if missing:
        _write(task, missing, workers, on_labeled)
    return [read_shard(stage.path, index, verify=False) for index in range(task.count)]


def _write(task: LabelTask, shards: Iterable[int], workers: Workers, on_labeled: OnLabeled) -> None:
    if workers.in_process:
        label = task.open_label("auto")
        for index in shards:
            task.write(label, index, on_labeled)
        return
    folders = [path for path in (task.items.folder, task.stage) if not storage.is_remote(path)]
    for images, counts in workers.run(task.open_worker, [(index,) for index in shards], folders):
        on_labeled(images, counts)


def fingerprint_of(header: Header) -> dict[str, Any]:
    """What decides the labels, besides the images.

    An interrupted run with another fingerprint is not continued.
    """
    return {
        "command": header.command,
        "version": __version__,
        "arguments": dict(header.arguments),
        "parents": [parent.digest for parent in header.parents],
        "taxonomy": header.taxonomy.to_json(),
    }
