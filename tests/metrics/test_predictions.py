import gzip
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.errors import InputError
from segkit.export.coco import export_instances
from segkit.masks import rle
from segkit.metrics.coco_predictions import _checked_counts
from segkit.metrics.predictions import open_predictions
from segkit.sample import Sample
from segkit.taxonomy import Category

from .files import figures, panoptic_files, results_file, sets, shard_set

NEGATIVE = rle.compress(np.array([1000, 500, -300, 800])).decode()
"""They add up to the 40 x 50 pixels of the images here."""


def test_panoptic_files_give_the_same_figures_as_the_set(tmp_path):
    truth, predictions = sets(tmp_path)
    file = panoptic_files(tmp_path / "pred.json", list(predictions.samples()))
    assert figures(truth, open_predictions(str(file), truth), "panoptic") == figures(
        truth, predictions, "panoptic"
    )


def test_panoptic_files_are_matched_by_file_stem_where_ids_differ(tmp_path):
    truth, predictions = sets(tmp_path)
    named = [replace(s, file_name=f"val/{s.id}.jpg", id=f"other {s.id}") for s in truth.samples()]
    renamed = shard_set(tmp_path / "renamed", named, truth.taxonomy)
    file = panoptic_files(tmp_path / "pred.json", list(predictions.samples()))
    by_stem = figures(renamed, open_predictions(str(file), renamed), "panoptic")
    assert by_stem == figures(truth, predictions, "panoptic")


def test_predictions_of_unknown_images_are_refused_with_their_ids(tmp_path):
    truth, predictions = sets(tmp_path)
    stranger = [*predictions.samples(), Sample("777", "777.jpg", 5, 5)]
    with pytest.raises(InputError, match=r"1 image is not in the ground truth: 777"):
        figures(truth, stranger, "panoptic")
    with pytest.raises(InputError, match=r"images with two predictions: 100"):
        figures(truth, [*predictions.samples(), next(predictions.samples())], "panoptic")
    doubled = shard_set(
        tmp_path / "doubled", [*truth.samples(), next(truth.samples())], truth.taxonomy
    )
    with pytest.raises(InputError, match=r"doubled.*: two images of the same id: 100;"):
        figures(doubled, predictions, "panoptic")


def test_predictions_of_unknown_categories_are_refused(tmp_path):
    truth, predictions = sets(tmp_path)
    first, *rest = (image := next(predictions.samples())).segments
    odd = replace(image, segments=(replace(first, class_id=999), *rest))
    with pytest.raises(
        InputError, match=r"predictions: image 100: category 999 is not in the vocabulary"
    ):
        figures(truth, [odd], "panoptic")
    file = tmp_path / "odd.json"
    file.write_text(
        json.dumps([{"image_id": 100, "category_id": 999, "score": 1, "bbox": [0, 0, 1, 1]}])
    )
    with pytest.raises(
        InputError, match=r"odd.json: result 0: category 999 is not in test \(image 100\)"
    ):
        open_predictions(str(file), truth)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            {"score": float("nan"), "bbox": [0, 0, 1, 1]},
            r"result 0: score nan of image 100 is not a number",
        ),
        ({"score": 0.5}, r"result 0: neither segmentation nor bbox"),
        (
            {"bbox": [0, 0, 1, 1]},
            r"result 0: not a prediction .*missing required field `score`",
        ),
        (
            {"score": 0.5, "segmentation": {"size": [4, 4], "counts": "o0"}},
            r"mask of 4 x 4, image 100 is 50 x 40",
        ),
        (
            {"score": 0.5, "segmentation": {"size": [40, 50]}},
            r"result 0: segmentation: .* required field `counts`",
        ),
        ({"score": 0.5, "bbox": [1, 2]}, r"bbox \[1.0, 2.0\] is not four numbers"),
        (
            {"score": 0.5, "bbox": [9, 9, 8, -1]},
            r"bbox \[9.0, 9.0, 8.0, -1.0\] is of negative",
        ),
        (
            {"score": 0.5, "bbox": [float("nan"), 2, 3, 4]},
            r"bbox \[nan, 2.0, 3.0, 4.0\] is not four numbers",
        ),
        (
            {"score": 0.5, "bbox": [0, 0, 1, 1], "category_id": [2]},
            r"result 0: category_id: not a prediction \(Expected `int \| float \| str`, got",
        ),
        ({"score": 10**400, "bbox": [0, 0, 1, 1]}, r"r\.json: holds an integer beyond 64 bits"),
        (
            {"score": 0.5, "segmentation": {"size": [40, 50], "counts": "PP"}},
            r"counts are not run lengths",
        ),
        (
            {"score": 0.5, "segmentation": {"size": [40, 50], "counts": NEGATIVE}},
            r"run lengths below 0 \(image 100\)",
        ),
    ],
)
def test_invalid_results_are_refused_by_number(tmp_path, row, line):
    truth, _ = sets(tmp_path, kind="instance")
    file = tmp_path / "r.json"
    file.write_text(json.dumps([{"image_id": 100, "category_id": 2, **row}]))
    with pytest.raises(InputError, match=line):
        iou_type = "box" if "bbox" in row else "mask"
        figures(truth, open_predictions(str(file), truth), "instance", iou_type=iou_type)


def test_files_that_are_not_predictions_are_refused(tmp_path):
    truth, predictions = sets(tmp_path, kind="instance")
    export_instances(predictions, tmp_path / "exported")
    (exported,) = (tmp_path / "exported").rglob("*.json")
    hint = r"give a list of COCO results .*image_id, category_id, score.*, a COCO panoptic file"
    with pytest.raises(
        InputError, match=rf"json: is a file of annotations .*not of predictions; {hint}"
    ):
        open_predictions(str(exported), truth)
    file = tmp_path / "stranger.json"
    for content in ({"a": 1}, {"annotations": 5}, {"annotations": [3]}, 7):
        file.write_text(json.dumps(content))
        with pytest.raises(
            InputError, match=rf"stranger\.json: is neither a list of COCO results nor.*; {hint}"
        ):
            open_predictions(str(file), truth)


def damage_area(content):
    content["annotations"][0]["segments_info"][0]["area"] = 1


def damage_listed(content):
    content["annotations"][0]["segments_info"].append({"id": 99, "category_id": 2})


def damage_painted(content):
    content["annotations"][0]["segments_info"].pop(0)


def damage_twice(content):
    content["annotations"][0]["segments_info"].append(content["annotations"][0]["segments_info"][0])


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (damage_area, r"image 100, segment 1: area 1, but the PNG shows \d+ pixels"),
        (damage_listed, r"image 100: segments without a pixel: \[99\]"),
        (damage_painted, r"image 100: ids in the PNG that segments_info lacks: \[1\]"),
        (damage_twice, r"image 100: a segment id occurs twice"),
    ],
)
def test_panoptic_files_that_contradict_themselves_are_refused(tmp_path, damage, line):
    truth, predictions = sets(tmp_path)
    file = panoptic_files(tmp_path / "pred.json", list(predictions.samples()))
    content = json.loads(file.read_text())
    damage(content)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=line):
        figures(truth, open_predictions(str(file), truth), "panoptic")


def test_results_are_matched_by_ids_only_and_file_names_are_refused(tmp_path):
    """Otherwise they would silently count as missing predictions."""
    truth, predictions = sets(tmp_path, kind="instance")
    images = [replace(s, file_name=f"{s.id:0>12}.jpg") for s in truth.samples()]
    renamed = shard_set(tmp_path / "renamed", images, truth.taxonomy, "instance")
    by_stem = [replace(s, id=f"{s.id:0>12}") for s in predictions.samples()]
    file = tmp_path / "stems.json"
    rows = json.loads(results_file(file, list(predictions.samples())).read_text())
    file.write_text(json.dumps([row | {"image_id": f"{row['image_id']:0>12}"} for row in rows]))
    for source in (by_stem, open_predictions(str(file), renamed)):
        with pytest.raises(
            InputError, match=r"not in the ground truth: 000000000100.*ids: 100, 101"
        ):
            figures(renamed, source, "instance")


@pytest.mark.parametrize("rename", [lambda n: n, lambda n: f"{n}_panoptic"], ids=["png", "id"])
def test_panoptic_files_are_matched_by_stems_of_pngs_or_by_ids_that_are_stems(tmp_path, rename):
    truth, predictions = sets(tmp_path)
    named = [replace(s, file_name=f"val/{s.id}.jpg", id=f"other {s.id}") for s in truth.samples()]
    renamed = shard_set(tmp_path / "renamed", named, truth.taxonomy)
    file = panoptic_files(tmp_path / "pred.json", list(predictions.samples()))
    content = json.loads(file.read_text())
    for row in content["annotations"]:
        png = f"{rename(row['image_id'])}.png"
        (tmp_path / "pred" / row["file_name"]).rename(tmp_path / "pred" / png)
        row |= {
            "file_name": png,
            "image_id": row["image_id"] if "_" in png else 5 * row["image_id"],
        }
    file.write_text(json.dumps(content))
    metrics = figures(renamed, open_predictions(str(file), renamed), "panoptic")
    assert (
        metrics == figures(truth, predictions, "panoptic")
        and metrics["images"]["without_prediction"] == 0
    )


def test_a_stem_of_several_images_matches_none(tmp_path):
    truth, predictions = sets(tmp_path, images=2)
    named = [
        replace(s, file_name=f"{i}/same.jpg", id=f"image {i}")
        for i, s in enumerate(truth.samples())
    ]
    renamed = shard_set(tmp_path / "renamed", named, truth.taxonomy)
    file = panoptic_files(
        tmp_path / "pred.json", [replace(s, id="7") for s in predictions.samples()][:1]
    )
    (tmp_path / "pred" / "7.png").rename(tmp_path / "pred" / "same.png")
    file.write_text(file.read_text().replace("7.png", "same.png"))
    with pytest.raises(InputError, match="1 image is not in the ground truth: 7"):
        figures(renamed, open_predictions(str(file), renamed), "panoptic")


def test_panoptic_files_may_list_their_categories_in_any_form(tmp_path):
    truth, predictions = sets(tmp_path)
    file = panoptic_files(tmp_path / "pred.json", list(predictions.samples()))
    content = json.loads(file.read_text())
    listed = [{"id": c.id, "name": c.name.upper()} for c in truth.taxonomy.categories]
    for categories in (listed, listed[:1], listed[:1] * 2, [{"id": [], "name": None}, 3], 7):
        file.write_text(json.dumps(content | {"categories": categories}))
        assert figures(truth, open_predictions(str(file), truth), "panoptic") == figures(
            truth, predictions, "panoptic"
        )
    twice = [listed[0], listed[1] | {"id": listed[0]["id"]}]
    file.write_text(json.dumps(content | {"categories": twice}))
    with pytest.raises(InputError, match=r"pred.json: .*category id 2 occurs twice"):
        open_predictions(str(file), truth)


def test_results_of_masks_may_hold_an_empty_box(tmp_path):
    truth, predictions = sets(tmp_path, kind="instance")
    file = results_file(tmp_path / "r.json", list(predictions.samples()))
    plain = figures(truth, open_predictions(str(file), truth), "instance")
    file.write_text(json.dumps([row | {"bbox": []} for row in json.loads(file.read_text())]))
    assert figures(truth, open_predictions(str(file), truth), "instance") == plain


@pytest.mark.parametrize("name", ["../outside.png", "{folder}/../outside.png", "link.png"])
def test_png_names_stay_in_their_folder(tmp_path, name):
    """An absolute name, a climbing one and a link: the file exists and would fit."""
    truth, predictions = sets(tmp_path, images=1)
    file = panoptic_files(tmp_path / "pred.json", list(predictions.samples()))
    folder, content = tmp_path / "pred", json.loads(file.read_text())
    (folder / "100.png").rename(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    for file_name in (name.format(folder=folder), str(tmp_path / "outside.png")):
        content["annotations"][0]["file_name"] = file_name
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match="leads out of") as error:
            figures(truth, open_predictions(str(file), truth), "panoptic")
        assert "image 100" in str(error.value)


@pytest.mark.parametrize("name", ["{folder}/sub/100.png", "sub\\100.png"])
def test_png_names_of_other_systems_are_found(tmp_path, name):
    truth, predictions = sets(tmp_path, images=1)
    file = panoptic_files(tmp_path / "pred.json", list(predictions.samples()))
    expected = figures(truth, open_predictions(str(file), truth), "panoptic")
    folder, content = tmp_path / "pred", json.loads(file.read_text())
    (folder / "sub").mkdir()
    (folder / "100.png").rename(folder / "sub" / "100.png")
    content["annotations"][0]["file_name"] = name.format(folder=folder)
    file.write_text(json.dumps(content))
    assert figures(truth, open_predictions(str(file), truth), "panoptic") == expected


@given(st.text("0OPoZ@p/\\\u0130\U0001f600", max_size=40))
def test_counts_are_numbers_of_at_most_12_characters(counts: str) -> None:
    try:
        encoded: bytes | None = _checked_counts(counts)
    except ValueError as error:
        assert str(error) == "counts are not run lengths"
        encoded = None
    expected = re.fullmatch("(?:[P-o]{0,11}[0-O])+", counts)
    assert encoded == (counts.encode("ascii") if expected else None)


def test_errors_of_an_evaluation_name_the_file_of_the_predictions(tmp_path):
    truth, predictions = sets(tmp_path, kind="instance")
    samples = list(predictions.samples())
    stranger = results_file(tmp_path / "stranger.json", [replace(s, id="7") for s in samples])
    rows = [{"image_id": 100, "category_id": 1, "score": 1.0, "bbox": [1, 1, 5, 5]}]
    rows[0]["category_id"] = next(s.class_id for s in truth.sample(0).segments if s.kind == "thing")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(rows))
    packed = tmp_path / "packed.json"
    packed.write_bytes(gzip.compress(boxes.read_bytes()))
    for file, message in (
        (stranger, "1 image is not in the ground truth"),
        (boxes, "the predictions are boxes without masks"),
        (packed, "is compressed by gzip; unpack it"),
    ):
        with pytest.raises(InputError, match=f"{file.name}: .*{message}"):
            figures(truth, open_predictions(str(file), truth), "instance")
    other = shard_set(tmp_path / "other", [replace(samples[0], id="8")], truth.taxonomy, "instance")
    with pytest.raises(InputError, match=r"other/v1: 1 image is not"):
        figures(truth, other, "instance")
    words = replace(truth.taxonomy, categories=(Category(1, "zebra crossing", "thing"),))
    foreign = shard_set(tmp_path / "foreign", [replace(samples[0], segments=())], words, "instance")
    with pytest.raises(InputError, match=r"foreign/v1: no class of .* is a class of"):
        figures(truth, foreign, "instance")
