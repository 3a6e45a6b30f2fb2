"""Check a run, or the checkpoints of an interrupted one, file by file. Imports no torch."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segkit import parse, storage
from segkit.errors import InputError
from segkit.recipes.load import load_recipe
from segkit.runs.calibration import Calibration
from segkit.runs.checkpoint_digests import DIGESTS, damaged_files, has_digests
from segkit.runs.run_manifest import (
    CALIBRATION,
    CHECKPOINTS,
    RECIPE,
    TAXONOMIES,
    VOCABULARY,
    WEIGHTS,
    RunManifest,
    damage,
    read_run_manifest,
)
from segkit.shards.check_manifest import check_digest, check_parents
from segkit.shards.consistency import Violation
from segkit.shards.versions import MANIFEST
from segkit.taxonomy import Taxonomy
from segkit.tensor_file import read_tensors, read_tensors_and_metadata
from segkit.text.encoding import Encoding


def check_run(version: Path) -> Iterator[Violation]:
    """Every violation of a version of a run: its manifest, its files, and what is in them."""
    try:
        manifest = read_run_manifest(version, verify=False)
    except InputError as error:
        yield Violation("manifest", MANIFEST, str(error))
        return
    yield from check_digest(version)
    yield from damage(version, manifest, logs=True)
    yield from check_parents(version.resolve(), manifest.parents)
    yield from _check_recipe(version, manifest)
    yield from _check_weights(version)
    yield from _check_vocabulary(version, manifest)
    yield from _check_calibration(version, manifest)


def interrupted_checkpoints(destination: Path) -> list[Path]:
    """The checkpoints of a run that is not published, in the directory of its versions."""
    return sorted(destination.glob(f".v*.partial/{CHECKPOINTS}/step-????????"))


def check_checkpoint(checkpoint: Path) -> Iterator[Violation]:
    """Every file of a checkpoint that is not the one that was written, if it lists digests."""
    if not has_digests(checkpoint):
        return
    try:
        names = damaged_files(checkpoint)
    except (OSError, ValueError) as error:
        yield Violation("checksum", f"{checkpoint.name}/{DIGESTS}", storage.reason(error))
        return
    for name in names:
        detail = f"missing, new, or its SHA-256 is not the one in {DIGESTS}"
        yield Violation("checksum", f"{checkpoint.name}/{name}", detail)


def _check_recipe(version: Path, manifest: RunManifest) -> Iterator[Violation]:
    """The recipe can be read and has the name that the manifest gives the run."""
    try:
        recipe = load_recipe(version / RECIPE, warn=False)
    except InputError as error:
        yield Violation("recipe", RECIPE, error.message)
        return
    if recipe.name != manifest.name:
        detail = f"its name is {recipe.name!r}, the manifest says {manifest.name!r}"
        yield Violation("recipe", RECIPE, detail)


def _check_weights(version: Path) -> Iterator[Violation]:
    """The weights can be read and are finite."""
    try:
        tensors = read_tensors(version / WEIGHTS)
    except InputError as error:
        yield Violation("weights", WEIGHTS, error.message)
        return
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            detail = f"{name} is not finite: the training diverged"
            yield Violation("weights", WEIGHTS, detail)


def _check_vocabulary(version: Path, manifest: RunManifest) -> Iterator[Violation]:
    """Each taxonomy can be read and has one finite embedding for each class, of one encoder."""
    try:
        tensors, metadata = read_tensors_and_metadata(version / VOCABULARY)
        encoder = Encoding.from_metadata(metadata)[0].name
    except InputError as error:
        yield Violation("vocabulary", VOCABULARY, str(error.in_file(None)))
        return
    try:
        taxonomies = parse.read_json(version / TAXONOMIES)
        classes = {
            name: len(Taxonomy.from_json(content).categories)
            for name, content in taxonomies.items()
        }
    except (AttributeError, InputError) as error:
        yield Violation("taxonomy", TAXONOMIES, storage.reason(error))
        return
    rows = {name: len(np.atleast_1d(values)) for name, values in tensors.items()}
    if rows != classes:
        detail = f"embeddings of {rows} classes, the taxonomies have {classes}"
        yield Violation("vocabulary", VOCABULARY, detail)
    if not all(np.isfinite(values).all() for values in tensors.values()):
        yield Violation("vocabulary", VOCABULARY, "an embedding is not finite")
    if encoder != manifest.encoder:
        detail = f"encoded by {encoder}, the manifest says {manifest.encoder}"
        yield Violation("vocabulary", VOCABULARY, detail)


def _check_calibration(version: Path, manifest: RunManifest) -> Iterator[Violation]:
    """The calibration, where there is one, can be read."""
    if not manifest.is_calibrated:
        return
    try:
        Calibration.read(version / CALIBRATION)
    except InputError as error:
        yield Violation("calibration", CALIBRATION, error.message)
