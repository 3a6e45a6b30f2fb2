"""manifest.json of a run: what was trained on what, and the digest of what came out; reading it
needs no torch."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segkit.errors import InputError
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import INFERENCE_KEYS, InferenceConfig, Recipe
from segkit.shards.manifest import SCHEMA_VERSION, Parent
from segkit.shards.publish import MANIFEST, resolve
from segkit.shards.writer import relocate
from segkit.storage import here

RECIPE, WEIGHTS = "recipe.toml", "model.safetensors"
VOCABULARY, TAXONOMIES = "vocabulary.safetensors", "taxonomies.json"
METRICS, PICTURES, TENSORBOARD = "metrics.jsonl", "pictures", "tensorboard"
CHECKPOINTS = "checkpoints"
"""Only there while the run lasts."""
CONTENT = (WEIGHTS, RECIPE, VOCABULARY, TAXONOMIES)
"""The files that make a model; pictures and logs are not needed to use it."""


class RunManifest(BaseModel):
    """The manifest of a version of a training run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_name: Literal["segkit.run/1"] = Field("segkit.run/1", alias="schema")
    """`schema` in the file; manifests of before it was written have none and are read all the
    same."""
    schema_version: str = SCHEMA_VERSION
    segkit_version: str
    type: Literal["run"] = "run"
    name: str
    """The recipe's name."""
    command: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    parents: tuple[Parent, ...]
    """The data versions that it was trained on."""
    rates: dict[str, float]
    """Data set -> share of the steps (or of every step's loss) that it was given, of any sum."""
    steps: int
    """Steps that made the weights."""
    parameters: int
    """Weights of the model."""
    encoder: str
    """The text encoder whose space the classifier works in."""
    files: dict[str, str]
    """File -> SHA-256 of its bytes, for the files that make the model."""
    digest: str
    """SHA-256 over `files`: the same data, recipe and seed give the same digest on the same CPU. On
    a GPU they do not: its sums come in no fixed order."""

    @staticmethod
    def content_digest(files: dict[str, str]) -> str:
        """SHA-256 over the names and digests of the files."""
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that makes the model."""
    digests = {}
    for name in CONTENT:
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def run_parent(folder: Path, manifest: RunManifest, home: Path) -> Parent:
    """How the version that will lie at `home` names the run whose version lies at `folder`."""
    return Parent(
        path=relocate(".", folder, home), version=int(folder.name[1:]), digest=manifest.digest
    )


def read_run_manifest(spec: str | Path) -> RunManifest:
    """The manifest of a run, `DIR` or `DIR@v2`; InputError where it is none."""
    file = resolve(spec) / MANIFEST
    try:
        return RunManifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message, hint = (
            f"not the manifest of a run ({first['msg']})",
            "give what segkit train has written",
        )
        raise InputError(message, file=file, record=where or None, hint=hint) from error


def open_run(
    spec: str | Path, overrides: Sequence[str] = (), output: str | None = None
) -> tuple[Path, RunManifest, Recipe]:
    """The version's directory, the manifest and the recipe of a run, without reading its model.

    Args:
        spec: the run, `DIR` or `DIR@v2`.
        overrides: `inference.key=value`, in place of the values in the run's recipe.
        output: the task or pseudo-label strategy that the run is opened for, a key of
            `INFERENCE_KEYS`; overrides that it does not read are refused. None accepts them all.

    Raises:
        InputError: no run there (or behind a URL, where none is read), an override of another
            section, or one that `output` does not read.
    """
    for override in overrides:
        if not override.startswith("inference."):
            hint = "only inference settings of a trained run can change: give inference.KEY=VALUE"
            raise InputError(f"cannot set {override!r}", record="--set", hint=hint)
    folder = resolve(here(spec)).resolve()
    if output is not None:
        _refuse_unread(overrides, output)
    return folder, read_run_manifest(folder), load_recipe(folder / RECIPE, overrides)


def _refuse_unread(overrides: Sequence[str], output: str) -> None:
    unread = InferenceConfig.model_fields.keys() - INFERENCE_KEYS[output]
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key.removeprefix("inference.") in unread:
            keys = (f"inference.{name}" for name in sorted(INFERENCE_KEYS[output]))
            raise InputError(
                f"{output} does not read {key}",
                record="--set",
                hint=f"set one of {', '.join(keys)}",
            )
