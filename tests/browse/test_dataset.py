import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from segkit.browse import dataset, review
from segkit.browse.appearance import hex_color
from segkit.commands.app import app
from segkit.errors import InputError
from segkit.images.palette import class_color
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.manifest import SetKind
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import load_taxonomy

from .conftest import HEIGHT, TAXONOMY, WIDTH, masks, panoptic_sample, png

# FiftyOne's dependencies warn about each other
pytestmark = [pytest.mark.mongo, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def write_labels(
    folder: Path, kind: SetKind, samples: list[Sample], *, images: bool = True, name: str = "toy"
) -> ShardSet:
    records = [(sample, png(i) if images else None) for i, sample in enumerate(samples)]
    images_by = "embed" if images else "none"
    common: dict[str, Any] = {
        "taxonomy": TAXONOMY,
        "split": "val",
        "command": "test",
        "arguments": {},
    }
    return write_set(folder, records, Header(kind=kind, name=name, images_by=images_by, **common))


def pasted(detection: Any) -> np.ndarray:
    """Paste the cropped mask that FiftyOne stores into the full image, at its relative box."""
    x, y, w, h = np.array(detection.bounding_box) * (WIDTH, HEIGHT, WIDTH, HEIGHT)
    full = np.zeros((HEIGHT, WIDTH), bool)
    full[round(y) : round(y + h), round(x) : round(x + w)] = detection.mask
    return full


def test_a_panoptic_set_and_its_predictions_come_back_pixel_by_pixel(
    fo: ModuleType, tmp_path: Path
) -> None:
    truth = write_labels(
        tmp_path / "truth", "panoptic", [panoptic_sample("a"), panoptic_sample("b/c")]
    )
    unmatched = panoptic_sample("z", score=0.5)
    predictions = write_labels(
        tmp_path / "predictions",
        "panoptic",
        [panoptic_sample("b/c", score=0.75), unmatched],
        images=False,
    )
    loaded = dataset.load(truth, {"predictions": predictions})
    assert (loaded.dataset, loaded.samples, loaded.segments, loaded.masked) == (
        f"truth-{truth.manifest.digest[:8]}",
        2,
        6,
        6,
    )
    assert (loaded.predicted, loaded.predicted_segments, loaded.unmatched) == (1, 3, 1)

    stored = fo.load_dataset(loaded.dataset)
    assert stored.persistent and len(stored) == 2
    assert stored.mask_targets["ground_truth_classes"] == {1: "grass", 2: "disc", 3: "box"}
    first, second = stored.sort_by("image_id")
    assert Path(first.filepath).read_bytes() == png(0)
    assert (first.image_id, first.file_name, first.tags) == ("a", "images/a.png", ["val"])
    assert (second.image_id, second.metadata.width, second.metadata.height) == (
        "b/c",
        WIDTH,
        HEIGHT,
    )
    assert first.predictions_things is None

    expected = np.select(list(masks().values()), [2, 3, 1])
    for field in ("ground_truth_classes", "predictions_classes"):
        assert np.array_equal(second[field].get_mask(), expected)
    ring, block = second.predictions_things.detections
    assert (ring.label, block.label) == ("disc", "box")
    assert np.array_equal(pasted(ring), masks()["ring"])
    assert np.array_equal(pasted(block), masks()["block"])
    assert (ring.confidence, ring.mask_from, ring.is_crowd, block.is_crowd) == (
        0.75,
        "prediction",
        False,
        True,
    )
    ring = first.ground_truth_things.detections[0]
    assert (ring.confidence, ring.mask_from, ring.source_id) == (None, "human", "32")
    # declared attributes can be filtered in the App's sidebar
    assert "ground_truth_things.detections.mask_from" in stored.get_field_schema(flat=True)
    # FiftyOne's rasterizer puts the mask at the same pixels
    drawn = first.ground_truth_things.detections[0].to_segmentation(frame_size=(WIDTH, HEIGHT)).mask
    assert np.array_equal(drawn > 0, masks()["ring"])


def test_a_semantic_set_has_class_maps_only(fo: ModuleType, tmp_path: Path) -> None:
    dataset.load(write_labels(tmp_path / "set", "semantic", [panoptic_sample()]), name="semantic")
    sample = fo.load_dataset("semantic").first()
    assert sample.has_field("ground_truth_classes") and not sample.has_field("ground_truth_things")
    pixels = cv2.imread(sample.ground_truth_classes.mask_path, cv2.IMREAD_UNCHANGED)
    assert np.array_equal(pixels, np.select(list(masks().values()), [2, 3, 1]))
    assert sample.ground_truth_classes.mask_from == ["human"]


def test_boxes_stay_floats_and_have_no_mask(fo: ModuleType, tmp_path: Path) -> None:
    boxed = Segment(9, "thing", (1.5, 2.25, 3.0, 4.0), None, 12.0, source_id="5")
    pseudo = Segment(
        7,
        "thing",
        (1.0, 0.0, 10.5, 11.0),
        rle.encode(masks()["ring"]),
        9.0,
        mask_from="pseudo",
        score=0.5,
    )
    sample = Sample(
        "a", "a.png", WIDTH, HEIGHT, (boxed, pseudo), annotated=(7, 9), exhaustive=False
    )
    loaded = dataset.load(write_labels(tmp_path / "set", "boxes", [sample]), name="boxes")
    assert (loaded.segments, loaded.masked) == (2, 1)
    stored = fo.load_dataset("boxes").first()
    assert (stored.annotated, stored.exhaustive) == (["disc", "box"], False)
    box, mask = stored.ground_truth_things.detections
    assert box.mask is None and box.mask_from is None
    assert np.allclose(np.array(box.bounding_box) * (WIDTH, HEIGHT, WIDTH, HEIGHT), boxed.box)
    assert np.array_equal(pasted(mask), masks()["ring"]) and mask.source_box == list(pseudo.box)


def test_reloading_replaces_and_a_failure_or_a_foreign_dataset_changes_nothing(
    fo: ModuleType, tmp_path: Path
) -> None:
    shards = write_labels(
        tmp_path / "set", "panoptic", [panoptic_sample("a"), panoptic_sample("b")]
    )
    dataset.load(shards, name="again")
    dataset.load(shards, name="again")
    assert len(fo.load_dataset("again")) == 2
    bare = write_labels(tmp_path / "set", "panoptic", [panoptic_sample("a")], images=False)
    with pytest.raises(InputError, match="labels only"):
        dataset.load(bare, name="again")
    assert len(fo.load_dataset("again")) == 2
    assert not [name for name in fo.list_datasets() if name.startswith("segkit-loading-")]
    fo.Dataset("mine", persistent=True)
    with pytest.raises(InputError, match="'mine' that segkit did not create; give another name"):
        dataset.load(shards, name="mine")
    assert len(fo.load_dataset("mine")) == 0


def test_a_dataset_of_another_set_is_never_replaced(fo: ModuleType, tmp_path: Path) -> None:
    first = write_labels(tmp_path / "first", "panoptic", [panoptic_sample("a")])
    second = write_labels(tmp_path / "second", "panoptic", [panoptic_sample("b")])
    dataset.load(first, name="shared")
    tagged = fo.load_dataset("shared").first()
    tagged.tags.append("look again")
    tagged.save()
    with pytest.raises(InputError, match=r"'shared' of another set, .*first/v1; give another name"):
        dataset.load(second, name="shared")
    # names that FiftyOne takes for one ("Shared" and "shared" have one slug) are refused as well
    with pytest.raises(InputError, match="'shared' of another set"):
        dataset.load(second, name="Shared")
    assert "look again" in fo.load_dataset("shared").first().tags
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "first", moved)
    assert dataset.load(ShardSet.open(moved), name="shared").samples == 1


def test_a_users_dataset_is_not_mistaken_for_a_killed_load(fo: ModuleType, tmp_path: Path) -> None:
    fo.Dataset("busy-loading", persistent=True)
    dataset.load(write_labels(tmp_path / "set", "panoptic", [panoptic_sample("a")]), name="busy")
    assert fo.dataset_exists("busy-loading")


@pytest.mark.parametrize(("folder", "expected"), [("数据", "set"), ("a b", "a b"), ("x", "x")])
def test_a_dataset_is_named_after_folder_and_digest(
    fo: ModuleType, tmp_path: Path, folder: str, expected: str
) -> None:
    shards = write_labels(tmp_path / folder, "panoptic", [panoptic_sample("a")])
    loaded = dataset.load(shards).dataset
    assert loaded == f"{expected}-{shards.manifest.digest[:8]}"
    assert len(fo.load_dataset(loaded)) == 1


@pytest.mark.parametrize("name", ["", "...", "x" * 2000])
def test_a_name_that_fiftyone_does_not_accept_is_refused(
    fo: ModuleType, tmp_path: Path, name: str
) -> None:
    shards = write_labels(tmp_path / "set", "panoptic", [panoptic_sample("a")])
    with pytest.raises(InputError, match="give another name with --name"):
        dataset._check_name(name, shards)


def test_the_command_prints_the_counts(fo: ModuleType, tmp_path: Path) -> None:
    write_labels(tmp_path / "set", "panoptic", [panoptic_sample("a")])
    arguments = ["browse", str(tmp_path / "set"), "--no-app", "--name", "by-command", "--json"]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    report = json.loads(outcome.stdout)
    assert (report["schema"], report["dataset"], report["samples"]) == (
        "segkit.browse/1",
        "by-command",
        1,
    )
    assert len(fo.load_dataset("by-command")) == 1
    assert report["set"] == str(ShardSet.open(tmp_path / "set").path)


def test_real_panoptic_masks(fo: ModuleType, tmp_path: Path, real_data: Path) -> None:
    """COCO's own PNGs against what FiftyOne holds."""
    taxonomy = load_taxonomy("coco-panoptic-133")
    rows = json.loads((real_data / "coco/annotations/panoptic_val2017.json").read_text())[
        "annotations"
    ][:3]
    maps, records = {}, []
    for row in rows:
        pixels = cv2.imread(
            str(real_data / "coco/annotations/panoptic_val2017" / row["file_name"])
        ).astype(np.int64)
        ids = pixels[..., 2] + 256 * pixels[..., 1] + 256**2 * pixels[..., 0]
        segments = []
        maps[str(row["image_id"])] = expected = np.zeros(ids.shape, int)
        for info in row["segments_info"]:
            kind, mask = taxonomy.by_id[info["category_id"]].kind, ids == info["id"]
            expected[mask] = taxonomy.index[info["category_id"]] + 1
            area, box = float(info["area"]), tuple(map(float, info["bbox"]))
            segments.append(
                Segment(info["category_id"], kind, box, rle.encode(mask), area, mask_from="human")
            )
        name = row["file_name"].replace(".png", ".jpg")
        sample = Sample(str(row["image_id"]), name, *ids.shape[::-1], tuple(segments))
        records.append((sample, (real_data / "coco/val2017" / name).read_bytes()))
    header: dict[str, Any] = {
        "kind": "panoptic",
        "name": "real",
        "split": "val",
        "command": "test",
        "arguments": {},
    }
    dataset.load(
        write_set(tmp_path / "set", records, Header(taxonomy=taxonomy, **header)), name="real"
    )
    stored = fo.load_dataset("real")
    assert sorted(stored.values("image_id")) == sorted(maps)
    for sample in stored:
        assert np.array_equal(sample.ground_truth_classes.get_mask(), maps[sample.image_id])


def test_replaced_labels_get_new_class_maps(fo: ModuleType, tmp_path: Path) -> None:
    sample = panoptic_sample()
    write_labels(tmp_path / "set", "semantic", [sample])
    dataset.load(ShardSet.open(tmp_path / "set"), name="old")
    fewer = replace(sample, segments=sample.segments[:1])
    write_labels(tmp_path / "set", "semantic", [fewer])
    dataset.load(ShardSet.open(tmp_path / "set"), name="new")
    old, new = (
        fo.load_dataset(name).first().ground_truth_classes.get_mask() for name in ("old", "new")
    )
    assert (old == 2).any() and not (new == 2).any()


def test_labels_are_visible_at_once_in_the_colors_of_their_names(
    fo: ModuleType, tmp_path: Path
) -> None:
    shards = write_labels(tmp_path / "set", "panoptic", [panoptic_sample("a")])
    loaded = fo.load_dataset(dataset.load(shards).dataset)
    fields = ["ground_truth_classes", "ground_truth_things"]
    assert loaded.app_config.active_fields.paths == fields
    scheme = loaded.app_config.color_scheme
    assert scheme.color_by == "value"
    maps, things = scheme.fields
    names = {1: "grass", 2: "disc", 3: "box"}
    expected = [{"intTarget": i, "color": hex_color(name)} for i, name in names.items()]
    assert maps["maskTargetsColors"] == expected
    colors = {item["value"]: item["color"] for item in things["valueColors"]}
    assert colors == {name: hex_color(name) for name in names.values()}
    red, green, blue = class_color("disc")
    assert colors["disc"] == f"#{red:02x}{green:02x}{blue:02x}"


def test_browsing_again_keeps_tags_views_and_fields(fo: ModuleType, tmp_path: Path) -> None:
    samples = [panoptic_sample("a"), panoptic_sample("b")]
    shards = write_labels(tmp_path / "set", "panoptic", samples)
    guess = write_labels(tmp_path / "guess", "panoptic", [panoptic_sample("a", score=0.5)])
    name = dataset.load(shards, {"first": guess}, name="kept").dataset
    stored = fo.load_dataset(name)
    stored.add_sample_field("comment", fo.StringField)
    sample = stored.match(fo.ViewField("image_id") == "a").first()
    sample.tags.append("look")
    sample["comment"] = "blurred"
    sample.ground_truth_things.detections[1].tags.append("wrong")
    sample.save()
    stored.save_view("mine", stored.match_tags("look"))

    loaded = dataset.load(shards, {"second": guess}, name="kept")
    stored.reload()
    again = stored.match(fo.ViewField("image_id") == "a").first()
    assert again.tags == ["val", "look"] and again.comment == "blurred"
    tags = [label.tags for label in again.ground_truth_things.detections]
    assert tags == [[], ["wrong"]]
    assert "mine" in stored.list_saved_views() and len(stored.load_saved_view("mine")) == 1
    fields = stored.get_field_schema()
    assert "second_things" in fields and "first_things" not in fields
    assert set(loaded.views) <= set(stored.list_saved_views())

    fewer = write_labels(tmp_path / "set", "panoptic", [*samples[:1], panoptic_sample("c")])
    assert dataset.load(fewer, name="kept").samples == 2
    stored.reload()
    assert sorted(stored.values("image_id")) == ["a", "c"]
    assert stored.match(fo.ViewField("image_id") == "a").first().comment == "blurred"
    assert stored.match(fo.ViewField("image_id") == "c").first().tags == ["val"]


def test_of_duplicate_labels_only_the_tagged_one_keeps_its_tag(
    fo: ModuleType, tmp_path: Path
) -> None:
    sample = panoptic_sample("a")
    disc = replace(sample.segments[1], is_crowd=False)

    def write(*segments: Segment) -> ShardSet:
        return write_labels(tmp_path / "set", "instance", [replace(sample, segments=segments)])

    def tags() -> list[list[str]]:
        return [
            label.tags for label in fo.load_dataset("twins").first().ground_truth_things.detections
        ]

    shards = write(disc, disc, disc)
    dataset.load(shards, name="twins")
    stored = fo.load_dataset("twins").first()
    for label, names in zip(
        stored.ground_truth_things.detections, (["look"], ["look", "bad"], ["look"]), strict=True
    ):
        label.tags = names
    stored.save()
    dataset.load(shards, name="twins")
    assert tags() == [["look"], ["look", "bad"], ["look"]]
    read = review.read_tags("twins", shards)
    layer = review.write_back(shards, tmp_path / "reviewed", read, {"bad": "drop"}, {})
    assert layer.sample(0).segments == (disc, disc)

    dataset.load(write(disc, disc), name="twins")
    assert tags() == [["look"], ["look"]], "which of them was bad is open"


def test_instances_below_the_least_score_are_hidden_and_boxes_found(
    fo: ModuleType, tmp_path: Path
) -> None:
    sample = panoptic_sample("a")
    scores = (None, 0.2, 0.9)
    segments = [
        replace(segment, kind="thing", score=score, is_crowd=False)
        for segment, score in zip(sample.segments, scores, strict=True)
    ]
    segments[2] = replace(segments[2], mask=None, mask_from=None)
    shards = write_labels(tmp_path / "set", "instance", [replace(sample, segments=tuple(segments))])
    dataset.load(shards, name="scored", min_score=0.5)
    stored = fo.load_dataset("scored")
    view = stored.load_saved_view("segkit: confident (0.5 or more)")
    assert view.values("ground_truth_things.detections.confidence") == [[None, 0.9]]
    bare = stored.load_saved_view("segkit: boxes without a mask in ground_truth")
    assert bare.values("ground_truth_things.detections.confidence") == [[0.9]]


def test_leaks_and_quarantined_images_are_tagged(fo: ModuleType, tmp_path: Path) -> None:
    samples = [panoptic_sample("a"), panoptic_sample("b")]
    shards = write_labels(tmp_path / "set", "panoptic", samples)
    train = write_labels(tmp_path / "train", "panoptic", samples[:1])
    record = {"code": "bad-box", "record": "annotation 7 of image b", "message": "x", "file": "f"}
    (shards.path / "quarantine.jsonl").write_text(json.dumps(record) + "\n")
    dataset.load(shards, name="tagged", leaks=[train])
    (shards.path / "quarantine.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match=r"quarantine\.jsonl: damaged"):
        dataset.load(shards, name="damaged")
    tags = dict(zip(*fo.load_dataset("tagged").values(["image_id", "tags"]), strict=True))
    assert tags == {"a": ["val", "leak"], "b": ["val", "quarantined"]}
    assert len(fo.load_dataset("tagged").load_saved_view("segkit: leaks")) == 1
