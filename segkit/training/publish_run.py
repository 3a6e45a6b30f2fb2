"""Writing the files of a run."""

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file, save_model
from torch import nn

from segkit import __version__
from segkit.recipes.load import to_toml
from segkit.runs.init_from import init_from_parents
from segkit.runs.run_manifest import (
    CHECKPOINTS,
    RECIPE,
    TAXONOMIES,
    VOCABULARY,
    WEIGHTS,
    RunManifest,
    file_digests,
)
from segkit.shards.publish import MANIFEST, Staging
from segkit.shards.writer import parent_of
from segkit.text.vocabulary import weights
from segkit.training.setup import Job, encoding_of


def write_inputs(job: Job, folder: Path) -> None:
    """What decides the run and travels with it: recipe, taxonomies, text embeddings."""
    (folder / RECIPE).write_text(to_toml(job.recipe), "utf-8")
    taxonomies = {named.name: named.shards.taxonomy.to_json() for named in job.data}
    (folder / TAXONOMIES).write_text(
        json.dumps(taxonomies, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    text = {named.name: named.table.text.contiguous() for named in job.data}
    encoding = encoding_of(job.recipe)
    save_file(text, folder / VOCABULARY, encoding.to_metadata(weights(encoding)))
    (folder / VOCABULARY).chmod(
        0o644
    )  # safetensors writes 0600: nobody else on a shared disk could use the run


def write_model(job: Job, model: nn.Module, step: int, stage: Staging) -> None:
    """The averaged weights as they were after a step, then the manifest, whose presence says that
    all is there."""
    save_model(model, str(stage.path / WEIGHTS), {"format": "pt"})
    (stage.path / WEIGHTS).chmod(0o644)
    digests = file_digests(stage.path)
    manifest = RunManifest(
        segkit_version=__version__,
        name=job.recipe.name,
        command="train",
        arguments=job.arguments,
        parents=(
            *(parent_of(named.shards, stage.home) for named in job.data),
            *init_from_parents(job.recipe.model.init_from, stage.home),
        ),
        rates={named.name: named.weight for named in job.data},
        steps=step,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        encoder=encoding_of(job.recipe).name,
        files=digests,
        digest=RunManifest.content_digest(digests),
    )
    partial = stage.path / f"{MANIFEST}.partial"
    partial.write_text(manifest.model_dump_json(indent=1, by_alias=True) + "\n", "utf-8")
    partial.replace(stage.path / MANIFEST)


def publish(stage: Staging) -> Path:
    """Drop the checkpoints and make the version visible; returns its path."""
    shutil.rmtree(stage.path / CHECKPOINTS, ignore_errors=True)
    return stage.publish()
