"""Benchmarks of a public Mask2Former, from the command line, with random weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.masks.rle import encode
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import load_taxonomy
from tests.commands.slips import assert_refused_before_torch
from tests.model.checkpoints import mask2former, save
from tests.training.toy import write_toy_set

SIDE, IMAGES = 64, 3


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> str:
    labels = load_taxonomy("coco-panoptic-133").names
    folder = tmp_path_factory.mktemp("public")
    square = {"height": SIDE, "width": SIDE}
    return f"hf:{save(mask2former('resnet18', labels), folder, square)}"


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)


def write_truth(folder: Path, vocabulary: str, kind: Any) -> ShardSet:
    """A thing in the middle of stuff, in each image."""
    taxonomy = load_taxonomy(vocabulary)
    thing = next(c for c in taxonomy.categories if c.kind == "thing" or kind == "semantic")
    stuff = next(c for c in taxonomy.categories[::-1] if c.kind == "stuff" or kind == "semantic")
    inner = np.zeros((SIDE, SIDE), bool)
    inner[16:48, 16:48] = True
    regions = ((thing, inner, (16.0, 16.0, 32.0, 32.0)), (stuff, ~inner, (0.0, 0.0, 64.0, 64.0)))
    segments = tuple(
        Segment(c.id, c.kind, box, encode(mask), float(mask.sum()), mask_from="human")
        for c, mask, box in regions
    )

    def records() -> Iterator[tuple[Sample, bytes]]:
        for seed in range(IMAGES):
            file = folder.parent / "image.png"
            Image.fromarray(picture(seed)).save(file)
            yield Sample(str(seed), f"{seed}.png", SIDE, SIDE, segments), file.read_bytes()

    header = Header(name="truth", kind=kind, taxonomy=taxonomy, command="test")
    return write_set(folder, records(), header)


def benchmark(*arguments: object) -> dict[str, Any]:
    options = ("--json",)
    result = CliRunner().invoke(app, ["benchmark", *map(str, arguments), *options])
    assert result.exit_code == 0, result.output
    figures: dict[str, Any] = json.loads(result.stdout)
    return figures


@pytest.mark.parametrize(
    ("name", "vocabulary", "kind"),
    [
        ("coco-panoptic", "coco-panoptic-133", "panoptic"),
        ("ade-semantic", "ade20k-150", "semantic"),
        ("open-vocabulary", "pascal-context-59", "semantic"),
    ],
)
def test_a_public_model_takes_part_in_a_benchmark(
    name: str, vocabulary: str, kind: str, public: str, tmp_path: Path
) -> None:
    truth = write_truth(tmp_path / "truth", vocabulary, kind)
    out = ("--out", tmp_path / "out")
    figures = benchmark(name, "--data", truth.path, "--checkpoint", public, *out)
    value = figures["all"]["pq"] if kind == "panoptic" else figures["miou"]
    assert 0 <= value <= 100 and figures["images"]["evaluated"] == IMAGES and figures["published"]
    predictions = ShardSet.open(tmp_path / "out" / "predictions")
    again = benchmark(name, "--data", truth.path, "--predictions", predictions.path, *out)
    assert (again["all"]["pq"] if kind == "panoptic" else again["miou"]) == value


def test_a_public_model_takes_part_in_the_objects365_benchmark(public: str, tmp_path: Path) -> None:
    images = [{"id": 1, "width": SIDE, "height": SIDE, "file_name": "images/v1/patch0/a.jpg"}]
    (tmp_path / "images").mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "images" / "a.jpg")
    categories = [{"id": c.id, "name": c.name} for c in load_taxonomy("objects365-v2").categories]
    polygon = [[16, 16, 48, 16, 48, 48, 16, 48]]
    annotation = {"id": 1, "image_id": 1, "category_id": categories[0]["id"], "iscrowd": 0}
    annotation |= {"bbox": [16, 16, 32, 32], "area": 1024.0, "segmentation": polygon}
    content = {"images": images, "annotations": [annotation], "categories": categories}
    (tmp_path / "o365.json").write_text(json.dumps(content))
    figures = benchmark(
        *("objects365", "--annotations", tmp_path / "o365.json", "--images", tmp_path / "images"),
        *("--checkpoint", public, "--out", tmp_path / "out"),
        *("--set", "inference.instance_score=0"),
    )
    assert 0 <= figures["ap"] <= 100 and figures["images"]["evaluated"] == 1
    assert (tmp_path / "out" / "results.json").is_file()


def test_a_public_model_is_a_teacher_by_its_proposals(public: str, tmp_path: Path) -> None:
    boxes = write_toy_set(tmp_path / "boxes", boxes_only=True)
    options = ("--teacher", public, "--data", boxes.path, "--out", tmp_path / "out", "--json")
    result = CliRunner().invoke(app, ["pseudolabel", *map(str, options), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["strategy"] == "proposals"
    (data, run) = ShardSet.open(tmp_path / "out").manifest.parents
    assert data.digest == boxes.manifest.digest and run.digest != data.digest


def test_what_is_not_a_mask2former_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth", "coco-panoptic-133", "panoptic")
    sam = tmp_path / "sam"
    sam.mkdir()
    (sam / "config.json").write_text('{"model_type": "sam"}')
    (sam / "model.safetensors").write_bytes(b"")
    common = ("--data", str(truth.path), "--checkpoint")
    slips = (
        [*common, f"hf:{sam}"],
        [*common, f"hf:{tmp_path}"],
        [*common, f"sam:{sam}"],
        [*common, "grabcut"],
        [*common, "hf:"],
    )
    command = ["benchmark", "coco-panoptic", "--out", str(tmp_path / "out")]
    assert_refused_before_torch(command, slips)
