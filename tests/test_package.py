"""What `import segkit` offers, and how little it imports."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

import segkit
from segkit.errors import InputError
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.storage import StrPath
from tests.sources.builders import coco_panoptic
from tests.training.toy import write_toy_set


def test_importing_segkit_imports_no_heavy_package() -> None:
    heavy = ("torch", "torchvision", "cv2", "numpy", "pyarrow", "scipy", "pydantic")
    code = f"import sys, segkit; dir(segkit); print([n for n in {heavy} if n in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout == "[]\n", output.stderr


@pytest.mark.parametrize("name", segkit.__all__)
def test_every_export_resolves_and_is_listed(name: str) -> None:
    assert getattr(segkit, name) is not None
    assert name in dir(segkit)


def test_open_opens_a_shard_set() -> None:
    assert segkit.open == ShardSet.open


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'segkit' has no attribute 'magic'"):
        _ = segkit.magic


def test_sets_can_be_written_to_a_path_given_as_text(tmp_path: Path) -> None:
    toy = write_toy_set(tmp_path / "toy")
    header = Header.from_set(toy, "test", {})
    layer = write_layer(f"{tmp_path}/layer", toy, toy.samples(), header)
    assert layer.path == tmp_path.resolve() / "layer" / "v1"
    assert [s.segments for s in layer.samples()] == [s.segments for s in toy.samples()]
    assert layer.manifest.parents[0].path == "../../toy/v1"


@pytest.mark.parametrize("form", [str, Path])
def test_each_function_takes_paths_as_text_and_as_objects(
    form: Callable[[Path], Any], toy_set: ShardSet, box_set: ShardSet, tiny: Path, tmp_path: Path
) -> None:
    truth, boxes, home = form(toy_set.path), form(box_set.path), tmp_path
    assert len(segkit.open(truth)) == len(segkit.TorchDataset(truth)) == len(toy_set)
    layer, counts = segkit.pseudolabel("ellipse", boxes, form(home / "masks"))
    assert counts.masked == counts.boxes > 0
    assert segkit.evaluate(truth, form(toy_set.path), "panoptic").metrics["all"]["pq"] == 100
    figures = segkit.evaluate(truth, form(layer.path), "instance").metrics
    assert figures["images"]["without_prediction"] == 0

    options: dict[str, Any] = {"steps": 1, "device": "cpu"}
    run = segkit.train(form(tiny), truth, form(home / "run"), eval_data=truth, **options)
    weighted = [truth, (boxes, 0.5)]
    mixed = segkit.train(form(tiny), weighted, form(home / "mixed"), **options)
    arguments = segkit.load_run(form(mixed)).manifest.arguments
    assert arguments["data"] == {str(truth): 1.0, str(boxes): 0.5}
    image = toy_set[0].image
    masks, scores = segkit.segment_boxes(form(run), image, toy_set[0].boxes)
    assert len(masks) == len(scores) == len(toy_set[0].boxes)
    assert segkit.open_run(form(run), "cpu").run.path == run
    assert segkit.open_teacher(form(run), strategy="proposals").name == str(run)
    assert segkit.pseudolabel(form(run), boxes, form(home / "layer"))[1].boxes == counts.boxes


def test_a_source_and_the_destination_can_be_text(tmp_path: Path) -> None:
    coco_panoptic(tmp_path)
    source = open_coco_panoptic(str(tmp_path / "panoptic.json"), str(tmp_path / "images"))
    converted = segkit.convert(source, str(tmp_path / "set")).published
    assert converted is not None and len(converted) == 3


@pytest.mark.parametrize(
    "opener",
    [
        "ade.open_ade",
        "cityscapes.open_cityscapes",
        "coco_instances.open_coco_instances",
        "coco_joined.open_coco_joined",
        "coco_panoptic.open_coco_panoptic",
        "cvat_xml.open_cvat",
        "label_studio.open_label_studio",
        "labelme_json.open_labelme",
        "objects365.open_objects365",
        "semantic_masks.open_semantic",
        "visual_genome.open_visual_genome",
        "voc.open_voc",
        "voc_boxes.open_voc_boxes",
        "yolo_labels.open_yolo",
    ],
)
def test_each_source_takes_paths_as_text(opener: str, tmp_path: Path) -> None:
    module, name = opener.split(".")
    open_source = getattr(import_module(f"segkit.sources.{module}"), name)
    missing = str(tmp_path / "missing")
    arguments = {
        key: "train" if key == "split" else missing
        for key, parameter in signature(open_source).parameters.items()
        if key == "split" or parameter.annotation in (StrPath, StrPath | None)
    }
    with pytest.raises(InputError, match="missing"):
        open_source(**arguments)
