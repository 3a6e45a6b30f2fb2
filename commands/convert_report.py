"""What a conversion came to, as `segkit convert` prints it: tables or one JSON object, and what
would be lost."""

from typing import TYPE_CHECKING, Any, NoReturn

from .common import emit, stderr, table

if TYPE_CHECKING:
    from rich.table import Table

    from segkit.sources.engine import ConversionReport
    from segkit.sources.ledger import Defect
    from segkit.sources.source import Source

_SHOWN = 20
_UNKNOWN = "unknown-category"
_SCHEMA = "segkit.convert/1"


def show(
    report: "ConversionReport", source: "Source", option: str, seconds: float, as_json: bool
) -> None:
    """Print what became of the data.

    Args:
        report: of a conversion or a dry run.
        source: what was converted.
        option: by which the user gave the folder of images.
        seconds: how long it took.
        as_json: print one JSON object instead of tables.
    """
    emit(
        _result(report, source, seconds),
        schema=_SCHEMA,
        as_json=as_json,
        tables=_tables(report, source, seconds),
    )
    if not as_json and report.published is None:
        _list(report)
    if wrong := _wrong_folder(report, source, option):
        stderr.print(wrong, markup=False, highlight=False, soft_wrap=True)


def fail(
    report: "ConversionReport", source: "Source", option: str, seconds: float, as_json: bool
) -> NoReturn:
    """List the defects that fail a conversion, and raise the InputError that names the first;
    arguments as `show`."""
    error = report.defects[0].error(report.offenders - 1, _wrong_folder(report, source, option))
    _list(report)
    if as_json:
        emit(_result(report, source, seconds, str(error)), schema=_SCHEMA, as_json=True, tables=())
    raise error


def _wrong_folder(report: "ConversionReport", source: "Source", option: str) -> str | None:
    """What to say where not one of several images was found; None elsewhere."""
    images = report.ledger.images
    if images.input < 2 or images.dropped.get("missing-image") != images.input:
        return None
    return f"none of the {images.input} images is under {source.images}: {option} is probably wrong"


def _list(report: "ConversionReport") -> None:
    """The first offenders, where there are several; of a class that the source does not list the
    first alone."""
    if report.offenders < 2:
        return
    first: dict[Any, Defect] = {}
    for number, defect in enumerate(report.defects):
        first.setdefault(defect.class_name if defect.code == _UNKNOWN else number, defect)
    told = 0
    for defect in list(first.values())[:_SHOWN]:
        times = (
            report.ledger.per_class[str(defect.class_name)].dropped[_UNKNOWN]
            if defect.code == _UNKNOWN
            else 1
        )
        more = f" (and {times - 1} more of {defect.class_name})" if times > 1 else ""
        line = f"{defect.file}: {defect.record}: {defect.message} [{defect.code}]{more}"
        stderr.print(line, markup=False, highlight=False, soft_wrap=True)
        told += times
    if report.offenders > told:
        stderr.print(f"... and {report.offenders - told} more", highlight=False)


def _result(
    report: "ConversionReport", source: "Source", seconds: float, error: str | None = None
) -> dict[str, Any]:
    ledger, published = report.ledger, report.published
    quarantine = published.path / "quarantine.jsonl" if published else None
    return {
        "path": str(published.path) if published else None,
        "version": published.version if published else None,
        "digest": published.manifest.digest if published else None,
        "kind": source.kind,
        "taxonomy": source.taxonomy.name,
        "ledger": ledger.annotations.model_dump(),
        "images": ledger.images.model_dump(),
        "per_class": {name: count.model_dump() for name, count in ledger.per_class.items()},
        "offenders": report.offenders,
        "defects": [defect.to_json() for defect in report.defects],
        "quarantine": str(quarantine) if quarantine and quarantine.is_file() else None,
        "error": error,
        "seconds": round(seconds, 3),
    }


def _tables(report: "ConversionReport", source: "Source", seconds: float) -> "list[Table | str]":
    counts = {"images": report.ledger.images, "annotations": report.ledger.annotations}
    title = f"{source.name}: {source.kind}, {len(source.taxonomy.categories)} classes"
    rows = [
        (what, count.input, count.kept, sum(count.dropped.values()))
        for what, count in counts.items()
    ]
    tables: list[Table | str] = [table(title, ("", "input", "kept", "dropped"), rows)]
    codes = [
        (f"{what} {column}: {code}", number)
        for what, count in counts.items()
        for column, numbers in (("dropped", count.dropped), ("warnings", count.warnings))
        for code, number in numbers.items()
    ]
    if codes:
        tables.append(table("Codes", ("", "count"), codes))
    speed = report.ledger.images.kept / max(seconds, 1e-9)
    published = report.published
    last = (
        f"{published.path} ({speed:.0f} images/s)" if published else "dry run: nothing was written"
    )
    return [*tables, last]
