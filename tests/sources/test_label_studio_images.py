"""Which image of a Label Studio task is annotated, where its data names several."""

from pathlib import Path
from typing import Any

import pytest

from segkit.sources.ledger import Tally

from .builders import dry_run, picture
from .test_label_studio import UPLOAD, opened, rectangle, task


def two_images(*results: Any, **data: Any) -> dict[str, Any]:
    return task(*results) | {"data": {"image": "a.jpg", "image2": "b.jpg"} | data}


@pytest.mark.parametrize(
    ("results", "data"),
    [
        (({"to_name": "img1"}, {"to_name": "img2"}), {}),
        (({"to_name": "image"}, {"to_name": "image2"}), {}),
        (({"to_name": "img1"},), {}),
        (({"to_name": None},), {}),
        (({"to_name": "pages"}, {"to_name": "pages", "item_index": 1}), {"pages": ["c.jpg"]}),
        (({"to_name": "image", "item_index": 1},), {"image2": 7}),
        (({"to_name": "image", "item_index": 0},), {"image": ["a.jpg", "c.jpg"], "image2": 7}),
    ],
)
def test_regions_are_not_put_on_another_image_of_their_task(
    tmp_path: Path, results: tuple[Any, ...], data: dict[str, Any]
) -> None:
    regions = [rectangle(5, 5, 10, 10, **more) for more in results]
    source = opened(
        tmp_path,
        two_images(*regions, **data),
        task(rectangle(1, 1, 5, 5), image="a.jpg") | {"id": 8},
    )
    report = dry_run(source)
    assert report.ledger.images.dropped == {"malformed-image": 1}
    assert report.ledger.annotations.dropped == {"malformed-image": len(regions)}
    assert report.ledger.annotations.kept == 1
    line = str(report.defects[0].error())
    assert "tasks.json: image 7: the task shows several images ('image'" in line
    assert "make a task of each image" in line


@pytest.mark.parametrize(
    ("results", "data", "file_name"),
    [
        (({"to_name": "image2"}, {"to_name": "image2"}), {}, "b.jpg"),
        (({"to_name": "image"},), {}, "a.jpg"),
        (({"to_name": "scan"},), {"image2": "not a picture"}, "a.jpg"),
        (({"to_name": "scan"},), {"image2": "/data/upload/a.jpg"}, "a.jpg"),
        (({"to_name": "scan", "item_index": 0},), {"image": ["a.jpg"], "image2": 7}, "a.jpg"),
        (({"to_name": "scan", "item_index": True},), {"image": ["a.jpg"], "image2": 7}, "a.jpg"),
        ((), {}, "a.jpg"),  # nothing was drawn on any of them
    ],
)
def test_the_annotated_image_of_a_task(
    tmp_path: Path, results: tuple[Any, ...], data: dict[str, Any], file_name: str
) -> None:
    picture(tmp_path / "images" / "b.jpg")
    regions = [rectangle(5, 5, 10, 10, **more) for more in results]
    source = opened(
        tmp_path,
        two_images(*regions, **data),
        task(rectangle(1, 1, 5, 5), image="a.jpg") | {"id": 8},
    )
    assert next(source.records(Tally())).file_name == file_name
    ledger = dry_run(source).ledger
    assert (ledger.annotations.kept, ledger.images.dropped) == (len(results) + 1, {})


@pytest.mark.parametrize(("value", "kept"), [(8, "8"), ("x", "x"), (True, "a"), (1.5, "a")])
def test_the_id_of_a_task_is_an_integer_or_text_or_that_of_its_image(
    tmp_path: Path, value: Any, kept: str
) -> None:
    source = opened(tmp_path, task(rectangle(5, 5, 10, 10), image="a.jpg") | {"id": value})
    assert next(source.records(Tally())).id == kept


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"filename": "a.jpg"}, "image"),
        ({"filename": "a.jpg"}, "photo"),
        ({"file": "0a1b2c3d-a.jpg", "name": "a.jpg"}, "photo"),
        ({"source_url": "https://a.org/a.jpg"}, "image"),
        ({"source_url": "https://a.org/other.jpg", "thumbnail": "/thumbs/a.png"}, "img"),
        ({"thumbnail": "/thumbs/a.png", "image2": 7}, "image_url"),
        ({"thumbnail": "/thumbs/a.png"}, "image1"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_image_tag_with_a_name_of_its_own(
    tmp_path: Path, more: dict[str, Any], key: str, first: bool
) -> None:
    data = {**more, key: UPLOAD} if first else {key: UPLOAD, **more}
    source = opened(tmp_path, task(rectangle(5, 5, 10, 10, to_name="tag")) | {"data": data})
    assert next(source.records(Tally())).file_name == "1/0a1b2c3d-a.jpg"
    assert dry_run(source).ledger.annotations.kept == 1


@pytest.mark.parametrize(
    ("names", "data"),
    [
        (["tag"], {"image": UPLOAD, "url": "b.jpg"}),
        (["tag"], {"img1": UPLOAD, "img2": "b.jpg", "filename": "a.jpg"}),
        (["tag"], {"image": UPLOAD, "image_2": "a.jpg"}),
        (["tag"], {"photo": UPLOAD, "thumbnail": "/thumbs/a.png"}),
        (["tag"], {"image": UPLOAD, "thumbnail": "/thumbs/a.png", "tag": "s3://b/c"}),
        (["tag", "image"], {"image": UPLOAD, "thumbnail": "/thumbs/a.png"}),
    ],
)
def test_a_tag_that_may_be_of_several_images_is_refused(
    tmp_path: Path, names: list[str], data: dict[str, Any]
) -> None:
    regions = [rectangle(5, 5, 10, 10, to_name=name) for name in names]
    report = dry_run(opened(tmp_path, task(*regions) | {"data": data}))
    assert report.ledger.images.dropped == {"malformed-image": 1}


def test_a_prediction_of_a_task_with_several_images(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "b.jpg")
    shown = two_images() | {"annotations": []}
    for name, dropped in (("image2", {}), ("img2", {"malformed-image": 1})):
        shown["predictions"] = [{"result": [rectangle(5, 5, 10, 10, to_name=name)]}]
        report = dry_run(opened(tmp_path, shown, predictions=True))
        assert report.ledger.images.dropped == dropped
