from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sources.index_masks import pair_masks
from segkit.sources.semantic_masks import open_semantic
from segkit.taxonomy import load_taxonomy

from .builders import HEIGHT, WIDTH, codes, dry_run, label_map, picture, samples


def semantic_set(
    root: Path, ids: tuple[int, ...], labels: str, *, count: int = 2, dtype: type = np.uint8
) -> list[Any]:
    maps = []
    for number in range(count):
        picture(root / "images" / f"s{number}.jpg", seed=number)
        maps.append(label_map(number, ids).astype(dtype))
        (root / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(root / "masks" / f"s{number}.png"), maps[-1])
    (root / "labels.txt").write_text(labels, "utf-8")
    return maps


def opened(root: Path, **options: Any) -> Any:
    return open_semantic(root / "images", root / "masks", root / "labels.txt", **options)


@pytest.mark.parametrize(
    ("ids", "labels", "options", "dtype"),
    [
        ((255, 0, 1, 2), "sky\nroad\n\n# note\nold car\n", {"ignore": [255]}, np.uint8),
        ((0, 1, 2, 3), "sky\nroad\nold car", {"ignore": [0], "first_label": 1}, np.uint8),
        ((0, 7, 1000, 30000), "7 sky\n1000: road\n30000\told car", {"ignore": [0]}, np.uint16),
    ],
)
def test_maps_are_kept_exactly_with_either_kind_of_labels(
    tmp_path: Path, ids: tuple[int, ...], labels: str, options: dict[str, Any], dtype: type
) -> None:
    maps = semantic_set(tmp_path, ids, labels, dtype=dtype)
    source = opened(tmp_path, **options)
    assert [(c.id, c.name) for c in source.taxonomy.categories] == list(
        zip(ids[1:], ["sky", "road", "old car"], strict=True)
    )
    for sample, expected in zip(samples(source), maps, strict=True):
        assert sorted(s.class_id for s in sample.segments) == sorted(ids[1:])
        painted = rle.paint([(s.class_id + 1, s.mask) for s in sample.segments], HEIGHT, WIDTH) - 1
        assert (painted == np.where(expected == ids[0], -1, expected.astype(int))).all()
        assert (rle.decode(sample.void, HEIGHT, WIDTH) == (expected == ids[0])).all()
        for segment in sample.segments:
            assert segment.area == (expected == segment.class_id).sum()
    ledger = dry_run(source).ledger
    assert ledger.annotations.model_dump() == {"input": 6, "kept": 6, "dropped": {}, "warnings": {}}


def test_without_void_there_is_no_void_mask(tmp_path: Path) -> None:
    semantic_set(tmp_path, (0, 1), "a\nb")
    assert [s.void for s in samples(opened(tmp_path))] == [None, None]


def test_an_index_that_is_not_in_the_labels_is_a_defect_and_its_pixels_are_void(
    tmp_path: Path,
) -> None:
    maps = semantic_set(tmp_path, (0, 1, 9), "a\nb", count=1)
    report = dry_run(opened(tmp_path))
    assert codes(report) == {"unknown-category": 1}
    assert report.ledger.per_class["category 9"].dropped == {"unknown-category": 1}
    assert (
        report.defects[0].message
        == f"{(maps[0] == 9).sum()} pixels of index 9, which is not in the labels"
    )
    line = str(report.defects[0].error())
    assert (
        f"add index 9 to {tmp_path / 'labels.txt'}, "
        "or give `segkit convert semantic --ignore 9` if it means void" in line
    )
    assert "take the annotation out" not in line
    (sample,) = samples(opened(tmp_path))
    assert (rle.decode(sample.void, HEIGHT, WIDTH) == (maps[0] == 9)).all()


def test_missing_and_wrongly_sized_masks(tmp_path: Path) -> None:
    semantic_set(tmp_path, (0, 1), "a\nb", count=3)
    (tmp_path / "masks" / "s0.png").unlink()
    Image.new("L", (WIDTH, HEIGHT - 1)).save(tmp_path / "masks" / "s1.png")
    picture(tmp_path / "images" / "s2.png")
    report = dry_run(opened(tmp_path))
    assert report.ledger.images.dropped == {
        "duplicate-id": 1,
        "missing-mask": 1,
        "size-mismatch": 1,
    }
    assert report.ledger.images.kept == 1


def test_masks_are_found_by_path_and_else_by_name(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "b/x.jpg", "c/y.jpg", "z.jpg"):
        picture(tmp_path / "images" / name)
    for name in ("a/x.png", "b/x.png", "other/y.png"):
        picture(tmp_path / "masks" / name)
    pairing = pair_masks(tmp_path / "images", tmp_path / "masks")
    assert (pairing.unpaired, pairing.passed_over) == (0, ())
    assert dict(pairing.pairs) == {
        "a/x.jpg": "a/x.png",
        "b/x.jpg": "b/x.png",
        "c/y.jpg": "other/y.png",
        "z.jpg": "",
    }


def test_rgb_masks_with_a_table_of_colors(tmp_path: Path) -> None:
    colors = {0: (64, 128, 64), 1: (192, 0, 128), 2: (0, 0, 0)}
    maps = semantic_set(tmp_path, (0, 1, 2), "64 128 64 grass\n192,0,128: road\n0 0 0\tvoid")
    for number, indices in enumerate(maps):
        rgb = np.array([colors[i] for i in range(3)], np.uint8)[indices]
        if number == 1:
            rgb[0, -1] = 1, 2, 3
        Image.fromarray(rgb).save(tmp_path / "masks" / f"s{number}.png")
    source = opened(tmp_path, ignore=[2])
    for number, (sample, indices) in enumerate(zip(samples(source), maps, strict=True)):
        painted = rle.paint([(s.class_id + 1, s.mask) for s in sample.segments], HEIGHT, WIDTH) - 1
        expected = np.where(indices == 2, -1, indices.astype(int))
        expected[0, -1] = -1 if number else expected[0, -1]
        assert (painted == expected).all()
        assert (rle.decode(sample.void, HEIGHT, WIDTH) == (expected < 0)).all()
    report = dry_run(source)
    assert report.ledger.per_class["color 1 2 3"].dropped == {"unknown-category": 1}
    assert "1 pixel of color 1 2 3, which is not in the labels" in report.defects[0].message
    assert "add the color to " in str(report.defects[0].error())


@pytest.mark.parametrize(
    "labels",
    [
        "64 128 64 grass\n192 0 128 road\n0 0 0 none",
        "grass:64,128,64::\nroad:192,0,128::\nx:0,0,0::",
    ],
)
def test_palette_masks_with_a_table_of_colors(tmp_path: Path, labels: str) -> None:
    """The palette is in another order than the list, and one color stands in it twice."""
    maps = semantic_set(tmp_path, (0, 1, 2), labels)
    for number, indices in enumerate(maps):
        image = Image.fromarray(np.array([2, 0, 1], np.uint8)[indices])
        image.putpalette([192, 0, 128, 0, 0, 0, 64, 128, 64, 64, 128, 64])
        if number == 1:
            image.putpixel((0, 0), 3)
            indices[0, 0] = 0
        image.save(tmp_path / "masks" / f"s{number}.png")
    for sample, indices in zip(samples(opened(tmp_path)), maps, strict=True):
        painted = rle.paint([(s.class_id + 1, s.mask) for s in sample.segments], HEIGHT, WIDTH) - 1
        assert (painted == indices).all() and sample.void is None
    assert codes(dry_run(opened(tmp_path))) == {}


@pytest.mark.parametrize(
    ("labels", "mode", "hint"),
    [
        ("0 0 0 grass\n1 1 1 road", "L", "list the classes as `index name`, or convert with"),
        ("grass\nroad", "LA", "save the mask without its alpha channel, or convert with"),
        ("grass\nroad", "RGB", "with their colors (`R G B name`), or convert with --on-error"),
    ],
)
def test_masks_that_the_list_of_labels_does_not_fit_are_not_called_damaged(
    tmp_path: Path, labels: str, mode: str, hint: str
) -> None:
    maps = semantic_set(tmp_path, (0, 1), labels, count=1)
    Image.fromarray(maps[0]).convert(mode).save(tmp_path / "masks" / "s0.png")
    report = dry_run(opened(tmp_path))
    assert codes(report) == {"unreadable-mask": 1}
    line = str(report.defects[0].error())
    assert hint in line and "s0.png: image s0: a" in line and "undamaged" not in line


def test_the_same_index_for_two_classes_names_the_file(tmp_path: Path) -> None:
    semantic_set(tmp_path, (0, 1), "3 a\n3 b")
    with pytest.raises(InputError, match=r"labels\.txt.*category id 3 occurs twice"):
        opened(tmp_path)


def test_masks_without_an_image_are_counted(tmp_path: Path) -> None:
    semantic_set(tmp_path, (0, 1), "a\nb", count=3)
    (tmp_path / "images" / "s1.jpg").unlink()
    assert dry_run(opened(tmp_path)).ledger.images.warnings == {"mask-without-image": 1}


def test_a_folder_of_links_is_the_users_own_choice(tmp_path: Path) -> None:
    semantic_set(tmp_path, (0, 1), "a\nb", count=1)
    (tmp_path / "images" / "s0.jpg").rename(tmp_path / "elsewhere.jpg")
    (tmp_path / "images" / "s0.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    assert dry_run(opened(tmp_path)).ledger.images.kept == 1


@pytest.mark.parametrize("missing", ["images", "masks"])
def test_missing_and_empty_folders_are_reported_in_one_line(tmp_path: Path, missing: str) -> None:
    semantic_set(tmp_path, (0, 1), "a\nb")
    (tmp_path / missing).rename(tmp_path / "away")
    with pytest.raises(InputError, match=f"{missing}: no such folder"):
        opened(tmp_path)
    (tmp_path / missing).mkdir()
    with pytest.raises(InputError, match="contains no file"):
        opened(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_real_camvid_is_exact(real_data: Path, split: str, tmp_path: Path) -> None:
    root, names = real_data / "camvid", tmp_path / "labels.txt"
    names.write_text("\n".join(load_taxonomy("camvid-11").names))
    source = open_semantic(
        root / "images" / split, root / "annotations" / split, names, ignore=[11]
    )
    assert source.taxonomy.name == "camvid-11"
    for sample in samples(source):
        expected = np.asarray(Image.open(root / "annotations" / split / f"{sample.id}.png")).astype(
            int
        )
        painted = (
            rle.paint([(s.class_id + 1, s.mask) for s in sample.segments], *expected.shape) - 1
        )
        assert (painted == np.where(expected == 11, -1, expected)).all()
