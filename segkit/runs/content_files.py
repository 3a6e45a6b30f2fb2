"""Write the files of a run that `load_run` reads, for training and for runs without training."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from segkit.recipes.load import to_toml
from segkit.recipes.schema import Recipe
from segkit.runs.run_manifest import RECIPE, TAXONOMIES, VOCABULARY
from segkit.taxonomy import Taxonomy


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
    write_tensors(folder / VOCABULARY, text, metadata)


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file that everybody can read."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata)
    # safetensors writes 0600: nobody else on a shared disk could use the run.
    file.chmod(0o644)
