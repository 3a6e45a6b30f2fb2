from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sources.cityscapes import open_cityscapes

from .builders import HEIGHT, WIDTH, codes, dry_run, picture, samples

FRAME = "aachen_000000_000019"
ROAD, CAR, EGO, UNLABELLED = 7, 26, 1, 0


def frame(root: Path, labels: NDArray[np.uint8], numbers: NDArray[np.uint16]) -> Path:
    picture(root / "leftImg8bit" / "train" / "aachen" / f"{FRAME}_leftImg8bit.png")
    folder = root / "gtFine" / "train" / "aachen"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / f"{FRAME}_gtFine_labelIds.png"), labels)
    cv2.imwrite(str(folder / f"{FRAME}_gtFine_instanceIds.png"), numbers)
    return root


def maps() -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    labels = np.full((HEIGHT, WIDTH), ROAD, np.uint8)
    labels[:3], labels[3:6], labels[10:20, :12] = UNLABELLED, EGO, CAR
    numbers = labels.astype(np.uint16)
    numbers[10:20, :4], numbers[10:20, 4:8] = CAR * 1000, CAR * 1000 + 1
    return labels, numbers


def test_label_ids_are_regions_and_other_classes_void(tmp_path: Path) -> None:
    labels, numbers = maps()
    source = open_cityscapes(frame(tmp_path, labels, numbers), "train")
    (sample,) = samples(source)
    assert (sample.id, sample.file_name) == (FRAME, f"aachen/{FRAME}_leftImg8bit.png")
    painted = rle.paint([(s.class_id, s.mask) for s in sample.segments], HEIGHT, WIDTH)
    assert (painted == np.where(labels < ROAD, 0, labels)).all()
    assert (rle.decode(sample.void, HEIGHT, WIDTH) == (labels < ROAD)).all()
    assert source.taxonomy.name == "cityscapes-19"
    assert dry_run(source).ledger.annotations.kept == 2


def test_instance_ids_are_things_and_groups_are_crowds(tmp_path: Path) -> None:
    labels, numbers = maps()
    source = open_cityscapes(frame(tmp_path, labels, numbers), "train", instances=True)
    (sample,) = samples(source)
    segments = {s.source_id: s for s in sample.segments}
    assert {key: (s.class_id, s.kind, s.is_crowd) for key, s in segments.items()} == {
        "7": (ROAD, "stuff", False),
        "26": (CAR, "thing", True),
        "26000": (CAR, "thing", False),
        "26001": (CAR, "thing", False),
    }
    for key, segment in segments.items():
        assert (rle.decode(segment.mask, HEIGHT, WIDTH) == (numbers == int(key))).all()
    ledger = dry_run(source).ledger
    assert (source.kind, ledger.annotations.input, ledger.annotations.kept) == ("panoptic", 4, 4)


@pytest.mark.parametrize("instances", [False, True])
def test_unknown_ids_and_missing_masks(tmp_path: Path, instances: bool) -> None:
    labels, numbers = maps()
    labels[0, 0], numbers[0, 0] = 99, 40001
    root = frame(tmp_path, labels, numbers)
    picture(root / "leftImg8bit" / "train" / "bonn" / "bonn_1_leftImg8bit.png")
    report = dry_run(open_cityscapes(root, "train", instances=instances))
    assert codes(report) == {"missing-mask": 1, "unknown-category": 1}


def test_missing_folders_name_the_archive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leftImg8bit_trainvaltest"):
        open_cityscapes(tmp_path, "val")
