"""The section and the page of a calibration: how well expected IoU agrees with IoU."""

from segkit import __version__
from segkit.report import figures
from segkit.report.page import Page, Section, html, plain_table
from segkit.runs.calibration import Calibration
from segkit.runs.run_manifest import RunManifest


def calibration_section(calibration: Calibration) -> Section:
    """The reliability diagram of the held-out boxes, and the figures of the check."""
    check, maps = calibration.check, calibration.maps
    rows = [
        ("calibration error", _figure(check.raw_error), _figure(check.error)),
        ("mean error of a box", "-", _figure(check.box_error)),
        (
            "rank correlation with the IoU",
            _figure(check.raw_spearman),
            _figure(check.spearman),
        ),
    ]
    sizes = [(size, score_map.boxes) for size, score_map in maps.items()]
    body = figures.reliability(check.bins, "expected IoU")
    body += plain_table(("held-out boxes", "raw score", "expected IoU"), rows)
    body += plain_table(("map", "boxes fitted"), sizes)
    lead = (
        f"Each dot is a group of the {check.boxes:,} held-out boxes of {check.images:,} images; on"
        " the line, masks are as good as expected. The maps were fitted to"
        f" {maps['all'].boxes:,} boxes of {calibration.images:,} other images"
        f" (seed {calibration.seed}); sizes with fewer than {calibration.min_boxes} of them use"
        " the map of all."
    )
    return Section("Calibration", body, lead)


def calibration_report(
    calibration: Calibration, manifest: RunManifest, checkpoint: str, data: str
) -> str:
    """Write the page of a calibration as HTML.

    Args:
        calibration: the calibration.
        manifest: of the calibrated run.
        checkpoint: the run that was calibrated.
        data: the set with true masks.
    """
    check = calibration.check
    page = Page(
        title=f"Calibration of {manifest.name}",
        lead="How well the expected IoU of masks agrees with their IoU, on held-out images; 0-1.",
        cards=[
            ("calibration error", _figure(check.error)),
            ("of the raw score", _figure(check.raw_error)),
            ("rank correlation", _figure(check.spearman)),
            ("held-out boxes", f"{check.boxes:,}"),
        ],
        sections=[calibration_section(calibration)],
        facts=[("run", checkpoint), ("data", data), ("segkit", __version__)],
    )
    return html(page)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
