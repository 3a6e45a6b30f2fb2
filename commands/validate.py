"""`segkit validate`: check every checksum, row and mask of a shard set, or every file of a run."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from segkit.errors import InputError, plural
from segkit.parse import is_integer

from .common import emit, table
from .progress import progress_bar
from .shared_options import IMAGES_ROOT_OPTION

if TYPE_CHECKING:
    from segkit.shards.consistency import Violation


def validate(
    spec: str = typer.Argument(
        metavar="SET|RUN", help="A shard set or a run: DIR (its newest version) or DIR@v1."
    ),
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Check the files of a shard set or a run by their checksums, and what is in them.

    Of a set, every row, mask and image is checked; of a run, its weights, embeddings and recipe;
    of an interrupted run, its checkpoints. Every violation is listed with a stable code; the exit
    code is 1 if there is one.

    Example: segkit validate work/coco-train
    """
    from segkit.runs.check_run import check_run, interrupted_checkpoints
    from segkit.shards.check_manifest import is_protected
    from segkit.shards.manifest_file import read_content
    from segkit.shards.validate import validate as find_violations
    from segkit.shards.versions import MANIFEST, parse_spec, resolve, version_number
    from segkit.zeroshot.bank import check_bank

    try:
        version = resolve(spec)
    except InputError:
        directory, number = parse_spec(spec)
        checkpoints = interrupted_checkpoints(directory) if number is None else []
        if not checkpoints:
            raise
        _report_checkpoints(directory, checkpoints)
        return
    content: dict[str, Any] = {}
    with suppress(InputError):  # it becomes a violation
        content = read_content(version / MANIFEST)
    kind = content.get("type", "shards")
    images = _images(content)
    with progress_bar(f"validate {version.parent.name}", images) as advance:
        if kind == "run":
            violations = list(check_run(version))
        elif kind == "bank":
            violations = list(check_bank(version))
        else:
            violations = list(find_violations(version, advance=advance))
    notes = []
    if content and not is_protected(version):
        notes.append(
            "the manifest is unprotected: an earlier segkit wrote it without a digest of its "
            "content, so that a changed name or argument does not show; write the version again"
        )
    fields = {
        "path": str(version.resolve()),
        "version": version_number(version),
        "type": kind,
        "images": images,
    }
    counted = [plural(images, "image")] if images is not None else []
    title = f"{version}: {', '.join([*counted, plural(len(violations), 'violation')])}"
    _report(fields, violations, notes, title)


def _report_checkpoints(directory: Path, checkpoints: list[Path]) -> None:
    """Check and report the checkpoints of an interrupted run."""
    from segkit.runs.check_run import check_checkpoint
    from segkit.runs.checkpoint_digests import has_digests

    violations: list[Violation] = []
    with progress_bar("validate", len(checkpoints), "runs") as advance:
        for checkpoint in checkpoints:
            violations += check_checkpoint(checkpoint)
            advance()
    notes = [
        f"{checkpoint.name} is unprotected: an earlier segkit wrote it without digests"
        for checkpoint in checkpoints
        if not has_digests(checkpoint)
    ]
    fields = {
        "path": str(directory.resolve()),
        "version": None,
        "type": "run",
        "images": None,
        "checkpoints": [checkpoint.name for checkpoint in checkpoints],
    }
    counts = [
        plural(len(checkpoints), "checkpoint"),
        plural(len(violations), "violation"),
    ]
    title = f"{directory}, interrupted: {', '.join(counts)}"
    _report(fields, violations, notes, title)


def _report(
    fields: dict[str, Any], violations: "list[Violation]", notes: list[str], title: str
) -> None:
    """Print violations and notes; exit code 1 if there is a violation."""
    counts = dict(sorted(Counter(violation.code for violation in violations).items()))
    result = {
        **fields,
        "valid": not violations,
        "counts": counts,
        "violations": [
            {"code": violation.code, "where": violation.where, "detail": violation.detail}
            for violation in violations
        ],
        "notes": notes,
    }
    lines = [f"{item.code}: {item.where}: {item.detail}" for item in violations]
    rows = list(counts.items()) or [("none", 0)]
    summary = table(title, ("violation", "count"), rows)
    emit(
        result,
        schema="segkit.validate/1",
        tables=[*lines, summary, *(f"note: {text}" for text in notes)],
    )
    if violations:
        raise typer.Exit(1)


def _images(content: dict[str, Any]) -> int | None:
    """The number of images that a manifest states."""
    statistics = content.get("statistics")
    images = statistics.get("images") if isinstance(statistics, dict) else None
    return images if is_integer(images) else None
