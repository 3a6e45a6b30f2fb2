"""FeatureBank: the query embeddings of a frozen run on images of seen classes. Imports no torch.

A bank is a versioned directory, as shard sets and runs are.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segkit import __version__, parse
from segkit.errors import InputError
from segkit.runs.open_run import run_folder
from segkit.runs.run_manifest import RunManifest, read_run_manifest
from segkit.shards.check_manifest import check_parents
from segkit.shards.consistency import Violation
from segkit.shards.locations import parent_path
from segkit.shards.manifest import Parent, Strict
from segkit.shards.manifest_file import manifest_text, read_typed
from segkit.shards.publish import Staging
from segkit.shards.versions import MANIFEST, resolve
from segkit.storage import file_sha256, reason
from segkit.taxonomy import Taxonomy
from segkit.tensor_file import read_tensors, write_tensors

FEATURES, IMAGE_IDS = "features.safetensors", "image_ids.json"
_HINT = "give a bank that `segkit zeroshot bank` wrote"


class BankManifest(Strict):
    """The manifest of a version of a feature bank."""

    schema_name: Literal["segkit.bank/1"] = Field("segkit.bank/1", alias="schema")
    schema_version: Literal["1"] = "1"
    segkit_version: str
    type: Literal["bank"] = "bank"
    name: str
    """Name of the set."""
    command: str = "zeroshot bank"
    arguments: dict[str, Any] = Field(default_factory=dict)
    parents: tuple[Parent, Parent]
    """The run, and the seen set."""
    taxonomy: dict[str, Any]
    """The seen classes."""
    unseen: dict[str, Any]
    """The unseen classes, a taxonomy as well: names only, nothing in the bank belongs to them."""
    width: int
    """H, width of the query embeddings."""
    rows: dict[str, int]
    """Number of query embeddings of each seen class."""
    no_object: int
    """Number of query embeddings that matched nothing."""
    files: dict[str, str]
    """SHA-256 of each file."""
    digest: str
    """SHA-256 over `files`."""
    manifest_digest: str | None = None


@dataclass(frozen=True)
class FeatureBank:
    """The content of a bank; M query embeddings."""

    features: NDArray[np.float32]
    """(M, H)."""
    labels: NDArray[np.int64]
    """(M,) index of the seen class, or the number of seen classes for no-object."""
    images: NDArray[np.int64]
    """(M,) index of the image in `image_ids`."""
    image_ids: tuple[str, ...]
    """(I,)."""
    seen_classes: Taxonomy
    unseen_classes: Taxonomy

    @property
    def no_object(self) -> int:
        """The label of no-object."""
        return len(self.seen_classes.categories)

    @property
    def classes(self) -> Taxonomy:
        """Seen and unseen classes, in the order of their ids: the classes of the new head."""
        return Taxonomy(
            self.seen_classes.name, (*self.seen_classes.categories, *self.unseen_classes.categories)
        )

    def class_index(self) -> NDArray[np.int64]:
        """(K + 1,) index in `classes` of each seen class, and of no-object, which stays last."""
        index = self.classes.index
        seen_rows = [index[category.id] for category in self.seen_classes.categories]
        return np.array([*seen_rows, len(index)], np.int64)

    def unseen_index(self) -> NDArray[np.int64]:
        """(U,) index in `classes` of each unseen class."""
        index = self.classes.index
        return np.array(
            [index[category.id] for category in self.unseen_classes.categories], np.int64
        )

    def write(
        self,
        stage: Staging,
        *,
        name: str,
        parents: tuple[Parent, Parent],
        arguments: dict[str, Any],
    ) -> Path:
        """Write the files of the bank, the manifest last, and publish them; returns the path."""
        columns: dict[str, NDArray[Any]] = {
            "features": self.features,
            "labels": self.labels,
            "images": self.images,
        }
        write_tensors(stage.path / FEATURES, columns)
        text = json.dumps(self.image_ids, ensure_ascii=False)
        (stage.path / IMAGE_IDS).write_text(text + "\n", "utf-8")
        files = {file: file_sha256(stage.path / file) for file in (FEATURES, IMAGE_IDS)}
        counts = np.bincount(self.labels, minlength=self.no_object + 1).tolist()
        names = self.seen_classes.unique_names.values()
        manifest = BankManifest(
            segkit_version=__version__,
            name=name,
            arguments=arguments,
            parents=parents,
            taxonomy=self.seen_classes.to_json(),
            unseen=self.unseen_classes.to_json(),
            width=self.features.shape[1],
            rows=dict(zip(names, counts[:-1], strict=True)),
            no_object=counts[-1],
            files=files,
            digest=RunManifest.content_digest(files),
        )
        (stage.path / MANIFEST).write_text(manifest_text(manifest), "utf-8")
        read_bank(stage.path)
        return stage.publish()


def open_bank(spec: str | Path) -> tuple[Path, BankManifest, FeatureBank]:
    """A version of a bank, `DIR` or `DIR@v2`, with its manifest and content.

    Raises:
        InputError: no bank there, or a damaged one.
    """
    folder = resolve(spec).resolve()
    return folder, *read_bank(folder)


def read_bank(folder: Path) -> tuple[BankManifest, FeatureBank]:
    """Manifest and content of the bank in a version's directory; raises as `open_bank`."""
    file = folder / MANIFEST
    noun = "the manifest of a feature bank"
    foreign = dict.fromkeys(("run", "shards"), "is not a feature bank")
    manifest = read_typed(BankManifest, folder, noun=noun, hint=_HINT, other_types=foreign)
    for name in (FEATURES, IMAGE_IDS):
        _check_file(folder / name, manifest.files.get(name))
    ids = parse.convert(
        parse.read_json(folder / IMAGE_IDS), list[str], file=folder / IMAGE_IDS, noun="image ids"
    )
    known, hidden = (
        Taxonomy.from_json(value, file=file) for value in (manifest.taxonomy, manifest.unseen)
    )
    bank = FeatureBank(*_read_columns(folder / FEATURES), tuple(ids), known, hidden)
    _check_content(bank, folder / FEATURES)
    return manifest, bank


def check_bank(folder: Path) -> Iterator[Violation]:
    """Every violation of a version of a bank: its manifest, its files, what is in them, parents."""
    try:
        manifest, _ = read_bank(folder)
    except InputError as error:
        yield Violation("bank", Path(str(error.file or folder)).name, error.message)
        return
    yield from check_parents(folder.resolve(), manifest.parents)


def bank_run(folder: Path, manifest: BankManifest, checkpoint: str | None = None) -> Path:
    """The run that a bank was collected with: its recorded path, or another copy of it.

    Args:
        folder: the bank's version directory.
        manifest: its manifest.
        checkpoint: where the run is now; None for where it was.

    Raises:
        InputError: no run there, or another one.
    """
    recorded = manifest.parents[0]
    hint = "give the run that the bank was collected with as --checkpoint"
    try:
        path = parent_path(folder, recorded.path) if checkpoint is None else run_folder(checkpoint)
        digest = read_run_manifest(path).digest
    except InputError as error:
        raise InputError(
            f"its run cannot be read ({error.message})", file=folder, hint=hint
        ) from error
    if digest != recorded.digest:
        raise InputError("is not the run of the bank", file=path, hint=hint)
    return path.resolve()


def _check_file(file: Path, recorded: str | None) -> None:
    hint = "make the bank again with `segkit zeroshot bank`"
    try:
        digest = file_sha256(file)
    except OSError as error:
        raise InputError(f"not readable ({reason(error)})", file=file, hint=hint) from error
    if digest != recorded:
        message = "the SHA-256 of its bytes is not the one in the manifest"
        raise InputError(message, file=file, hint=hint)


def _read_columns(
    file: Path,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    columns = read_tensors(file, ("features", "labels", "images"), hint=_HINT)
    features, labels, images = columns.values()
    return features.astype(np.float32), labels.astype(np.int64), images.astype(np.int64)


def _check_content(bank: FeatureBank, file: Path) -> None:
    """Refuse columns that do not fit each other, the classes or the images."""
    columns = (bank.features, bank.labels, bank.images)
    rows = (bank.labels.size,)
    problems: Sequence[tuple[bool, str]] = (
        (any(column.shape[:1] != rows for column in columns), "columns of unequal length"),
        ([column.ndim for column in columns] != [2, 1, 1], "columns of another shape"),
        (
            bool({*bank.seen_classes.by_id} & {*bank.unseen_classes.by_id}),
            "a class that is seen and unseen",
        ),
        (not np.isfinite(bank.features).all(), "features that are not finite"),
        (not _within(bank.labels, bank.no_object + 1), "a label of no seen class"),
        (not _within(bank.images, len(bank.image_ids)), "an image without an id"),
    )
    for wrong, text in problems:
        if wrong:
            raise InputError(f"has {text}", file=file, hint=_HINT)


def _within(values: NDArray[np.int64], limit: int) -> bool:
    return bool(((values >= 0) & (values < limit)).all())
