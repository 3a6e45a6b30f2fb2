import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sources.voc import open_voc

from .builders import HEIGHT, WIDTH, codes, dry_run, picture, samples

CAT, DOG, BORDER = 8, 12, 255


def voc(
    root: Path,
    classes: NDArray[np.uint8],
    objects: NDArray[np.uint8],
    listed: str = "2007_000001\n",
) -> Path:
    picture(root / "JPEGImages" / "2007_000001.jpg")
    for folder, indices in {"SegmentationClass": classes, "SegmentationObject": objects}.items():
        image = Image.fromarray(indices, "P")
        image.putpalette(list(range(256)) * 3)
        (root / folder).mkdir(exist_ok=True)
        image.save(root / folder / "2007_000001.png")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text(listed)
    return root


def maps() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    classes, objects = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    classes[2:6, 2:12], objects[2:6, 2:6], objects[2:6, 6:12] = CAT, 1, 2
    classes[10:15, 10:15], objects[10:15, 10:15] = DOG, 3
    for indices in (classes, objects):
        indices[9, :] = BORDER
    return classes, objects


def test_regions_border_and_background(tmp_path: Path) -> None:
    classes, objects = maps()
    source = open_voc(voc(tmp_path, classes, objects), "train")
    (sample,) = samples(source)
    painted = rle.paint([(s.class_id, s.mask) for s in sample.segments], HEIGHT, WIDTH)
    assert (painted == np.where(classes == BORDER, 0, classes)).all()
    assert (rle.decode(sample.void, HEIGHT, WIDTH) == (classes == BORDER)).all()
    assert source.header == {"ignore": [BORDER], "background": 0}
    assert (sample.id, source.kind, dry_run(source).ledger.annotations.kept) == (
        "2007_000001",
        "semantic",
        2,
    )


def test_background_can_be_a_class_as_in_the_challenge(tmp_path: Path) -> None:
    classes, objects = maps()
    root = voc(tmp_path, classes, objects)
    source = open_voc(root, "train", background=True)
    (sample,) = samples(source)
    masks = {s.class_id: rle.decode(s.mask, HEIGHT, WIDTH) for s in sample.segments}
    assert {source.taxonomy.by_id[index].name for index in masks} == {"background", "cat", "dog"}
    assert len(source.taxonomy.categories) == 21
    assert all((mask == (classes == index)).all() for index, mask in masks.items())
    assert (rle.decode(sample.void, HEIGHT, WIDTH) == (classes == BORDER)).all()
    with pytest.raises(InputError, match="background is no object; leave out"):
        open_voc(root, "train", background=True, instances=True)


def test_it_is_known_that_a_map_without_border_has_no_void(tmp_path: Path) -> None:
    classes, objects = maps()
    root = voc(tmp_path, np.where(classes == BORDER, 0, classes), np.where(objects < 3, objects, 0))
    for instances in (False, True):
        (sample,) = samples(open_voc(root, "train", instances=instances))
        assert rle.area(sample.void, HEIGHT, WIDTH) == 0


def test_objects_have_the_class_of_their_pixels(tmp_path: Path) -> None:
    classes, objects = maps()
    source = open_voc(voc(tmp_path, classes, objects), "train", instances=True)
    (sample,) = samples(source)
    assert [(s.source_id, s.class_id, s.kind) for s in sample.segments] == [
        ("1", CAT, "thing"),
        ("2", CAT, "thing"),
        ("3", DOG, "thing"),
    ]
    for segment in sample.segments:
        assert (
            rle.decode(segment.mask, HEIGHT, WIDTH) == (objects == int(segment.source_id))
        ).all()
    assert (rle.decode(sample.void, HEIGHT, WIDTH) == (objects == BORDER)).all()
    assert (source.kind, dry_run(source).ledger.annotations.kept) == ("instance", 3)


def test_pixels_of_an_unknown_index_are_void(tmp_path: Path) -> None:
    classes, objects = maps()
    classes[10:15, 10:15] = 77
    (sample,) = samples(open_voc(voc(tmp_path, classes, objects), "train"))
    assert (rle.decode(sample.void, HEIGHT, WIDTH) == np.isin(classes, (77, BORDER))).all()


def test_defects_have_codes(tmp_path: Path) -> None:
    classes, objects = maps()
    classes[10:15, 10:15] = 77
    root = voc(tmp_path, classes, objects, "2007_000001\n2007_000009\n")
    report = dry_run(open_voc(root, "train"))
    assert codes(report) == {"unknown-category": 1, "missing-mask": 1}
    assert not [
        defect for defect in report.defects if "--ignore" in str(defect.error())
    ]  # an option of other sources
    assert codes(dry_run(open_voc(root, "train", instances=True))) == {
        "unknown-category": 1,
        "missing-mask": 1,
    }


@pytest.mark.parametrize("listed", ["../../secret\n", "a/b\n"])
def test_a_list_cannot_lead_out_of_its_folder(tmp_path: Path, listed: str) -> None:
    with pytest.raises(InputError, match="invalid image name"):
        open_voc(voc(tmp_path, *maps(), listed), "train")


def test_a_name_may_hold_blanks(tmp_path: Path) -> None:
    root = voc(tmp_path, *maps(), "photo 1\r\n\n2007_000001\n")
    masks = root / "SegmentationClass"
    shutil.copy(masks / "2007_000001.png", masks / "photo 1.png")
    picture(root / "JPEGImages" / "photo 1.jpg")
    assert [sample.id for sample in samples(open_voc(root, "train"))] == ["2007_000001", "photo 1"]


def test_a_missing_list_names_the_splits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test\.txt.*--split train, val or trainval"):
        open_voc(voc(tmp_path, *maps()), "test")
