"""Write the files of a run that `load_run` reads, for training and for runs without training."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segkit import __version__
from segkit.atomic import replace_bytes
from segkit.recipes.load import to_toml
from segkit.recipes.schema import Recipe
from segkit.runs.run_manifest import (
    RECIPE,
    TAXONOMIES,
    VOCABULARY,
    WEIGHTS,
    RunManifest,
    file_digests,
    log_digests,
)
from segkit.shards.manifest import Parent
from segkit.shards.manifest_file import manifest_text
from segkit.shards.versions import MANIFEST
from segkit.taxonomy import Taxonomy
from segkit.tensor_file import write_tensors


def write_inputs(
    folder: Path,
    recipe: Recipe,
    taxonomies: Mapping[str, Taxonomy],
    text: Mapping[str, Tensor],
    metadata: dict[str, str],
) -> None:
    """Write all that a run keeps besides its weights.

    Args:
        folder: the run's directory.
        recipe: the recipe.
        taxonomies: of each dataset, by its name.
        text: (K, D) text embeddings of each taxonomy, rows in index order.
        metadata: of the text embeddings, see `Encoding.to_metadata`.
    """
    (folder / RECIPE).write_text(to_toml(recipe), "utf-8")
    content = {name: taxonomy.to_json() for name, taxonomy in taxonomies.items()}
    lines = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / TAXONOMIES).write_text(lines + "\n", "utf-8")
    write_tensors(folder / VOCABULARY, text, metadata, framework="pt")


def write_weights(folder: Path, model: nn.Module) -> None:
    """Write the weights of a run."""
    write_tensors(folder / WEIGHTS, model.state_dict(), {"format": "pt"}, framework="pt")


def write_manifest(
    folder: Path,
    recipe: Recipe,
    model: nn.Module,
    *,
    command: str,
    arguments: dict[str, Any],
    parents: tuple[Parent, ...],
    rates: dict[str, float],
    steps: int,
    encoder: str,
) -> None:
    """Write the manifest, with the digests of all other files: it marks a run as complete."""
    files = file_digests(folder)
    manifest = RunManifest(
        segkit_version=__version__,
        name=recipe.name,
        command=command,
        arguments=arguments,
        parents=parents,
        rates=rates,
        steps=steps,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        encoder=encoder,
        files=files,
        digest=RunManifest.content_digest(files),
        logs=log_digests(folder),
    )
    replace_bytes(folder / MANIFEST, manifest_text(manifest).encode())
