"""Converts a source: plans its records into shards, writes the shards in parallel, publishes them.

Only the source and the options decide which record goes to which shard, so the bytes of a version
do not depend on the number of workers. Shards that an interrupted run has finished are not written
again, unless anything that they were made from has changed since.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

from segkit import __version__
from segkit.errors import InputError, SegkitError
from segkit.extras import require_extra
from segkit.file_states import FileStates
from segkit.sample import ImageRef, Sample
from segkit.shards import shard as shards
from segkit.shards.header import Header
from segkit.shards.manifest import Ledger
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.sidecar import discard_shard
from segkit.shards.writer import finish, remember_images
from segkit.sources.conversion_options import ConvertOptions as ConvertOptions
from segkit.sources.file_claims import refuse_shared_images
from segkit.sources.image_files import Picture
from segkit.sources.ledger import Defect, ImageError, Tally
from segkit.sources.notes import conversion_notes
from segkit.sources.plan import PlannedImages, plan
from segkit.sources.provenance import Provenance, recorded_files, records_digest, settings_digest
from segkit.sources.quarantine import (
    QUARANTINE,
    log_name,
    logged_tally,
    sync_log,
    write_quarantine,
)
from segkit.sources.record_images import exif_hint, read_record_image, stored_name
from segkit.sources.resume import DISCARDED, ShardOutcome, finished_shard, resume_note
from segkit.sources.source import Record, RecordContent, Source
from segkit.storage import StrPath, location
from segkit.workers.process_pool import as_completed, available_cores, process_pool

Progress = Callable[[int], None]
"""Receives the number of images that were just finished."""
_TALLY_FORMAT = 7
"""Version of the tallies beside finished shards; shards of another one are converted again."""
_STAGING = {"command": "convert"}


@dataclass(frozen=True)
class ConversionReport:
    """Result of a conversion or of a dry run."""

    ledger: Ledger
    defects: tuple[Defect, ...]
    """The first of the defects that fail a conversion."""
    offenders: int
    """Number of all defects that fail a conversion."""
    published: ShardSet | None
    """The new version; None for a dry run."""
    notes: tuple[str, ...] = ()
    """What the user should know although nothing is lost, one line each."""
    resumed: str | None = None
    """Which shards of an interrupted run were made anew, in one line; None if none was."""


class DefectsError(InputError):
    """The source has defects that would lose data; the message names the first one."""

    def __init__(self, tally: Tally, source: Source, resumed: str | None = None) -> None:
        first = tally.defects[0].error(tally.offenders - 1)
        super().__init__(str(first))
        self.file, self.record, self.hint = first.file, first.record, first.hint
        self._tally, self._source, self._resumed = tally, source, resumed

    @property
    def report(self) -> ConversionReport:
        """The report of the entire source; nothing is published.

        Raises:
            SegkitError: the ledger does not balance.
        """
        return _report(self._tally, self._source, None, self._resumed)


def convert(
    source: Source,
    destination: StrPath,
    options: ConvertOptions = ConvertOptions(),
    *,
    arguments: Mapping[str, Any] | None = None,
    on_progress: Progress = lambda images: None,
    on_resume: Progress = lambda images: None,
) -> ConversionReport:
    """Convert a native dataset and publish it as the next version of a shard set.

    Each source module has a function that opens its kind of dataset:

        from segkit.sources.coco_panoptic import open_coco_panoptic
        from segkit.sources.engine import ConvertOptions, convert

        source = open_coco_panoptic(Path("panoptic_val2017.json"), Path("val2017"))
        report = convert(source, "work/coco-val", ConvertOptions(split="val"))
        print(report.published.path, report.ledger.annotations.kept)

    Every annotation of the source is either kept or counted in the ledger under the reason why it
    was dropped. If the process is killed, the next call uses the finished shards whose input and
    options have not changed.

    Args:
        source: the dataset.
        destination: directory of the shard set, a path or a URL.
        options: defaults are those of `ConvertOptions`.
        arguments: JSON values to note in the manifest, such as the arguments of a command.
        on_progress: called with the number of images that were just finished.
        on_resume: called with the number of images in a shard that an interrupted run had finished.

    Returns:
        The ledger, the defects, and the published version.

    Raises:
        MissingExtraError: the engine is ray, which is not installed.
        DefectsError: defects would lose data and `on_error` is "fail". Nothing is published; the
            finished shards are kept for the next run.
        SegkitError: the ledger does not balance, the destination cannot be written to, or another
            process writes to it.
    """
    if options.engine == "ray":
        require_extra("ray", "the engine ray")
    settings = settings_digest(_settings(source, options))
    with staging(location(destination), _STAGING, inputs=(), resume=True) as stage:
        conversion = Conversion(source, options, stage.path, settings)
        tally, planned, resumed = _write_shards(conversion, on_progress, on_resume)
        resumed = DISCARDED if stage.discarded else resumed
        if tally.offenders and options.on_error == "fail":
            raise DefectsError(tally, source, resumed)
        header = Header(
            taxonomy=source.taxonomy,
            kind=source.kind,
            name=options.name or location(destination).resolve().name or source.name,
            command="convert",
            split=options.split,
            arguments=dict(arguments or {}),
            images_by=options.images_by,
            source_header=source.header,
        )
        ledger = tally.ledger()
        write_quarantine(stage.path, planned.shards)
        published = finish(
            stage,
            planned.shards,
            header,
            ledger,
            extra_files=[QUARANTINE],
            check=lambda data: planned.check_shards(data, ledger),
            force=options.force,
        )
        if options.images_by == "reference":
            remember_images(published, source.images)
        return _report(tally, source, published, resumed)


def check(
    source: Source, options: ConvertOptions, *, on_progress: Progress = lambda images: None
) -> ConversionReport:
    """Dry run: read and convert everything, write nothing."""
    tally, _, _ = Conversion(source, options, None).run(on_progress, on_progress)
    return _report(tally, source, None)


@dataclass(frozen=True)
class Conversion:
    """A conversion as every worker sees it: source, options, and where shards are written."""

    source: Source
    options: ConvertOptions
    directory: Path | None
    """Staging directory; None for a dry run."""
    settings: str = ""
    """Digest of what decides the content of a shard besides its records and files."""
    states: FileStates = field(default_factory=FileStates, compare=False)

    def run(
        self, on_progress: Progress, on_resume: Progress
    ) -> tuple[Tally, PlannedImages, str | None]:
        """Convert all shards; returns the total tally, the plan and `ConversionReport.resumed`.

        Defects are in the source's order, whichever shard was finished first.

        Raises:
            SegkitError: the planned images are not those that were converted.
        """
        options, planned = self.options, PlannedImages()
        outcomes: dict[int, ShardOutcome] = {}
        with logged_tally(self.directory, "source") as total:
            records = self.source.records(total)
            if options.images_by != "none":
                records = refuse_shared_images(self.source, records)
            records = islice(records, options.limit)
            embed = options.images_by == "embed"
            shard_plan = plan(records, self.source.images, options.shard_bytes, embed=embed)
            for index, outcome in self._run_workers(enumerate(planned.watch(shard_plan))):
                outcomes[index] = outcome
                (on_resume if outcome.resumed else on_progress)(outcome.tally.images_in)
        unplanned = total.images_in
        in_order = [outcomes[index] for index in sorted(outcomes)]
        for outcome in in_order:
            total.add(outcome.tally)
        planned.check_ledger(total.ledger(), unplanned)
        return total, planned, resume_note(in_order)

    def convert_shard(self, index: int, records: Sequence[Record]) -> ShardOutcome:
        """Write one shard, unless it is finished already and its input has not changed.

        A shard with defects is not written where defects fail the conversion.
        """
        if self.directory is None:
            tally = Tally()
            for _ in self._samples(records, tally):
                pass
            return ShardOutcome(tally)
        provenance = Provenance(self.settings, records_digest(records))
        outcome = finished_shard(self.directory, index, provenance, self.states)
        if outcome.resumed:
            return outcome
        notes: dict[str, Any] = {}

        def stream(tally: Tally) -> Iterator[tuple[Sample, bytes | None]]:
            yield from self._samples(records, tally)
            if tally.offenders and self.options.on_error == "fail":
                raise DefectsError(tally, self.source)
            sync_log(tally)  # before the shard counts as finished
            notes.update(tally=tally.to_json(), provenance=provenance.to_json())

        with (
            logged_tally(self.directory, index) as tally,
            recorded_files(provenance, self.states),
        ):
            try:
                shards.write_shard(
                    self.directory,
                    index,
                    stream(tally),
                    notes=notes,
                    extra_files=[log_name(index)],
                )
            except DefectsError:
                discard_shard(self.directory, index)
        return outcome.with_tally(tally)

    def _run_workers(
        self, numbered: Iterator[tuple[int, list[Record]]]
    ) -> Iterator[tuple[int, ShardOutcome]]:
        """Yield the outcome of each shard as it is finished.

        A single worker, or a single shard, is converted in this process.
        """
        options = self.options
        workers = options.workers or available_cores()
        first_two = list(islice(numbered, 2))
        numbered = chain(first_two, numbered)
        if options.engine == "ray":
            from segkit.workers.ray_cluster import ray_cluster

            paths = self._shared_paths()
            with ray_cluster(self._numbered_outcome, options.address, options.workers, paths) as (
                submit,
                size,
            ):
                yield from as_completed(submit, numbered, size)
        elif workers < 2 or len(first_two) < 2:
            yield from (self._numbered_outcome(index, records) for index, records in numbered)
        else:
            with process_pool(self._numbered_outcome, workers) as submit:
                yield from as_completed(submit, numbered, workers)

    def _numbered_outcome(self, index: int, records: Sequence[Record]) -> tuple[int, ShardOutcome]:
        return index, self.convert_shard(index, records)

    def _shared_paths(self) -> list[Path]:
        """The paths that every node of a cluster must see: the inputs and the staging directory."""
        images = None if self.options.images_by == "none" else self.source.images
        paths = (self.source.annotations, images, self.directory)
        return [path for path in paths if path is not None]

    def _samples(
        self, records: Iterable[Record], tally: Tally
    ) -> Iterator[tuple[Sample, bytes | None]]:
        """Convert records to samples, each with the image bytes to embed."""
        labels = self.source.taxonomy.unique_names
        for record in records:
            tally.images_in += 1
            names: Sequence[str] = ()
            picture = None
            try:
                # sources of users may return pairs, without `embedded`
                content, names, embedded = RecordContent(*self.source.load(record))
                tally.annotations_in.update(names)
                images_by = self.options.images_by
                picture = read_record_image(
                    self.source, record, images_by, embedded, self.options.exif
                )
                sample = self.source.sample(record, content, picture, tally)
            except ImageError as error:
                tally.drop_image(exif_hint(error.defect, picture), names)
                continue
            tally.images_kept += 1
            tally.kept.update(labels[segment.class_id] for segment in sample.segments)
            tally.uncounted.update(
                labels[segment.class_id]
                for segment in sample.segments
                if segment.is_crowd or segment.ignore
            )
            tally.image_warnings.update(picture.warnings if picture else ())
            if not sample.segments:
                tally.image_warnings["unlabelled-image"] += 1
            yield self._with_image(sample, picture)

    def _with_image(self, sample: Sample, picture: Picture | None) -> tuple[Sample, bytes | None]:
        if picture is None:
            return sample, None
        if self.options.images_by == "embed":
            file_name = stored_name(sample.file_name, picture)
            return replace(sample, file_name=file_name), picture.data
        path = picture.path.resolve().as_posix()
        image = ImageRef(path=path, length=len(picture.data), sha256=picture.sha256)
        return replace(sample, image=image), None


def _write_shards(
    conversion: Conversion, on_progress: Progress, on_resume: Progress
) -> tuple[Tally, PlannedImages, str | None]:
    try:
        return conversion.run(on_progress, on_resume)
    except OSError as error:
        reason = error.strerror or error
        hint = "run it again: finished shards are kept"
        raise SegkitError(
            f"{conversion.directory}: cannot be written ({reason})", hint=hint
        ) from error


def _report(
    tally: Tally, source: Source, published: ShardSet | None, resumed: str | None = None
) -> ConversionReport:
    return ConversionReport(
        ledger=tally.ledger(),
        defects=tuple(tally.defects),
        offenders=tally.offenders,
        published=published,
        notes=conversion_notes(source, tally),
        resumed=resumed,
    )


def _settings(source: Source, options: ConvertOptions) -> dict[str, Any]:
    """JSON values that decide the content of a shard besides its records and files."""
    return {
        "versions": [__version__, _TALLY_FORMAT, *map(version, ("pyarrow", "pillow"))],
        **source.fingerprint(),
        "images": str(source.images.resolve()),
        "images_by": options.images_by,
        "exif": options.exif,
        "taxonomy": source.taxonomy.to_json(),
    }
