import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from tests.metrics.files import sets, shard_set
from tests.training.toy import write_toy_set


def _show(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(app, ["show", *map(str, arguments), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    output: dict[str, object] = json.loads(result.stdout)
    return output


def _refusal(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["show", *map(str, arguments)])
    assert isinstance(result.exception, InputError), result.output
    return str(result.exception)


def test_a_grid_is_written_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, _ = sets(tmp_path / "sets", images=5, kind="panoptic")
    monkeypatch.chdir(tmp_path)
    result = _show(truth.path.parent, "--grid", 4)
    assert result["path"] == f"{truth.path.parent.name}-v1.png"
    assert result["images"] == [truth.sample(index).id for index in (0, 1, 2, 3)]
    assert Image.open(str(result["path"])).format == "PNG"


def test_one_image_is_shown_by_its_id(tmp_path: Path) -> None:
    truth, _ = sets(tmp_path, images=3, kind="panoptic")
    sample = truth.sample(2)
    out = tmp_path / "one.png"
    result = _show(truth.path, "--id", sample.id, "--out", out)
    assert result["images"] == [sample.id] and result["segments"] == len(sample.segments)
    picture = Image.open(out)
    assert picture.width * sample.height == picture.height * sample.width


def test_the_worst_images_come_first(tmp_path: Path) -> None:
    truth, predictions = sets(tmp_path, images=5, kind="panoptic")
    out = tmp_path / "worst.png"
    result = _show(
        truth.path, "--worst", "--grid", 2, "--predictions", predictions.path, "--out", out
    )
    assert len(list(result["images"])) == 2  # type: ignore[call-overload]
    assert np.asarray(Image.open(out)).shape[1] > 1200


def test_only_images_with_a_prediction_are_drawn_beside_predictions(tmp_path: Path) -> None:
    truth, predictions = sets(tmp_path, images=5, kind="panoptic")
    last = list(predictions.samples())[3:]
    few = shard_set(tmp_path / "few", last, truth.taxonomy)
    out = ("--predictions", few.path, "--out", tmp_path / "x.png")
    result = _show(truth.path, "--grid", 2, *out)
    assert result["images"] == [sample.id for sample in last]
    assert result["segments"] == sum(len(sample.segments) for sample in last) > 0
    assert _show(truth.path, "--id", last[0].id, *out)["images"] == [last[0].id]


def test_predictions_of_other_images_are_refused(tmp_path: Path) -> None:
    truth, predictions = sets(tmp_path, images=3, kind="panoptic")
    renamed = [replace(sample, id=f"b{sample.id}") for sample in predictions.samples()]
    other = shard_set(tmp_path / "other", renamed, truth.taxonomy)
    few = shard_set(tmp_path / "few", list(predictions.samples())[:1], truth.taxonomy)
    out = ("--out", tmp_path / "x.png")
    for more in ((), ("--grid", 2), ("--id", truth.sample(1).id)):
        refusal = _refusal(truth.path, "--predictions", other.path, *more, *out)
        assert "other/v1: has none of the images; give predictions of" in refusal
    refusal = _refusal(truth.path, "--predictions", few.path, "--id", truth.sample(1).id, *out)
    assert f"few/v1: no prediction of image '{truth.sample(1).id}'; 1 of the images" in refusal
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("kind", ["panoptic", "instance"])
def test_the_worst_images_are_among_those_with_a_prediction(tmp_path: Path, kind: str) -> None:
    truth, predictions = sets(tmp_path, images=6, kind=kind)
    unknown = replace(predictions.sample(0), id="not in the set")
    last = [*list(predictions.samples())[3:], unknown]
    few = shard_set(tmp_path / "few", last, truth.taxonomy, kind)
    out = ("--predictions", few.path, "--out", tmp_path / "x.png")
    result = _show(truth.path, "--worst", "--grid", 5, *out)
    assert isinstance(result["images"], list)
    assert sorted(result["images"]) == [sample.id for sample in last[:3]]


def test_predictions_of_another_size_are_refused(tmp_path: Path) -> None:
    truth, predictions = sets(tmp_path, images=2, kind="panoptic")
    sample = predictions.sample(1)
    turned = replace(sample, width=sample.height, height=sample.width)
    rotated = shard_set(tmp_path / "rotated", [predictions.sample(0), turned], truth.taxonomy)
    for more in ((), ("--worst",), ("--id", sample.id)):
        refusal = _refusal(
            truth.path, "--predictions", rotated.path, "--out", tmp_path / "x.png", *more
        )
        assert (
            f"rotated/v1: image {sample.id}: the prediction is 40 x 50, the image 50 x 40"
            in refusal
        )
        assert refusal.endswith("predict at the size of the image")
    assert not (tmp_path / "x.png").exists()


def test_slips_are_refused_in_one_line(tmp_path: Path) -> None:
    truth, _ = sets(tmp_path, images=2, kind="panoptic")
    out = ("--out", tmp_path / "x.png")
    (tmp_path / "file").touch()
    assert "x.jpg: the picture is a PNG" in _refusal(truth.path, "--out", tmp_path / "x.jpg")
    assert "give --id or --grid, not both" in _refusal(truth.path, "--id", "1", "--grid", 2, *out)
    assert "give --id or --worst, not both" in _refusal(truth.path, "--id", "1", "--worst", *out)
    assert "no segment has a score" in _refusal(truth.path, "--worst", *out)
    assert "no image has the id" in _refusal(truth.path, "--id", "nope", *out)
    assert "is a folder; give the name of a file" in _refusal(truth.path, "--out", tmp_path)
    beyond = tmp_path / "file" / "x.png"
    assert "file: cannot be written to" in _refusal(truth.path, "--out", beyond)
    assert not (tmp_path / "x.png").exists()


def test_the_picture_appears_in_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from segkit.commands import show

    truth, _ = sets(tmp_path, images=2, kind="panoptic")
    console = Console(force_terminal=True, width=40, record=True, color_system="truecolor")
    monkeypatch.setattr(show, "stdout", console)
    result = CliRunner().invoke(app, ["show", str(truth.path), "--out", str(tmp_path / "x.png")])
    assert result.exit_code == 0, result.exception
    assert len(console.export_text().splitlines()) > 5


def test_an_image_that_cannot_be_read_is_noted(tmp_path: Path) -> None:
    shards = write_toy_set(tmp_path / "toy")
    (shards.path / "images-00000.tar").unlink()
    result = CliRunner().invoke(app, ["show", str(shards.path), "--out", str(tmp_path / "x.png")])
    assert result.exit_code == 0 and (tmp_path / "x.png").is_file()
    (line,) = (line for line in result.stderr.splitlines() if "gray" in line)
    assert line.startswith("note: drawn on gray: ") and "images-00000.tar" in line


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_a_least_score_is_refused_where_no_set_leaves_segments_out(
    tmp_path: Path, kind: str
) -> None:
    truth, predictions = sets(tmp_path / "maps", images=2, kind=kind)
    out = ("--out", tmp_path / "x.png")
    for more in ((), ("--predictions", predictions.path)):
        refusal = _refusal(truth.path, *more, "--min-score", 0.9, *out)
        message = "--min-score does nothing here; it requires a set of instances or boxes"
        assert message in refusal and not (tmp_path / "x.png").exists()
        assert _show(truth.path, *more, "--min-score", 0.3, *out)["segments"]
        (tmp_path / "x.png").unlink()
    _, instances = sets(tmp_path / "instances", images=2, kind="instance")
    assert _show(truth.path, "--predictions", instances.path, "--min-score", 0.9, *out)["segments"]
