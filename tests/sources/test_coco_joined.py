"""Joins of scenes of stacked rectangles.

Their visible parts are the panoptic file, the full rectangles the instances file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.export.coco import export_instances, export_panoptic
from segkit.masks import rle
from segkit.shards.consistency import check_sample
from segkit.shards.validate import validate
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.coco_joined import open_coco_joined
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import ConvertOptions, convert
from tests.sources.builders import (
    CATEGORIES,
    HEIGHT,
    WIDTH,
    codes,
    dry_run,
    id_png,
    picture,
    samples,
    tight_box,
    write_json,
)

GROUND, THINGS, FIRST = 500, 5, 1000


def scene(root: Path, images: int = 3, seed: int = 0) -> dict[str, Any]:
    """Write both files; returns the instances JSON. Later rectangles may hide earlier ones."""
    rng = np.random.default_rng(seed)
    panoptic: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
    instances: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3, "name": "blob"}],
    }
    for image in range(images):
        ids = np.full((HEIGHT, WIDTH), GROUND)
        for place in range(THINGS):
            x, y = int(rng.integers(0, WIDTH - 14)), int(rng.integers(0, HEIGHT - 14))
            w, h = (int(side) for side in rng.integers(4, 14, 2))
            ids[y : y + h, x : x + w] = place + 1
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            instances["annotations"].append(
                {
                    "id": FIRST + THINGS * image + place,
                    "image_id": image,
                    "category_id": 3,
                    "iscrowd": 0,
                    "segmentation": polygon,
                }
            )
        infos = [
            {
                "id": int(i),
                "category_id": 7 if i == GROUND else 3,
                "area": int((ids == i).sum()),
                "iscrowd": 0,
            }
            | {"bbox": tight_box(ids == i)}
            for i in np.unique(ids)
        ]
        record = {"id": image, "file_name": f"{image}.png", "width": WIDTH, "height": HEIGHT}
        picture(root / "images" / f"{image}.png", seed=image)
        id_png(root / "panoptic" / f"{image}.png", ids)
        panoptic["images"].append(record)
        instances["images"].append(record)
        panoptic["annotations"].append(
            {"image_id": image, "file_name": f"{image}.png", "segments_info": infos}
        )
    write_json(root / "panoptic.json", panoptic)
    write_json(root / "instances.json", instances)
    return instances


def opened(root: Path) -> Any:
    return open_coco_joined(root / "panoptic.json", root / "instances.json", root / "images")


def plain(root: Path) -> Any:
    return open_coco_panoptic(root / "panoptic.json", root / "images")


@pytest.mark.parametrize("seed", range(8))
def test_visible_parts_find_their_rectangles(tmp_path: Path, seed: int) -> None:
    data = scene(tmp_path, seed=seed)
    texts = {str(a["id"]): a["segmentation"] for a in data["annotations"]}
    joined_count = 0
    for joined, panoptic_sample in zip(
        samples(opened(tmp_path)), samples(plain(tmp_path)), strict=True
    ):
        for segment, before in zip(joined.segments, panoptic_sample.segments, strict=True):
            assert (segment.mask, segment.area, segment.box) == (
                before.mask,
                before.area,
                before.box,
            )
            if segment.kind == "stuff":
                assert segment == before
                continue
            assert segment.source_id == str(
                FIRST + THINGS * int(joined.id) + int(before.source_id) - 1
            )
            assert json.loads(segment.source_polygon) == texts[segment.source_id]
            joined_count += 1
    report = dry_run(opened(tmp_path))
    hidden = len(texts) - joined_count
    assert report.ledger.annotations.warnings == {"joined": joined_count}
    assert codes(report) == ({"no-panoptic-segment": hidden} if hidden else {})
    assert report.ledger.annotations.kept == joined_count + 3
    assert not report.offenders


def change(root: Path, name: str, edit: Any) -> None:
    data = json.loads((root / name).read_text())
    edit(data)
    write_json(root / name, data)


def test_ids_that_agree_win_over_overlap_and_chance_ids_do_not(tmp_path: Path) -> None:
    """Two squares that swap: ids decide against overlap, but not for masks that share no pixel."""
    ids = np.full((HEIGHT, WIDTH), GROUND)
    ids[2:12, 2:12], ids[2:12, 8:18], ids[16:20, 2:6] = 1, 2, 3
    scene(tmp_path, 1)
    id_png(tmp_path / "panoptic" / "0.png", ids)
    infos = [{"id": i, "category_id": 7 if i == GROUND else 3} for i in (1, 2, 3, GROUND)]
    change(tmp_path, "panoptic.json", lambda d: d["annotations"][0].update(segments_info=infos))
    boxes = {1: (6, 2, 12, 10), 2: (2, 2, 16, 10), 3: (20, 2, 4, 4)}
    rows = [
        {
            "id": i,
            "image_id": 0,
            "category_id": 3,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for i, (x, y, w, h) in boxes.items()
    ]
    change(tmp_path, "instances.json", lambda d: d.update(annotations=rows))
    (sample,) = samples(opened(tmp_path))
    assert [s.source_id for s in sample.segments] == ["1", "2", "3", str(GROUND)]
    assert [s.source_polygon is not None for s in sample.segments] == [True, True, False, False]
    report = dry_run(opened(tmp_path))
    assert report.ledger.annotations.warnings == {"joined": 2, "no-instance": 1}
    assert codes(report) == {"no-panoptic-segment": 1}


def test_crowds_travel_with_their_run_lengths(tmp_path: Path) -> None:
    scene(tmp_path, 1)
    (before,) = samples(plain(tmp_path))
    thing = next(s for s in before.segments if s.kind == "thing")
    runs = {"size": [HEIGHT, WIDTH], "counts": rle.decompress(thing.mask).tolist()}
    row = {"id": 900100000139, "image_id": 0, "category_id": 3, "iscrowd": 1, "segmentation": runs}
    change(tmp_path, "instances.json", lambda d: d.update(annotations=[row]))
    report = convert(opened(tmp_path), tmp_path / "set", ConvertOptions(workers=1), arguments={})
    assert report.ledger.annotations.warnings == {"crowd-differs": 1, "joined": 1, "no-instance": 4}
    (sample,) = report.published.samples()
    (crowd,) = (s for s in sample.segments if s.is_crowd)
    assert (crowd.source_id, json.loads(crowd.source_polygon)) == ("900100000139", runs)
    export_instances(report.published, tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "instances_set.json").read_text())["annotations"]
    assert next(r for r in rows if r["iscrowd"])["segmentation"] == runs


def test_both_exports_of_a_joined_set(tmp_path: Path) -> None:
    """PNGs have the same regions and classes; every visible instance comes back verbatim."""
    data = scene(tmp_path)
    report = convert(opened(tmp_path), tmp_path / "set", ConvertOptions(workers=1), arguments={})
    published = report.published
    assert not [
        v
        for s in published.samples()
        for v in check_sample(s, published.taxonomy, published.manifest.kind)
    ]
    export_panoptic(published, tmp_path / "png")
    back = open_coco_panoptic(tmp_path / "png/panoptic_set.json", tmp_path / "images")
    for again, before in zip(samples(back), samples(plain(tmp_path)), strict=True):
        assert {(s.mask, s.class_id, s.is_crowd) for s in again.segments} == {
            (s.mask, s.class_id, s.is_crowd) for s in before.segments
        }
    export_instances(published, tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "instances_set.json").read_text())["annotations"]
    native = {row["id"]: row for row in data["annotations"]}
    for row in rows:
        assert row["segmentation"] == native[row["id"]]["segmentation"]
        assert row["area"] == rle.area(
            rle.from_polygons(row["segmentation"], HEIGHT, WIDTH), HEIGHT, WIDTH
        )
    hidden = native.keys() - {row["id"] for row in rows}
    lines = (published.path / "quarantine.jsonl").read_text().splitlines() if hidden else []
    assert {json.loads(line)["data"]["id"] for line in lines} == hidden


def test_a_polygon_of_two_points_beside_others_is_left_out_of_the_joined_record(
    tmp_path: Path,
) -> None:
    data = scene(tmp_path, 1)
    before = dry_run(opened(tmp_path)).ledger.annotations

    def damage(instances: Any) -> None:
        for row in instances["annotations"]:
            row["segmentation"].append([1, 1, 2, 2])

    change(tmp_path, "instances.json", damage)
    report = convert(opened(tmp_path), tmp_path / "set", ConvertOptions(workers=1))
    assert report.published is not None and not list(validate(report.published.path))
    ledger = report.ledger.annotations
    assert (ledger.kept, ledger.dropped) == (before.kept, before.dropped)
    assert ledger.warnings["degenerate-part"] == before.warnings["joined"] > 0
    native = {str(row["id"]): row["segmentation"] for row in data["annotations"]}
    polygons = {s.source_id: s.source_polygon for s in report.published.sample(0).segments}
    joined = {name: json.loads(text) for name, text in polygons.items() if text}
    assert joined == {name: native[name] for name in joined}


def test_images_that_only_one_file_lists(tmp_path: Path) -> None:
    scene(tmp_path, 3)
    change(tmp_path, "panoptic.json", lambda d: (d["images"].pop(0), d["annotations"].pop(0)))
    change(tmp_path, "instances.json", lambda d: d["images"].pop(2))
    report = dry_run(opened(tmp_path))
    assert report.ledger.images.model_dump() == {
        "input": 3,
        "kept": 2,
        "dropped": {"missing-mask": 1},
        "warnings": {"not-in-instances": 1},
    }
    assert report.ledger.annotations.dropped["missing-mask"] == THINGS
    assert report.ledger.annotations.dropped["unknown-image"] == THINGS


DEFECTS = {
    "duplicate-id": lambda d: d["annotations"][1].update(id=FIRST),
    "unknown-category": lambda d: d["annotations"][0].update(category_id=99),
    "degenerate-polygon": lambda d: d["annotations"][0].update(segmentation=[[1, 1, 2, 2]]),
    "mask-size-mismatch": lambda d: d["annotations"][0].update(
        segmentation={"size": [1, 1], "counts": [1]}
    ),
}


@pytest.mark.parametrize("code", DEFECTS)
def test_defects_of_instances_are_named_and_the_panoptic_label_stays(
    tmp_path: Path, code: str
) -> None:
    scene(tmp_path, 1)
    change(tmp_path, "instances.json", DEFECTS[code])
    report = dry_run(opened(tmp_path))
    assert report.ledger.annotations.dropped[code] == 1
    assert "instances.json" in report.defects[0].file
    assert report.ledger.annotations.kept == len(samples(plain(tmp_path))[0].segments)


def test_files_with_different_names_for_an_id_are_refused(tmp_path: Path) -> None:
    scene(tmp_path, 1)
    change(tmp_path, "instances.json", lambda d: d["categories"][0].update(name="cat"))
    with pytest.raises(
        InputError, match=r"instances\.json: category 3: is 'cat', but 'blob' in .*panoptic\.json"
    ):
        opened(tmp_path)


def test_a_file_of_the_other_type_is_reported_with_its_option(tmp_path: Path) -> None:
    scene(tmp_path, 2)
    panoptic, instances, images = (
        tmp_path / "panoptic.json",
        tmp_path / "instances.json",
        tmp_path / "images",
    )
    is_panoptic = (
        r"panoptic\.json: is a panoptic file, not an instances file "
        r".*segments_info.*coco --panoptic FILE"
    )
    is_instances = (
        r"instances\.json: is an instances file, not a panoptic file "
        r".*category_id.*coco --instances FILE"
    )
    with pytest.raises(InputError, match=is_panoptic):
        open_coco_instances(panoptic, images)
    with pytest.raises(InputError, match=is_instances):
        open_coco_panoptic(instances, images)
    with pytest.raises(InputError, match=is_instances):
        open_coco_joined(instances, panoptic, images)
    change(tmp_path, "panoptic.json", lambda data: data.update(images=data.pop("images")))
    assert panoptic.read_text().index('"annotations"') < panoptic.read_text().index('"images"')
    with pytest.raises(InputError, match=is_panoptic):
        open_coco_instances(panoptic, images)


def test_the_real_pair(real_data: Path) -> None:
    """Four validation images are in both files: 41 instances, all with an IoU over 0.6.

    They were counted with pycocotools.
    """
    folder = real_data / "coco" / "annotations"
    paths = (
        folder / "panoptic_val2017.json",
        folder / "instances_val2017.json",
        real_data / "coco" / "val2017",
    )
    report = dry_run(open_coco_joined(*paths), images_by="none", on_error="skip")
    assert report.ledger.annotations.warnings["joined"] == 41
    assert "no-panoptic-segment" not in report.ledger.annotations.dropped
    assert report.ledger.images.warnings == {"not-in-instances": 96}
    assert report.ledger.images.dropped == {"missing-mask": 101}
