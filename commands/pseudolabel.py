"""`segkit pseudolabel`: replace boxes by masks, in a label layer over the same images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer

from segkit.errors import InputError, plural
from segkit.storage import is_remote, writable

from .common import emit, note, table, write_preview, write_report
from .progress import progress_bar
from .shared_options import (
    ADDRESS_OPTION,
    DEVICE_OPTION,
    DEVICES_OPTION,
    ENGINE_OPTION,
    FORCE_OPTION,
    IMAGES_ROOT_OPTION,
    PREVIEW_OPTION,
    SETTINGS_OPTION,
    parse_choice,
    parse_workers,
    reject_unused,
)

if TYPE_CHECKING:
    from rich.table import Table

    from segkit.inference.mask_statistics import MaskStatistics
    from segkit.inference.teacher import Teacher
    from segkit.report.labeled_boxes import HiddenTruth
    from segkit.shards.reader import ShardSet

_MIXED_TTA = {
    True: "the run is calibrated without --tta, with which masks are better than expected",
    False: "the run is calibrated with --tta, without which masks are worse than expected",
}
"""Note by whether --tta is given, where the run was calibrated the other way."""
_OLD_BOX_PROMPTS = "conditioned"
"""Name of the strategy `box-prompts` in earlier versions."""


def pseudolabel(
    teachers: list[str] = typer.Option(
        ...,
        "--teacher",
        "--checkpoint",
        metavar="TEACHER",
        help="The source of the masks: a run; hf:NAME (a Mask2Former), sam:NAME, sam2:NAME or "
        "samhq:NAME, of Hugging Face or in a local folder; grabcut; or the shape ellipse or box.",
    ),
    data: str = typer.Option(
        ..., "--data", metavar="SET", help="A set in which some boxes have no mask."
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="SET", parser=writable, help="Directory of the new set's versions."
    ),
    min_score: float | None = typer.Option(
        None,
        "--min-score",
        metavar="0-1",
        help="Lowest score of a mask; a box whose mask scores less stays a box. The score of a run "
        "is the mean probability within the mask, 0.5 or more with box prompts; no IoU. By default "
        "the run's inference.pseudo_score, 0.5 (predicted IoU) for SAM, 0 for GrabCut.",
    ),
    min_iou: float | None = typer.Option(
        None,
        "--min-iou",
        metavar="0-1",
        help="Lowest expected IoU of a mask; a box whose mask has less stays a box. Of a run that "
        "`segkit calibrate` has calibrated, with box prompts.",
    ),
    strategy: str | None = typer.Option(
        None,
        "--strategy",
        help="Of a run. box-prompts: segment each box (default); proposals: match the model's own "
        "proposals to the boxes (default of public Mask2Formers, which have no box prompts).",
    ),
    tta: bool = typer.Option(
        False,
        "--tta",
        help="Test-time augmentation of a run's box prompts: average three crop sizes and their "
        "mirror images. Six times the work of the model.",
    ),
    resolve_overlaps: bool = typer.Option(
        False,
        "--resolve-overlaps",
        help="Give each pixel to one mask of an image, the smallest of those that contain it, as "
        "panoptic labels need it. Masks that the set has already keep their pixels.",
    ),
    truth: str | None = typer.Option(
        None,
        "--truth",
        metavar="SET",
        help="A set with the true masks of the boxes (same image and annotation ids), which the "
        "teacher does not get: the report compares the masks with them, beside box, ellipse and "
        "GrabCut (on 300 boxes at most, a third of a second each).",
    ),
    compare: list[str] = typer.Option(
        [],
        "--compare",
        metavar="SET",
        help="A layer that another teacher made of the same boxes, to compare in the report as "
        "well; repeatable; requires --truth.",
    ),
    settings: list[str] = SETTINGS_OPTION,
    device: str = DEVICE_OPTION,
    engine: str = ENGINE_OPTION,
    devices: str = DEVICES_OPTION,
    address: str | None = ADDRESS_OPTION,
    preview: bool = PREVIEW_OPTION,
    force: bool = FORCE_OPTION,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Replace the boxes of a set by a teacher's masks. Boxes without a confident mask stay boxes.

    A report beside the new version (v1.html) shows the distribution of the scores, and the worst,
    median and best masks.

    Example: segkit pseudolabel --teacher sam:facebook/sam-vit-base --data work/boxes
    --out work/masks

    Example: segkit pseudolabel --checkpoint work/run --data work/boxes --out work/masks
    --min-iou 0.7
    """
    from segkit.inference.open_teacher import TeacherSpec
    from segkit.recipes.schema import Strategy
    from segkit.shards.reader import ShardSet

    if strategy == _OLD_BOX_PROMPTS:
        note(f"--strategy {strategy} is now called box-prompts")
        strategy = "box-prompts"
    chosen_strategy = strategy and parse_choice(strategy, get_args(Strategy), "--strategy")
    if len(teachers) > 1:
        hint = "give it once; --checkpoint is its second name"
        raise InputError(f"{len(teachers)} teachers: {', '.join(teachers)}", hint=hint)
    workers = parse_workers(engine, devices, device, address)
    spec = TeacherSpec(
        teachers[0], chosen_strategy or None, settings, device, min_score, min_iou, tta
    )
    spec.check()
    boxes = _open_boxes(data)
    reject_unused(
        ("--compare", bool(compare) and truth is None, "--truth"),
        ("--truth", truth is not None and is_remote(out), "an --out on this machine"),
    )
    hidden = None if truth is None else _open_truth(truth, boxes)
    compared = {name: ShardSet.open(name) for name in compare}
    if compared:
        from segkit.report.compared_masks import check_compared

        check_compared(compared, boxes)

    # Everything that can be refused has been: models take seconds to load.
    from segkit import pseudolabel as label_boxes
    from segkit.inference.mask_statistics import describe_masks
    from segkit.metrics.output import origin

    teacher = spec.on(workers.caller_device).open()
    if teacher.calibration is not None and teacher.calibration.tta != tta:
        note(_MIXED_TTA[tta])
    with progress_bar(f"pseudolabel {boxes.path.parent.name}", len(boxes)) as advance:
        layer, transfer = label_boxes(
            teacher,
            boxes,
            out,
            exclusive=resolve_overlaps,
            workers=workers,
            spec=spec,
            force=force,
            on_images=advance,
            on_boxes=advance.count_boxes,
            on_resume=advance.resume,
        )
    arguments = layer.manifest.arguments
    figures = describe_masks(layer, boxes)
    labeled = _Labeled(layer, boxes, teacher, hidden, compared)
    report = write_report(layer.path, labeled.page)
    result = {
        **origin(layer),
        "teacher": arguments["teacher"],
        "min_score": arguments["min_score"],
        "min_iou": arguments.get("min_iou"),
        "strategy": arguments.get("strategy"),
        "tta": tta,
        "resolve_overlaps": resolve_overlaps,
        "boxes": transfer.boxes,
        "masked": transfer.masked,
        "kept_as_boxes": transfer.kept_as_boxes,
        "already_masked": transfer.already_masked,
        "left_alone": transfer.left_alone,
        "scores": {str(quantile): score for quantile, score in figures.scores.items()},
        "box_shaped": figures.box_shaped,
        "iou": labeled.iou,
        "report": report,
        "preview": write_preview(layer, preview),
    }
    rows = [
        ("prompted boxes", transfer.boxes),
        ("  replaced by a mask", transfer.masked),
        ("  kept as boxes", transfer.kept_as_boxes),
        ("segments with a mask before", transfer.already_masked),
        ("crowds and ignored, not prompted", transfer.left_alone),
    ]
    if figures.box_shaped is not None:
        rows.append(("masks that only fill their box, %", round(100 * figures.box_shaped)))
    segments = plural(layer.manifest.statistics.segments, "segment")
    counts = table(f"Pseudo-labels of {data}: {segments}", ("segments", "count"), rows)
    emit(
        result,
        schema="segkit.pseudolabel/1",
        tables=[
            counts,
            *_scores(figures),
            *_iou(labeled.iou),
            *filter(None, (str(layer.path), report, result["preview"])),
        ],
    )
    if spec.kind == "run" and figures.looks_untrained:
        share = f"{figures.box_shaped:.0%} of the masks only fill their box"
        note(f"{share}: the model looks untrained for this; see the preview")


@dataclass
class _Labeled:
    """A new layer and what its report needs."""

    layer: "ShardSet"
    data: "ShardSet"
    """The set that was labeled."""
    teacher: "Teacher"
    truth: "HiddenTruth | None"
    compared: "dict[str, ShardSet]"
    iou: "dict[str, Any] | None" = None
    """Of the masks with the true ones; known once the page is built."""

    def page(self) -> str:
        """Build the report."""
        from segkit.report.compared_masks import compare_masks, compared_images
        from segkit.report.labeled_boxes import read_boxes
        from segkit.report.labeling import iou_summary, labeling_report

        boxes, comparison = read_boxes(self.layer, self.truth, self.data), None
        if self.truth is not None:
            with progress_bar("compare masks", compared_images(boxes)) as advance:
                comparison = compare_masks(
                    self.layer, boxes, self.truth, self.compared, on_image=advance
                )
            self.iou = iou_summary(boxes, comparison)
        return labeling_report(
            self.layer,
            boxes,
            score_name=self.teacher.score_name,
            calibration=self.teacher.calibration,
            truth=self.truth,
            comparison=comparison,
        )


def _iou(iou: "dict[str, Any] | None") -> "list[Table]":
    """Mean IoU of the masks and of other teachers; nothing where the truth is not known."""
    if iou is None:
        return []
    means = [("these masks, all", iou["masked"], iou["mean_iou"])]
    means += [(name, iou["compared"], mean) for name, mean in iou["compared_iou"].items()]
    rows = [(name, count, "-" if mean is None else f"{mean:.3f}") for name, count, mean in means]
    return [table("IoU with the true masks", ("masks", "boxes", "mean IoU"), rows)]


def _open_truth(truth: str, boxes: "ShardSet") -> "HiddenTruth":
    """The true masks; InputError where they are not those of the boxes."""
    from segkit.report.labeled_boxes import HiddenTruth
    from segkit.shards.reader import ShardSet

    hidden = HiddenTruth(ShardSet.open(truth))
    hidden.check(boxes)
    if hidden.predicted:
        masks = plural(hidden.predicted, "pseudo-mask or prediction", "pseudo-masks or predictions")
        note(f"{truth} has {masks}, which the masks are not compared with")
    return hidden


def _scores(figures: "MaskStatistics") -> "list[Table]":
    """The distribution of the scores; nothing where the teacher gives none."""
    if not figures.scores:
        return []
    rows = [(f"{quantile:.0%}", score) for quantile, score in figures.scores.items()]
    return [table("Scores of the masks (share of masks at or below)", ("share", "score"), rows)]


def _open_boxes(data: str) -> "ShardSet":
    """The set to label; InputError where every segment has a mask, or there are no images."""
    from segkit.shards.reader import ShardSet

    opened = ShardSet.open(data)
    if not opened.manifest.statistics.boxes_only:
        hint = "give a set with boxes, such as one of `segkit convert coco --boxes-only`"
        raise InputError("no segment lacks a mask", file=opened.path, hint=hint)
    opened.require_images()
    return opened
