"""A trained run in memory: the model, with the class embeddings that travel with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from segkit.distributed import choose_device
from segkit.errors import InputError, SegkitError, short
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.load import load_recipe
from segkit.recipes.old_names import update_weights
from segkit.recipes.schema import Recipe
from segkit.runs.calibration import Calibration
from segkit.runs.run_manifest import (
    CALIBRATION,
    RECIPE,
    VOCABULARY,
    WEIGHTS,
    RunManifest,
    manifest_of,
    read_taxonomies,
    refuse_damage,
)
from segkit.shards.manifest import Parent
from segkit.storage import StrPath
from segkit.taxonomy import Category, Taxonomy
from segkit.tensor_file import read_tensors, read_tensors_and_metadata
from segkit.text.embeddings import EmbeddingStore
from segkit.text.encoding import Encoding


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
    """Taxonomy of each dataset that the run was trained on."""
    text_embeddings: dict[str, Tensor]
    """(K, D) text embeddings of each of these taxonomies, rows in index order, on the CPU."""
    encoding: Encoding
    """The text encoder and the templates of these embeddings, and of all new ones."""
    encoder_digest: str | None
    """Digest of the text encoder's weights; None in early runs, which do not record it."""
    calibration: Calibration | None = None
    """From the raw scores of box prompts' masks to expected IoU; None before `segkit calibrate`."""

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def class_embeddings(self, taxonomy: Taxonomy) -> ClassEmbeddings:
        """The class embeddings of any taxonomy, on the model's device.

        Classes of the training data have the run's own embeddings, all others those stored on this
        machine; names that have none yet are encoded first.

        Raises:
            InputError: the text encoder is not installed, or has other weights than the run's.
            SegkitError: its weights could not be fetched.
        """
        rows = self._trained_rows()
        if new := self._new_categories(taxonomy):
            store = EmbeddingStore(self.encoding)
            store.add(store.missing_words(new))
            store.check_encoder(self.encoder_digest)
            embeddings = torch.from_numpy(store.embed(new))  # (N, D)
            rows |= {category.words: row for category, row in zip(new, embeddings, strict=True)}
        if taxonomy.categories:
            text = torch.stack([rows[category.words] for category in taxonomy.categories])  # (K, D)
        else:
            text = torch.zeros((0, self.recipe.model.text_dim))
        return ClassEmbeddings.from_taxonomy(taxonomy, text).to(self.device)

    def as_parent(self, destination: StrPath) -> Parent:
        """This run as a parent of any version under the directory `destination`."""
        return Parent.from_version(self.path, self.manifest.digest, destination)

    def as_arguments(self) -> dict[str, Any]:
        """The run and its inference settings, overrides included, for a manifest's arguments."""
        return {"checkpoint": str(self.path), "inference": self.recipe.inference.model_dump()}

    def _trained_rows(self) -> dict[tuple[str, ...], Tensor]:
        """Words of each class of the training data -> its embedding (D,)."""
        return {
            category.words: row
            for name, taxonomy in self.taxonomies.items()
            for category, row in zip(taxonomy.categories, self.text_embeddings[name], strict=True)
        }

    def _new_categories(self, taxonomy: Taxonomy) -> list[Category]:
        """The classes of a taxonomy that no training dataset has."""
        trained = {c.words for known in self.taxonomies.values() for c in known.categories}
        return [category for category in taxonomy.categories if category.words not in trained]


def check_readable(folder: Path) -> None:
    """Load a run that is about to be published, as it will be read.

    Args:
        folder: its directory, complete but not visible yet.

    Raises:
        SegkitError: it cannot be loaded.
    """
    try:
        read_run(folder, manifest_of(folder), load_recipe(folder / RECIPE), "cpu")
    except SegkitError as error:
        message = f"{folder}: the new run cannot be read back ({error.message})"
        raise SegkitError(message, hint="nothing was published") from error


def read_run(folder: Path, manifest: RunManifest, recipe: Recipe, device: str) -> Run:
    """Read the run in a version's directory.

    Args:
        folder: the directory.
        manifest: its manifest.
        recipe: its recipe, with overrides of the inference settings.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        InputError: a damaged or unreadable file, weights that are not finite, or no such device.
    """
    refuse_damage(folder, manifest)
    problem, hint = "the run cannot be read", "train it again"
    vocabulary = folder / VOCABULARY
    state = read_tensors(folder / WEIGHTS, framework="pt", problem=problem, hint=hint)
    text_embeddings, metadata = read_tensors_and_metadata(
        vocabulary, framework="pt", problem=problem, hint=hint
    )
    try:
        # The run's weights include the backbone's; nothing is downloaded.
        model = DataSeg(recipe.model.model_copy(update={"backbone_weights": None}))
        if manifest.schema_version == "1":
            state = update_weights(state)
        model.load_state_dict(state)
    except (OSError, RuntimeError) as error:
        # The first line of torch's message may be only "Error(s) in loading state_dict".
        message = shorten(" ".join(str(error).split()), 160)
        raise InputError(f"{problem} ({message})", file=folder, hint=hint) from error
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            message = f"the weights of {name} are not finite: the training diverged"
            raise InputError(message, file=folder / WEIGHTS, hint=hint)
    taxonomies = read_taxonomies(folder)
    _check_embeddings(text_embeddings, taxonomies, recipe.model.text_dim, vocabulary)
    encoding, encoder_digest = Encoding.from_metadata(metadata)
    return Run(
        path=folder,
        manifest=manifest,
        model=model.to(choose_device(device)).eval(),
        recipe=recipe,
        taxonomies=taxonomies,
        text_embeddings=text_embeddings,
        encoding=encoding,
        encoder_digest=encoder_digest,
        calibration=Calibration.read(folder / CALIBRATION) if manifest.is_calibrated else None,
    )


def _check_embeddings(
    embeddings: Mapping[str, Tensor], taxonomies: Mapping[str, Taxonomy], width: int, file: Path
) -> None:
    """Raise InputError unless each taxonomy has a row of `width` numbers for each class."""
    for name, taxonomy in taxonomies.items():
        shape = tuple(embeddings[name].shape) if name in embeddings else "none"
        expected = (len(taxonomy.categories), width)
        if shape != expected:
            message = f"the class embeddings are {shape}, the run needs {expected}"
            raise InputError(message, file=file, record=short(name), hint="train it again")
