"""Exports a dump of CVAT for images 1.1, to import into a task with the same images.

Masks are written as run lengths, with the exact pixels; segments without a mask are boxes.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, SubElement

from segkit.arguments import check_number
from segkit.atomic import new_directory
from segkit.export.destination import (
    ExportReport,
    counted_samples,
    single_objects,
    write_class_list,
    write_images,
)
from segkit.export.image_names import ImageNames, plan_names
from segkit.export.xml_text import check_xml_file_name, to_xml, xml_class_names
from segkit.masks import rle
from segkit.masks.boxes import tight_box
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet


def export_cvat(
    data: ShardSet,
    out: str | Path,
    *,
    images: bool = False,
    min_score: float = 0.0,
    on_image: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Write `annotations.xml`, `labels.txt` and `taxonomy.json`.

    CVAT has no crowds and no objects to ignore: they are left out and counted. Ids and scores are
    not kept.

    Args:
        data: a set of any kind.
        out: directory to create.
        images: also write the image files, under `images/`.
        min_score: segments with a lower score, in 0-1, are left out and counted.
        on_image: called for each image, and for each image file that is written.

    Raises:
        InputError: `out` is not empty, or a name has a character that XML does not allow.
    """
    check_number(min_score, "min_score", 0, 1)
    names = xml_class_names(data)
    file_names = ImageNames()
    if images:
        file_names = plan_names(data, _layout, rename=True)
    files = ["annotations.xml", "labels.txt", "taxonomy.json"]
    report = ExportReport(images=len(data), files=files)
    report.add_names(file_names)
    if not images:
        report.add_same_names(data)
    with new_directory(out) as folder:
        with (folder / "annotations.xml").open("wb") as file:
            file.write(b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
            file.write(b"<version>1.1</version>\n")
            file.write(to_xml(_meta(data, list(names.values()))))
            for number, sample in enumerate(
                counted_samples(data, report, min_score=min_score, on_image=on_image)
            ):
                check_xml_file_name(sample, data)
                sample = replace(sample, file_name=file_names[sample])
                file.write(to_xml(_image(number, sample, names, report)))
            file.write(b"</annotations>\n")
        write_class_list(folder, data.taxonomy, names)
        if images:
            write_images(data, folder / "images", file_names, on_image)
            report.files.append("images/")
    return report


def _layout(name: PurePosixPath) -> list[PurePosixPath]:
    """The image; and its name without the extension, which is its id after conversion."""
    return ["images" / name, "stems" / name.with_suffix("")]


def _meta(data: ShardSet, names: list[str]) -> Element:
    meta = Element("meta")
    task = SubElement(meta, "task")
    fields = {"name": data.manifest.name, "size": str(len(data)), "mode": "annotation"}
    for key, value in fields.items():
        SubElement(task, key).text = value
    labels = SubElement(task, "labels")
    for name in names:
        label = SubElement(labels, "label")
        for key, value in {"name": name, "type": "any", "attributes": ""}.items():
            SubElement(label, key).text = value
    return meta


def _image(number: int, sample: Sample, names: dict[int, str], report: ExportReport) -> Element:
    attributes = {
        "id": str(number),
        "name": sample.file_name,
        "width": str(sample.width),
        "height": str(sample.height),
    }
    image = Element("image", attributes)
    for segment in single_objects(sample, report):
        common = {"label": names[segment.class_id], "source": "file", "occluded": "0"}
        tag = "box" if segment.mask is None else "mask"
        shape = _box(segment) if segment.mask is None else _mask(segment.mask, sample)
        SubElement(image, tag, {**common, **shape, "z_order": "0"})
    return image


def _box(segment: Segment) -> dict[str, str]:
    x, y, width, height = segment.box
    corners = {"xtl": x, "ytl": y, "xbr": x + width, "ybr": y + height}
    return {key: repr(float(value)) for key, value in corners.items()}


def _mask(counts: bytes, sample: Sample) -> dict[str, str]:
    """The run lengths over the rows of the mask's tight box, those of background first."""
    mask = rle.decode(counts, sample.height, sample.width)
    left, top, width, height = map(int, tight_box(mask))
    crop = mask[top : top + height, left : left + width]
    runs = rle.uncompressed(crop.T)  # the columns of the transposed crop are the rows of the crop
    numbers = {"left": left, "top": top, "width": width, "height": height}
    return {
        "rle": ", ".join(map(str, runs.tolist())),
        **{key: str(value) for key, value in numbers.items()},
    }
