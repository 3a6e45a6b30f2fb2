"""The manifest of a run: its training data, its files and their digest. Imports no torch."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segkit.errors import InputError
from segkit.model.hub import fetch_model, is_hugging_face, model_name
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import INFERENCE_KEYS, InferenceConfig, Recipe
from segkit.shards.manifest import Parent
from segkit.shards.publish import MANIFEST, resolve
from segkit.storage import local_path, relocate
from segkit.taxonomy import Taxonomy

RECIPE, WEIGHTS = "recipe.toml", "model.safetensors"
VOCABULARY, TAXONOMIES = "vocabulary.safetensors", "taxonomies.json"
METRICS, PICTURES, TENSORBOARD = "metrics.jsonl", "pictures", "tensorboard"
_ANY_RECIPE = "dataseg-mini"
"""Stands for the recipe of a public model that is not fetched yet."""
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


def run_folder(spec: str | Path) -> Path:
    """The version's directory of a run, `DIR` or `DIR@v2`, or of the cached run of a public model,
    `hf:NAME_OR_FOLDER`, which is imported first where it is not cached."""
    if is_hugging_face(spec):
        fetch_model(str(spec))  # fails within seconds, before torch is imported
        from segkit.runs.import_checkpoint import cached_run

        return cached_run(str(spec)).resolve()
    return resolve(local_path(spec)).resolve()


def check_run(spec: str | Path, overrides: Sequence[str], output: str) -> None:
    """Refuse what can be refused without a run's weights; arguments and errors as of `open_run`.

    A public model is not fetched.
    """
    if not is_hugging_face(spec):
        open_run(spec, overrides, output)
        return
    model_name(str(spec))
    _check_overrides(overrides, output)
    load_recipe(_ANY_RECIPE, overrides)
    if output == "box-prompts":
        raise no_box_prompts(spec)


def public_taxonomy(spec: str | Path) -> Taxonomy | None:
    """The classes of a public model, `hf:NAME_OR_FOLDER` or an imported run; None for other runs,
    which may have several taxonomies. A model that is not cached is imported."""
    folder = run_folder(spec)
    if read_run_manifest(folder).command != "import":
        return None
    (taxonomy,) = json.loads((folder / TAXONOMIES).read_text("utf-8")).values()
    return Taxonomy.from_json(taxonomy)


def no_box_prompts(spec: str | Path) -> InputError:
    """The error for box prompts of a public model."""
    return InputError(
        "a public Mask2Former has no box prompts",
        file=spec,
        hint="give --strategy proposals, or a run that was trained with loss.box_prompts above 0",
    )


def read_run_manifest(spec: str | Path) -> RunManifest:
    """The manifest of a run, `DIR` or `DIR@v2`.

    Raises:
        InputError: no run there, or one of a newer version of segkit.
    """
    file = run_folder(spec) / MANIFEST
    try:
        return RunManifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = "give a run that segkit train wrote"
        if key == "schema_version":
            hint = "a newer version of segkit may read it"
        message = f"not the manifest of a run ({first['msg']})"
        raise InputError(message, file=file, record=key or None, hint=hint) from error


def open_run(
    spec: str | Path, overrides: Sequence[str] = (), output: str | None = None
) -> tuple[Path, RunManifest, Recipe]:
    """Directory, manifest and recipe of a run's version; does not read its weights.

    Args:
        spec: the run, `DIR` or `DIR@v2`, or a public model, `hf:NAME_OR_FOLDER`.
        overrides: `inference.key=value`, in place of the values in the run's recipe.
        output: the task or pseudo-label strategy that the run is opened for, a key of
            `INFERENCE_KEYS`; overrides that it does not read are refused. None accepts them all.

    Raises:
        InputError: no run there, a run behind a URL, an override of another section, or one that
            `output` does not read.
    """
    _check_overrides(overrides)
    folder = run_folder(spec)
    _check_overrides(overrides, output)
    manifest = read_run_manifest(folder)
    if output == "box-prompts" and manifest.command == "import":
        raise no_box_prompts(spec)
    recipe = load_recipe(folder / RECIPE, overrides, warn=manifest.schema_version != "1")
    return folder, manifest, recipe


def _check_overrides(overrides: Sequence[str], output: str | None = None) -> None:
    for override in overrides:
        if not override.startswith("inference."):
            hint = "only inference settings of a trained run can change: give inference.KEY=VALUE"
            raise InputError(f"cannot set {override!r}", record="--set", hint=hint)
    if output is None:
        return
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
