"""Pascal VOC files as VOC's rules and supervision read them."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from segkit.errors import InputError
from segkit.export.cvat_dump import export_cvat
from segkit.export.voc_xml import export_voc
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.sources.engine import ConvertOptions, check
from segkit.sources.voc_boxes import open_voc_boxes
from segkit.taxonomy import Category, Taxonomy
from tests.shards.conftest import TAXONOMY, picture


def boxed(*box: float, **fields: object) -> Segment:
    return Segment(3, "thing", box, None, box[2] * box[3], **fields)  # type: ignore[arg-type]


def written(
    root: Path,
    *segments: Segment,
    taxonomy: Taxonomy = TAXONOMY,
    file_name: str = "street/a.jpg",
) -> ShardSet:
    header = Header(
        taxonomy=taxonomy, kind="boxes", name="toy", command="t", split="val", arguments={}
    )
    sample = Sample("7", file_name, 32, 24, segments)
    return write_set(root / "set", [(sample, picture(1))], header)


def test_coordinates_flags_and_lists(tmp_path: Path) -> None:
    segments = (
        boxed(0.0, 0.0, 32.0, 24.0),
        boxed(1.5, 2.25, 3.125, 4.0, ignore=True),
        boxed(1.0, 1.0, 2.0, 2.0, is_crowd=True),
    )
    report = export_voc(written(tmp_path, *segments), tmp_path / "out", images=True)
    assert (report.annotations, dict(report.dropped)) == (2, {"crowd": 1})
    root = ElementTree.parse(tmp_path / "out" / "Annotations" / "street" / "a.xml").getroot()
    rows = [
        [entry.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        for entry in root.iter("object")
    ]
    assert rows == [["1", "1", "32", "24"], ["2.5", "3.25", "4.625", "6.25"]]
    assert [entry.findtext("difficult") for entry in root.iter("object")] == ["0", "1"]
    assert (root.findtext("filename"), root.findtext("size/width")) == ("a.jpg", "32")
    assert (tmp_path / "out" / "ImageSets" / "Main" / "val.txt").read_text() == "street/a\n"
    assert (tmp_path / "out" / "JPEGImages" / "street" / "a.jpg").read_bytes() == picture(1)


def test_the_list_selects_every_image_again(tmp_path: Path) -> None:
    header = Header(taxonomy=TAXONOMY, kind="boxes", name="toy", command="t", arguments={})
    names = ("photo", "photo 1", "photo 2", "a/b c -1", "v1.5 final")
    rows = [
        (Sample(name, f"{name}.jpg", 32, 24, (boxed(1.0, 1.0, 5.0, 5.0),)), picture(1))
        for name in names
    ]
    out = tmp_path / "out"
    export_voc(write_set(tmp_path / "set", rows, header), out, images=True)
    (listed,) = (out / "ImageSets" / "Main").iterdir()
    source = open_voc_boxes(out / "Annotations", out / "JPEGImages", listed=listed)
    report = check(source, ConvertOptions(workers=1))
    assert (report.ledger.images.input, report.ledger.annotations.kept) == (len(names), len(names))


def test_names_are_escaped_or_refused(tmp_path: Path) -> None:
    odd = Taxonomy("odd", (Category(3, '<a> & "b" ü', "thing"),))
    export_voc(written(tmp_path, boxed(1, 1, 5, 5), taxonomy=odd), tmp_path / "out")
    root = ElementTree.parse(tmp_path / "out" / "Annotations" / "street" / "a.xml").getroot()
    assert root.findtext("object/name") == '<a> & "b" ü'
    control = Taxonomy("control", (Category(3, "a\rb", "thing"),))
    export_voc(written(tmp_path / "cr", boxed(1, 1, 5, 5), taxonomy=control), tmp_path / "cr-out")
    root = ElementTree.parse(tmp_path / "cr-out" / "Annotations" / "street" / "a.xml").getroot()
    assert root.findtext("object/name") == "a\rb"
    bad = Taxonomy("bad", (Category(3, "a\x01b", "thing"),))
    data = written(tmp_path / "bad", boxed(1, 1, 5, 5), taxonomy=bad)
    with pytest.raises(InputError, match="rename the class with `segkit relabel`"):
        export_voc(data, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_hint_for_a_file_name_is_not_to_relabel(tmp_path: Path) -> None:
    data = written(tmp_path, boxed(1, 1, 5, 5), file_name="a\x1bb.jpg")
    for export in (export_voc, export_cvat):
        with pytest.raises(InputError, match=r"image 7: the file name .* does not allow") as caught:
            export(data, tmp_path / "out")
        assert "relabel" not in str(caught.value)


def test_supervision_reads_the_same_boxes(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    data = written(tmp_path, boxed(0.0, 0.0, 32.0, 24.0), boxed(3.0, 4.0, 7.0, 9.0))
    export_voc(data, tmp_path / "out", images=True)
    folder = tmp_path / "out"
    theirs = sv.DetectionDataset.from_pascal_voc(
        str(folder / "JPEGImages" / "street"), str(folder / "Annotations" / "street")
    )
    ((_, _, detections),) = list(theirs)
    assert detections.xyxy.tolist() == [[0, 0, 32, 24], [3, 4, 10, 13]]
