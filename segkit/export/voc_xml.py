"""Exports Pascal VOC detection: an XML file of boxes for each image, and the list of images.

VOC counts pixels from 1 and includes the last one. Coordinates that are not whole numbers are
written as fractions, so that the box comes back to a millionth of a pixel.
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
    new_file_path,
    require_kind,
    split_name,
    write_class_list,
    write_images,
)
from segkit.export.image_names import plan_names
from segkit.export.xml_text import check_xml_file_name, to_xml, xml_class_names
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet

_DIGITS = 6  # behind the point


def export_voc(
    data: ShardSet,
    out: str | Path,
    *,
    images: bool = False,
    min_score: float = 0.0,
    on_image: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Write `Annotations/*.xml`, `ImageSets/Main/<split>.txt`, `labels.txt` and `taxonomy.json`.

    Objects to ignore are `difficult`. Crowds and stuff are left out and counted; masks, ids and
    scores are not kept.

    Args:
        data: a set of kind boxes, instance or panoptic.
        out: directory to create.
        images: also write the image files, under `JPEGImages/`.
        min_score: segments with a lower score, in 0-1, are left out and counted.
        on_image: called for each image, and for each image file that is written.

    Raises:
        InputError: the set is of another kind, `out` is not empty, `min_score` is outside 0-1, or
            a name has a character that XML does not allow.
    """
    check_number(min_score, "min_score", 0, 1)
    kinds = ("boxes", "instance", "panoptic")
    require_kind(data, kinds, "Pascal VOC", "its regions are not objects")
    names = xml_class_names(data)

    def layout(name: PurePosixPath) -> list[PurePosixPath]:
        annotation = "Annotations" / name.with_suffix(".xml")
        return [annotation, "JPEGImages" / name] if images else [annotation]

    file_names = plan_names(data, layout, rename=images, listed=images)
    main = f"ImageSets/Main/{split_name(data)}.txt"
    files = ["Annotations/", main, "labels.txt", "taxonomy.json"]
    report = ExportReport(images=len(data), files=files)
    report.add_names(file_names)
    with new_directory(out) as folder:
        (folder / "Annotations").mkdir()
        stems = []
        samples = counted_samples(
            data, report, check_masks=False, min_score=min_score, on_image=on_image
        )
        for sample in samples:
            check_xml_file_name(sample, data)
            sample = replace(sample, file_name=file_names[sample])
            name = PurePosixPath(sample.file_name)
            path = new_file_path(folder / "Annotations", name.with_suffix(".xml"))
            path.write_bytes(_annotation(sample, names, report))
            stems.append(name.with_suffix("").as_posix())
        (folder / main).parent.mkdir(parents=True)
        (folder / main).write_text("".join(f"{name}\n" for name in stems), "utf-8")
        write_class_list(folder, data.taxonomy, names)
        if images:
            write_images(data, folder / "JPEGImages", file_names, on_image)
            report.files.append("JPEGImages/")
    return report


def _annotation(sample: Sample, names: dict[int, str], report: ExportReport) -> bytes:
    root = Element("annotation")
    folder, _, name = sample.file_name.rpartition("/")
    SubElement(root, "folder").text = folder
    SubElement(root, "filename").text = name
    size = SubElement(root, "size")
    for key, value in (("width", sample.width), ("height", sample.height), ("depth", 3)):
        SubElement(size, key).text = str(value)
    SubElement(root, "segmented").text = "0"
    for segment in sample.segments:
        reason = "stuff" if segment.kind == "stuff" else "crowd" if segment.is_crowd else None
        if reason is not None:
            report.leave_out(reason, 1)
            continue
        report.annotations += 1
        _add_object(root, segment, names[segment.class_id])
    return to_xml(root, declaration=True)


def _add_object(root: Element, segment: Segment, name: str) -> None:
    entry = SubElement(root, "object")
    SubElement(entry, "name").text = name
    for key, value in (("truncated", 0), ("difficult", int(segment.ignore))):
        SubElement(entry, key).text = str(value)
    x, y, width, height = segment.box
    box = SubElement(entry, "bndbox")
    corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + width, "ymax": y + height}
    for key, number in corners.items():
        SubElement(box, key).text = f"{number:.{_DIGITS}f}".rstrip("0").rstrip(".")
