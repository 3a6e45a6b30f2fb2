"""Plan a run without training: its size, its pace through each set, and what is missing for it.

The memory and the pretrained weights need torch; without it, the plan says so.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit import torchrun
from segkit.atomic import existing_folder
from segkit.data.check_sets import NamedDataset
from segkit.errors import InputError
from segkit.extras import MissingExtraError, require_extra
from segkit.hub import CONFIG, WEIGHTS, is_cached, is_hugging_face, model_name
from segkit.model.weights_file import weights_file
from segkit.recipes.schema import Recipe
from segkit.runs.init_from import check_init_from
from segkit.text.embeddings import EmbeddingStore
from segkit.training.preflight import check_loggers
from segkit.training.unit_costs import GPUS, crop_flops, gpu_hours

if TYPE_CHECKING:
    from segkit.training.memory import Memory

SHARED_MEMORY = Path("/dev/shm")
_PREFETCHED = 2
"""Batches that each loader worker prepares ahead."""
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class SetPlan:
    """How a run draws from one set."""

    name: str
    images: int
    share: float
    """Of the batches, 0-1; 1 where every step takes a batch of every set."""
    samples_per_step: float
    """Mean over the steps, in all processes."""
    samples: int
    """In all steps."""
    epochs: float
    steps_per_epoch: float


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that the run lacks on this machine."""

    name: str
    """weights, embeddings, memory, shared memory, disk or extra."""
    text: str
    hint: str


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of a run."""

    recipe: str
    steps: int
    processes: int
    batch_size: int
    """Samples of a batch of one process."""
    recomputed: bool
    """Whether the backward pass runs the forward pass again (activation checkpointing)."""
    samples_per_step: int
    """In all processes and batches of a step."""
    sets: tuple[SetPlan, ...]
    memory: "Memory | None"
    """Of each process; None without torch."""
    missing: tuple[Missing, ...]

    @property
    def gpu_hours(self) -> dict[str, float]:
        """Expected hours of one GPU for all samples, by kind of GPU; empty without torch.

        Operations are counted, GPUs are not measured: see `unit_costs`.
        """
        if self.memory is None:
            return {}
        forward = self.memory.forward_flops / self.batch_size
        flops = crop_flops(forward, recomputed=self.recomputed)
        flops *= self.samples_per_step * self.steps
        return {gpu.name: gpu_hours(flops, gpu) for gpu in GPUS}

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        values = asdict(self)
        if self.memory is not None:
            values["memory"]["total"] = self.memory.total
        return values | {"gpu_hours": self.gpu_hours}


def plan_training(
    recipe: Recipe, data: Sequence[NamedDataset], out: Path, *, device: str = "auto"
) -> TrainingPlan:
    """Plan a run; reads manifests only.

    The number of processes is torchrun's.

    Args:
        recipe: with `model.init_from` resolved.
        data: the data sets.
        out: where the run is to be written.
        device: auto, cpu, cuda or cuda:N.
    """
    processes = torchrun.world_size()
    samples = recipe.data.batch_size * recipe.training.accumulate * processes
    mixed = len(data) if recipe.data.mixing == "all" else 1
    missing = [
        *_lacks("embeddings", _check_embeddings, recipe, data),
        *_lacks("loggers", check_loggers, recipe),
    ]
    memory = None
    try:
        require_extra("train", "training")
    except MissingExtraError as error:
        missing.append(_as_missing("extra", error))
    else:
        memory, capacity = _estimate(recipe, data, processes, device)
        missing += _lacks("weights", _check_weights, recipe)
        missing += _lacks("memory", _check_memory, memory, capacity)
        missing += _lacks("disk", _check_disk, recipe, memory, processes, out)
    missing += _lacks("shared memory", _check_shared_memory, recipe, data, processes)
    return TrainingPlan(
        recipe=recipe.name,
        steps=recipe.training.steps,
        processes=processes,
        batch_size=recipe.data.batch_size,
        recomputed=recipe.training.activation_checkpointing,
        samples_per_step=samples * mixed,
        sets=tuple(_set_plans(recipe, data, samples)),
        memory=memory,
        missing=tuple(missing),
    )


def _set_plans(recipe: Recipe, data: Sequence[NamedDataset], samples: int) -> Iterator[SetPlan]:
    total = sum(dataset.weight for dataset in data)
    for dataset in data:
        share = 1.0 if recipe.data.mixing == "all" else dataset.weight / total
        per_step, steps, images = share * samples, recipe.training.steps, len(dataset.shards)
        yield SetPlan(
            name=dataset.shards.manifest.name,
            images=images,
            share=share,
            samples_per_step=per_step,
            samples=round(per_step * steps),
            epochs=per_step * steps / max(images, 1),
            steps_per_epoch=images / per_step,
        )


def _lacks(name: str, check: Callable[..., None], *arguments: Any) -> list[Missing]:
    """What a check of this name, which raises InputError, finds missing."""
    try:
        check(*arguments)
    except InputError as error:
        return [_as_missing("extra" if isinstance(error, MissingExtraError) else name, error)]
    return []


def _as_missing(name: str, error: InputError) -> Missing:
    return Missing(name, error.message, error.hint or "")


def _check_embeddings(recipe: Recipe, data: Sequence[NamedDataset]) -> None:
    store = EmbeddingStore(recipe.text.encoding)
    for dataset in data:
        try:
            store.embed(dataset.shards.taxonomy)
        except InputError as error:
            hint = f"{error.hint}, or the run encodes them at its start"
            raise InputError(error.message, hint=hint) from error


def _check_weights(recipe: Recipe) -> None:
    """Initial weights are downloaded at the start unless they are here."""
    model = recipe.model
    if model.init_from is not None:
        name = model_name(model.init_from) if is_hugging_face(model.init_from) else None
        if name and not Path(name).is_dir() and not is_cached(name, (CONFIG, WEIGHTS)):
            raise InputError(
                f"{name} is not in the cache of the Hugging Face hub",
                hint=f"the run downloads it at its start; without a network, fetch {CONFIG} and "
                f"{WEIGHTS} into a folder and give --init-from hf:FOLDER",
            )
        check_init_from(recipe, model.init_from)
    elif model.backbone_weights == "timm":
        _check_timm_weights(model.backbone)
    elif model.backbone_weights is not None:
        try:
            weights_file(model.backbone_weights)
        except InputError as error:
            raise InputError(f"{error.file}: {error.message}", hint=error.hint) from error


def _check_timm_weights(backbone: str) -> None:
    from timm.models import get_pretrained_cfg, is_model

    from segkit.model.vitdet import timm_name

    name = timm_name(backbone)
    source = get_pretrained_cfg(name) if is_model(name) else None
    if source is None:
        raise InputError(f"timm has no weights of {name}", hint="check model.backbone")
    if source.hf_hub_id and not is_cached(source.hf_hub_id, (WEIGHTS,)):
        raise InputError(
            f"the weights of {name} ({source.hf_hub_id}) are not in the cache of the Hugging Face "
            "hub",
            hint="the run downloads them at its start; without a network, set "
            "model.backbone_weights to a safetensors file",
        )


def _estimate(
    recipe: Recipe, data: Sequence[NamedDataset], processes: int, device: str
) -> "tuple[Memory, int]":
    """The memory of a step in each process, and the bytes of its device."""
    import torch

    from segkit.distributed import choose_device
    from segkit.training.memory import estimate_memory

    place = choose_device(device)
    memory = estimate_memory(
        recipe,
        classes=max(len(dataset.shards.taxonomy.categories) for dataset in data),
        boxes=max(1, math.ceil(_segments_per_image(data))),  # at 0, no decoder would run
        processes=processes,
        cuda=place.type == "cuda",
    )
    if place.type == "cuda":
        return memory, int(torch.cuda.get_device_properties(place).total_memory)
    return memory, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _segments_per_image(data: Sequence[NamedDataset]) -> float:
    """Mean of the set with the most."""
    counts = (dataset.shards.manifest.statistics for dataset in data)
    return max(count.segments / max(count.images, 1) for count in counts)


def _check_memory(memory: "Memory", capacity: int) -> None:
    if memory.total > capacity:
        raise InputError(
            f"{memory.total / _GIB:.1f} GiB expected, the device has {capacity / _GIB:.1f}",
            hint="halve data.batch_size and double training.accumulate, lower data.image_size, or "
            "set training.activation_checkpointing=true",
        )


def _check_shared_memory(recipe: Recipe, data: Sequence[NamedDataset], processes: int) -> None:
    """Workers pass batches through shared memory: uint8 images, and masks of a bit a pixel."""
    workers = recipe.data.workers * processes
    if not workers or not SHARED_MEMORY.is_dir():
        return
    maps = 3 + 2 + _segments_per_image(data) / 8  # bytes: RGB, void and padding, masks
    batch = recipe.data.batch_size * recipe.data.image_size**2 * maps
    needed, free = workers * _PREFETCHED * batch, shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        raise InputError(
            f"{workers} workers need about {needed / _GIB:.1f} GiB of {SHARED_MEMORY}, "
            f"{free / _GIB:.1f} are free",
            hint="give the container more (--shm-size 8g), or lower data.workers",
        )


def _check_disk(recipe: Recipe, memory: "Memory", processes: int, out: Path) -> None:
    """Checkpoints hold weights, their average and the moments; the best one is kept as well."""
    shards = processes if recipe.training.parallel == "fsdp" else 1
    checkpoint = (memory.weights + memory.average + memory.optimizer) * shards
    needed = checkpoint * (recipe.training.keep_checkpoints + 2) + memory.average * shards
    folder = existing_folder(out)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"checkpoints take up to {needed / _GIB:.1f} GiB, {free / _GIB:.1f} are free in "
            f"{folder}",
            hint="free some space, or lower training.keep_checkpoints",
        )
