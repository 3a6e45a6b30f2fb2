"""The manifest of a run: its training data, its files and their digest. Imports no torch."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from segkit import parse
from segkit.errors import InputError
from segkit.shards.manifest import Parent
from segkit.shards.publish import MANIFEST, resolve
from segkit.storage import relocate

RECIPE, WEIGHTS = "recipe.toml", "model.safetensors"
VOCABULARY, TAXONOMIES = "vocabulary.safetensors", "taxonomies.json"
METRICS, PICTURES, TENSORBOARD = "metrics.jsonl", "pictures", "tensorboard"
CHECKPOINTS = "checkpoints"
"""Exists only until the run is published."""
CONTENT = (WEIGHTS, RECIPE, VOCABULARY, TAXONOMIES)
"""The files that `load_run` reads; pictures and logs are not needed to use a run."""
SchemaVersion = Literal["1", "2"]
"""Version 1 has the key and weight names in `segkit.recipes.old_names`, version 2 today's."""


class RunManifest(BaseModel):
    """The manifest of a version of a training run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_name: Literal["segkit.run/1"] = Field("segkit.run/1", alias="schema")
    """`schema` in the file; absent from the manifests of early versions, which still load."""
    schema_version: SchemaVersion = "2"
    segkit_version: str
    type: Literal["run"] = "run"
    name: str
    """The recipe's name."""
    command: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    parents: tuple[Parent, ...]
    """The versions of the training data, and the run that the weights were initialized from."""
    rates: dict[str, float]
    """Sampling weight of each dataset; only their ratios matter."""
    steps: int
    """Optimizer steps after which the weights were taken."""
    parameters: int
    """Number of parameters of the model."""
    encoder: str
    """The text encoder of the class embeddings."""
    files: dict[str, str]
    """SHA-256 of each file in `CONTENT`."""
    digest: str
    """SHA-256 over `files`. On a CPU, equal data, recipe and seed give an equal digest; on a GPU,
    where the order of sums varies, they do not."""

    @staticmethod
    def content_digest(files: dict[str, str]) -> str:
        """SHA-256 over the names and digests of the files."""
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in `CONTENT`."""
    return {name: _sha256(folder / name) for name in CONTENT}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def damage(folder: Path, manifest: RunManifest) -> list[str]:
    """What differs between the files of a run and its manifest, one line each; none if intact."""
    if RunManifest.content_digest(manifest.files) != manifest.digest:
        return [f"{MANIFEST}: the digest is not that of the files listed there"]
    lines = []
    for name in CONTENT:
        try:
            digest = _sha256(folder / name)
        except OSError as error:
            lines.append(f"{name}: {error.strerror or error}")
            continue
        if digest != manifest.files.get(name):
            lines.append(f"{name}: the SHA-256 of its bytes is not the one in the manifest")
    return lines


def refuse_damage(folder: Path, manifest: RunManifest) -> None:
    """Raise InputError if a file of a run is not the one that was published."""
    for line in damage(folder, manifest):
        name, _, message = line.partition(": ")
        hint = "copy the run again from where it is intact, or train it again"
        raise InputError(message, file=folder / name, hint=hint)


def run_parent(folder: Path, manifest: RunManifest, home: Path) -> Parent:
    """The run in `folder` as a parent of the version at `home`."""
    return Parent(
        path=relocate(".", folder, home), version=int(folder.name[1:]), digest=manifest.digest
    )


def read_run_manifest(spec: str | Path) -> RunManifest:
    """The manifest of a run, `DIR` or `DIR@v2`.

    Raises:
        InputError: no run there, or one of a newer version of segkit.
    """
    file = resolve(spec) / MANIFEST
    hint = "give a run that segkit train wrote"
    try:
        return parse.checked(
            RunManifest, parse.read_bytes(file), file=file, noun="the manifest of a run", hint=hint
        )
    except InputError as error:
        if error.record != "schema_version":
            raise
        hint = "a newer version of segkit may read it"
        raise InputError(error.message, file=file, record=error.record, hint=hint) from error
