"""No file is given to two records, unless they name it by one path."""

import base64
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segkit.shards.reader import ShardSet
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.cvat_xml import open_cvat
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.file_claims import Match, PossibleFiles, match_files
from segkit.sources.label_studio import open_label_studio
from segkit.sources.labelme_json import open_labelme
from segkit.sources.objects365 import open_objects365
from segkit.sources.semantic_masks import open_semantic
from segkit.sources.source import Source
from segkit.sources.voc_boxes import open_voc_boxes

from .builders import HEIGHT, WIDTH, dry_run, id_png, label_map, picture, samples, write_json
from .test_remote import copied

Open = Callable[[Path, tuple[str, ...]], Source]


def coco(root: Path, names: tuple[str, ...], opener: Any = open_coco_instances) -> Source:
    images = [
        {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for number, name in enumerate(names)
    ]
    boxes = [
        {"id": image["id"], "image_id": image["id"], "category_id": 1, "bbox": [1, 1, 9, 9]}
        for image in images
    ]
    categories = [{"id": 1, "name": "cat"}]
    data = {"images": images, "annotations": boxes, "categories": categories}
    source: Source = opener(write_json(root / "a.json", data), root / "images")
    return source


def objects365(root: Path, names: tuple[str, ...]) -> Source:
    return coco(root, names, open_objects365)


def cvat(root: Path, names: tuple[str, ...]) -> Source:
    box = '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    images = "".join(
        f'<image id="{number}" name="{name}" width="{WIDTH}" height="{HEIGHT}">{box}</image>'
        for number, name in enumerate(names)
    )
    labels = "<meta><task><labels><label><name>cat</name></label></labels></task></meta>"
    (root / "a.xml").write_text(f"<annotations>{labels}{images}</annotations>", "utf-8")
    return open_cvat(root / "a.xml", root / "images")


def label_studio(root: Path, names: tuple[str, ...]) -> Source:
    value = {"x": 1, "y": 1, "width": 9, "height": 9, "rotation": 0, "rectanglelabels": ["cat"]}
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    result = {"id": "r", "type": "rectanglelabels", "value": value, **size}
    tasks = [
        {"id": number, "data": {"image": name}, "annotations": [{"result": [result]}]}
        for number, name in enumerate(names)
    ]
    return open_label_studio(write_json(root / "a.json", tasks), root / "images")


def voc_boxes(root: Path, names: tuple[str, ...]) -> Source:
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    corners = "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    for name in names:
        file = (root / "xml" / name).with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            f"<annotation><filename>{Path(name).name}</filename>{size}<object><name>cat</name>"
            f"<bndbox>{corners}</bndbox></object></annotation>",
            "utf-8",
        )
    return open_voc_boxes(root / "xml", root / "images")


def labelme(root: Path, names: tuple[str, ...]) -> Source:
    shape = {"label": "cat", "shape_type": "rectangle", "points": [[1, 1], [9, 9]]}
    for name in names:
        content = {
            "imagePath": Path(name).name,
            "imageWidth": WIDTH,
            "imageHeight": HEIGHT,
            "shapes": [shape],
        }
        write_json((root / "json" / name).with_suffix(".json"), content)
    return open_labelme(root / "json", root / "images")


FORMATS: tuple[Open, ...] = (coco, objects365, cvat, label_studio, voc_boxes, labelme)


def served(source: Source, root: Path, **options: Any) -> tuple[dict[str, int], list[list[str]]]:
    """The codes of dropped images, and the records of each image by its bytes."""
    options = {"workers": 1, "on_error": "skip", "images_by": "reference", **options}
    report = convert(source, root / "set", ConvertOptions(**options))
    records: dict[str, list[str]] = {}
    if report.published is not None:
        for sample in ShardSet.open(root / "set").samples():
            assert sample.image is not None
            records.setdefault(sample.image.sha256, []).append(sample.id)
    return report.ledger.images.dropped, list(records.values())


@pytest.mark.parametrize("open_source", FORMATS)
def test_two_folders_with_one_file_name_do_not_share_its_image(
    tmp_path: Path, open_source: Open
) -> None:
    picture(tmp_path / "images" / "1.jpg")
    report = dry_run(open_source(tmp_path, ("cam1/1.jpg", "cam2/1.jpg", "cam1/2.jpg")))
    dropped = {code: n for code, n in report.ledger.images.dropped.items() if n}
    assert dropped.pop("not-annotated", 0) <= 1  # the image of a listed folder that nobody has
    assert (dropped, report.ledger.images.kept) == ({"missing-image": 3}, 0)
    messages = {defect.message for defect in report.defects}
    rivals = [message for message in messages if "1.jpg may as well be that of image" in message]
    assert len(rivals) == 2


@pytest.mark.parametrize("open_source", FORMATS)
def test_a_file_belongs_to_the_record_that_names_its_path(
    tmp_path: Path, open_source: Open
) -> None:
    picture(tmp_path / "images" / "1.jpg")
    picture(tmp_path / "images" / "cam3" / "3.jpg", seed=1)
    # the record with the path comes last
    source = open_source(tmp_path, ("cam2/1.jpg", "cam3/3.jpg", "1.jpg"))
    dropped, records = served(source, tmp_path)
    assert dropped == {"missing-image": 1}
    assert sorted(map(len, records)) == [1, 1]
    (defect,) = dry_run(source).defects
    owner = next(s.id for s in samples(source) if s.file_name == "1.jpg")
    assert defect.message == f"no image has this path, and 1.jpg is that of image {owner}"
    assert defect.file == str(tmp_path / "images" / "cam2" / "1.jpg")


@pytest.mark.parametrize("open_source", FORMATS)
def test_a_fallback_that_only_one_record_can_have_is_taken(
    tmp_path: Path, open_source: Open
) -> None:
    for number in (1, 2):
        picture(tmp_path / "images" / f"{number}.jpg", seed=number)
    picture(tmp_path / "images" / "cam9" / "1.jpg", seed=3)
    names = ("cam1/2.jpg", "cam9/1.jpg")
    source = open_source(tmp_path, names)
    dropped, records = served(source, tmp_path)
    assert dropped in ({}, {"not-annotated": 1})
    assert len(records) == 2


@pytest.mark.parametrize("open_source", [coco, objects365, label_studio])
def test_records_of_one_path_share_its_file_or_its_fallback(
    tmp_path: Path, open_source: Open
) -> None:
    picture(tmp_path / "images" / "1.jpg")
    picture(tmp_path / "images" / "2.jpg", seed=1)
    source = open_source(tmp_path, ("1.jpg", "1.jpg", "cam/2.jpg", "cam/2.jpg"))
    dropped, records = served(source, tmp_path)
    assert (dropped, sorted(map(len, records))) == ({}, [2, 2])


def test_uploads_of_one_name_and_buckets_do_not_share_an_image(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "frame.jpg")
    uploads = ("/data/upload/1/aaaaaaaa-frame.jpg", "/data/upload/1/bbbbbbbb-frame.jpg")
    buckets = ("s3://a/frame.jpg", "s3://b/frame.jpg?signature=1")
    for names in (uploads, buckets):
        assert dry_run(label_studio(tmp_path, names)).ledger.images.dropped == {"missing-image": 2}
    picture(tmp_path / "images" / "aaaaaaaa-frame.jpg", seed=1)
    picture(tmp_path / "images" / "bbbbbbbb-frame.jpg", seed=2)
    assert dry_run(label_studio(tmp_path, uploads)).ledger.images.kept == 2
    repeated = ("s3://a/frame.jpg?signature=1", "s3://a/frame.jpg?signature=2")
    assert dry_run(label_studio(tmp_path, repeated)).ledger.images.kept == 2


def test_one_mask_is_not_given_to_two_images(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg", "b/2.jpg", "c/3.jpg", "d/3.jpg"):
        picture(tmp_path / "images" / name)
    for name in ("a/1.png", "other/2.png", "3.png"):
        id_png(tmp_path / "masks" / name, label_map(0, (0, 1)))
    (tmp_path / "labels.txt").write_text("0 0 0 ground\n1 0 0 sky\n", "utf-8")
    source = open_semantic(tmp_path / "images", tmp_path / "masks", tmp_path / "labels.txt")
    report = dry_run(source)
    assert (report.ledger.images.kept, report.ledger.images.dropped) == (2, {"missing-mask": 3})
    assert report.ledger.images.warnings["mask-without-image"] == 1
    start = "no mask has the path of the image, and"
    assert {defect.record: defect.message for defect in report.defects} == {
        "image b/1": f"{start} a/1.png is that of image a/1",
        "image c/3": f"{start} 3.png may as well be that of image d/3",
        "image d/3": f"{start} 3.png may as well be that of image c/3",
    }


def test_an_embedded_image_serves_where_the_file_is_that_of_another_record(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a" / "1.jpg")
    data = picture(tmp_path / "b.jpg", seed=1).read_bytes()
    source = labelme(tmp_path, ("a/1.jpg", "b/1.jpg"))
    file = tmp_path / "json" / "b" / "1.json"
    content = json.loads(file.read_text("utf-8"))
    write_json(file, {**content, "imageData": base64.b64encode(data).decode()})
    dropped, records = served(source, tmp_path, images_by="embed")
    assert (dropped, records) == ({}, [["a/1"], ["b/1"]])


@pytest.mark.parametrize("open_source", [coco, cvat, label_studio])
def test_names_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_source: Open
) -> None:
    picture(tmp_path / "images" / "1.jpg")
    source = open_source(tmp_path, ("cam1/1.jpg", "cam2/1.jpg", "1.jpg"))
    passes, names = [], source.image_names
    monkeypatch.setattr(type(source), "image_names", lambda _: passes.append(1) or names())
    assert dry_run(source).ledger.images.dropped == {"missing-image": 2}
    assert len(passes) == 1


def test_a_name_with_half_of_a_character_is_no_file(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "1.jpg")
    source = label_studio(tmp_path, ("a\udc00/1.jpg", "b/1.jpg"))
    ledger = dry_run(source).ledger
    assert (ledger.images.kept, ledger.images.dropped) == (1, {"missing-image": 1})


def test_images_that_are_not_opened_need_no_file(tmp_path: Path) -> None:
    for number, open_source in enumerate(FORMATS):
        root = tmp_path / str(number)
        picture(root / "images" / "1.jpg")
        source = open_source(root, ("cam1/1.jpg", "cam2/1.jpg"))
        report = convert(
            source, root / "set", ConvertOptions(workers=1, images_by="none", on_error="skip")
        )
        assert report.ledger.images.kept == 2
        names = [sample.file_name for sample in ShardSet.open(root / "set").samples()]
        assert sorted(names) == ["cam1/1.jpg", "cam2/1.jpg"]


def test_workers_and_limits_agree(tmp_path: Path) -> None:
    names = tuple(f"cam{number % 3}/{number // 3}.jpg" for number in range(60))
    for number in range(20):
        picture(tmp_path / "images" / f"{number}.jpg", seed=number)
        if number % 2:
            picture(tmp_path / "images" / f"cam1/{number}.jpg", seed=100 + number)
            picture(tmp_path / "images" / f"cam2/{number}.jpg", seed=200 + number)
    source = coco(tmp_path, names)
    results = [
        convert(
            source,
            tmp_path / str(workers),
            ConvertOptions(workers=workers, on_error="skip", shard_bytes=2000, name="x"),
        )
        for workers in (1, 2)
    ]
    # of the three frames of an odd number, one falls back; of those of an even one, none does
    assert [result.ledger.images.kept for result in results] == [30, 30]
    digests = {result.published.manifest.digest for result in results if result.published}
    assert len(digests) == 1
    (limited,) = [dry_run(source, limit=1).ledger.images]
    assert (limited.input, limited.dropped) == (1, {"missing-image": 1})


@pytest.mark.parametrize("open_source", [coco, cvat, label_studio])
def test_a_store_gives_the_same_defects(tmp_path: Path, store: Path, open_source: Open) -> None:
    for number, name in enumerate(("1.jpg", "2.jpg", "cam1/3.jpg", "3.jpg")):
        picture(tmp_path / "images" / name, seed=number)
    copied(tmp_path / "images", store / "images")
    names = ("cam1/1.jpg", "cam2/1.jpg", "cam2/2.jpg", "cam1/3.jpg", "cam2/3.jpg")
    here: Any = open_source(tmp_path, names)
    local, remote = dry_run(here), dry_run(replace(here, images=store / "images"))
    # cam2/3 alone has no file of its path, so that 3.jpg can be its image only
    assert local.ledger.images.dropped == {"missing-image": 2}
    assert local.ledger == remote.ledger
    assert [d.message for d in local.defects] == [d.message for d in remote.defects]


def test_a_resumed_run_gives_what_a_fresh_run_gives(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "1.jpg")
    options = ConvertOptions(workers=1, on_error="fail")
    source = coco(tmp_path, ("cam1/1.jpg", "cam2/1.jpg"))
    with pytest.raises(Exception, match="may as well be that of image"):
        convert(source, tmp_path / "set", options)
    for number in (1, 2):
        picture(tmp_path / "images" / f"cam{number}" / "1.jpg", seed=number)
    assert convert(source, tmp_path / "set", options).ledger.images.kept == 2


def test_random_names_share_a_file_only_where_they_are_equal(tmp_path: Path) -> None:
    rng = random.Random(0)
    for round_ in range(25):
        root = tmp_path / str(round_)
        paths = [f"{folder}{number}.jpg" for folder in ("", "a/", "b/", "a/b/") for number in "12"]
        for seed, path in enumerate(rng.sample(paths, 3)):
            picture(root / "images" / path, seed=seed)
        names = tuple(rng.choices(paths, k=4))
        source = coco(root, names)
        _, records = served(source, root) if dry_run(source).ledger.images.kept else ({}, [])
        for ids in records:
            assert len({names[int(image_id)] for image_id in ids}) == 1
        kept = {image_id for ids in records for image_id in ids}
        for number, name in enumerate(names):
            if (root / "images" / name).is_file():
                assert str(number) in kept


def test_files_are_matched_by_path_before_any_fallback() -> None:
    records = [
        PossibleFiles("x", "x", None, "f"),
        PossibleFiles("y", "y", "f", "g"),
        PossibleFiles("z", "z", None, "g"),
        PossibleFiles("w", "w", None, None),
    ]
    assert match_files(records) == [
        Match(None, "f is that of image y"),
        Match("f", ""),
        Match("g", ""),
        Match(None, ""),
    ]
