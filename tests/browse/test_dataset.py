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

from segkit.browse import dataset
from segkit.commands.app import app
from segkit.errors import InputError
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
    loaded = dataset.load(truth, predictions)
    assert (loaded.dataset, loaded.samples, loaded.segments, loaded.masked) == (
        "toy-val-v1",
        2,
        6,
        6,
    )
    assert (loaded.predicted, loaded.predicted_segments, loaded.unmatched) == (1, 3, 1)

    stored = fo.load_dataset("toy-val-v1")
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


@pytest.mark.parametrize(
    ("name", "expected"), [("...", None), ("数据", None), ("a b", "a b-v1"), ("x", "x-v1")]
)
def test_every_set_has_a_default_name_that_fiftyone_accepts(
    fo: ModuleType, tmp_path: Path, name: str, expected: str | None
) -> None:
    header: dict[str, Any] = {"kind": "panoptic", "split": None, "command": "test", "arguments": {}}
    records = [(panoptic_sample("a"), png(0))]
    shards = write_set(tmp_path / "set", records, Header(taxonomy=TAXONOMY, name=name, **header))
    loaded = dataset.load(shards).dataset
    assert loaded == (expected or f"set-{shards.manifest.digest[:12]}-v1")
    assert len(fo.load_dataset(loaded)) == 1


@pytest.mark.parametrize("name", ["", "...", "x" * 2000])
def test_a_name_that_fiftyone_does_not_accept_is_refused(
    fo: ModuleType, tmp_path: Path, name: str
) -> None:
    shards = write_labels(tmp_path / "set", "panoptic", [panoptic_sample("a")])
    with pytest.raises(InputError, match="give another name with --name"):
        dataset._check_name(name, shards)


def test_predictions_of_another_set_are_refused(fo: ModuleType, tmp_path: Path) -> None:
    shards = write_labels(tmp_path / "set", "panoptic", [panoptic_sample("a")])
    foreign = write_labels(tmp_path / "foreign", "panoptic", [panoptic_sample("x")])
    with pytest.raises(InputError, match="no sample id of the predictions is in the set"):
        dataset.load(shards, foreign, name="refused")
    assert not fo.dataset_exists("refused")


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
