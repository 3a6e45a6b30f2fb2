"""Where the images and label files of YOLO data sets may be."""

from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.sources.yolo_labels import open_yolo

from .builders import codes, dry_run, picture
from .test_yolo_labels import NAMES, converted, dataset


def test_images_without_labels_have_no_objects(tmp_path: Path) -> None:
    yaml = dataset(tmp_path, {"sub/a": "0 0.5 0.5 0.2 0.2", "b": ""})
    picture(tmp_path / "images" / "train" / "C.JPG")
    report = dry_run(open_yolo(yaml))
    assert (report.ledger.images.kept, report.ledger.images.warnings) == (
        3,
        {"unlabelled-image": 2},
    )
    assert "without objects: 1 of 3 images" in report.notes[0]
    assert [sample.id for sample in converted(open_yolo(yaml))] == ["C", "b", "sub/a"]


def test_labels_without_an_image_are_lost_and_counted(tmp_path: Path) -> None:
    yaml = dataset(tmp_path, {"a": "0 0.5 0.5 0.2 0.2", "b": 2 * "1 0.5 0.5 0.2 0.2\n"})
    (tmp_path / "images" / "train" / "b.jpg").unlink()
    (tmp_path / "labels" / "train" / "classes.txt").write_text("cat\ndog\n")
    report = dry_run(open_yolo(yaml))
    assert codes(report) == {"missing-image": 2}
    assert (report.ledger.images.dropped, report.ledger.annotations.input) == (
        {"missing-image": 1},
        3,
    )


@pytest.mark.parametrize("listed", [False, True])
def test_names_of_labels_may_differ_in_case_and_unicode_form(tmp_path: Path, listed: bool) -> None:
    yaml = dataset(tmp_path, {"b": "1 0.5 0.5 0.2 0.2", "d": "0 0.5 0.5 0.2 0.2"})
    images, labels = (tmp_path / folder / "train" for folder in ("images", "labels"))
    for image in ("A.JPG", "K\u00fcche.jpg", "D.jpg"):
        picture(images / image)
    for label in ("a.TXT", "Ku\u0308che.txt"):
        (labels / label).write_text("0 0.5 0.5 0.2 0.2")
    if listed:
        lines = "".join(f"images/train/{path.name}\n" for path in images.iterdir())
        (tmp_path / "train.txt").write_text(lines)
        yaml.write_text(yaml.read_text().replace("images/train", "train.txt"))
    report = dry_run(open_yolo(yaml))
    assert (report.ledger.annotations.kept, report.ledger.annotations.input) == (4, 4)
    assert "without objects: 1 of 5 images" in report.notes[0]  # d.txt is that of d.jpg
    found = {Path(s.id).name: len(s.segments) for s in converted(open_yolo(yaml))}
    assert found == {"A": 1, "K\u00fcche": 1, "b": 1, "d": 1, "D": 0}


def test_no_label_at_all_is_a_wrong_folder(tmp_path: Path) -> None:
    yaml = dataset(tmp_path, {"a": ""})
    (tmp_path / "labels" / "train" / "a.txt").unlink()
    with pytest.raises(InputError, match=r"no image has a label file \(expected .*a\.txt\)"):
        open_yolo(yaml)


@pytest.mark.parametrize(
    ("yaml", "split"),
    [
        ("train: images/train\nval: images/train\nnames:\n  0: cat\n  1: dog\n", None),
        ("path: .\ntrain: [images/train]\nval: images/other\nnames: ['cat', \"dog\"]\n", "train"),
        ("train: ../images/train\nnc: 2\nnames: [cat, dog]\n", None),
        ("path: /content/data\ntrain: images/train\nnames: {'0': cat, 1: dog}\n", "train"),
        ("\ufeffvalid: images\\train\nnames: &a [cat, dog]\nother: *a\n", "val"),
        ("train: train.txt\ntest:\nnames: [cat, dog]\n", "train"),
    ],
    ids=["dict", "path", "roboflow", "elsewhere", "windows", "list"],
)
def test_forms_of_data_yaml(tmp_path: Path, yaml: str, split: str | None) -> None:
    path = dataset(tmp_path, {"a": "1 0.5 0.5 0.2 0.2", "b": "0 0.5 0.5 0.2 0.2"}, yaml)
    lines = "./images/train/a.jpg\r\n\r\n/elsewhere/images/train/b.jpg\n"
    (tmp_path / "train.txt").write_text(lines)
    source = open_yolo(path, split)
    assert source.taxonomy.names == ("cat", "dog")
    assert sorted(s.segments[0].class_id for s in converted(source)) == [0, 1]
    assert dry_run(source).ledger.images.kept == 2


def test_list_files_and_folders_of_several_places(tmp_path: Path) -> None:
    for name in ("one", "two"):
        picture(tmp_path / name / "images" / "a.jpg")
        (tmp_path / name / "labels").mkdir()
        (tmp_path / name / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2")
    yaml = tmp_path / "data.yaml"
    yaml.write_text(f"train:\n- one/images\n- two/images\n{NAMES}")
    assert [s.id for s in converted(open_yolo(yaml))] == ["one/images/a", "two/images/a"]
    (tmp_path / "train.txt").write_text("one/images/a.jpg\n../secret.jpg\nmissing/images/x.jpg\n")
    yaml.write_text(f"train: train.txt\n{NAMES}")
    assert codes(dry_run(open_yolo(yaml))) == {"unsafe-path": 1, "missing-image": 1}


def test_a_folder_of_labelimg(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n\n")
    source = open_yolo(tmp_path)
    assert (source.taxonomy.names, converted(source)[0].segments[0].class_id) == (("cat", "dog"), 1)
    with pytest.raises(InputError, match="omit --split"):
        open_yolo(tmp_path, "train")


def test_an_absolute_path_may_lead_to_any_folder_of_this_machine(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "data", {"a": "0 0.5 0.5 0.2 0.2"}).parent
    (tmp_path / "file").mkdir()
    for text in (
        f"path: {folder}\ntrain: images/train\n",
        f"train: {folder}/images/train\n",
        f"train: file://{folder}/images/train\n",
    ):
        (tmp_path / "file" / "data.yaml").write_text(text + NAMES)
        assert len(converted(open_yolo(tmp_path / "file" / "data.yaml"))) == 1


def test_the_same_name_twice(tmp_path: Path) -> None:
    yaml = dataset(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"})
    picture(tmp_path / "images" / "train" / "a.png")
    report = dry_run(open_yolo(yaml))
    assert codes(report) == {"duplicate-id": 1}
