"""TrainingSetup: open the data sets of a training run and resolve what its recipe leaves open."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models import get_pretrained_cfg, is_model

from segkit import distributed
from segkit.distributed import choose_device
from segkit.errors import InputError
from segkit.hub import is_hugging_face
from segkit.model.text_classifier import ClassEmbeddings
from segkit.model.vitdet import timm_name
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import Recipe
from segkit.runs.init_from import resolve_init_from
from segkit.shards.reader import ShardSet
from segkit.text.embeddings import EmbeddingStore
from segkit.text.encoding import Encoding
from segkit.training.logging import require_loggers


@dataclass(frozen=True)
class Dataset:
    """A shard set under the name that logs and mask policies use."""

    name: str
    shards: ShardSet
    weight: float
    """Sampling weight: how often steps draw the data set, relative to the others."""
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
        *,
        eval_data: Sequence[str],
        steps: int | None,
        device: str,
        overrides: Sequence[str],
    ) -> "TrainingSetup":
        """Load the recipe and open the data sets; arguments as in `train`.

        Raises:
            InputError: a recipe, data set or device that cannot be used.
        """
        changes = overrides if steps is None else [*overrides, f"training.steps={steps}"]
        resolved = load_recipe(recipe, changes)
        resolved = resolve_init_from(resolve_text_dim(resolve_pixel_statistics(resolved)))
        require_loggers(resolved.training.loggers)
        chosen_device = choose_device(device)
        datasets = open_datasets(data, resolved)
        eval_datasets = open_datasets([(spec, 1.0) for spec in eval_data], resolved)
        check_eval_datasets(eval_datasets)
        if resolved.training.publish == "best" and not eval_datasets:
            hint = "give --eval-data, or set it to last"
            raise InputError("no evaluation to choose by", record="training.publish", hint=hint)
        arguments = {
            "recipe": str(recipe),
            "data": dict(data),
            "eval_data": list(eval_data),
            "set": list(overrides),
        }
        return cls(resolved, datasets, eval_datasets, chosen_device, arguments)

    def fingerprint(self) -> dict[str, Any]:
        """What a run that resumes must have in common with the interrupted one."""
        return {
            "command": "train",
            "recipe": self.recipe.model_dump(mode="json"),
            "data": {
                data.name: [data.shards.manifest.digest, data.weight] for data in self.datasets
            },
            "processes": distributed.world_size(),
        }


def open_datasets(data: Sequence[tuple[str, float]], recipe: Recipe) -> list[Dataset]:
    """Open data sets by their own names, or by their directories' where two share a name."""
    opened = [(ShardSet.open(spec), weight) for spec, weight in data]
    count = Counter(shards.manifest.name for shards, _ in opened)
    datasets = []
    for shards, weight in opened:
        unique = count[shards.manifest.name] == 1
        name = shards.manifest.name if unique else shards.path.parent.name
        embeddings = ClassEmbeddings.from_taxonomy(shards.taxonomy, _text(shards, recipe))
        datasets.append(Dataset(name, shards, weight, embeddings))
    return datasets


def _text(shards: ShardSet, recipe: Recipe) -> torch.Tensor:
    """Text embeddings (K, D) of the classes; new names are encoded first."""
    encoding, text_dim = recipe_encoding(recipe), recipe.model.text_dim
    store = EmbeddingStore(encoding)
    store.add(store.missing_words(shards.taxonomy.categories))
    rows = store.embed(shards.taxonomy)
    width = rows.shape[1]
    if text_dim != width:
        message = f"model.text_dim is {text_dim}, the embeddings of {encoding.name} have {width}"
        hint = f"set model.text_dim={width}, or leave it out"
        raise InputError(message, record=recipe.name, hint=hint)
    return torch.from_numpy(rows)


def check_eval_datasets(datasets: Sequence[Dataset]) -> None:
    """Raise InputError where two evaluation sets share a name, or one has no masks."""
    count = Counter(data.name for data in datasets)
    for data in datasets:
        if count[data.name] > 1:
            raise InputError(
                f"two sets of --eval-data are called {data.name!r}",
                file=data.shards.path,
                hint="leave one of them out, or give it another name",
            )
    for data in datasets:
        if data.shards.manifest.kind == "boxes":
            raise InputError(
                "has only boxes, so masks cannot be evaluated",
                file=data.shards.path,
                hint="leave it out",
            )


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


def resolve_text_dim(recipe: Recipe) -> Recipe:
    """Give the classifier the width of the embeddings, unless the recipe sets `model.text_dim`."""
    width = EmbeddingStore(recipe_encoding(recipe)).dimension()
    if width is None or "text_dim" in recipe.model.model_fields_set:
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"text_dim": width})})


def recipe_encoding(recipe: Recipe) -> Encoding:
    """The encoding of class names that a recipe asks for."""
    return Encoding.from_names(recipe.text.encoder, recipe.text.templates)


def check_resumable(
    interrupted: dict[str, Any] | None, fingerprint: dict[str, Any], out: Path
) -> None:
    """Raise InputError where an interrupted run differs: starting anew would discard it."""
    fingerprint = json.loads(json.dumps(fingerprint))  # as the file has it: tuples as lists
    if interrupted is None or interrupted == fingerprint:
        return
    differing = [key for key, value in fingerprint.items() if interrupted.get(key) != value]
    part = differing[0] if differing else "command"
    message = f"the interrupted run and this one differ in their {part}"
    if part == "recipe":
        keys = sorted(_differences(interrupted["recipe"], fingerprint["recipe"]))
        message += f" ({', '.join(keys)})"
    raise InputError(message, file=out, hint="give the same, or --restart to start anew")


def _differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Keys in which two nested tables differ, dotted."""
    for key in a.keys() | b.keys():
        x, y = a.get(key), b.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            yield from _differences(x, y, f"{prefix}{key}.")
        elif x != y:
            yield prefix + key
