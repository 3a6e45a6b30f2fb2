"""`segkit calibrate`: map the mask scores of a run to the IoU to expect."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from segkit.errors import InputError, plural
from segkit.storage import writable, writable_local

from .common import emit, note, table, write_report
from .progress import progress_bar
from .shared_options import DEVICE_OPTION, IMAGES_ROOT_OPTION

if TYPE_CHECKING:
    from rich.table import Table

    from segkit.runs.calibration import Calibration


def calibrate(
    checkpoint: str = typer.Option(
        ..., "--checkpoint", metavar="RUN", help="A run that was trained with box prompts."
    ),
    data: str = typer.Option(
        ...,
        "--data",
        metavar="SET",
        help="A panoptic or instance set with true masks that the run was not trained with.",
    ),
    out: Path | None = typer.Option(
        None,
        "--out",
        metavar="RUN",
        parser=writable_local,
        help="Directory of the new version; by default the run's own.",
    ),
    tta: bool = typer.Option(
        False,
        "--tta",
        help="For `pseudolabel --tta`: predict the masks with test-time augmentation, at six times "
        "the work.",
    ),
    device: str = DEVICE_OPTION,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Calibrate the mask scores of a run: map each to the IoU to expect.

    The maps (isotonic regression, by size of the box) are fitted on half of the images and checked
    on the other half. They become a new version of the run with the same weights, whose masks are
    the same and whose scores are expected IoUs: pseudolabel --min-iou reads them.

    Example: segkit calibrate --checkpoint work/run --data work/masks
    """
    from segkit.inference.calibration_set import check_calibration_set
    from segkit.runs.open_run import check_inference, run_folder
    from segkit.runs.run_manifest import read_run_manifest
    from segkit.shards.lineage import training_digests
    from segkit.shards.publish import check_staging
    from segkit.shards.reader import ShardSet
    from segkit.shards.versions import version_number
    from segkit.workers.devices import check_device

    check_device(device)
    check_inference(checkpoint, (), "box-prompts")
    labeled = ShardSet.open(data)
    if not labeled.manifest.statistics.masked:
        hint = "give a set with true masks"
        raise InputError("no segment has a mask", file=labeled.path, hint=hint)
    labeled.require_images()
    folder = run_folder(checkpoint)
    destination = folder.parent if out is None else out
    check_staging(writable(destination), "run")
    check_calibration_set(labeled)
    if labeled.manifest.digest in training_digests(folder):
        note(f"the run was trained with {data}, where its masks are better than elsewhere")

    # Everything that can be refused has been: models take seconds to load.
    from segkit.inference.calibrate import calibrate as calibrate_run
    from segkit.report.reliability import calibration_report
    from segkit.runs.calibrated_version import publish_calibrated
    from segkit.runs.open_run import load_run

    run = load_run(checkpoint, device)
    with progress_bar(f"calibrate {run.path.parent.name}", len(labeled)) as advance:
        calibration = calibrate_run(run, labeled, tta=tta, on_image=advance)
    path = publish_calibrated(run, calibration, labeled, out).resolve()
    manifest = read_run_manifest(path)
    page = calibration_report(calibration, manifest, str(run.path), str(labeled.path))
    report = write_report(path, lambda: page)
    result = {
        "path": str(path),
        "version": version_number(path),
        "digest": manifest.digest,
        "seed": calibration.seed,
        "tta": tta,
        "min_boxes": calibration.min_boxes,
        "fitted_images": calibration.images,
        "maps": {size: score_map.boxes for size, score_map in calibration.maps.items()},
        "check": calibration.check.model_dump(),
        "report": report,
    }
    printed = [*_tables(calibration), *filter(None, (str(path), report))]
    emit(result, schema="segkit.calibrate/1", tables=printed)


def _tables(calibration: "Calibration") -> "Iterator[Table | str]":
    """The figures of the check, and the boxes of similar expected IoU."""
    check, maps = calibration.check, calibration.maps
    fitted = f"fitted to {plural(maps['all'].boxes, 'box', 'boxes')} of {calibration.images} images"
    sizes = ", ".join(size for size in maps if size != "all") or "none"
    title = (
        f"Calibration, {fitted} (seed {calibration.seed})",
        f"checked on {plural(check.boxes, 'box', 'boxes')} of {check.images} other images",
        f"sizes with a map of their own ({calibration.min_boxes} boxes or more): {sizes}",
    )
    rows = [
        ("calibration error", check.raw_error, check.error),
        ("rank correlation with the IoU", check.raw_spearman, check.spearman),
        ("mean error of a box", None, check.box_error),
    ]
    cells = [(name, *("-" if x is None else f"{x:.3f}" for x in pair)) for name, *pair in rows]
    yield table(title, ("held-out boxes", "raw score", "expected IoU"), cells)
    bins = [(f"{group.expected:.3f}", f"{group.iou:.3f}", group.boxes) for group in check.bins]
    yield table("Reliability on the held-out boxes", ("expected IoU", "IoU", "boxes"), bins)
