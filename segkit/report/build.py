"""Build the report of an evaluation: headline figures, sections of the task, images, provenance."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from segkit import __version__
from segkit.errors import plural
from segkit.metrics.class_mapping import thing_classes
from segkit.metrics.evaluate import EvalResult
from segkit.metrics.output import evaluation_notes
from segkit.metrics.predictions import Predictions
from segkit.report.gallery import draw_image
from segkit.report.page import Page, Section, fragment, html
from segkit.report.ranking import worst_and_best
from segkit.report.sections import (
    Card,
    instance_sections,
    panoptic_sections,
    semantic_sections,
)
from segkit.sample import MIN_DRAWN_SCORE
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet

GALLERY_IMAGES = 6
"""Images at each end of the gallery."""
_SECTIONS: dict[str, Callable[[dict[str, Any], EvalResult], tuple[list[Section], list[Card]]]] = {
    "panoptic": panoptic_sections,
    "semantic": semantic_sections,
    "instance": instance_sections,
}


def report(
    result: dict[str, Any], evaluation: EvalResult, truth: ShardSet, source: Predictions
) -> str:
    """Write the report of an evaluation as HTML.

    Args:
        result: the content of metrics.json.
        evaluation: the evaluation behind it.
        truth: ground truth; the gallery shows its images if it has any.
        source: the predictions.
    """
    task = result["task"]
    sections, cards = _SECTIONS[task](result, evaluation)
    sections.append(_gallery_section(evaluation, truth, source, task))
    count = result["images"]["evaluated"]
    images = f"{count:,} {'image' if count == 1 else 'images'}"
    classes = plural(len(truth.taxonomy.categories), "class", "classes")
    page = Page(
        title=f"{cards[0][0]} {cards[0][1]}: {truth.manifest.name}",
        lead=f"{task} segmentation, {images}, {classes}; figures in %",
        cards=cards,
        sections=sections,
        notes=evaluation_notes(result, truth),
        facts=_facts(result, truth),
    )
    return html(page)


def _gallery_section(
    evaluation: EvalResult, truth: ShardSet, source: Predictions, task: Task
) -> Section:
    scores, figure = evaluation.image_scores()
    worst, best = worst_and_best(scores, GALLERY_IMAGES)
    instances = task == "instance"
    classes = thing_classes(truth.taxonomy) if instances else truth.taxonomy.categories
    class_ids = {category.id for category in classes}
    groups = []
    for heading, indices in (("Worst", worst), ("Best", best)):
        images = [
            draw_image(
                truth,
                source,
                index,
                f"{evaluation.image_ids[index]}: {figure} {scores[index]:.1f}",
                class_ids=class_ids,
                min_score=MIN_DRAWN_SCORE if instances else 0.0,
            )
            for index in indices
        ]
        groups.append((heading, images))
    body = fragment("gallery", groups=groups).strip()
    return Section("Images", body, "Ground truth left, prediction right.")


def _facts(result: dict[str, Any], truth: ShardSet) -> list[tuple[str, str]]:
    facts = [
        ("data", _set_version(result["data"])),
        ("predictions", _set_version(result["predictions"])),
    ]
    if "absent_classes" in result:
        counted = f"{result['absent_classes']}: {result['classes_counted']} classes"
        facts.append(("absent classes", counted))
    if "evaluator" in result:
        lvis = result["protocol"] == "lvis"
        scope = "per image, by the rules of LVIS" if lvis else "per class and image"
        limit = f"at most {result['max_dets'][-1]} detections {scope}"
        facts.append(("evaluator", f"{result['evaluator']}, {limit}"))
    return [*facts, ("taxonomy", truth.taxonomy.name), ("segkit", __version__)]


def _set_version(source: dict[str, Any]) -> str:
    path = Path(source["path"])
    if "digest" not in source:
        return path.name
    return f"{path.parent.name} v{source['version']} ({source['digest'][:12]})"
