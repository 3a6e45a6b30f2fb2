"""Predictions in files whose ids are not those of the ground truth, as lists beside them say."""

import json
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.export.prediction_files import write_native
from segkit.metrics.predictions import open_predictions
from segkit.sample import Sample
from segkit.shards.coco_image_ids import class_id
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet
from segkit.storage import location
from segkit.taxonomy import Category, Taxonomy

from .files import figures, sets, shard_set

PLACES = {
    "semantic": ("native", "native/masks", "native/masks/val"),
    "panoptic": ("native", "native/panoptic_val.json"),
    "instance": ("native", "native/results.json"),
}
"""Paths that `--predictions` may name."""
OWN = {2: 9, 9: 2, 16: 16, 23: 0, 30: 77}
"""Ids of the truth's classes -> ids of the predictions'; 77 is a class of another name."""


def renumbered(folder: Path, predictions: ShardSet, kind: Task) -> ShardSet:
    """The predictions in classes of the same names and other ids, one of another name."""
    categories = tuple(
        replace(c, id=OWN[c.id], name="zebra" if OWN[c.id] == 77 else c.name.title())
        for c in predictions.taxonomy.categories
    )
    samples = with_ids(predictions, OWN)
    return shard_set(folder, samples, Taxonomy("own", categories), kind)


def with_ids(data: ShardSet, ids: dict[int, int]) -> list[Sample]:
    """The samples of a set with other class ids."""
    return [
        replace(s, segments=tuple(replace(p, class_id=ids[p.class_id]) for p in s.segments))
        for s in data.samples()
    ]


@pytest.mark.parametrize("kind", PLACES)
def test_files_have_the_figures_of_the_set_whatever_its_numbers(tmp_path: Path, kind: Task) -> None:
    truth, predictions = sets(tmp_path, kind=kind)
    own = renumbered(tmp_path / "val", predictions, kind)
    expected = figures(truth, own, kind)
    assert expected["class_map"]["unmapped"] == ("zebra",)
    assert expected != figures(truth, predictions, kind)
    native = write_native(own, tmp_path / "native")
    if kind == "semantic":
        (native / "masks" / "val").mkdir()
        for file in (native / "masks").glob("*.png"):
            file.rename(native / "masks" / "val" / file.name)
    for place in PLACES[kind]:
        opened = open_predictions(str(tmp_path / place), truth, task=kind)
        assert figures(truth, opened, kind) == expected


@pytest.mark.parametrize("kind", PLACES)
def test_lists_are_read_beside_remote_files(tmp_path: Path, kind: Task) -> None:
    truth, predictions = sets(tmp_path, kind=kind)
    own = renumbered(tmp_path / "val", predictions, kind)
    native = write_native(own, tmp_path / "native")
    remote = location(f"memory://{uuid.uuid4().hex}")
    for file in filter(Path.is_file, native.rglob("*")):
        (remote / file.relative_to(tmp_path).as_posix()).write_bytes(file.read_bytes())
    opened = open_predictions(str(remote / "native"), truth, task=kind)
    assert figures(truth, opened, kind) == figures(truth, own, kind)


@pytest.mark.parametrize("kind", PLACES)
def test_files_without_a_list_have_the_ids_of_the_ground_truth(tmp_path: Path, kind: Task) -> None:
    """Also beside lists of other programs, which may number other classes."""
    truth, predictions = sets(tmp_path, kind=kind)
    native = write_native(predictions, tmp_path / "native")
    expected = figures(truth, predictions, kind)
    (native / "taxonomy.json").unlink(missing_ok=True)
    names = [category.name for category in reversed(truth.taxonomy.categories)]
    counted = "".join(f"{number} {name}\n" for number, name in enumerate(names))
    for text, other in (("\n".join(names), "{}"), (counted, "[1]"), ("0 zebra\n0 a", "no JSON")):
        (native / "labels.txt").write_text(text)
        (native / "taxonomy.json").write_text(other)
        for path in native.glob("panoptic*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": []}))
        opened = open_predictions(str(native), truth, task=kind)
        assert figures(truth, opened, kind) == expected


@pytest.mark.parametrize("kind", PLACES)
def test_the_numbering_of_another_list_is_refused_by_its_name(tmp_path: Path, kind: Task) -> None:
    truth, predictions = sets(tmp_path, kind=kind)
    native = write_native(predictions, tmp_path / "native")
    file = native / ("panoptic_val.json" if kind == "panoptic" else "taxonomy.json")

    def write_list(names: dict[int, str]) -> None:
        if kind != "panoptic":
            classes = tuple(Category(number, name, "thing") for number, name in names.items())
            file.write_text(json.dumps(Taxonomy("own", classes).to_json()))
            return
        rows = [{"id": str(number), "name": name} for number, name in names.items()]
        file.write_text(json.dumps(json.loads(file.read_text()) | {"categories": rows}))

    write_list({2: "horse", 9: "zebra"})
    with pytest.raises(InputError, match=rf"{file.name}: no class of \S+ is a class of"):
        open_predictions(str(native), truth, task=kind)
    write_list({40: "class 0", 9: "CLASS  1"})  # another numbering, which lacks the ids
    with pytest.raises(InputError, match=r"category 2 is not in|pixels of \d+, which is no class"):
        figures(truth, open_predictions(str(native), truth, task=kind), kind)


def test_spellings_of_the_source_name_the_classes_of_the_ground_truth(tmp_path: Path) -> None:
    """As a run may list them, here one that numbers COCO's classes from 0."""
    truth, predictions = sets(tmp_path, kind="semantic")
    spelled = [replace(c, source_name=f"{c.name}-merged") for c in truth.taxonomy.categories]
    names = Taxonomy("spelled", tuple(spelled))
    renamed = shard_set(tmp_path / "spelled", list(truth.samples()), names, "semantic")
    counted = {c.id: k for k, c in enumerate(spelled)}
    classes = tuple(Category(counted[c.id], f"{c.name}-merged", c.kind) for c in spelled)
    own = shard_set(
        tmp_path / "own", with_ids(predictions, counted), Taxonomy("own", classes), "semantic"
    )
    native = write_native(own, tmp_path / "native")
    opened = open_predictions(str(native), renamed, task="semantic")
    assert figures(renamed, opened, "semantic") == figures(truth, predictions, "semantic")


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("kind", ["panoptic", "instance"])
def test_class_ids_may_be_text_or_floats(tmp_path: Path, kind: Task, text: bool) -> None:
    truth, predictions = sets(tmp_path, kind=kind)
    native = write_native(predictions, tmp_path / "native")
    file = native / ("results.json" if kind == "instance" else "panoptic_val.json")
    content = json.loads(file.read_text())
    rows = content if kind == "instance" else content["annotations"]
    for row in rows:
        for part in [row] if kind == "instance" else row["segments_info"]:
            part["category_id"] = str(part["category_id"]) if text else float(part["category_id"])
    file.write_text(json.dumps(content))
    opened = open_predictions(str(file), truth, task=kind)
    assert figures(truth, opened, kind) == figures(truth, predictions, kind)
    odd = "2.5" if text else 2.5
    part["category_id"] = odd
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"category 2\.5 is not in test"):
        figures(truth, open_predictions(str(file), truth, task=kind), kind)
    assert [class_id(value) for value in (7, 7.0, "7", "-7", "7.0", True, None, 1e400)] == (
        [7, 7, 7, -7, None, None, None, None]
    )
