"""What decides a training: the recipe, the data sets and their rates."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models import get_pretrained_cfg, is_model

from segkit import distributed
from segkit.errors import InputError
from segkit.model.text_classifier import ClassEmbeddings
from segkit.model.vitdet import plain
from segkit.recipes.schema import Recipe
from segkit.runs.init_from import is_hugging_face
from segkit.shards.reader import ShardSet
from segkit.text.encoding import Encoding
from segkit.text.vocabulary import dimension, embed


@dataclass(frozen=True)
class TrainingSet:
    """A data set under the name that logs and mask policies use, with its classifier table."""

    name: str
    shards: ShardSet
    weight: float
    table: ClassEmbeddings


@dataclass(frozen=True)
class Job:
    """All that decides a training."""

    recipe: Recipe
    data: list[TrainingSet]
    evaluation: list[TrainingSet]
    device: torch.device
    arguments: dict[str, Any]

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        data = {named.name: [named.shards.manifest.digest, named.weight] for named in self.data}
        recipe = self.recipe.model_dump(mode="json")
        return {
            "command": "train",
            "recipe": recipe,
            "data": data,
            "processes": distributed.world_size(),
        }


def open_sets(data: Sequence[tuple[str, float]], recipe: Recipe) -> list[TrainingSet]:
    """Open data sets; one is called by its own name, or by its directory's where two share a
    name."""
    opened = [(ShardSet.open(spec), weight) for spec, weight in data]
    count = Counter(shards.manifest.name for shards, _ in opened)
    made = []
    for shards, weight in opened:
        name = shards.manifest.name if count[shards.manifest.name] == 1 else shards.path.parent.name
        made.append(
            TrainingSet(
                name,
                shards,
                weight,
                ClassEmbeddings.from_taxonomy(shards.taxonomy, _text(shards, recipe)),
            )
        )
    return made


def refuse_twins(evaluation: Sequence[TrainingSet]) -> None:
    """Raise where two sets to evaluate on have one name: the log could not tell their figures
    apart."""
    count = Counter(named.name for named in evaluation)
    for named in evaluation:
        if count[named.name] > 1:
            hint = "leave one of them out, or give it a name of its own"
            raise InputError(
                f"two sets of --eval-data are called {named.name!r}",
                file=named.shards.path,
                hint=hint,
            )


def with_pixel_statistics(recipe: Recipe) -> Recipe:
    """With timm's pretrained weights or those of a public Mask2Former, images are normalized as
    these are used to.

    A Mask2Former has the statistics of the weights that it started from, which timm has as well.
    A recipe that sets `model.pixel_mean` or `model.pixel_std` itself is left as it is, and so is an
    unknown backbone, which the model refuses.
    """
    model = recipe.model
    pretrained = model.backbone_weights == "timm" or is_hugging_face(model.init_from)
    if not pretrained or model.model_fields_set & {"pixel_mean", "pixel_std"}:
        return recipe
    name = plain(model.backbone)
    trained = get_pretrained_cfg(name) if is_model(name) else None
    if trained is None:
        return recipe
    statistics = {"pixel_mean": tuple(trained.mean), "pixel_std": tuple(trained.std)}
    return recipe.model_copy(update={"model": model.model_copy(update=statistics)})


def encoding_of(recipe: Recipe) -> Encoding:
    """How a recipe has class names encoded."""
    return Encoding.of(recipe.text.encoder, recipe.text.templates)


def with_text_dim(recipe: Recipe) -> Recipe:
    """The classifier becomes as wide as the embeddings are, unless the recipe sets `model.text_dim`
    itself."""
    found = dimension(encoding_of(recipe))
    if found is None or "text_dim" in recipe.model.model_fields_set:
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"text_dim": found})})


def _text(shards: ShardSet, recipe: Recipe) -> torch.Tensor:
    encoding = encoding_of(recipe)
    rows = embed(shards.taxonomy, encoding)
    if recipe.model.text_dim != rows.shape[1]:
        message = f"model.text_dim is {recipe.model.text_dim}, the embeddings of {encoding.name} have {rows.shape[1]}"
        raise InputError(
            message, record=recipe.name, hint=f"set model.text_dim={rows.shape[1]}, or leave it out"
        )
    return torch.from_numpy(rows)


def refuse_other(left: dict[str, Any] | None, fingerprint: dict[str, Any], out: Path) -> None:
    """Raise where what is to be resumed was trained otherwise: starting anew would throw it
    away."""
    fingerprint = json.loads(json.dumps(fingerprint))  # as the file has it: tuples as lists
    if left is None or left == fingerprint:
        return
    other = next((key for key, value in fingerprint.items() if left.get(key) != value), "command")
    message = f"the interrupted run and this one differ in their {other}"
    if other == "recipe":
        differing = sorted(_differences(left["recipe"], fingerprint["recipe"]))
        message += f" ({', '.join(differing)})"
    raise InputError(message, file=out, hint="give the same, or leave --resume out to start anew")


def _differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in one.keys() | other.keys():
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield prefix + key
