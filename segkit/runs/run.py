"""Reading a trained run: the model with the vocabulary that travels with it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import Tensor

from segkit.distributed import choose_device
from segkit.errors import InputError
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import Recipe
from segkit.runs.run_manifest import (
    TAXONOMIES,
    VOCABULARY,
    WEIGHTS,
    RunManifest,
    open_run,
    run_parent,
)
from segkit.shards.manifest import Parent
from segkit.taxonomy import Taxonomy
from segkit.text.encoding import Encoding
from segkit.text.vocabulary import embed, missing_words, refuse_other_weights


@dataclass(frozen=True)
class Run:
    """A version of a run, ready for inference."""

    path: Path
    """The version's directory."""
    manifest: RunManifest
    model: DataSeg
    """In evaluation mode, with the averaged weights."""
    recipe: Recipe
    taxonomies: dict[str, Taxonomy]
    """Of each data set that it was trained on."""
    text_embeddings: dict[str, Tensor]
    """Text embeddings (K, D) of each of these taxonomies, rows in index order, on the CPU."""
    encoding: Encoding
    """How these names were encoded, and how others must be."""
    encoder_digest: str | None
    """Digest of the text encoder's weights; None where the run does not tell."""

    def class_embeddings(self, taxonomy: Taxonomy) -> ClassEmbeddings:
        """The class table of any taxonomy, on the model's device.

        Classes that the run was trained with take the run's own embeddings, the others what is
        stored on this machine.

        Raises:
            InputError: a class has no embedding, or what is stored was encoded by other weights
                than the run's.
        """
        known = self._rows()
        new = [category for category in taxonomy.categories if category.words not in known]
        if new:
            refuse_other_weights(self.encoding, self.encoder_digest)
            rows = embed(new, self.encoding)
            known |= {
                category.words: torch.from_numpy(row)
                for category, row in zip(new, rows, strict=True)
            }
        found = [known[category.words] for category in taxonomy.categories]
        text = torch.stack(found) if found else torch.zeros((0, self.recipe.model.text_dim))
        return ClassEmbeddings.from_taxonomy(taxonomy, text).to(
            next(self.model.parameters()).device
        )

    def missing_words(self, taxonomy: Taxonomy) -> list[str]:
        """The words that must be encoded before `table` can give the taxonomy's."""
        known = self._rows()
        return missing_words(
            [c for c in taxonomy.categories if c.words not in known], self.encoding
        )

    def _rows(self) -> dict[tuple[str, ...], Tensor]:
        """Words of each class that the run was trained with -> its embedding (D,)."""
        return {
            category.words: row
            for name, trained in self.taxonomies.items()
            for category, row in zip(trained.categories, self.text_embeddings[name], strict=True)
        }

    def as_parent(self, destination: Path) -> Parent:
        """How a version under the directory `destination` names this run."""
        return run_parent(
            self.path, self.manifest, destination.resolve() / "v1"
        )  # every version is at the same depth

    def as_arguments(self) -> dict[str, Any]:
        """Which run was asked, and how, for a manifest: settings that are in no recipe are seen
        there alone."""
        return {"checkpoint": str(self.path), "inference": self.recipe.inference.model_dump()}


def load_run(spec: str | Path, device: str = "cpu", overrides: Sequence[str] = ()) -> Run:
    """The newest version of a run, or the given one (`DIR@v2`).

    Args:
        spec: where it lies.
        device: auto, cpu, cuda or cuda:N.
        overrides: as of `open_run`.

    Raises:
        InputError: as `open_run`; one of its files cannot be read, or no such device.
    """
    folder, manifest, recipe = open_run(spec, overrides)
    try:
        # The run's own weights hold the backbone's: nothing is fetched or looked for elsewhere.
        model = DataSeg(recipe.model.model_copy(update={"backbone_weights": None}))
        load_model(model, folder / WEIGHTS)
        vocabulary, told = _tensors(folder / VOCABULARY)
        taxonomies = json.loads((folder / TAXONOMIES).read_text("utf-8"))
    except (OSError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        message = shorten(
            " ".join(str(error).split()), 160
        )  # the first line alone may say as much as "Error(s)"
        raise InputError(
            f"the run cannot be read ({message})", file=folder, hint="train it again"
        ) from error
    known = {name: Taxonomy.from_json(taxonomy) for name, taxonomy in taxonomies.items()}
    model = model.to(choose_device(device)).eval()
    return Run(folder, manifest, model, recipe, known, vocabulary, *Encoding.from_metadata(told))


def _tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
