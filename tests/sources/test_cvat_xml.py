"""Dumps of CVAT, written by hand from its public description of the format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sources import xml_files
from segkit.sources.cvat_xml import open_cvat

from .builders import HEIGHT, WIDTH, codes, dry_run, picture, samples

META = (
    "<meta><{owner}><id>1</id><labels>"
    "<label><name>cat</name><color>#fff</color><type>any</type><attributes/></label>"
    "<label><name>dog</name><attributes><attribute>@text=age:</attribute></attributes></label>"
    "<label><name>person</name><type>skeleton</type><svg>&lt;line /&gt;</svg></label>"
    "<label><name>nose</name><type>points</type><parent>person</parent></label>"
    "</labels></{owner}><dumped>2024</dumped></meta>"
)


def dump(
    root: Path,
    *shapes: str,
    name: str = "a.jpg",
    owner: str = "task",
    head: str = "",
    size: Any = None,
) -> Path:
    """annotations.xml with one image."""
    picture(root / "images" / name)
    width, height = size or (WIDTH, HEIGHT)
    image = (
        f'<image id="0" name="{name}" width="{width}" height="{height}">{"".join(shapes)}</image>'
    )
    path = root / "annotations.xml"
    meta = META.format(owner=owner)
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?>{head}<annotations><version>1.1</version>{meta}'
        f"{image}</annotations>",
        "utf-8",
    )
    return path


def opened(path: Path, **options: bool) -> Any:
    return open_cvat(path, path.parent / "images", **options)


def box(x0: float, y0: float, x1: float, y1: float, label: str = "cat", **more: object) -> str:
    extra = "".join(f' {key}="{value}"' for key, value in more.items())
    corners = f'xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}"'
    return f'<box label="{label}" occluded="1" {corners}{extra}></box>'


def polygon(points: list[tuple[float, float]], label: str = "dog", group: int = 0) -> str:
    text = ";".join(f"{x},{y}" for x, y in points)
    return f'<polygon label="{label}" points="{text}" group_id="{group}" z_order="0"/>'


def mask_element(mask: np.ndarray, left: int, top: int, label: str = "cat") -> str:
    """Counts of zeros and ones, in turn, over the rows of the box, one by one."""
    runs, value = [0], False
    for pixel in mask.reshape(-1).tolist():
        if bool(pixel) != value:
            runs.append(0)
            value = not value
        runs[-1] += 1
    height, width = mask.shape
    return (
        f'<mask label="{label}" rle="{", ".join(map(str, runs))}" left="{left}" top="{top}" '
        f'width="{width}" height="{height}"/>'
    )


def mask_text(rle_text: str, side: int = 2) -> str:
    place = f'left="0" top="0" width="{side}" height="{side}"'
    return f'<mask label="cat" rle="{rle_text}" {place}/>'


def drawn(segment: Any) -> np.ndarray:
    return rle.decode(segment.mask, HEIGHT, WIDTH)


def truth_of(*rings: list[tuple[float, float]]) -> np.ndarray:
    flat = [[float(v) for point in ring for v in point] for ring in rings]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, HEIGHT, WIDTH))) > 0


@pytest.mark.parametrize("owner", ["task", "job", "project"])
def test_boxes_polygons_and_masks(tmp_path: Path, owner: str) -> None:
    ring = [(3.5, 2.0), (20.25, 4.0), (10.0, 20.5)]
    crop = np.random.default_rng(0).random((5, 7)) > 0.4
    shapes = (box(1, 2.5, 10, 12), polygon(ring), mask_element(crop, 4, 6))
    source = opened(dump(tmp_path, *shapes, owner=owner))
    (sample,) = samples(source)
    first, second, third = sample.segments
    assert source.taxonomy.names == ("cat", "dog", "person")
    assert (first.box, first.mask, first.ignore) == ((1, 2.5, 9, 9.5), None, False)
    assert np.array_equal(drawn(second), truth_of(ring))
    whole = np.zeros((HEIGHT, WIDTH), bool)
    whole[6:11, 4:11] = crop
    assert np.array_equal(drawn(third), whole)
    report = dry_run(source)
    assert (report.ledger.annotations.kept, source.kind) == (3, "instance")
    assert sample.id == "a"


def test_masks_reach_beyond_the_image(tmp_path: Path) -> None:
    crop = np.ones((6, 6), bool)
    (sample,) = samples(opened(dump(tmp_path, mask_element(crop, -2, HEIGHT - 3))))
    whole = np.zeros((HEIGHT, WIDTH), bool)
    whole[HEIGHT - 3 :, :4] = True
    assert np.array_equal(drawn(sample.segments[0]), whole)


def test_rotated_boxes_turn_clockwise_around_their_center(tmp_path: Path) -> None:
    source = opened(
        dump(tmp_path, box(10, 10, 18, 14, rotation="90.00"), box(0, 0, 10, 10, rotation=45))
    )
    upright, diamond = samples(source)[0].segments
    assert upright.box == pytest.approx((12, 8, 4, 8))
    half = 5 * 2**0.5
    assert diamond.box == pytest.approx((5 - half, 5 - half, 2 * half, 2 * half))
    assert (upright.mask, source.kind) == (None, "boxes")
    warnings = dry_run(source).ledger.annotations.warnings
    assert warnings["rotated-box"] == 2


def test_ellipses_are_close_to_their_equation(tmp_path: Path) -> None:
    shape = '<ellipse label="cat" cx="15.3" cy="11.8" rx="9.5" ry="5.25" rotation="30"/>'
    (segment,) = samples(opened(dump(tmp_path, shape)))[0].segments
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    angle = np.radians(30)
    u = (x - 15.3) * np.cos(angle) + (y - 11.8) * np.sin(angle)
    v = -(x - 15.3) * np.sin(angle) + (y - 11.8) * np.cos(angle)
    level = (u / 9.5) ** 2 + (v / 5.25) ** 2
    mask = drawn(segment)
    assert mask[level < 0.8].all() and not mask[level > 1.25].any()
    assert segment.area == pytest.approx(np.pi * 9.5 * 5.25, rel=0.03)


def test_groups_are_objects_of_several_parts(tmp_path: Path) -> None:
    left, right = [(1, 1), (6, 1), (6, 9)], [(20, 1), (28, 1), (28, 9)]
    shapes = (
        polygon(left, group=3),
        box(1, 1, 9, 9, group_id=3),
        polygon(right, group=3),
        polygon(right, group=4),
        polygon(right, "cat", group=3),
    )
    source = opened(dump(tmp_path, *shapes))
    joined, *others = samples(source)[0].segments
    assert np.array_equal(drawn(joined), truth_of(left, right))
    assert len(others) == 3
    count = dry_run(source).ledger.annotations
    assert (count.input, count.kept, count.warnings["joined-parts"]) == (4, 4, 1)


def test_a_group_is_kept_without_its_part_of_two_points(tmp_path: Path) -> None:
    left, right = [(1, 1), (6, 1), (6, 9)], [(20, 1), (28, 1), (28, 9)]
    point = [(12, 12), (13, 13)]
    shapes = (polygon(point, group=3), polygon(left, group=3), polygon(right, group=3))
    source = opened(dump(tmp_path, *shapes, polygon(point, group=4), polygon(point, group=4)))
    (segment,) = samples(source)[0].segments
    assert np.array_equal(drawn(segment), truth_of(left, right))
    assert len(json.loads(segment.source_polygon)) == 2
    report = dry_run(source)
    assert codes(report) == {"degenerate-polygon": 1}
    assert report.ledger.annotations.warnings == {"degenerate-part": 1, "joined-parts": 3}
    (sample,) = samples(opened(dump(tmp_path, *shapes)))
    assert sample.exhaustive


def test_shapes_without_pixels_are_counted(tmp_path: Path) -> None:
    shapes = (
        '<polyline label="cat" points="1,1;2,2"/>',
        '<points label="nose" points="1,1"/>',
        '<cuboid label="cat" xtl1="1"/>',
        '<skeleton label="person"><points label="nose" points="1,1"/></skeleton>',
        '<tag label="cat" source="manual"></tag>',
        box(1, 1, 5, 5),
    )
    report = dry_run(opened(dump(tmp_path, *shapes)))
    assert (codes(report), report.offenders) == ({"unsupported-shape": 5}, 0)
    assert report.ledger.annotations.kept == 1


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        (box(5, 5, 5, 9), "degenerate-box"),
        (box(9, 9, 5, 5), "degenerate-box"),
        (box("x", 1, 5, 5), "malformed-annotation"),
        ('<box label="cat" xtl="1"/>', "malformed-annotation"),
        (box(1, 1, 5, 5, label="cow"), "unknown-category"),
        (polygon([(1, 1), (5, 5)]), "degenerate-polygon"),
        ('<polygon label="cat" points="1,2,3;4"/>', "malformed-annotation"),
        ('<polygon label="cat" points="1,nan;4,5;6,7"/>', "malformed-annotation"),
        ('<polygon label="cat"/>', "degenerate-polygon"),
        (polygon([(1e8, 1), (2, 2), (3, 1e8)]), "malformed-annotation"),
        (polygon([(40, 40), (50, 40), (50, 50)]), "empty-mask"),
        (mask_text("1, 2"), "malformed-annotation"),
        (mask_text("-4, 8"), "malformed-annotation"),
        (mask_text("4"), "empty-mask"),
        (mask_text("x"), "malformed-annotation"),
        (mask_text("1", side=99999999), "malformed-annotation"),
        (mask_text("99999999999999999999"), "malformed-annotation"),
        ('<ellipse label="cat" cx="1" cy="1" rx="0" ry="1"/>', "empty-mask"),
    ],
)
def test_shapes_that_cannot_be_kept(tmp_path: Path, shape: str, code: str) -> None:
    report = dry_run(opened(dump(tmp_path, box(1, 1, 5, 5), shape)))
    assert (codes(report), report.ledger.annotations.kept) == ({code: 1}, 1)
    assert report.defects[0].record.endswith("2 of image a")


def test_thin_polygons_keep_the_pixels_on_their_edge(tmp_path: Path) -> None:
    source = opened(dump(tmp_path, polygon([(3.2, 5.1), (9.4, 5.2), (3.2, 5.3)])))
    (segment,) = samples(source)[0].segments
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[5, 3:10] = True
    assert np.array_equal(drawn(segment), expected)
    assert dry_run(source).ledger.annotations.warnings == {"thin-polygon": 1}


def test_images_in_folders_and_missing_ones(tmp_path: Path) -> None:
    path = dump(tmp_path, box(1, 1, 5, 5), name="sub/a b.JPG")
    assert dry_run(opened(path)).ledger.images.kept == 1
    assert dry_run(open_cvat(path, tmp_path)).ledger.images.kept == 1
    (tmp_path / "images" / "sub" / "a b.JPG").unlink()
    assert codes(dry_run(opened(path))) == {"missing-image": 2 - 1}
    path = dump(tmp_path, box(1, 1, 5, 5))
    path.write_text(path.read_text().replace('name="a.jpg"', 'name="/share/2024/a.jpg"'))
    assert [s.file_name for s in samples(opened(path))] == ["images/share/2024/a.jpg"]
    assert dry_run(opened(path)).ledger.images.kept == 1
    path.write_text(path.read_text().replace("/share", "../share"))
    assert codes(dry_run(opened(path))) == {"unsafe-path": 1}
    path.write_text(path.read_text().replace('name="../share/2024/a.jpg"', ""))
    assert codes(dry_run(opened(path))) == {"malformed-image": 1}
    path = dump(tmp_path, box(1, 1, 5, 5), size=(10, 10))
    assert codes(dry_run(opened(path))) == {"size-mismatch": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><version>1.1</version></annotations>", "has no images"),
        ("<annotations><image/></annotations>", "has no list of labels"),
        ("<annotations><track id='0'/><track/></annotations>", "2 tracks.*CVAT for images 1.1"),
        ("<annotation><object/></annotation>", "is an annotation file of Pascal VOC.*voc-boxes"),
        ("<html><body/></html>", "its root is <html>"),
        ('{"images": [], "annotations": []}', "is a COCO file.*segkit convert coco"),
        ("<annotations><image></annotations>", "not XML"),
        ("<annotations><image>", "not XML"),
        ("plain text", "not XML"),
        ('<!DOCTYPE a [<!ENTITY a "aa">]><annotations/>', "document type"),
        ("<annotations>" + "<a>" * 200, "nested too deeply"),
    ],
)
def test_refused_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        open_cvat(path, tmp_path)


def test_a_huge_element_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_files, "MAX_ELEMENT_BYTES", 1 << 20)
    path = dump(tmp_path, f"<a>{'x' * (2 << 20)}</a>")
    with pytest.raises(InputError, match="more than 1 MiB"):
        opened(path)


def test_many_images_take_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "annotations.xml"
    shapes = "".join(polygon([(n, 1), (n + 3, 4), (n, 9)]) for n in range(20))
    with path.open("w") as file:
        file.write(f"<annotations>{META.format(owner='task')}")
        for n in range(4000):
            file.write(f'<image id="{n}" name="{n}.jpg" width="32" height="24">{shapes}</image>')
        file.write("</annotations>")
    tracemalloc.start()
    source = open_cvat(path, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20 < path.stat().st_size / 2
    assert source.kind == "instance"
