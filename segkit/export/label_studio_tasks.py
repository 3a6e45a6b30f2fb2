"""Exports tasks of Label Studio with predictions, which people correct there.

Masks are brush masks with the exact pixels, segments without a mask are boxes. The ids of images
and segments come back with `segkit convert labelstudio`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement

from segkit.arguments import check_number
from segkit.atomic import new_directory
from segkit.export.destination import (
    ExportReport,
    counted_samples,
    write_class_list,
    write_images,
)
from segkit.export.image_names import ImageNames, plan_names
from segkit.export.xml_text import to_xml, xml_class_names
from segkit.masks import brush_rle, rle
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet
from segkit.sources.label_studio import FILE_NAME, IMAGE_ID
from segkit.sources.label_studio_regions import CROWD, IGNORE

LOCAL_FILES = "/data/local-files/?d="
"""Prefix of the files under LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""


def export_label_studio(
    data: ShardSet,
    out: str | Path,
    *,
    images: bool = False,
    min_score: float = 0.0,
    image_prefix: str = LOCAL_FILES + "images/",
    on_image: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Write `tasks.json`, `label_config.xml`, `labels.txt` and `taxonomy.json`.

    Import `tasks.json` into a project whose labeling interface is `label_config.xml`. Crowds and
    objects to ignore are marked in the `meta` of their region, which Label Studio keeps.

    Args:
        data: a set of any kind.
        out: directory to create.
        images: also write the image files, under `images/`; Label Studio serves them if its
            LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT is `out`.
        min_score: segments with a lower score, in 0-1, are left out and counted.
        image_prefix: what precedes the name of an image in its URL.
        on_image: called for each image, and for each image file that is written.

    Raises:
        InputError: `out` is not empty, or a class name has a character that XML does not allow.
    """
    check_number(min_score, "min_score", 0, 1)
    names = xml_class_names(data)
    file_names = ImageNames()
    if images:
        file_names = plan_names(data, lambda name: [name], rename=True, shared=True)
    files = ["tasks.json", "label_config.xml", "labels.txt", "taxonomy.json"]
    report = ExportReport(images=len(data), files=files)
    report.add_names(file_names)
    if not images:
        report.add_same_names(data)
    with new_directory(out) as folder:
        with (folder / "tasks.json").open("w", encoding="utf-8") as file:
            file.write("[")
            for count, sample in enumerate(
                counted_samples(data, report, min_score=min_score, on_image=on_image)
            ):
                sample = replace(sample, file_name=file_names[sample])
                task = _task(sample, names, data.manifest.name, image_prefix)
                report.annotations += len(sample.segments)
                file.write(",\n" if count else "\n")
                json.dump(task, file, allow_nan=False)
            file.write("\n]\n")
        (folder / "label_config.xml").write_bytes(_label_config(list(names.values())))
        write_class_list(folder, data.taxonomy, names)
        if images:
            write_images(data, folder / "images", file_names, on_image)
            report.files.append("images/")
    return report


def _task(
    sample: Sample, names: dict[int, str], model_version: str, image_prefix: str
) -> dict[str, Any]:
    scores = [segment.score for segment in sample.segments if segment.score is not None]
    prediction: dict[str, Any] = {
        "model_version": model_version,
        "result": list(_results(sample, names)),
    }
    if scores:
        prediction["score"] = sum(scores) / len(scores)
    image = image_prefix + quote(sample.file_name)
    return {
        "data": {"image": image, IMAGE_ID: sample.id, FILE_NAME: sample.file_name},
        "predictions": [prediction],
    }


def _results(sample: Sample, names: dict[int, str]) -> Iterator[dict[str, Any]]:
    used: set[str] = set()
    for number, segment in enumerate(sample.segments, start=1):
        region_id = _region_id(segment, number, used)
        label = names[segment.class_id]
        row: dict[str, Any] = {
            "id": region_id,
            "to_name": "image",
            "original_width": sample.width,
            "original_height": sample.height,
            "image_rotation": 0,
        }
        if segment.mask is not None:
            mask = rle.decode(segment.mask, sample.height, sample.width)
            value = {"format": "rle", "rle": brush_rle.encode(mask), "brushlabels": [label]}
            row |= {"from_name": "brush", "type": "brushlabels", "value": value}
        else:
            row |= {"from_name": "box", "type": "rectanglelabels"}
            row["value"] = {**_percentages(segment, sample), "rectanglelabels": [label]}
        if segment.score is not None:
            row["score"] = segment.score
        marks = [CROWD] * segment.is_crowd + [IGNORE] * segment.ignore
        if marks:
            row["meta"] = {"text": marks}
        yield row


def _percentages(segment: Segment, sample: Sample) -> dict[str, float]:
    x, y, width, height = segment.box
    return {
        "x": 100 * x / sample.width,
        "y": 100 * y / sample.height,
        "width": 100 * width / sample.width,
        "height": 100 * height / sample.height,
        "rotation": 0,
    }


def _region_id(segment: Segment, number: int, used: set[str]) -> str:
    """The segment's own id where it is distinct and free of `#`, which Label Studio cuts off."""
    source_id = segment.source_id
    if source_id and "#" not in source_id and source_id not in used:
        used.add(source_id)
        return source_id
    name = f"segment-{number}"
    while name in used:
        name += "-"
    used.add(name)
    return name


def _label_config(names: list[str]) -> bytes:
    """The labeling interface: brush masks and boxes of the same labels."""
    root = Element("View")
    SubElement(root, "Image", name="image", value="$image", zoom="true")
    for tag, name in (("BrushLabels", "brush"), ("RectangleLabels", "box")):
        control = SubElement(root, tag, name=name, toName="image")
        for label in names:
            SubElement(control, "Label", value=label)
    return to_xml(root)
