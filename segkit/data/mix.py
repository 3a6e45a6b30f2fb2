"""Several data sets as one sequence of batches, each batch from one data set."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segkit.data.augment import Crop, Image, color_jitter, jitter_crop, zoom_crop
from segkit.data.batch import Batch, Targets
from segkit.data.collate import CollatedBatch, collate, uncollate
from segkit.data.schedule import Schedule, positions
from segkit.data.targets import build_targets
from segkit.errors import InputError, SegkitError
from segkit.recipes.schema import DataConfig, MaskPolicy
from segkit.sample import Sample
from segkit.shards.manifest import SetKind, Task
from segkit.shards.reader import ShardSet
from segkit.taxonomy import Taxonomy

TASKS: Mapping[SetKind, Task] = {
    "panoptic": "panoptic",
    "semantic": "semantic",
    "instance": "instance",
    "boxes": "instance",
}


@dataclass(frozen=True)
class MixedSet:
    """One data set of a mix."""

    name: str
    shards: ShardSet
    weight: float
    task: Task
    policies: Mapping[int, MaskPolicy]
    """Mask policy of every class id."""

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes that `Targets.labels` index."""
        return self.shards.taxonomy


class DataMix:
    """The batches of a training: which they are depends on the sets, the configuration, the seed
    and the step alone.

    Args:
        sets: name, shard set and sampling weight of each data set; weights are relative.
        config: crops, batch size (of one rank) and mask policies.
        rank, world_size: the ranks together see the samples that one process would see with their
        joint batch size.

    Raises:
        InputError: no or an empty data set, a name used twice, a weight that is not positive, a
            policy for what is not there.
    """

    def __init__(
        self,
        sets: Sequence[tuple[str, ShardSet, float]],
        config: DataConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check(sets, config)
        self.config, self.rank, self.world_size = config, rank, world_size
        self.sets = tuple(
            MixedSet(
                name,
                shards,
                weight,
                TASKS[shards.manifest.kind],
                _policies(name, shards.taxonomy, config),
            )
            for name, shards, weight in sets
        )
        rows = [[part.rows for part in mixed.shards.manifest.parts] for mixed in self.sets]
        weights = [mixed.weight for mixed in self.sets]
        self._schedule = Schedule(weights, rows, seed=seed, in_turn=config.mixing == "all")

    def __getitem__(self, name: str) -> MixedSet:
        return next(mixed for mixed in self.sets if mixed.name == name)

    def batches(
        self, start_step: int, stop_step: int, *, pinned: bool = False
    ) -> Iterator[tuple[int, Batch]]:
        """(step, batch) for every step from `start_step` up to but not including `stop_step`.

        Images are bytes (uint8), a quarter of what floats would take; `Batch.to` makes floats of
        them.

        Args:
            start_step, stop_step: 0-based.
            pinned: put batches into memory that a GPU copies from by itself.

        Raises:
            SegkitError: an image or its labels cannot be read; names the sample.
        """
        workers = min(self.config.workers, stop_step - start_step)
        steps: DataLoader[CollatedBatch | SegkitError] = DataLoader(
            _Steps(self),
            batch_size=None,  # an item is a batch already
            sampler=range(start_step, stop_step),
            collate_fn=_as_it_is,
            num_workers=workers,
            worker_init_fn=_start_worker if workers else None,
            pin_memory=pinned,
        )
        for step, item in zip(range(start_step, stop_step), steps, strict=True):
            if isinstance(item, SegkitError):
                raise item
            yield step, uncollate(item)

    def _batch(self, step: int) -> Batch:
        dataset, turn = self._schedule.draw(step)
        places = positions(
            turn, batch_size=self.config.batch_size, rank=self.rank, world_size=self.world_size
        )
        images, targets, ids = zip(*(self._crop(dataset, place) for place in places), strict=True)
        return Batch(
            torch.stack(images), targets, self.sets[dataset].name, self.sets[dataset].task, ids
        )

    def _crop(self, dataset: int, position: int) -> tuple[Tensor, Targets, str]:
        mixed = self.sets[dataset]
        sample = mixed.shards.sample(self._schedule.sample(dataset, position))
        image = mixed.shards.image(sample)
        rng = self._schedule.sample_rng(dataset, position)
        try:
            return *make_crop(image, sample, mixed, self.config, rng), sample.id
        except (ValueError, KeyError) as error:
            message, hint = f"its labels cannot be used ({error})", "see `segkit validate`"
            raise InputError(
                message, file=mixed.shards.path, record=sample.id, hint=hint
            ) from error


def make_crop(
    image: Image, sample: Sample, mixed: MixedSet, config: DataConfig, rng: np.random.Generator
) -> tuple[Tensor, Targets]:
    """One augmented crop (3, S, S) uint8 of an (H, W, 3) image, and its targets."""
    crop = choose_crop(sample, mixed.policies, config, rng)
    pixels = crop.image(image)
    if config.color_jitter:
        content = crop.inside()  # padding keeps its grey
        pixels[content] = color_jitter(
            np.ascontiguousarray(pixels[content]), strength=config.color_jitter, rng=rng
        )
    targets = build_targets(
        sample, crop, taxonomy=mixed.taxonomy, task=mixed.task, policies=mixed.policies
    )
    return torch.from_numpy(np.stack(cv2.split(pixels))), targets


def choose_crop(
    sample: Sample, policies: Mapping[int, MaskPolicy], config: DataConfig, rng: np.random.Generator
) -> Crop:
    """Zoom on a random segment (a thing, where there is one) at the configured rate, else
    large-scale jitter."""
    usable = [
        segment
        for segment in sample.segments
        if not (segment.is_crowd or segment.ignore or policies[segment.class_id] == "none")
        and min(segment.box[2:]) > 0
    ]
    usable = [segment for segment in usable if segment.kind == "thing"] or usable
    if rng.random() < config.zoom_probability and usable:
        box = usable[int(rng.integers(len(usable)))].box
        return zoom_crop(
            sample.height, sample.width, box, size=config.image_size, rng=rng, flip=config.flip
        )
    scale = float(rng.uniform(config.scale_min, config.scale_max))
    size = config.image_size
    return jitter_crop(
        sample.height, sample.width, size=size, scale=scale, rng=rng, flip=config.flip
    )


class _Steps(Dataset["CollatedBatch | SegkitError"]):
    """Batches by step. A failure is a value as well, for torch would wrap it in a worker's
    traceback."""

    def __init__(self, mix: DataMix) -> None:
        self.mix = mix

    def __getitem__(self, step: int) -> "CollatedBatch | SegkitError":
        try:
            return collate(self.mix._batch(step))
        except SegkitError as error:
            return error


def _as_it_is(item: Any) -> Any:
    return item


def _start_worker(_: int) -> None:
    for stop in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # torchrun and terminals send them to workers as well: the training
        signal.signal(
            stop, signal.SIG_IGN
        )  # process decides when to stop, and needs its batches until then
    cv2.setNumThreads(
        0
    )  # the workers are the parallelism; threads of each would fight for the same cores


def _check(sets: Sequence[tuple[str, ShardSet, float]], config: DataConfig) -> None:
    names = [name for name, _, _ in sets]
    if not names:
        raise InputError("no data set", hint="give at least one with --data")
    for name, shards, weight in sets:
        if [other.path for _, other, _ in sets].count(shards.path) > 1:
            hint = "give it once, with its weight behind it: SET=WEIGHT"
            raise InputError("the same set is given more than once", file=shards.path, hint=hint)
        if names.count(name) > 1:
            raise InputError(
                f"two data sets are called {name!r}",
                file=shards.path,
                hint="give each its own name",
            )
        if not 0 < weight < float("inf"):
            raise InputError(
                f"its sampling weight is {weight}",
                file=shards.path,
                hint="give a positive number after =",
            )
        if not len(shards):
            raise InputError("it has no images", file=shards.path, hint="leave the data set out")
    for key in config.mask_policy:
        if key.partition(":")[0] not in names:
            hint = f"name one of: {', '.join(names)}"
            raise InputError("no such data set", record=f"data.mask_policy.{key}", hint=hint)


def _policies(name: str, taxonomy: Taxonomy, config: DataConfig) -> dict[int, MaskPolicy]:
    """The policy of every class id of one data set."""
    default = config.mask_policy.get(name, "mask")
    chosen = {
        key.partition(":")[2]: policy
        for key, policy in config.mask_policy.items()
        if key.startswith(f"{name}:")
    }
    for unknown in chosen.keys() - set(taxonomy.names):
        record = f"data.mask_policy.{name}:{unknown}"
        raise InputError(
            "no such class", record=record, hint=f"see `segkit inspect` for the classes of {name}"
        )
    return {category.id: chosen.get(category.name, default) for category in taxonomy.categories}
