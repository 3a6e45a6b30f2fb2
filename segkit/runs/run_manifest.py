"""The manifest of a run: its training data, its files and their digest. Imports no torch."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from segkit import parse
from segkit.errors import InputError
from segkit.file_names import is_unsafe
from segkit.shards.consistency import Violation
from segkit.shards.manifest import Parent, Strict
from segkit.shards.manifest_file import read_typed
from segkit.shards.publish import interrupted
from segkit.shards.versions import MANIFEST, resolve
from segkit.storage import file_sha256, location, reason
from segkit.taxonomy import Taxonomy

RECIPE, WEIGHTS = "recipe.toml", "model.safetensors"
VOCABULARY, TAXONOMIES = "vocabulary.safetensors", "taxonomies.json"
CALIBRATION = "calibration.json"
"""Only calibrated runs have it, see `segkit.runs.calibration`."""
METRICS, PICTURES, TENSORBOARD = "metrics.jsonl", "pictures", "tensorboard"
CHECKPOINTS = "checkpoints"
"""Exists only until the run is published."""
CONTENT = (WEIGHTS, RECIPE, VOCABULARY, TAXONOMIES)
"""The files that `load_run` reads; pictures and logs are not needed to use a run."""
SchemaVersion = Literal["1", "2"]
"""Version 1 has the key and weight names in `segkit.recipes.old_names`, version 2 today's."""


def interrupted_training(out: str | Path) -> dict[str, Any] | None:
    """The fingerprint of an interrupted training in a directory of runs; None without one."""
    left = interrupted(location(out))
    return left if left is not None and left.get("command") == "train" else None


class RunManifest(Strict):
    """The manifest of a version of a training run."""

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
    """SHA-256 of each file in `CONTENT`, and of the calibration where there is one."""
    digest: str
    """SHA-256 over `files`. On a CPU, equal data, recipe and seed give an equal digest; on a GPU,
    where the order of sums varies, they do not."""
    logs: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each other file: metrics, pictures, TensorBoard's events. They are not needed to
    use a run, and not part of `digest`."""
    manifest_digest: str | None = None
    """SHA-256 of everything else in the file; runs of an earlier segkit have none."""

    @property
    def is_calibrated(self) -> bool:
        """Whether the run has a calibration, see `segkit.runs.calibration`."""
        return CALIBRATION in self.files

    @staticmethod
    def content_digest(files: dict[str, str]) -> str:
        """SHA-256 over the names and digests of the files."""
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in `CONTENT`."""
    return {name: file_sha256(folder / name) for name in CONTENT}


def log_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a run that is neither in `CONTENT` nor needed only until it is
    published, by its path in the folder."""
    logs = (folder / METRICS, *(folder / PICTURES).rglob("*"), *(folder / TENSORBOARD).rglob("*"))
    return {
        file.relative_to(folder).as_posix(): file_sha256(file)
        for file in sorted(logs)
        if file.is_file()
    }


def damage(folder: Path, manifest: RunManifest, *, logs: bool = False) -> list[Violation]:
    """What differs between the files of a run and its manifest; nothing if it is intact.

    Args:
        folder: the version's directory.
        manifest: its manifest.
        logs: check the logs too, not only the files that `load_run` reads.
    """
    violations = []
    if RunManifest.content_digest(manifest.files) != manifest.digest:
        detail = "the digest is not that of the files listed there"
        violations.append(Violation("digest", MANIFEST, detail))
    listed = {**dict.fromkeys(CONTENT, ""), **manifest.files, **(manifest.logs if logs else {})}
    for name, recorded in listed.items():
        if is_unsafe(name):
            violations.append(Violation("manifest", name, "leads out of the run"))
            continue
        try:
            digest = file_sha256(folder / name)
        except OSError as error:
            detail = f"not readable ({reason(error)})"
            violations.append(Violation("missing-file", name, detail))
            continue
        if digest != recorded:
            detail = "the SHA-256 of its bytes is not the one in the manifest"
            violations.append(Violation("checksum", name, detail))
    return violations


def refuse_damage(folder: Path, manifest: RunManifest) -> None:
    """Raise InputError if a file of a run is not the one that was published."""
    for violation in damage(folder, manifest):
        hint = "copy the run again from where it is intact, or train it again"
        raise InputError(violation.detail, file=folder / violation.where, hint=hint)


def is_complete(folder: Path) -> bool:
    """Whether a directory that is not published yet holds an intact run."""
    try:
        return not damage(folder, manifest_of(folder))
    except InputError:
        return False


def read_run_manifest(spec: str | Path, *, verify: bool = True) -> RunManifest:
    """The manifest of a run.

    Args:
        spec: the run, `DIR` or `DIR@v2`.
        verify: check the digest of the manifest, where it carries one.

    Raises:
        InputError: no run there, one of a newer version of segkit, or a damaged manifest.
    """
    return manifest_of(resolve(spec), verify=verify)


def manifest_of(folder: Path, *, verify: bool = True) -> RunManifest:
    """The manifest in the directory of a run's version; see `read_run_manifest`."""
    noun, hint = "the manifest of a run", "give a run that segkit train wrote"
    return read_typed(RunManifest, folder, noun=noun, hint=hint, verify=verify)


def read_taxonomies(folder: Path) -> dict[str, Taxonomy]:
    """The taxonomy of each dataset that the run in a version's directory was trained on.

    Raises:
        InputError: the file is not the one of a run.
    """
    file = folder / TAXONOMIES
    content = parse.read_json(file, hint="train the run again")
    if not isinstance(content, dict):
        raise InputError("not the taxonomies of a run", file=file, hint="train the run again")
    return {name: Taxonomy.from_json(value, file=file) for name, value in content.items()}
