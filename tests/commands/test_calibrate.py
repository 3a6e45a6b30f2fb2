"""`segkit calibrate`, and `segkit pseudolabel --min-iou` with its runs."""

import json
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

import segkit
from segkit.errors import InputError
from segkit.inference import calibrate as calibrate_module
from segkit.inference import calibration_set
from segkit.runs.calibrated_version import publish_calibrated
from segkit.runs.calibration import Calibration
from segkit.runs.run_manifest import CONTENT, read_run_manifest
from segkit.sample import Segment
from segkit.shards.header import Header
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer
from tests.commands.slips import assert_refused_before_torch, hollow_run
from tests.commands.test_predict import call, error, invoke


@pytest.fixture(scope="module")
def calibrated(
    run: Path, toy: ShardSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, object]]:
    """A copy of the run, calibrated in place, and what the command printed."""
    place = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(run.parent, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_set, "MIN_BOXES", 2)
        output = invoke("calibrate", "--checkpoint", place, "--data", toy.path)
    return place, output


def masks(out: Path) -> list[Segment]:
    return [segment for sample in ShardSet.open(out).samples() for segment in sample.segments]


def test_the_calibrated_run_is_a_new_version_with_the_same_weights(
    calibrated: tuple[Path, dict[str, object]], toy: ShardSet, run: Path
) -> None:
    place, output = calibrated
    first, second = read_run_manifest(f"{place}@v1"), read_run_manifest(place)
    assert (output["version"], output["digest"]) == (2, second.digest)
    assert second.command == "calibrate" and second.digest != first.digest
    assert first == read_run_manifest(run), "a published version never changes"
    for name in CONTENT:
        assert (place / "v2" / name).read_bytes() == (place / "v1" / name).read_bytes()
        assert second.files[name] == first.files[name]
    assert [(place / "v2" / parent.path).resolve() for parent in second.parents] == [
        place / "v1",
        toy.path,
    ]
    assert [parent.digest for parent in second.parents] == [first.digest, toy.manifest.digest]
    assert invoke("validate", place)["violations"] == []
    assert call("inspect", place).exit_code == 0


def test_the_file_fits_the_published_schema_and_so_does_its_class(
    calibrated: tuple[Path, dict[str, object]],
) -> None:
    file = resources.files("segkit.schemas") / "calibration.schema.json"
    published = json.loads(file.read_text("utf-8"))
    Draft202012Validator.check_schema(published)
    schema = Calibration.model_json_schema()
    keys = published.keys() | schema.keys()
    differing = {key for key in keys if published.get(key) != schema.get(key)}
    assert differing == {"$schema", "title"}
    content = json.loads((calibrated[0] / "v2" / "calibration.json").read_text("utf-8"))
    Draft202012Validator(published).validate(content)
    assert not Draft202012Validator(published).is_valid(content | {"maps": []})


def test_pruning_deletes_the_report_with_its_version(
    calibrated: tuple[Path, dict[str, object]], boxes: ShardSet, tmp_path: Path
) -> None:
    assert (calibrated[0] / "v2.html").read_text().startswith("<!DOCTYPE html>")
    common = ("pseudolabel", "--teacher", "box", "--data", boxes.path, "--out", tmp_path / "out")
    for _ in range(2):
        invoke(*common, "--force")
    invoke("prune", tmp_path / "out", "--keep", 1)
    names = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert names == {"v2", "v2.png", "v2.html"}


def test_masks_stay_and_scores_become_expected_iou(
    calibrated: tuple[Path, dict[str, object]], boxes: ShardSet, tmp_path: Path
) -> None:
    place, _ = calibrated
    common = ("pseudolabel", "--data", boxes.path, "--no-preview")
    invoke(*common, "--checkpoint", f"{place}@v1", "--out", tmp_path / "raw")
    invoke(*common, "--checkpoint", place, "--out", tmp_path / "calibrated")
    raw, expected = masks(tmp_path / "raw"), masks(tmp_path / "calibrated")
    assert [s.mask for s in raw] == [s.mask for s in expected]
    scored = [(a, b) for a, b in zip(raw, expected, strict=True) if a.mask is not None]
    areas = np.array([a.box[2] * a.box[3] for a, _ in scored])
    scores = np.array([a.score for a, _ in scored])
    assert (scores >= 0.5).all(), "mean probability within the mask"
    calibration = segkit.load_run(place).calibration
    assert calibration is not None and segkit.load_run(f"{place}@v1").calibration is None
    iou = calibration.expected_iou(scores, areas)
    assert [b.score for _, b in scored] == pytest.approx(iou, abs=1e-6)


def test_min_iou_keeps_the_masks_of_that_expected_iou(
    calibrated: tuple[Path, dict[str, object]], boxes: ShardSet, tmp_path: Path
) -> None:
    place, _ = calibrated
    common = ("pseudolabel", "--checkpoint", place, "--data", boxes.path, "--no-preview")
    invoke(*common, "--out", tmp_path / "all")
    every = [s for s in masks(tmp_path / "all") if s.mask is not None]
    bar = float(np.median([s.score for s in every]))
    output = invoke(*common, "--out", tmp_path / "some", "--min-iou", bar)
    assert output["min_iou"] == bar
    kept = [s for s in masks(tmp_path / "some") if s.mask is not None]
    assert kept == [s for s in every if (s.score or 0.0) >= bar] and kept
    assert output["masked"] == len(kept)
    arguments = ShardSet.open(tmp_path / "some").manifest.arguments
    assert arguments["min_iou"] == bar and arguments["checkpoint"].endswith("v2")
    assert "min_iou" not in ShardSet.open(tmp_path / "all").manifest.arguments


def test_augmentation_of_a_calibrated_run_is_noted(
    calibrated: tuple[Path, dict[str, object]], boxes: ShardSet, tmp_path: Path
) -> None:
    common = ("pseudolabel", "--checkpoint", calibrated[0], "--data", boxes.path, "--no-preview")
    assert "calibrated without --tta" in call(*common, "--out", tmp_path / "a", "--tta").stderr
    assert "calibrated without" not in call(*common, "--out", tmp_path / "b").stderr


def test_maps_are_fitted_to_augmented_masks_too(
    calibrated: tuple[Path, dict[str, object]],
    boxes: ShardSet,
    toy: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, out = calibrated[0], tmp_path / "run"
    monkeypatch.setattr(calibration_set, "MIN_BOXES", 2)
    fit = ("calibrate", "--checkpoint", f"{place}@v1", "--data", toy.path, "--out", out, "--tta")
    assert invoke(*fit)["tta"] is True
    assert read_run_manifest(out).arguments["tta"] is True
    calibration = Calibration.read(out / "v1" / "calibration.json")
    assert calibration.tta
    scored = calibrate_module.score_boxes(segkit.load_run(f"{place}@v1"), toy, tta=True)
    assert calibration == calibrate_module.fit_calibration(scored, toy, tta=True)
    common = ("pseudolabel", "--checkpoint", out, "--data", boxes.path, "--no-preview")
    assert "calibrated with" not in call(*common, "--out", tmp_path / "a", "--tta").stderr
    assert "calibrated with --tta" in call(*common, "--out", tmp_path / "b").stderr


def test_the_predictor_gives_expected_iou_too(
    calibrated: tuple[Path, dict[str, object]], toy: ShardSet
) -> None:
    place, _ = calibrated
    sample = next(toy.samples())
    box = next(segment.box for segment in sample.segments if segment.kind == "thing")
    image = toy.image(sample)
    raw_masks, raw = segkit.Predictor(f"{place}@v1").predict_boxes(image, [box], ["cat"])
    same_masks, expected = segkit.Predictor(place).predict_boxes(image, [box], ["cat"])
    assert (raw_masks == same_masks).all()
    calibration = segkit.load_run(place).calibration
    assert calibration is not None
    iou = calibration.expected_iou(raw, np.array([box[2] * box[3]]))
    assert expected == pytest.approx(iou, abs=1e-5)


def test_a_calibration_on_the_training_data_is_noted(
    calibrated: tuple[Path, dict[str, object]],
    toy: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, _ = calibrated
    monkeypatch.setattr(calibration_set, "MIN_BOXES", 2)
    common = ("calibrate", "--checkpoint", place, "--data", toy.path)
    result = call(*common, "--out", tmp_path / "again", "--json")
    output = json.loads(result.stdout)
    assert f"the run was trained with {toy.path}" in result.stderr
    assert output["path"] == str(tmp_path / "again" / "v1")
    assert output["check"] == calibrated[1]["check"], "raw scores are calibrated, not expected IoUs"
    parents = read_run_manifest(tmp_path / "again").parents
    assert parents[0].version == 2 and not (place / "v3").exists()
    printed = call(*common, "--out", tmp_path / "again").stdout
    assert "Reliability on the held-out boxes" in printed and "seed 0" in printed


def test_damage_of_a_calibration_is_found(
    calibrated: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    place = tmp_path / "run"
    shutil.copytree(calibrated[0], place)
    file = place / "v2" / "calibration.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    violations = call("validate", place).stdout
    assert "calibration.json" in violations and "SHA-256" in violations


def test_min_iou_without_a_calibration_names_the_command(
    run: Path, boxes: ShardSet, tmp_path: Path
) -> None:
    common = ("pseudolabel", "--data", boxes.path, "--out", tmp_path / "x", "--min-iou", 0.7)
    line = error(*common, "--checkpoint", run)
    assert "not calibrated" in line
    assert f"segkit calibrate --checkpoint {run} --data SET_WITH_MASKS" in line
    assert "--min-iou does nothing with proposals" in error(
        *common, "--checkpoint", run, "--strategy", "proposals"
    )
    assert error(*common, "--teacher", "grabcut").startswith(
        "--min-iou does nothing with the teacher grabcut"
    )
    assert not (tmp_path / "x").exists()


def test_the_checkpoints_of_an_interrupted_training_stay(
    run: Path, toy: ShardSet, boxes: ShardSet, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    shutil.copytree(run.parent, place)
    with staging(place, {}, inputs=(), resume=True, content="run", precious=True) as stage:
        checkpoint = stage.path / "checkpoints" / "step-00000500"
        checkpoint.mkdir(parents=True)
    message = "holds an interrupted training; finish it with segkit train --resume"
    assert message in error("calibrate", "--checkpoint", place, "--data", toy.path)
    calibration = Calibration.model_construct()
    with pytest.raises(InputError, match="holds an interrupted training"):
        publish_calibrated(segkit.load_run(place), calibration, toy)
    assert checkpoint.is_dir()


def _true_masks(shards: ShardSet) -> int:
    segments = [segment for sample in shards.samples() for segment in sample.segments]
    return sum(s.kind == "thing" and not (s.is_crowd or s.ignore) for s in segments)


def test_slips_are_refused_before_torch_is_imported(
    run: Path, toy: ShardSet, boxes: ShardSet, tmp_path: Path
) -> None:
    checkpoint, data = f"--checkpoint={run}", f"--data={toy.path}"
    slips = (
        [checkpoint, "--data", "absent"],
        ["--checkpoint", "absent", data],
        ["--checkpoint", "hf:some/model", data],
        [checkpoint, f"--data={boxes.path}"],
        [checkpoint, data, f"--out={toy.path.parent}"],
        ["--checkpoint", hollow_run(tmp_path / "run"), "--data", str(boxes.path)],
        [checkpoint, data],
    )
    assert_refused_before_torch(["calibrate"], slips)
    invoke("pseudolabel", "--teacher", "box", "--data", boxes.path, "--out", tmp_path / "pseudo")
    for labeled, count in ((toy.path, _true_masks(toy)), (tmp_path / "pseudo", 0)):
        line = error("calibrate", "--checkpoint", run, "--data", labeled)
        assert f"v1: {count} things with a true mask, {count // 2} in one half of" in line
    uncalibrated = (
        [checkpoint, "--min-iou", "0.7"],
        [checkpoint, "--min-iou", "7"],
        ["--teacher", "box", "--min-iou", "0.7"],
        ["--teacher", "hf:some/model", "--min-iou", "0.7"],
    )
    common = ["pseudolabel", f"--data={boxes.path}", f"--out={tmp_path / 'out'}"]
    assert_refused_before_torch(common, uncalibrated)


def test_masks_of_classes_are_refused(
    run: Path, toy: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A semantic mask is the union of all objects of a class: no box asks for it."""
    monkeypatch.setattr(calibration_set, "MIN_BOXES", 2)
    header = replace(Header.from_set(toy, "test"), kind="semantic")
    classes = write_layer(tmp_path / "classes", toy, toy.samples(), header)
    message = "the masks of a semantic set are not of one object each; give a panoptic or instance"
    line = error("calibrate", "--checkpoint", run, "--data", classes.path, "--out", tmp_path / "x")
    assert line.startswith(f"{classes.path}: {message}") and not (tmp_path / "x").exists()
    with pytest.raises(InputError, match="not of one object each"):
        calibrate_module.calibrate(segkit.load_run(run), classes)
    assert not calibration_set.has_objects(classes) and calibration_set.has_objects(toy)
