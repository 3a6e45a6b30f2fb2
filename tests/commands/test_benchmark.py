import contextlib
import io
import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.recipes.schema import Recipe
from segkit.taxonomy import Taxonomy, load_taxonomy
from segkit.text.encoding import SHIPPED
from tests.commands.slips import hollow_run
from tests.metrics.files import sets, shard_set
from tests.metrics.scenes import sample

runner = CliRunner()


def run_json(*arguments):
    """The JSON object on stdout, and stderr."""
    result = runner.invoke(app, ["benchmark", *map(str, arguments), "--json"])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def benchmark_file(folder, classes=3):
    """Two images of 40 x 50 with two polygons each; the second is in a folder of the archives."""
    categories = [
        {"id": c.id, "name": c.name} for c in load_taxonomy("objects365-v2").categories[:classes]
    ]
    images = [
        {
            "id": n,
            "width": 50,
            "height": 40,
            "file_name": f"images/v1/patch{n}/objects365_v1_{n:08d}.jpg",
        }
        for n in (1, 2)
    ]
    annotations = [
        {
            "id": 10 * image["id"] + k,
            "image_id": image["id"],
            "category_id": categories[k]["id"],
            "iscrowd": 0,
            "bbox": [5 + 20 * k, 5, 15, 30],
            "area": 450.0,
            "segmentation": [[5 + 20 * k, 5, 20 + 20 * k, 5, 20 + 20 * k, 35, 5 + 20 * k, 35]],
        }
        for image in images
        for k in (0, 1)
    ]
    file = folder / "o365.json"
    file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return file, annotations


def results_of(annotations, path):
    rows = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "score": 0.9,
            "segmentation": a["segmentation"],
        }
        for a in annotations
    ]
    path.write_text(json.dumps(rows))
    return path


def test_evaluates_results_and_notes_how_the_file_differs_from_the_published_one(tmp_path):
    file, annotations = benchmark_file(tmp_path)
    results = results_of(annotations[:3], tmp_path / "results.json")
    options = ["--annotations", file, "--images", tmp_path, "--predictions", results]
    result, notes = run_json("objects365", *options, "--out", tmp_path / "out")
    assert (
        result["file"]["images"] == 2
        and result["file"]["masks"] == 4
        and result["file"]["categories"] == 3
    )
    first, second, third = result["file"]["differences"]
    assert first == "2 images where the published file has 1,000: a subset"
    assert (
        second == "4 masks where the published file has 12,836: a subset" and "not the 365" in third
    )
    assert first in notes
    # three of four objects found exactly: one class at AP 100, the other with half its recall
    assert result["ap"] == pytest.approx((100 + 100 * 51 / 101) / 2) and result["box"][
        "ap"
    ] == pytest.approx(result["ap"])
    assert result["ap_rare"] == pytest.approx(result["ap"]) and result["ap_common"] is None
    assert (
        result["box"]["ap_rare"] == pytest.approx(result["box"]["ap"])
        and result["box"]["ap_frequent"] is None
    )
    best = max(result["published"], key=lambda row: row["value"])
    assert (best["backbone"], best["value"]) == ("ViTDet-L", 16.4) and "2306.01736" in best[
        "source"
    ]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == result


def test_the_training_set_decides_which_classes_are_rare(tmp_path):
    file, annotations = benchmark_file(tmp_path)
    results = results_of(annotations[:3], tmp_path / "results.json")
    names = Taxonomy("objects365-v2", load_taxonomy("objects365-v2").categories[:3])
    first = sample(np.ones((40, 50), np.int64), {1: names.categories[0].id}, names)
    images = [replace(first, id=f"{n}", file_name=f"{n}.jpg") for n in range(11)]
    training = shard_set(tmp_path / "training", images, names, "instance")
    options = ["objects365", "--annotations", file, "--images", tmp_path, "--predictions", results]
    result, _ = run_json(*options, "--out", tmp_path / "out", "--training-set", training.path)
    assert result["ap_common"] == pytest.approx(100), "11 images show the first class"
    assert result["ap_rare"] == pytest.approx(100 * 51 / 101), "none shows the second"
    assert result["frequency_from"]["digest"] == training.manifest.digest
    single = Taxonomy("single", names.categories[:1])
    too_few = shard_set(tmp_path / "single", images, single, "instance")
    with pytest.raises(InputError, match=r"single.*has no class"):
        run_json(*options, "--out", tmp_path / "again", "--training-set", too_few.path)


def test_the_table_shows_the_evaluated_row_beside_the_published_ones(tmp_path):
    file, annotations = benchmark_file(tmp_path)
    results = results_of(annotations, tmp_path / "results.json")
    options = ["--annotations", file, "--images", tmp_path]
    options += ["--predictions", results, "--out", tmp_path / "out"]
    screen = runner.invoke(
        app, ["benchmark", "objects365", *map(str, options)], env={"COLUMNS": "160"}
    ).stdout
    assert "100.00" in screen and "16.40" in screen and "measured here, 2 images" in screen


def test_a_run_predicts_the_images_and_missing_ones_are_reported(tmp_path, monkeypatch):
    file, _ = benchmark_file(tmp_path)
    photo = tmp_path / "photos" / "patch2" / "objects365_v1_00000002.jpg"
    photo.parent.mkdir(parents=True)
    cv2.imwrite(str(photo), np.zeros((40, 50, 3), np.uint8))

    def load_run(checkpoint, device, settings):
        assert (checkpoint, settings) == (run, ["inference.batch_size=2"])
        model = {"class_embeddings": lambda classes: None, "encoding": SHIPPED}
        return SimpleNamespace(**model, recipe=Recipe())

    def predict_set(run, data, task, out, *, workers, force, on_images, on_resume):
        """A perfect model: predicts the ground truth of the set."""
        assert [data.image(s).shape for s in data.samples()] == [(40, 50, 3)]
        return shard_set(out, list(data.samples()), data.taxonomy, "instance")

    monkeypatch.setattr("segkit.runs.open_run.load_run", load_run)
    monkeypatch.setattr("segkit.inference.outputs.predict_set", predict_set)
    run = hollow_run(tmp_path / "run")
    options = ["objects365", "--annotations", file, "--checkpoint", run, "--out", tmp_path / "out"]
    options += ["--set", "inference.batch_size=2", "--images"]
    result, notes = run_json(*options, tmp_path / "photos")
    assert result["file"]["missing_images"] == ["images/v1/patch1/objects365_v1_00000001.jpg"]
    assert "1 of 2 images is missing" in notes and result["images"]["evaluated"] == 1
    assert result["ap"] == pytest.approx(100)
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(written) == 2 and not any("bbox" in row for row in written)
    with pytest.raises(InputError, match=r"none of the file's images was found"):
        run_json(*options, tmp_path / "out")


def test_standin_figures_equal_those_of_pycocotools_on_the_file_itself(tmp_path, real_data):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    file = real_data / "objects365_standin" / "annotations" / "o365_instance_seg_val.json"
    rng = np.random.default_rng(0)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
    rows = []
    for a in coco.anns.values():
        if not a["iscrowd"] and rng.random() < 0.8:
            moved = [
                (np.array(polygon) + rng.normal(0, 2)).tolist() for polygon in a["segmentation"]
            ]
            mask = coco.annToRLE(a | {"segmentation": moved})
            row = {
                "image_id": a["image_id"],
                "category_id": a["category_id"],
                "score": round(rng.random(), 3),
            }
            rows.append(row | {"segmentation": mask | {"counts": mask["counts"].decode()}})
    results = tmp_path / "results.json"
    results.write_text(json.dumps(rows))
    options = ["--annotations", file, "--images", real_data / "coco"]
    options += ["--predictions", results, "--out", tmp_path / "out"]
    result, _ = run_json("objects365", *options)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(coco, coco.loadRes(str(results)), "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    keys = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    assert [result[key] for key in keys] == [100 * value for value in evaluator.stats[:6]]
    assert result["file"]["categories"] == 365 and len(result["file"]["differences"]) == 2


def test_a_class_under_a_different_name_is_noted(tmp_path):
    file, annotations = benchmark_file(tmp_path, classes=365)
    results = results_of(annotations, tmp_path / "results.json")
    options = ["objects365", "--images", tmp_path, "--predictions", results]
    options += ["--out", tmp_path / "out"]
    result, _ = run_json(*options, "--annotations", file)
    assert not any("categories" in line for line in result["file"]["differences"])
    content = json.loads(file.read_text())
    content["categories"][200]["name"] = "something else"
    file.write_text(json.dumps(content))
    result, notes = run_json(*options, "--annotations", file)
    assert (
        result["file"]["differences"][-1] == "365 categories that are not the 365 of Objects365 v2"
    )
    assert "not the 365 of Objects365 v2" in notes


def test_the_table_names_the_images_that_decide_which_classes_are_rare(tmp_path):
    file, annotations = benchmark_file(tmp_path)
    results = results_of(annotations, tmp_path / "results.json")
    options = ["objects365", "--annotations", file, "--images", tmp_path]
    options += ["--predictions", results, "--out", tmp_path / "o"]
    training = shard_set(tmp_path / "training", [], load_taxonomy("objects365-v2"), "instance")
    for more, images in (
        ([], "the file's own images"),
        (["--training-set", training.path], str(training.path)),
    ):
        screen = runner.invoke(app, ["benchmark", *map(str, [*options, *more])]).stdout
        assert f"rare, common and frequent in {images}" in screen
        assert "AP small" in screen and "AP rare" in screen and "ap_" not in screen
    with pytest.raises(InputError, match="--set does nothing here; it requires --checkpoint"):
        run_json(*options, "--set", "inference.score=0.1")


@pytest.mark.parametrize(
    "nothing", [{}, {"segmentation": []}, {"segmentation": None}, {"iscrowd": 1}]
)
def test_annotations_without_a_mask_are_left_out_and_noted(tmp_path, nothing):
    file, annotations = benchmark_file(tmp_path)
    results = results_of(annotations[1:], tmp_path / "results.json")
    content = json.loads(file.read_text())
    del content["annotations"][0]["segmentation"]
    content["annotations"][0] |= nothing
    file.write_text(json.dumps(content))
    options = ["objects365", "--annotations", file, "--images", tmp_path, "--predictions", results]
    result, notes = run_json(*options, "--out", tmp_path / "out")
    assert result["file"]["masks"] == 3 and result["dropped_annotations"] == {"missing-mask": 1}
    assert "1 annotations have no mask: left out" in notes and result["ap"] == pytest.approx(100)
    # a mask where that box is, which the benchmark takes for an error
    rows = json.loads(results_of(annotations, results).read_text())
    rows[0]["score"] = 0.95
    results.write_text(json.dumps(rows))
    for evaluator in ("hotcoco", "pycocotools"):
        result, _ = run_json(*options, "--out", tmp_path / evaluator, "--evaluator", evaluator)
        assert (result["protocol"], result["ap"]) == ("coco", pytest.approx((50 + 100) / 2))


def test_a_file_without_a_mask_is_refused_before_it_is_predicted(tmp_path):
    file, _ = benchmark_file(tmp_path)
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    file.write_text(json.dumps(content))
    options = ["--annotations", file, "--images", tmp_path, "--out", tmp_path / "out"]
    with pytest.raises(InputError, match="no annotation has a mask; give o365_instance_seg_val"):
        run_json("objects365", *options, "--checkpoint", hollow_run(tmp_path / "run"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("slip", ["training-set", "device", "devices"])
def test_slips_are_refused_before_anything_is_written_or_predicted(tmp_path, monkeypatch, slip):
    file, _ = benchmark_file(tmp_path)
    single = Taxonomy("single", load_taxonomy("objects365-v2").categories[:1])
    options = {
        "training-set": ["--training-set", shard_set(tmp_path / "few", [], single).path],
        "device": ["--device", "cuda:7"],
        "devices": ["--devices", 3, "--device", "cuda"],
    }[slip]
    refusal = {"training-set": "has no class", "device": "no device", "devices": "3 devices"}[slip]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("segkit.runs.open_run.load_run", lambda *_: pytest.fail("loaded"))
    run = hollow_run(tmp_path / "run")
    options = [*options, "--annotations", file, "--images", tmp_path, "--checkpoint", run]
    with pytest.raises(InputError, match=refusal):
        run_json("objects365", *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_benchmarks_of_a_set_show_their_published_rows(tmp_path):
    truth, predictions = sets(tmp_path)
    options = ["--data", truth.path, "--predictions", predictions.path, "--out", tmp_path / "out"]
    result, notes = run_json("coco-panoptic", *options)
    assert result["benchmark"] == "coco-panoptic" and result["all"]["pq"] > 0
    published = "the published rows are of coco-panoptic-133"
    line = f"{published}, the set has 5 classes of 'test': not comparable"
    assert line in notes and result["differences"] == [line]
    assert {row["value"] for row in result["published"]} >= {49.0, 52.8, 53.5}
    with pytest.raises(InputError, match="no published rows for panoptic test"):
        run_json("open-vocabulary", *options)
    names = load_taxonomy("pascal-context-59")
    ids = np.array([[1, 1, 2, 2]])
    context = shard_set(
        tmp_path / "context",
        [sample(ids, {1: names.categories[0].id, 2: names.categories[5].id}, names)],
        names,
        "semantic",
    )
    options = ["--data", context.path, "--predictions", context.path, "--out", tmp_path / "out"]
    result, _ = run_json("open-vocabulary", *options)
    assert result["miou"] == 100 and {row["value"] for row in result["published"]} == {
        50.9,
        51.1,
        51.4,
    }
    assert result["differences"] == []
