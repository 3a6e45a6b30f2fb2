from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sources.ade import open_ade
from segkit.taxonomy import load_taxonomy

from .builders import HEIGHT, WIDTH, codes, dry_run, picture, samples

WALL, BED, PERSON, RED_BED, RED_PERSON = 1, 8, 13, 1, 4


def ade_set(
    root: Path, semantic: NDArray[np.uint8], red: NDArray[np.uint8], green: NDArray[np.uint8]
) -> Path:
    picture(root / "images" / "training" / "a.jpg")
    for folder, pixels in {
        "annotations": semantic,
        "annotations_instance": np.stack([red, green, np.zeros_like(red)], axis=-1),
    }.items():
        (root / folder / "training").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / folder / "training" / "a.png")
    return root


def blank() -> NDArray[np.uint8]:
    return np.zeros((HEIGHT, WIDTH), np.uint8)


def test_classes_are_1_to_150_and_0_is_void(tmp_path: Path) -> None:
    semantic = blank()
    semantic[:5], semantic[5:9, :7] = WALL, 150
    (sample,) = samples(open_ade(ade_set(tmp_path, semantic, blank(), blank()), "training"))
    assert [(s.class_id, s.area, s.kind) for s in sample.segments] == [
        (1, 5 * WIDTH, "stuff"),
        (150, 28, "thing"),
    ]
    assert (rle.decode(sample.void, HEIGHT, WIDTH) == (semantic == 0)).all()


def test_instances_join_and_what_they_leave_of_a_thing_is_a_crowd(tmp_path: Path) -> None:
    semantic, red, green = blank(), blank(), blank()
    semantic[:10], semantic[10:20] = WALL, PERSON
    red[10:20, 0:5], green[10:20, 0:5] = RED_PERSON, 1
    red[10:20, 5:8], green[10:20, 5:8] = RED_PERSON, 2
    red[0:2, 0:2], green[0:2, 0:2] = RED_BED, 3  # on pixels that the semantic map calls wall
    root = ade_set(tmp_path, semantic, red, green)
    source = open_ade(root, "training", instances=True)
    (sample,) = samples(source)
    segments = {s.source_id: s for s in sample.segments}
    assert source.kind == "panoptic"
    assert segments.keys() == {"1", "13", "4:1", "4:2", "1:3"}
    assert (segments["13"].class_id, segments["13"].is_crowd, segments["13"].kind) == (
        PERSON,
        True,
        "thing",
    )
    assert (
        rle.decode(segments["13"].mask, HEIGHT, WIDTH) == ((semantic == PERSON) & (red == 0))
    ).all()
    assert (rle.decode(segments["4:2"].mask, HEIGHT, WIDTH) == (green == 2)).all()
    assert (segments["4:2"].class_id, segments["4:2"].is_crowd, segments["4:2"].box) == (
        PERSON,
        False,
        (5, 10, 3, 10),
    )
    assert (segments["1:3"].class_id, segments["1:3"].area) == (BED, 4)
    assert segments["1"].area == 10 * WIDTH - 4  # counted after the join
    covered = sum(rle.decode(s.mask, HEIGHT, WIDTH).astype(int) for s in sample.segments)
    covered += rle.decode(sample.void, HEIGHT, WIDTH)
    assert (covered == 1).all()
    ledger = dry_run(source).ledger
    assert (ledger.annotations.input, ledger.annotations.kept) == (5, 5)
    assert ledger.annotations.warnings == {"instance-class-differs": 1}


def test_a_region_under_instances_of_another_class_is_counted_and_does_not_fail(
    tmp_path: Path,
) -> None:
    semantic, red, green = blank(), blank(), blank()
    semantic[:4, :4] = WALL
    red[:4, :4], green[:4, :4] = RED_BED, 1
    report = dry_run(open_ade(ade_set(tmp_path, semantic, red, green), "training", instances=True))
    assert report.ledger.annotations.dropped == {"covered-by-instance": 1}
    assert (report.ledger.annotations.input, report.ledger.annotations.kept) == (2, 1)
    assert not report.defects


def test_numbers_beyond_the_lists_are_defects(tmp_path: Path) -> None:
    semantic, red, green = blank(), blank(), blank()
    semantic[:4], red[20, :3], green[20, :3] = 151, 101, 1
    root = ade_set(tmp_path, semantic, red, green)
    assert codes(dry_run(open_ade(root, "training"))) == {"unknown-category": 1}
    report = dry_run(open_ade(root, "training", instances=True))
    assert codes(report) == {"unknown-category": 2}
    assert {d.class_name for d in report.defects} == {"category 151", "thing 101"}
    (sample,) = samples(open_ade(root, "training", instances=True))
    assert rle.area(sample.void, HEIGHT, WIDTH) == HEIGHT * WIDTH


def test_the_hundred_things_are_the_things_of_the_150_in_order(real_data: Path) -> None:
    import json

    listed = json.loads(
        (real_data / "class_lists" / "ade150_categories_with_things.json").read_text()
    )
    class_by_number = {c["instance100_id"]: c["id"] for c in listed if c["instance100_id"]}
    things = [c.id for c in load_taxonomy("ade20k-150").categories if c.kind == "thing"]
    assert dict(enumerate(things, start=1)) == class_by_number


def test_the_full_release_and_other_folders_are_distinguished(tmp_path: Path) -> None:
    full = tmp_path / "ADE20K_2021_17_01"
    (full / "images" / "ADE" / "training").mkdir(parents=True)
    (full / "index_ade20k.pkl").touch()
    for root in (full, tmp_path):
        with pytest.raises(InputError, match=r"full ADE20K release.*ADEChallengeData2016.zip"):
            open_ade(root, "training")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not contain the folders images/ and annotations/"):
        open_ade(tmp_path / "empty", "training")
    with pytest.raises(InputError, match="--split training or validation"):
        open_ade(full, "train")


def test_missing_instances_name_what_to_get(tmp_path: Path) -> None:
    root = ade_set(tmp_path, blank(), blank(), blank())
    (root / "annotations_instance").rename(root / "away")
    with pytest.raises(InputError, match="annotations_instance"):
        open_ade(root, "training", instances=True)


def test_real_images_keep_every_pixel_of_both_maps(real_data: Path) -> None:
    root = real_data / "ade" / "ADEChallengeData2016"
    things = {
        k: c.id
        for k, c in enumerate(
            (c for c in load_taxonomy("ade20k-150").categories if c.kind == "thing"), 1
        )
    }
    for sample in samples(open_ade(root, "training", instances=True)):
        semantic = np.asarray(
            Image.open(root / "annotations" / "training" / f"{sample.id}.png")
        ).astype(int)
        rgb = np.asarray(
            Image.open(root / "annotations_instance" / "training" / f"{sample.id}.png")
        ).astype(int)
        classes, numbers = semantic.copy(), np.zeros_like(semantic)
        for red, green in {(int(r), int(g)) for r, g in rgb[..., :2].reshape(-1, 2) if r}:
            inside = (rgb[..., 0] == red) & (rgb[..., 1] == green)
            classes[inside], numbers[inside] = things[red], red * 1000 + green
        painted = rle.paint([(s.class_id, s.mask) for s in sample.segments], *semantic.shape)
        assert (painted == classes).all()
        instances = [s for s in sample.segments if ":" in (s.source_id or "")]
        assert len(instances) == len(np.unique(numbers)) - 1
        for segment in instances:
            red, green = map(int, segment.source_id.split(":"))
            assert (
                rle.decode(segment.mask, *semantic.shape) == (numbers == red * 1000 + green)
            ).all()
