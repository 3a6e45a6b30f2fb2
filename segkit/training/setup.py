"""TrainingSetup: open the data sets of a training run and resolve what its recipe leaves open."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timm.models import get_pretrained_cfg, is_model
from torch import nn

from segkit import distributed
from segkit.data.check_sets import NamedDataset
from segkit.distributed import choose_device
from segkit.errors import InputError
from segkit.file_names import path_text
from segkit.hub import is_hugging_face
from segkit.model.backbone import STRIDES
from segkit.model.text_classifier import ClassEmbeddings
from segkit.model.vitdet import timm_name
from segkit.recipes.schema import DataConfig, Recipe
from segkit.shards.reader import ShardSet
from segkit.storage import StrPath
from segkit.text.embeddings import EmbeddingStore
from segkit.training.interrupted import training_fingerprint
from segkit.training.options import TrainOptions
from segkit.training.preflight import (
    check_inputs,
    check_loggers,
    count_masks,
    encode_names,
    resolve_text_dim,
)
from segkit.workers.devices import check_device

WeightedSet = StrPath | tuple[StrPath, float]
WeightedSets = WeightedSet | Sequence[WeightedSet] | Mapping[str, float]
"""A shard set (`DIR` or `DIR@v2`), or several, each with or without a sampling weight, or a
mapping of sets to weights."""


@dataclass(frozen=True)
class Dataset(NamedDataset):
    """A data set with the text embeddings of its classes."""

    embeddings: ClassEmbeddings


@dataclass(frozen=True)
class TrainingSetup:
    """Everything that determines a training run."""

    recipe: Recipe
    datasets: list[Dataset]
    eval_datasets: list[Dataset]
    device: torch.device
    arguments: dict[str, Any]
    """The caller's arguments, for the manifest."""

    @classmethod
    def open(
        cls,
        recipe: str | Path,
        data: Sequence[tuple[str, float]],
        options: TrainOptions,
    ) -> "TrainingSetup":
        """Load the recipe and open the data sets; arguments as in `train`.

        Raises:
            InputError: a recipe, data set or device that cannot be used.
        """
        loaded = options.load_recipe(recipe)
        inputs = check_inputs(loaded, data, options.eval_data, options.names, resume=options.resume)
        check_loggers(inputs.recipe)
        check_device(options.device)
        chosen_device = choose_device(options.device)
        encode_names(inputs)
        resolved = resolve_text_dim(resolve_pixel_statistics(inputs.recipe))
        datasets = open_datasets(inputs.datasets, resolved)
        eval_datasets = open_datasets(inputs.eval_datasets, resolved)
        arguments: dict[str, Any] = {
            "recipe": str(recipe),
            "data": dict(data),
            "eval_data": list(options.eval_data),
            "set": list(options.overrides),
        }
        if inputs.recipe.data.mask_policy:
            arguments["mask_policy"] = count_masks(inputs)
        return cls(resolved, datasets, eval_datasets, chosen_device, arguments)

    def in_order(self, names: Sequence[str]) -> "TrainingSetup":
        """The setup with its data sets in the order of `names`; unchanged where it has others.

        The schedule draws data sets by their place, so a resumed run needs the order of the
        interrupted one.
        """
        places = {name: place for place, name in enumerate(names)}
        if places.keys() != {data.name for data in self.datasets}:
            return self
        return replace(self, datasets=sorted(self.datasets, key=lambda data: places[data.name]))

    def inputs(self) -> list[str]:
        """The digests of the data sets, and the run that `model.init_from` names."""
        sets = [data.shards.manifest.digest for data in (*self.datasets, *self.eval_datasets)]
        return [*sets, *filter(None, [self.recipe.model.init_from])]

    def fingerprint(self) -> dict[str, Any]:
        """What a run that resumes must have in common with the interrupted one."""
        return training_fingerprint(
            self.recipe, self.datasets, self.eval_datasets, distributed.world_size()
        )


def weighted_sets(data: WeightedSets) -> list[tuple[str, float]]:
    """The name of each shard set and its sampling weight, which is 1 where none is given."""
    is_pair = isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], int | float)
    if is_pair or isinstance(data, str) or not isinstance(data, Iterable):
        return [_weighted(data)]
    return [_weighted(item) for item in (data.items() if isinstance(data, Mapping) else data)]


def _weighted(item: Any) -> tuple[str, float]:
    if isinstance(item, Sequence) and not isinstance(item, str):
        spec, weight = item
        return path_text(spec), weight
    return path_text(item), 1.0


def open_datasets(sets: Sequence[NamedDataset], recipe: Recipe) -> list[Dataset]:
    """Data sets with the text embeddings of their classes."""
    return [
        Dataset(
            data.name,
            data.shards,
            data.weight,
            ClassEmbeddings.from_taxonomy(data.shards.taxonomy, _text(data.shards, recipe)),
        )
        for data in sets
    ]


def _text(shards: ShardSet, recipe: Recipe) -> torch.Tensor:
    """Text embeddings (K, D) of the classes."""
    encoding, text_dim = recipe.text.encoding, recipe.model.text_dim
    rows = EmbeddingStore(encoding).embed(shards.taxonomy)
    width = rows.shape[1]
    if text_dim != width:
        message = f"model.text_dim is {text_dim}, the embeddings of {encoding.name} have {width}"
        hint = f"set model.text_dim={width}, or leave it out"
        raise InputError(message, record=recipe.name, hint=hint)
    return torch.from_numpy(rows)


def resolve_pixel_statistics(recipe: Recipe) -> Recipe:
    """Normalize images as the pretrained weights expect: timm's, or those of a public Mask2Former.

    A Mask2Former has the statistics of the weights that it was trained from, which timm knows. A
    recipe that sets `model.pixel_mean` or `model.pixel_std` itself is left unchanged, and so is one
    with an unknown backbone, which the model refuses.
    """
    model = recipe.model
    pretrained = model.backbone_weights == "timm" or is_hugging_face(model.init_from)
    if not pretrained or model.model_fields_set & {"pixel_mean", "pixel_std"}:
        return recipe
    name = timm_name(model.backbone)
    weights = get_pretrained_cfg(name) if is_model(name) else None
    if weights is None:
        return recipe
    statistics = {"pixel_mean": tuple(weights.mean), "pixel_std": tuple(weights.std)}
    return recipe.model_copy(update={"model": model.model_copy(update=statistics)})


def require_batch_statistics(model: nn.Module, config: DataConfig) -> None:
    """Raise InputError where a batch norm would get one pixel, which has no variance.

    Args:
        model: in training mode.
        config: size and number of the crops of a batch.
    """
    pixels = config.batch_size * (config.image_size // STRIDES[-1]) ** 2
    norms = nn.modules.batchnorm._BatchNorm
    if pixels > 1 or not any(isinstance(m, norms) and m.training for m in model.modules()):
        return
    size = config.image_size
    message = f"one crop of {size} pixels gives batch norms no statistics: its last map has 1 pixel"
    hint = "set data.batch_size=2, or data.image_size=64, or model.freeze_norm=true"
    raise InputError(message, record="data.batch_size", hint=hint)
