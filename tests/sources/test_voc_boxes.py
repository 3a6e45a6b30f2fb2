"""Pascal VOC XML: VOC's own, labelImg's, Roboflow's, and damaged or hostile files."""

from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sources.voc_boxes import open_voc_boxes

from .builders import HEIGHT, WIDTH, codes, dry_run, picture, samples

BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


def entry(name: str, *corners: object, extra: str = "") -> str:
    box = BOX.format(*corners) if corners else ""
    return f"<object><name>{name}</name>{extra}{box}</object>"


def write(
    root: Path,
    stem: str,
    *objects: str,
    filename: str | None = None,
    image: str = ".jpg",
    **text: str,
) -> Path:
    """An image and its XML file, in the folders of VOC."""
    if image:
        picture(root / "JPEGImages" / f"{stem}{image}")
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    path = root / "Annotations" / f"{stem}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f"<filename>{stem}.jpg</filename>" if filename is None else filename
    body = f"{name}{text.get('size', size)}{''.join(objects)}"
    path.write_text(f"{text.get('head', '')}<annotation>{body}</annotation>", "utf-8")
    return root


def opened(root: Path, **options: object):
    return open_voc_boxes(root / "Annotations", root / "JPEGImages", **options)


def test_boxes_count_pixels_from_1(tmp_path: Path) -> None:
    write(tmp_path, "a", entry("cat", 1, 1, WIDTH, HEIGHT), entry("dog", 5, 6, 5, 6))
    source = opened(tmp_path)
    (sample,) = samples(source)
    assert [s.box for s in sample.segments] == [(0, 0, WIDTH, HEIGHT), (4, 5, 1, 1)]
    assert [s.class_id for s in sample.segments] == [8, 12]
    assert (source.kind, source.taxonomy.name, source.notes) == ("boxes", "voc-20", ())


def test_zero_based_boxes_are_noted(tmp_path: Path) -> None:
    write(tmp_path, "a", entry("part", 0, 0.0, WIDTH, HEIGHT), entry("part", 10, 6, 12, 9))
    assert "--zero-based" in dry_run(opened(tmp_path)).notes[0]
    (sample,) = samples(opened(tmp_path, zero_based=True))
    assert [s.box for s in sample.segments] == [(0, 0, WIDTH, HEIGHT), (10, 6, 2, 3)]


def test_every_way_to_write_zero_is_noted(tmp_path: Path) -> None:
    write(tmp_path, "a", entry("part", 10, "-3", 12, 9), entry("part", "x", 0.5, 12, 9))
    assert not opened(tmp_path).notes
    zeros = ("0", "0.0", "-0", " 0.00 ", "0e0")
    write(tmp_path, "b", *(entry("part", 3, zero, 9, 9) for zero in zeros))
    assert opened(tmp_path).notes[0].startswith("5 boxes begin at 0")


def test_flags_parts_and_what_is_not_kept(tmp_path: Path) -> None:
    flags = "<pose>Left</pose><truncated>1</truncated><occluded>1</occluded>"
    part = "<part><name>head</name>" + BOX.format(2, 2, 4, 4) + "</part>"
    write(
        tmp_path,
        "a",
        entry("person", 1, 1, 9, 9, extra=flags + part),
        entry("person", 1, 1, 9, 9, extra="<difficult>1</difficult>"),
    )
    source = opened(tmp_path)
    (sample,) = samples(source)
    assert [s.ignore for s in sample.segments] == [False, True]
    report = dry_run(source)
    assert (codes(report), report.offenders) == ({"unsupported-shape": 1}, 0)
    assert report.ledger.per_class["head"].input == 1
    assert report.ledger.annotations.warnings == {"exact-duplicate": 1}


def test_rotated_boxes_and_polygons(tmp_path: Path) -> None:
    rotated = (
        "<robndbox><cx>16</cx><cy>12</cy><w>8</w><h>4</h>"
        "<angle>1.5707963267948966</angle></robndbox>"
    )
    ring = [4, 4, 12, 5, 10, 15]
    points = "".join(
        f"<{axis}{n // 2 + 1}>{value + 1}</{axis}{n // 2 + 1}>"
        for n, value in enumerate(ring)
        for axis in "xy"[n % 2]
    )
    write(
        tmp_path,
        "a",
        entry("ship", extra=rotated),
        entry("ship", 5, 5, 13, 16, extra=f"<polygon>{points}</polygon>"),
    )
    source = opened(tmp_path)
    box, polygon = samples(source)[0].segments
    assert box.box == pytest.approx((14, 8, 4, 8))
    truth = coco_mask.decode(coco_mask.frPyObjects([list(map(float, ring))], HEIGHT, WIDTH))[..., 0]
    assert np.array_equal(rle.decode(polygon.mask, HEIGHT, WIDTH), truth)
    warnings = dry_run(source).ledger.annotations.warnings
    assert (source.kind, warnings) == ("instance", {"no-mask": 1, "rotated-box": 1})


def test_images_are_paired_by_path_then_by_name(tmp_path: Path) -> None:
    write(tmp_path, "sub/a", entry("x", 1, 1, 5, 5))
    write(tmp_path, "b", entry("x", 1, 1, 5, 5), image=".PNG")
    write(tmp_path, "c", entry("x", 1, 1, 5, 5), filename="<filename>other.jpg</filename>")
    write(tmp_path, "d", entry("x", 1, 1, 5, 5), image="", filename="<filename>z/e.jpg</filename>")
    picture(tmp_path / "JPEGImages" / "z" / "e.jpg")
    picture(tmp_path / "JPEGImages" / "bare.jpg")
    (tmp_path / "JPEGImages" / "sub" / "a.jpg").rename(tmp_path / "JPEGImages" / "a.jpg")
    report = dry_run(opened(tmp_path))
    assert report.ledger.images.dropped == {"not-annotated": 1}
    assert report.ledger.images.warnings == {"file-name-differs": 1}
    assert (report.ledger.annotations.kept, report.offenders) == (4, 0)


def test_an_xml_file_that_names_the_image_of_another_one_does_not_share_it(
    tmp_path: Path,
) -> None:
    stale = "<filename>b.jpg</filename>"
    for folder in ("", "sub/"):
        write(tmp_path, f"{folder}a", entry("x", 1, 1, 5, 5), image="", filename=stale)
        write(tmp_path, f"{folder}b", entry("x", 1, 1, 5, 5), filename=stale)
    report = dry_run(opened(tmp_path))
    assert (report.ledger.images.kept, report.ledger.images.dropped) == (2, {"missing-image": 2})
    assert [(defect.record, defect.message.partition("and ")[2]) for defect in report.defects] == [
        ("image a", "b.jpg is that of image b"),
        ("image sub/a", "sub/b.jpg is that of image sub/b"),
    ]


def test_xml_files_that_are_named_apart_from_their_images(tmp_path: Path) -> None:
    for number in (1, 2):
        name = f"<filename>photo{number}.jpg</filename>"
        write(tmp_path, f"{number}", entry("x", 1, 1, 5, 5), image="", filename=name)
        picture(tmp_path / "JPEGImages" / f"photo{number}.jpg")
    source = opened(tmp_path)
    assert [sample.file_name for sample in samples(source)] == ["photo1.jpg", "photo2.jpg"]


def test_lists_and_labels(tmp_path: Path) -> None:
    for stem in ("a", "b", "c"):
        write(tmp_path, stem, entry("x", 1, 1, 5, 5))
    (tmp_path / "list.txt").write_text("a  1\nb -1\n\nc\n")
    (tmp_path / "labels.txt").write_text("7 y\n9 x\n")
    source = opened(tmp_path, listed=tmp_path / "list.txt", labels=tmp_path / "labels.txt")
    assert [(s.id, s.segments[0].class_id) for s in samples(source)] == [("a", 9), ("c", 9)]
    (tmp_path / "list.txt").write_text("none\n")
    with pytest.raises(InputError, match="lists no XML file"):
        opened(tmp_path, listed=tmp_path / "list.txt")
    (tmp_path / "labels.txt").write_text("y\n")
    assert codes(dry_run(opened(tmp_path, labels=tmp_path / "labels.txt"))) == {
        "unknown-category": 3
    }


def test_names_with_blanks_in_lists(tmp_path: Path) -> None:
    for name in ("photo 1", "photo", "photo -1", "in/a b", "v1.5 c", "d"):
        write(tmp_path, name, entry("x", 1, 1, 5, 5))
    lines = {
        "photo 1\n": ["photo 1"],
        "photo 1 1\nphoto -1": ["photo -1", "photo 1"],
        "photo\t 1\nphoto 1  -1\n": ["photo"],
        "a b 0\r\nv1.5 c\n": ["in/a b", "v1.5 c"],
        "in/a b.jpg\nphoto 1.JPG\nd.xml 1\n": ["d", "in/a b", "photo 1"],
    }
    for text, expected in lines.items():
        (tmp_path / "list.txt").write_text(text)
        source = opened(tmp_path, listed=tmp_path / "list.txt")
        assert [(s.id, len(s.segments)) for s in samples(source)] == [(n, 1) for n in expected]


@pytest.mark.parametrize("line", ["phot", "photo 2", "../photo", "/photo", "photo 1 2 3"])
def test_a_name_in_a_list_that_no_file_has_is_a_missing_image(tmp_path: Path, line: str) -> None:
    write(tmp_path, "photo", entry("x", 1, 1, 5, 5))
    (tmp_path / "list.txt").write_text(f"photo\n{line}\nother -1\n")
    report = dry_run(opened(tmp_path, listed=tmp_path / "list.txt"))
    assert (report.ledger.images.input, report.ledger.images.kept) == (2, 1)
    assert (report.ledger.images.dropped, report.offenders) == ({"missing-image": 1}, 1)


@pytest.mark.parametrize(
    ("objects", "code"),
    [
        (entry("x", 9, 9, 5, 5), "degenerate-box"),
        (entry("x", 1, 1, "nan", 5), "malformed-annotation"),
        (entry("x", 1, "", 5, 5), "malformed-annotation"),
        (entry("x"), "malformed-annotation"),
        (entry("", 1, 1, 5, 5), "unknown-category"),
        (entry("x", 1, 1, "1e300", 5), "malformed-annotation"),
    ],
)
def test_objects_that_cannot_be_kept(tmp_path: Path, objects: str, code: str) -> None:
    write(tmp_path, "a", entry("x", 1, 1, 5, 5), objects)
    report = dry_run(opened(tmp_path))
    assert (codes(report), report.ledger.annotations.kept) == ({code: 1}, 1)
    assert report.defects[0].record == "object 2 of image a"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<annotation><object></annotation>",
        b"<annotation>\xff\xfe</annotation>",
        b"<root/>",
        b'<?xml version="1.0" encoding="no-such"?><annotation/>',
        b'<!DOCTYPE a [<!ENTITY b "bbb">]><annotation><filename>&b;</filename></annotation>',
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>',
        b'<!DOCTYPE annotation SYSTEM "http://localhost/x.dtd"><annotation/>',
    ],
)
def test_damaged_and_hostile_files(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, "a", entry("x", 1, 1, 5, 5))
    write(tmp_path, "b")
    (tmp_path / "Annotations" / "b.xml").write_bytes(content)
    report = dry_run(opened(tmp_path))
    assert (codes(report), report.ledger.images.kept) == ({"unreadable-annotations": 1}, 1)
    assert report.defects[0].file.endswith("b.xml")


def test_deep_nesting_is_read_without_recursion(tmp_path: Path) -> None:
    deep = "<a>" * 50_000 + "</a>" * 50_000
    write(tmp_path, "a", entry("x", 1, 1, 5, 5, extra=deep), entry("x", 9, 9, 1, 1, extra=deep))
    assert codes(dry_run(opened(tmp_path))) == {"degenerate-box": 1}


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_sizes_that_files_do_not_state(tmp_path: Path, size: str) -> None:
    write(tmp_path, "a", entry("x", 1, 1, 5, 5), size=size)
    assert dry_run(opened(tmp_path)).ledger.annotations.kept == 1


def test_a_wrong_size_is_a_defect(tmp_path: Path) -> None:
    wrong = "<size><width>99</width><height>24</height></size>"
    write(tmp_path, "a", entry("x", 1, 1, 5, 5), size=wrong)
    assert codes(dry_run(opened(tmp_path))) == {"size-mismatch": 1}


def test_refused_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        opened(tmp_path)
    write(tmp_path, "a")
    with pytest.raises(InputError, match="; give `segkit convert voc-boxes --labels FILE`"):
        opened(tmp_path)
    with pytest.raises(InputError, match="is a file, not a folder"):
        open_voc_boxes(tmp_path / "Annotations" / "a.xml", tmp_path)


def test_other_encodings_and_bom(tmp_path: Path) -> None:
    write(tmp_path, "a", entry("Käfer", 1, 1, 5, 5))
    path = tmp_path / "Annotations" / "a.xml"
    text = path.read_text("utf-8")
    for encoding, head in (
        ("utf-8-sig", ""),
        ("utf-16", ""),
        ("latin-1", "latin-1"),
        ("cp1252", "cp1252"),
    ):
        declaration = f'<?xml version="1.0" encoding="{head}"?>' if head else ""
        path.write_bytes((declaration + text).encode(encoding))
        assert opened(tmp_path).taxonomy.names == ("Käfer",), encoding


def test_supervision_reads_the_same_boxes(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    rng = np.random.default_rng(1)
    for stem in ("a", "b", "c"):
        low, size = rng.integers(1, 10, (4, 2)), rng.integers(1, 9, (4, 2))
        write(
            tmp_path,
            stem,
            *(entry(f"c{n % 2}", *low[n], *(low[n] + size[n])) for n in range(4)),
        )
    theirs = sv.DetectionDataset.from_pascal_voc(
        str(tmp_path / "JPEGImages"), str(tmp_path / "Annotations")
    )
    ours = {sample.id: sample for sample in samples(opened(tmp_path))}
    for path, _, detections in theirs:
        boxes = [
            (x, y, x + w, y + h) for x, y, w, h in (s.box for s in ours[Path(path).stem].segments)
        ]
        assert np.array_equal(detections.xyxy, boxes)
