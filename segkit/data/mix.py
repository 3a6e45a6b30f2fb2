"""Mix several data sets into one sequence of batches, each of one data set."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segkit.data.augment import Crop, Image, color_jitter, jitter_crop, zoom_crop
from segkit.data.batch import Batch, CollatedBatch, Targets, collate, uncollate
from segkit.data.check_sets import NamedDataset, check_sets
from segkit.data.mask_policy import mask_policies
from segkit.data.schedule import Schedule, positions
from segkit.data.targets import build_targets
from segkit.errors import InputError, SegkitError
from segkit.recipes.schema import DataConfig, MaskPolicy
from segkit.sample import Sample
from segkit.shards.manifest import TASKS, Task
from segkit.stopping import SIGNALS, set_child_signals, signals_blocked
from segkit.taxonomy import Taxonomy

T = TypeVar("T")
EXIT_SECONDS = 1.0
"""Seconds in which a process ends that has closed its connections."""


@dataclass(frozen=True)
class MixedSet(NamedDataset):
    """One data set of a mix."""

    task: Task
    policies: Mapping[int, MaskPolicy]
    """Mask policy of every class id."""
    trust_scores: bool = False
    """Whether the scores of pseudo-masks weight them."""

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes that `Targets.labels` index."""
        return self.shards.taxonomy


class DataMix:
    """The batches of a run, a function of the sets, the configuration, the seed and the step.

    Args:
        sets: the data sets; their weights are relative.
        config: crops, batch size (of one rank) and mask policies.
        seed: of draws, orders and augmentation.
        trust_scores: weight pseudo-masks by their scores, see `build_targets`.
        rank, world_size: the ranks together see the samples that one process would see with their
            joint batch size.

    Raises:
        InputError: no data set, an empty one, a name used twice, a weight that is not positive, or
            a policy for a set or class that does not exist.
    """

    def __init__(
        self,
        sets: Sequence[NamedDataset],
        config: DataConfig,
        *,
        seed: int,
        trust_scores: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_sets(sets, config)
        self.config, self.rank, self.world_size = config, rank, world_size
        self.sets = tuple(
            MixedSet(
                name=data.name,
                shards=data.shards,
                weight=data.weight,
                task=TASKS[data.shards.manifest.kind],
                policies=mask_policies(data.name, data.shards.taxonomy, config),
                trust_scores=trust_scores,
            )
            for data in sets
        )
        rows = [[part.rows for part in mixed.shards.manifest.parts] for mixed in self.sets]
        weights = [mixed.weight for mixed in self.sets]
        self._schedule = Schedule(weights, rows, seed=seed, round_robin=config.mixing == "all")
        self._verified = [np.full(len(s.shards), not config.verify_images) for s in self.sets]
        """(N,) of each set: whether this process need not verify an image's bytes (again)."""

    def __getitem__(self, name: str) -> MixedSet:
        return next(mixed for mixed in self.sets if mixed.name == name)

    def batches(
        self, start_step: int, stop_step: int, *, pinned: bool = False
    ) -> Iterator[tuple[int, Batch]]:
        """Yield (step, batch) for every step from `start_step` up to but not including `stop_step`.

        Images are uint8, a quarter of the size of floats; `Batch.to` converts them.

        Args:
            start_step, stop_step: 0-based.
            pinned: put batches into pinned memory, which a GPU can copy from by itself.

        Raises:
            SegkitError: an image or its labels cannot be read; names the sample.
        """
        workers = min(self.config.workers, stop_step - start_step)
        loader: DataLoader[CollatedBatch | SegkitError] = DataLoader(
            _Steps(self),
            batch_size=None,  # an item is a batch already
            sampler=range(start_step, stop_step),
            collate_fn=_identity,
            num_workers=workers,
            worker_init_fn=_init_worker if workers else None,
            pin_memory=pinned,
        )
        with signals_blocked():  # until `_init_worker` ignores them
            items = iter(loader)
        try:
            for step in range(start_step, stop_step):
                item = _next_item(items) if workers else next(items)
                if isinstance(item, SegkitError):
                    raise item
                yield step, uncollate(item)
        finally:
            del items  # ends its workers, even while an error's traceback refers to this frame

    def batch(self, step: int) -> Batch:
        """The batch of a step on this rank; raises as `batches` does."""
        index, turn = self._schedule.draw(step)
        stream = positions(
            turn, batch_size=self.config.batch_size, rank=self.rank, world_size=self.world_size
        )
        mixed = self.sets[index]
        rows = [self._schedule.sample(index, position) for position in stream]
        samples = mixed.shards.read_ahead(mixed.shards.samples_at(rows))
        places = zip(samples, rows, stream, strict=True)
        images, targets, ids = zip(
            *(self._load_crop(index, *place) for place in places), strict=True
        )
        return Batch(torch.stack(images), targets, mixed.name, mixed.task, ids)

    def _load_crop(
        self, index: int, sample: Sample, row: int, position: int
    ) -> tuple[Tensor, Targets, str]:
        """Image, targets and id of a sample, at a position in the stream of a data set."""
        mixed, verified = self.sets[index], self._verified[index]
        image = mixed.shards.image(sample, verify=not verified[row])
        verified[row] = True
        rng = self._schedule.sample_rng(index, position)
        try:
            return *make_crop(image, sample, mixed, self.config, rng), sample.id
        except (ValueError, KeyError) as error:
            message, hint = f"its labels cannot be used ({error})", "see `segkit validate`"
            raise InputError(
                message, file=mixed.shards.path, record=sample.id, hint=hint
            ) from error


@contextmanager
def name_killed_workers() -> Iterator[None]:
    """A block in which a process that loads data may be killed.

    torch raises its error wherever the main thread is when the process ends, not only in the wait
    for a batch: all work between the batches belongs in such a block.

    Raises:
        SegkitError: one was.
    """
    try:
        yield
    except RuntimeError as error:
        # An error of the code in a process starts with "Caught", and is passed on.
        if not str(error).startswith(("DataLoader worker", "Pin memory thread exited")):
            raise
        raise _killed_worker() from error


def _next_item(items: Iterator[T]) -> T:
    """The next item of a loader; raises as `name_killed_workers` does."""
    with name_killed_workers():
        try:
            return next(items)
        except (EOFError, OSError) as error:  # the process has sent half of the item
            if str(error).startswith("Caught"):
                raise
            time.sleep(EXIT_SECONDS)  # torch's own error interrupts it, and does not follow later
            raise _killed_worker() from error


def _killed_worker() -> SegkitError:
    hint = "memory or /dev/shm may have run out: lower data.workers or data.batch_size"
    return SegkitError("a process that loads data was killed", hint=hint)


def make_crop(
    image: Image, sample: Sample, mixed: MixedSet, config: DataConfig, rng: np.random.Generator
) -> tuple[Tensor, Targets]:
    """One augmented crop (3, S, S) uint8 of an image (H, W, 3), and its targets."""
    crop = choose_crop(sample, mixed.policies, config, rng)
    pixels = crop.image(image)  # (S, S, 3)
    if config.color_jitter:
        content = crop.content_slices()  # the padding stays gray
        pixels[content] = color_jitter(
            np.ascontiguousarray(pixels[content]), strength=config.color_jitter, rng=rng
        )
    targets = build_targets(
        sample,
        crop,
        taxonomy=mixed.taxonomy,
        task=mixed.task,
        policies=mixed.policies,
        trust_scores=mixed.trust_scores,
    )
    return torch.from_numpy(np.stack(cv2.split(pixels))), targets


def choose_crop(
    sample: Sample, policies: Mapping[int, MaskPolicy], config: DataConfig, rng: np.random.Generator
) -> Crop:
    """With `zoom_probability` zoom on a random segment, else apply large-scale jitter.

    The segment is a thing if there is one.
    """
    height, width, size = sample.height, sample.width, config.image_size
    candidates = [
        segment
        for segment in sample.segments
        if not (segment.is_crowd or segment.ignore or policies[segment.class_id] == "none")
        and min(segment.box[2:]) > 0
    ]
    candidates = [segment for segment in candidates if segment.kind == "thing"] or candidates
    if rng.random() < config.zoom_probability and candidates:
        box = candidates[int(rng.integers(len(candidates)))].box
        return zoom_crop(height, width, box, size=size, rng=rng, flip=config.flip)
    scale = float(rng.uniform(config.scale_min, config.scale_max))
    return jitter_crop(height, width, size=size, scale=scale, rng=rng, flip=config.flip)


class _Steps(Dataset["CollatedBatch | SegkitError"]):
    """The batches by step; an error is returned, as torch would wrap it in a worker's traceback."""

    def __init__(self, mix: DataMix) -> None:
        self.mix = mix

    def __getitem__(self, step: int) -> "CollatedBatch | SegkitError":
        try:
            return collate(self.mix.batch(step))
        except SegkitError as error:
            return error


def _identity(item: Any) -> Any:
    return item


def _init_worker(_: int) -> None:
    # torchrun and terminals send signals to workers as well. The training process decides when to
    # stop, and needs its batches until then.
    set_child_signals(*SIGNALS)
    cv2.setNumThreads(0)  # the workers are the parallelism: their threads would compete for cores
