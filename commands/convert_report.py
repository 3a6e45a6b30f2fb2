"""Prints the result of `segkit convert`: tables or one JSON object, and the defects."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from segkit.errors import plural

from .common import emit, note, print_line, table, write_preview
from .shared_options import is_json

if TYPE_CHECKING:
    from rich.table import Table

    from segkit.sources.engine import ConversionReport
    from segkit.sources.ledger import Defect
    from segkit.sources.source import Source

_MAX_LINES = 20
_UNKNOWN = "unknown-category"
_SCHEMA = "segkit.convert/1"


def show(
    report: "ConversionReport", source: "Source", option: str, seconds: float, preview: bool
) -> None:
    """Print the result of a conversion or a dry run, and write the preview.

    Args:
        report: the result.
        source: the source.
        option: option by which the user gave the folder of images.
        seconds: duration.
        preview: draw some of the images into a PNG beside the new version.
    """
    published = report.published
    picture = None if published is None else write_preview(published, preview)
    emit(
        {**_result(report, source, seconds), "preview": picture},
        schema=_SCHEMA,
        tables=[*_tables(report, source, seconds), *([picture] if picture else [])],
    )
    if not is_json() and report.published is None:
        _print_defects(report)
        if hint := next(filter(None, (defect.hint for defect in report.defects)), None):
            print_line(hint)
    for line in () if is_json() else _notes(report):  # the JSON object holds them
        note(line)
    if message := _wrong_folder(report, source, option):
        print_line(message)


def fail(report: "ConversionReport", source: "Source", option: str, seconds: float) -> NoReturn:
    """List the defects that fail a conversion, and raise the InputError that names the first.

    Arguments are as in `show`.
    """
    error = report.defects[0].error(report.offenders - 1, _wrong_folder(report, source, option))
    if report.offenders > 1:  # a single one is the error
        _print_defects(report)
    if report.resumed and not is_json():
        note(report.resumed)
    if is_json():
        emit(_result(report, source, seconds, str(error)), schema=_SCHEMA, tables=())
    raise error


def _notes(report: "ConversionReport") -> list[str]:
    return [*filter(None, [report.resumed]), *report.notes]


def _wrong_folder(report: "ConversionReport", source: "Source", option: str) -> str | None:
    """Return the hint for a source of several images of which none exists; otherwise None.

    A defect with its own hint knows more.
    """
    images = report.ledger.images
    if all(defect.hint for defect in report.defects):
        return None
    if images.input < 2 or images.dropped.get("missing-image") != images.input:
        return None
    return f"none of the {images.input} images is under {source.images}: {option} is probably wrong"


def _print_defects(report: "ConversionReport") -> None:
    """Print the first defects.

    Of the defects of one unknown class, only the first is printed, with their number.
    """
    counted = 0
    for defect, count in list(_group_defects(report))[:_MAX_LINES]:
        more = f" (and {count - 1} more of {defect.class_name})" if count > 1 else ""
        print_line(f"{defect.file}: {defect.record}: {defect.message} [{defect.code}]{more}")
        counted += count
    if report.offenders > counted:
        print_line(f"... and {report.offenders - counted} more")


def _group_defects(report: "ConversionReport") -> "Iterator[tuple[Defect, int]]":
    """Yield the defects to print, each with the number of defects that it stands for."""
    classes: set[str | None] = set()
    for defect in report.defects:
        if defect.code != _UNKNOWN:
            yield defect, 1
        elif defect.class_name not in classes:
            classes.add(defect.class_name)
            yield defect, report.ledger.per_class[str(defect.class_name)].dropped[_UNKNOWN]


def _result(
    report: "ConversionReport", source: "Source", seconds: float, error: str | None = None
) -> dict[str, Any]:
    ledger, published = report.ledger, report.published
    quarantine = published.path / "quarantine.jsonl" if published is not None else None
    return {
        "path": str(published.path) if published is not None else None,
        "version": published.version if published is not None else None,
        "digest": published.manifest.digest if published is not None else None,
        "kind": source.kind,
        "images_by": published.manifest.images_by if published is not None else None,
        "taxonomy": source.taxonomy.name,
        "ledger": ledger.annotations.model_dump(),
        "images": ledger.images.model_dump(),
        "per_class": {name: count.model_dump() for name, count in ledger.per_class.items()},
        "offenders": report.offenders,
        "defects": [defect.to_json() for defect in report.defects],
        "quarantine": str(quarantine) if quarantine and quarantine.is_file() else None,
        "notes": _notes(report),
        "error": error,
        "seconds": round(seconds, 3),
    }


def _tables(report: "ConversionReport", source: "Source", seconds: float) -> "list[Table | str]":
    counts = {"images": report.ledger.images, "annotations": report.ledger.annotations}
    classes = plural(len(source.taxonomy.categories), "class", "classes")
    title = f"{source.name}: {source.kind}, {classes}"
    rows = [
        (noun, count.input, count.kept, sum(count.dropped.values()))
        for noun, count in counts.items()
    ]
    tables: list[Table | str] = [table(title, ("", "input", "kept", "dropped"), rows)]
    codes = [
        (f"{noun} {column}: {code}", number)
        for noun, count in counts.items()
        for column, numbers in (("dropped", count.dropped), ("warnings", count.warnings))
        for code, number in numbers.items()
    ]
    if codes:
        tables.append(table("Codes", ("", "count"), codes))
    speed = report.ledger.images.kept / max(seconds, 1e-9)
    if report.published is not None:  # a set without images is falsy
        tables.append(f"{report.published.path} ({speed:.0f} images/s)")
    else:
        tables.append("dry run: nothing was written")
    return tables
