"""The manifest of a shard-set version: its parts, classes, counts, ledger and parents."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from segkit.errors import SegkitError
from segkit.parse import is_integer
from segkit.shards.relative_names import relocate
from segkit.shards.versions import version_number
from segkit.storage import StrPath, location

SCHEMA_VERSION = "1"
SetKind = Literal["panoptic", "semantic", "instance", "boxes"]
"""The labels of a set: segments that cover the image up to void, class regions that do, instances
with masks, or boxes only."""
Task = Literal["panoptic", "semantic", "instance"]
TASKS: Mapping[SetKind, Task] = {
    "panoptic": "panoptic",
    "semantic": "semantic",
    "instance": "instance",
    "boxes": "instance",
}
"""The task that the labels of each kind of set are for."""
ImagesBy = Literal["embed", "reference", "none"]
"""The images of a set: in its tars, files that rows name, or none."""
ZERO_SHOT = "zero_shot"
"""Key of a `source_header`: the zero-shot split that the set is the seen part of. Layers and
further splits of a set keep its source header."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in hex."""
PartName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""A file in the version's directory."""


def _check_header(header: dict[str, Any]) -> dict[str, Any]:
    """Check the keys of a source's header that exports and evaluations read."""
    categories, ignored = (header.get(key) or [] for key in ("categories", "ignore"))
    if not isinstance(categories, list) or not all(isinstance(row, dict) for row in categories):
        raise ValueError("categories is not a list of objects")
    if not isinstance(ignored, list) or not all(map(is_integer, ignored)):
        raise ValueError("ignore is not a list of indices")
    if not is_integer(header.get("background", 0)):
        raise ValueError("background is not an index")
    return header


SourceHeader = Annotated[dict[str, Any], AfterValidator(_check_header)]
Natural = Annotated[int, Field(ge=0)]
"""A count, which no arithmetic of a damaged manifest may turn negative."""


class Strict(BaseModel):
    """Values that cannot be changed, read from an object without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Parent(Strict):
    """A version that this one was made from."""

    path: str
    version: int = Field(ge=1)
    digest: Digest

    @classmethod
    def from_version(cls, folder: Path, digest: str, destination: StrPath) -> "Parent":
        """A version as the manifest of another one names it.

        Args:
            folder: directory of the parent.
            digest: of its content, as its manifest states it.
            destination: directory of the versions that the other one belongs to.
        """
        # all versions are at the same depth, and none, so not the parent, is v0
        path = relocate(".", folder, location(destination) / "v0")
        return cls(path=path, version=version_number(folder), digest=digest)


class Part(Strict):
    """One shard: a Parquet file of labels, and the tar of its images where the set has its own."""

    labels: PartName
    labels_sha256: Digest
    rows: Natural
    images: PartName | None = None
    images_sha256: Digest | None = None
    images_bytes: Natural = 0


class Count(Strict):
    """One line of a ledger: input == kept + sum(dropped)."""

    input: Natural = 0
    kept: Natural = 0
    dropped: dict[str, Natural] = Field(default_factory=dict)
    warnings: dict[str, Natural] = Field(default_factory=dict)

    @classmethod
    def from_kept(
        cls, kept: int, dropped: Mapping[str, int], warnings: Mapping[str, int] | None = None
    ) -> "Count":
        """The line of what was kept and dropped, without the codes that count nothing."""
        codes = {code: number for code, number in dropped.items() if number}
        notes = {code: number for code, number in (warnings or {}).items() if number}
        return cls(input=kept + sum(codes.values()), kept=kept, dropped=codes, warnings=notes)


class Ledger(Strict):
    """The account of every annotation and every image of a source."""

    annotations: Count = Count()
    images: Count = Count()
    per_class: dict[str, Count] = Field(default_factory=dict)

    def check(self) -> None:
        """Raise SegkitError if an input is neither kept nor dropped, which is a bug."""
        lines = {"annotations": self.annotations, "images": self.images, **self.per_class}
        for name, count in lines.items():
            dropped = sum(count.dropped.values())
            if count.input != count.kept + dropped:
                sums = f"{count.input} in, {count.kept} kept, {dropped} dropped"
                raise SegkitError(f"the ledger does not balance for {name}: {sums}")


class ClassStatistics(Strict):
    """Counts of one class of a set."""

    segments: Natural = 0
    images: Natural = 0
    pixels: Natural = 0


class Statistics(Strict):
    """Counts over a whole version; class names are the taxonomy's."""

    images: Natural = 0
    segments: Natural = 0
    masked: Natural = 0
    boxes_only: Natural = 0
    classes: dict[str, ClassStatistics] = Field(default_factory=dict)


class Manifest(Strict):
    """The manifest of a shard-set version."""

    schema_name: Literal["segkit.shards/1"] = Field("segkit.shards/1", alias="schema")
    """`schema` in the file; older manifests lack it."""
    schema_version: str = SCHEMA_VERSION
    segkit_version: str
    type: Literal["shards"] = "shards"
    name: str
    split: str | None = None
    kind: SetKind
    command: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    image_roots: dict[str, Digest] = Field(default_factory=dict)
    """Of layers: path of a parent's tar as the rows name it -> SHA-256 of that tar."""
    images_by: ImagesBy = "embed"
    parts: tuple[Part, ...]
    extra_files: dict[PartName, Digest] = Field(default_factory=dict)
    """SHA-256 of each file of the version beside its parts, such as `quarantine.jsonl`."""
    taxonomy: dict[str, Any]
    source_header: SourceHeader = Field(default_factory=dict)
    """The source's description of itself (COCO `info` and `licenses`), kept for a loss-free
    export."""
    ledger: Ledger = Ledger()
    statistics: Statistics = Statistics()
    digest: Digest
    """SHA-256 of the content only, see `content_digest`."""
    manifest_digest: str | None = None
    """SHA-256 of everything else in the file; versions of an earlier segkit have none."""

    @staticmethod
    def content_digest(
        kind: str, taxonomy: dict[str, Any], parts: tuple[Part, ...], image_roots: dict[str, str]
    ) -> str:
        """SHA-256 of the content only: no path, time, argument or tool version enters it."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "kind": kind,
            "taxonomy": taxonomy,
            "parts": [part.model_dump() for part in parts],
            "image_roots": sorted(image_roots.values()),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
