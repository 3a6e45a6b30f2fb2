"""Reading a trained run: the model with the vocabulary that travels with it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from torch import Tensor

from segkit.errors import InputError
from segkit.manifest import Parent
from segkit.model.class_table import ClassTable
from segkit.model.dataseg import DataSeg, build_model
from segkit.shards.publish import resolve
from segkit.taxonomy import Taxonomy
from segkit.training.recipe import Recipe, load_recipe
from segkit.training.run_manifest import RECIPE, TAXONOMIES, VOCABULARY, WEIGHTS, read_run_manifest
from segkit.vocabulary import embed


@dataclass(frozen=True)
class Run:
    """What inference needs of a run."""

    path: Path
    """The version's directory."""
    digest: str
    model: DataSeg
    """In evaluation mode."""
    recipe: Recipe
    taxonomies: dict[str, Taxonomy]
    """Of each data set that it was trained on."""
    vocabulary: dict[str, Tensor]
    """Text embeddings (K, D) of each of these taxonomies, rows in index order, on the CPU."""

    def table(self, taxonomy: Taxonomy) -> ClassTable:
        """Classifier rows of any taxonomy, on the model's device.

        A taxonomy that was trained on has the rows that it was trained with; others are looked up by their words.

        Raises:
            InputError: a class has no text embedding.
        """
        known = (name for name, own in self.taxonomies.items() if own.categories == taxonomy.categories)
        name = next(known, None)
        text = torch.from_numpy(embed(taxonomy)) if name is None else self.vocabulary[name]
        return ClassTable.of(taxonomy, text).to(next(self.model.parameters()).device)

    def as_parent(self, destination: Path) -> Parent:
        """How a version of the set at `destination` names this run."""
        path = os.path.relpath(self.path, destination.resolve() / self.path.name)
        return Parent(path=Path(path).as_posix(), version=int(self.path.name[1:]), digest=self.digest)


def load_run(spec: str | Path, device: torch.device | str = "cpu") -> Run:
    """The newest version of a run, or the given one (`DIR@v2`), ready for inference.

    Raises:
        InputError: no run there, or one of its files cannot be read.
    """
    folder = resolve(spec).resolve()
    manifest = read_run_manifest(folder)
    recipe = load_recipe(folder / RECIPE)
    try:
        # The run's own weights hold the backbone's: nothing is fetched or looked for elsewhere.
        model = build_model(recipe.model.model_copy(update={"backbone_weights": None}))
        load_model(model, folder / WEIGHTS)
        vocabulary = load_file(folder / VOCABULARY)
        taxonomies = json.loads((folder / TAXONOMIES).read_text("utf-8"))
    except (OSError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        problem = str(error).splitlines()[0]
        raise InputError(f"the run cannot be read ({problem})", file=folder, mend="train it again") from error
    known = {name: Taxonomy.from_json(taxonomy) for name, taxonomy in taxonomies.items()}
    return Run(folder, manifest.digest, model.to(device).eval(), recipe, known, vocabulary)
