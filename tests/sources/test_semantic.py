from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sources.semantic import open_semantic, pair, read_labels

from .builders import HEIGHT, WIDTH, codes, dry_run, label_map, picture, samples


def semantic_set(root: Path, ids: tuple[int, ...], labels: str, *, count: int = 2, dtype: type = np.uint8) -> list[Any]:
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
    for sample, wanted in zip(samples(source), maps, strict=True):
        assert sorted(s.class_id for s in sample.segments) == sorted(ids[1:])
        painted = rle.paint([(s.class_id + 1, s.mask) for s in sample.segments], HEIGHT, WIDTH) - 1
        assert (painted == np.where(wanted == ids[0], -1, wanted.astype(int))).all()
        assert (rle.decode(sample.void, HEIGHT, WIDTH) == (wanted == ids[0])).all()
        for segment in sample.segments:
            assert segment.area == (wanted == segment.class_id).sum()
    ledger = dry_run(source).ledger
    assert ledger.annotations.model_dump() == {"input": 6, "kept": 6, "dropped": {}, "warnings": {}}


def test_without_void_there_is_no_void_mask(tmp_path: Path) -> None:
    semantic_set(tmp_path, (0, 1), "a\nb")
    assert [s.void for s in samples(opened(tmp_path))] == [None, None]


def test_an_index_that_is_not_in_the_labels_is_a_defect_and_its_pixels_are_void(tmp_path: Path) -> None:
    maps = semantic_set(tmp_path, (0, 1, 9), "a\nb", count=1)
    report = dry_run(opened(tmp_path))
    assert codes(report) == {"unknown-category": 1}
    assert report.ledger.per_class["category 9"].dropped == {"unknown-category": 1}
    assert "--ignore 9" in report.defects[0].problem
    assert f"{(maps[0] == 9).sum()} pixels" in report.defects[0].problem
    (sample,) = samples(opened(tmp_path))
    assert (rle.decode(sample.void, HEIGHT, WIDTH) == (maps[0] == 9)).all()


def test_missing_and_wrongly_sized_masks(tmp_path: Path) -> None:
    semantic_set(tmp_path, (0, 1), "a\nb", count=3)
    (tmp_path / "masks" / "s0.png").unlink()
    Image.new("L", (WIDTH, HEIGHT - 1)).save(tmp_path / "masks" / "s1.png")
    picture(tmp_path / "images" / "s2.png")
    report = dry_run(opened(tmp_path))
    assert report.ledger.images.dropped == {"duplicate-id": 1, "missing-mask": 1, "size-mismatch": 1}
    assert report.ledger.images.kept == 1


def test_masks_are_found_by_path_and_else_by_name(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "b/x.jpg", "c/y.jpg", "z.jpg"):
        picture(tmp_path / "images" / name)
    for name in ("a/x.png", "b/x.png", "other/y.png"):
        picture(tmp_path / "masks" / name)
    found = dict(pair(tmp_path / "images", tmp_path / "masks"))
    assert found == {"a/x.jpg": "a/x.png", "b/x.jpg": "b/x.png", "c/y.jpg": "other/y.png", "z.jpg": ""}


def test_labels_of_both_kinds_and_what_is_refused(tmp_path: Path) -> None:
    def labels(text: str, first: int | None = None) -> list[tuple[int, str]]:
        (tmp_path / "l.txt").write_text(text, "utf-8")
        return [(c.id, c.name) for c in read_labels(tmp_path / "l.txt", first)]

    assert labels("7 eleven\nroad") == [(0, "7 eleven"), (1, "road")]
    assert labels("3 a\n 5\tb c \n") == [(3, "a"), (5, "b c")]
    assert labels("a\nb", 4) == [(4, "a"), (5, "b")]
    with pytest.raises(InputError, match="leave --first-label out"):
        labels("3 a\n5 b", 1)
    with pytest.raises(InputError, match=r"l\.txt.*category id 3 occurs twice"):
        semantic_set(tmp_path, (0, 1), "x")
        (tmp_path / "l.txt").write_text("3 a\n3 b")
        open_semantic(tmp_path / "images", tmp_path / "masks", tmp_path / "l.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(tmp_path / "none.txt")


@pytest.mark.parametrize("missing", ["images", "masks"])
def test_missing_and_empty_folders_are_one_line(tmp_path: Path, missing: str) -> None:
    semantic_set(tmp_path, (0, 1), "a\nb")
    (tmp_path / missing).rename(tmp_path / "away")
    with pytest.raises(InputError, match=f"{missing}: no such folder"):
        opened(tmp_path)
    (tmp_path / missing).mkdir()
    with pytest.raises(InputError, match="holds no file"):
        opened(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_real_camvid_is_exact(real_data: Path, split: str) -> None:
    root = real_data / "camvid"
    source = open_semantic(root / "images" / split, root / "annotations" / split, root / "labels.txt", ignore=[11])
    assert source.taxonomy.name == "camvid-11"
    for sample in samples(source):
        wanted = np.asarray(Image.open(root / "annotations" / split / f"{sample.id}.png")).astype(int)
        painted = rle.paint([(s.class_id + 1, s.mask) for s in sample.segments], *wanted.shape) - 1
        assert (painted == np.where(wanted == 11, -1, wanted)).all()
