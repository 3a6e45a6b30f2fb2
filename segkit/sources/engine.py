"""Conversion: plan a source into shards, write them in any number of processes or tasks, publish
them as one version.

Which record goes to which shard depends on the source and the options alone, so the bytes of a
version do not depend on the number of workers; a shard that an earlier, killed run has finished is
not written again.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from segkit import __version__
from segkit.errors import InputError, SegkitError
from segkit.sample import ImageRef, Sample
from segkit.shards import shard as shards
from segkit.shards.manifest import Ledger
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.writer import SHARD_BYTES, SHARD_ROWS, Header, ImagesBy, class_labels, finish
from segkit.sources.image_files import Picture, find, is_unsafe, measure, read_picture
from segkit.sources.ledger import Defect, ImageError, Tally
from segkit.sources.process_pool import processes
from segkit.sources.quarantine import flush, logged, write_quarantine
from segkit.sources.source import Record, Source

OnError = Literal["fail", "skip"]
Engine = Literal["local", "ray"]
_Submit = Callable[[int, list[Record]], "Future[tuple[int, Tally]]"]


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert; what is not said here does not change a version's bytes."""

    name: str | None = None
    split: str | None = None
    limit: int | None = None
    images_by: ImagesBy = "embed"
    on_error: OnError = "fail"
    shard_bytes: int = SHARD_BYTES
    workers: int | None = None
    """Shards at a time; None for one on each core that this process may use, or on each CPU of the
    cluster."""
    engine: Engine = "local"
    """Where shards are made: in processes of this machine, or on a Ray cluster."""
    address: str | None = None
    """Of the Ray cluster; see `ray_engine`."""


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion, or a dry run, came to."""

    ledger: Ledger
    defects: tuple[Defect, ...]
    """The first of those that fail a conversion, or would have."""
    offenders: int
    """How many there are."""
    published: ShardSet | None


@dataclass(frozen=True)
class _Job:
    source: Source
    options: ConvertOptions
    directory: Path | None
    """Staging directory; None for a dry run."""


def convert(
    source: Source,
    destination: Path,
    options: ConvertOptions,
    *,
    arguments: dict[str, Any],
    on_progress: Callable[[int], None] = lambda images: None,
) -> ConversionReport:
    """Convert a source and publish the next version of `destination`.

    Args:
        source: what to convert.
        destination: directory of the versions.
        options: how.
        arguments: the command's arguments, for the manifest.
        on_progress: called with the number of images that were just finished.

    Raises:
        InputError: a defect would lose data and `on_error` is "fail"; nothing is published,
            finished shards are kept for the next run.
        SegkitError: the ledger does not balance, or another process writes to `destination`.
    """
    with staging(destination, _fingerprint(source, options), resume=True) as stage:
        tally, count = _write(_Job(source, options, stage.path), on_progress)
        if tally.offenders and options.on_error == "fail":
            raise DefectsError(tally)
        header = Header(
            taxonomy=source.taxonomy,
            kind=source.kind,
            name=options.name or source.name,
            command="convert",
            split=options.split,
            arguments=arguments,
            images_by=options.images_by,
            source_header=source.header,
        )
        ledger = tally.ledger()
        write_quarantine(stage.path, count)
        return ConversionReport(
            ledger, tuple(tally.defects), tally.offenders, finish(stage, count, header, ledger)
        )


def _write(job: _Job, on_progress: Callable[[int], None]) -> tuple[Tally, int]:
    try:
        return _run(job, on_progress)
    except OSError as error:
        what = (
            f"cannot be written ({error.strerror or error}); run it again: finished shards are kept"
        )
        raise SegkitError(f"{job.directory}: {what}") from error


def check(
    source: Source,
    options: ConvertOptions,
    *,
    on_progress: Callable[[int], None] = lambda images: None,
) -> ConversionReport:
    """A dry run: read and convert everything, write nothing."""
    tally, _ = _run(_Job(source, options, None), on_progress)
    return _unpublished(tally)


class DefectsError(InputError):
    """Defects that would lose data; its line is the first one's."""

    def __init__(self, tally: Tally) -> None:
        first = tally.defects[0].error(tally.offenders - 1)
        super().__init__(str(first))
        self.file, self.record, self.hint = first.file, first.record, first.hint
        self._tally = tally

    @property
    def report(self) -> ConversionReport:
        """What the whole source came to; nothing is published.

        Raises:
            SegkitError: the ledger does not balance.
        """
        return _unpublished(self._tally)


def _unpublished(tally: Tally) -> ConversionReport:
    return ConversionReport(tally.ledger(), tuple(tally.defects), tally.offenders, None)


def _fingerprint(source: Source, options: ConvertOptions) -> dict[str, Any]:
    chosen = {
        name: getattr(options, name) for name in ("limit", "images_by", "on_error", "shard_bytes")
    }
    return {
        "segkit": __version__,
        **source.fingerprint(),
        "taxonomy": source.taxonomy.to_json(),
        **chosen,
    }


def plan(
    records: Iterable[Record], images: Path, options: ConvertOptions
) -> Iterator[list[Record]]:
    """Cut records into shards by the bytes of their images; the files are measured, not opened."""
    shard: list[Record] = []
    used, size = 0, measure(images)
    for record in records:
        if len(shard) >= SHARD_ROWS or used >= options.shard_bytes:
            yield shard
            shard, used = [], 0
        shard.append(record)
        if options.images_by == "embed":
            used += size(record.candidates)
    if shard:
        yield shard


def _run(job: _Job, on_progress: Callable[[int], None]) -> tuple[Tally, int]:
    """Convert every shard; the total tally (defects in the source's order) and the number of
    shards."""
    parts: dict[int, Tally] = {}
    with logged(job.directory, "source") as total:
        records = islice(job.source.records(total), job.options.limit)
        shards_of = enumerate(plan(records, job.source.images, job.options))
        for index, part in _results(job, shards_of):
            parts[index] = part
            on_progress(part.images_in)
    for index in sorted(parts):
        total.add(parts[index])
    return total, len(parts)


def _results(
    job: _Job, numbered: Iterator[tuple[int, list[Record]]]
) -> Iterator[tuple[int, Tally]]:
    """Tallies of shards as they get done; one process where there is but one worker or one
    shard."""
    options = job.options
    workers = options.workers or len(os.sched_getaffinity(0))
    head = list(islice(numbered, 2))
    numbered = chain(head, numbered)
    work = partial(_numbered, job)
    if options.engine == "ray":
        from segkit.sources.ray_engine import cluster

        with cluster(work, options.address, options.workers, _inputs(job)) as (submit, size):
            yield from _done(submit, numbered, size)
    elif workers < 2 or len(head) < 2:
        yield from (work(index, records) for index, records in numbered)
    else:
        with processes(work, workers) as submit:
            yield from _done(submit, numbered, workers)


def _done(
    submit: _Submit, numbered: Iterable[tuple[int, list[Record]]], workers: int
) -> Iterator[tuple[int, Tally]]:
    pending: set[Future[tuple[int, Tally]]] = set()
    for index, records in numbered:
        pending.add(submit(index, records))
        if len(pending) > workers + 1:  # bounds what waits in memory
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)


def _inputs(job: _Job) -> list[Path]:
    """What a shard is made from, and the directory that it is written to."""
    images = None if job.options.images_by == "none" else job.source.images
    return [path for path in (job.source.annotations, images, job.directory) if path is not None]


def _numbered(job: _Job, index: int, records: Sequence[Record]) -> tuple[int, Tally]:
    return index, convert_shard(job, index, records)


def convert_shard(job: _Job, index: int, records: Sequence[Record]) -> Tally:
    """Write one shard, or find it done; its tally. A shard with defects is left unwritten where
    they are to fail."""
    if job.directory is None:
        tally = Tally()
        for _ in _convert(job, records, tally):
            pass
        return tally
    done = shards.read_shard(job.directory, index)
    if done is not None:
        return Tally.from_json(done.notes)
    notes: dict[str, Any] = {}

    def stream(tally: Tally) -> Iterator[tuple[Sample, bytes | None]]:
        yield from _convert(job, records, tally)
        if tally.offenders and job.options.on_error == "fail":
            raise DefectsError(tally)
        flush(tally)  # before the shard counts as done
        notes.update(tally.to_json())

    with logged(job.directory, index) as tally:
        try:
            shards.write_shard(job.directory, index, stream(tally), notes=notes)
        except DefectsError:
            (job.directory / shards.images_name(index)).unlink(missing_ok=True)
    return tally


def _convert(
    job: _Job, records: Iterable[Record], tally: Tally
) -> Iterator[tuple[Sample, bytes | None]]:
    labels = class_labels(job.source.taxonomy)
    for record in records:
        tally.images_in += 1
        names: Sequence[str] = ()
        try:
            content, names = job.source.load(record)
            tally.seen.update(names)
            picture = _picture(job, record)
            sample = job.source.sample(record, content, picture, tally)
        except ImageError as defective:
            tally.drop_image(defective.defect, names)
            continue
        tally.images_kept += 1
        tally.kept.update(labels[segment.class_id] for segment in sample.segments)
        tally.image_warnings.update(picture.warnings if picture else ())
        if not sample.segments:
            tally.image_warnings["unlabelled-image"] += 1
        yield _placed(job, sample, picture)


def _placed(job: _Job, sample: Sample, picture: Picture | None) -> tuple[Sample, bytes | None]:
    if picture is None:
        return sample, None
    if job.options.images_by == "embed":
        return sample, picture.data
    place = ImageRef(
        path=picture.path.resolve().as_posix(), length=len(picture.data), sha256=picture.sha256
    )
    return replace(sample, image=place), None


def _picture(job: _Job, record: Record) -> Picture | None:
    where = f"image {record.id}"
    if job.options.images_by != "none":
        root = job.source.images
        path = root / record.file_name if record.listed else _found(root, record, where)
        return read_picture(path, record=where)
    if is_unsafe(record.file_name):
        what = f"the path {record.file_name!r} leads out of the image folder"
        raise ImageError("unsafe-path", what, file=job.source.annotations, record=where)
    return None


def _found(root: Path, record: Record, where: str) -> Path:
    try:
        return find(root, record.candidates, record=where)
    except ImageError as defective:
        if record.known_missing and defective.defect.code == "missing-image":
            what = "the image is known to be in no archive of the data set"
            raise ImageError(
                "known-missing-image", what, file=defective.defect.file, record=where
            ) from None
        raise
