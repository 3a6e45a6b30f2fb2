import contextlib
import io
import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from segkit.benchmark.published import benchmarks, published, transfer_benchmark
from segkit.commands.app import app
from segkit.errors import InputError
from segkit.taxonomy import Taxonomy, load_taxonomy
from segkit.text.encoding import SHIPPED
from tests.commands.slips import hollow_run
from tests.metrics.files import sets, shard_set
from tests.metrics.scenes import sample

runner = CliRunner()


def ask(*arguments):
    result = runner.invoke(app, ["benchmark", *map(str, arguments), "--json"])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def benchmark_file(folder, classes=3):
    """Two images of 40 x 50 with two polygons each; the second image lies in a folder of the
    archives."""
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
            "id": 10 * image["id"] + k, "image_id": image["id"], "category_id": categories[k]["id"], "iscrowd": 0,
            "bbox": [5 + 20 * k, 5, 15, 30], "area": 450.0,
            "segmentation": [[5 + 20 * k, 5, 20 + 20 * k, 5, 20 + 20 * k, 35, 5 + 20 * k, 35]],
        }
        for image in images
        for k in (0, 1)
    ]  # fmt: skip
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


def test_scores_results_and_says_how_the_file_differs_from_the_published_one(tmp_path):
    file, annotations = benchmark_file(tmp_path)
    results = results_of(annotations[:3], tmp_path / "results.json")
    told, notes = ask(
        "objects365",
        "--annotations",
        file,
        "--images",
        tmp_path,
        "--predictions",
        results,
        "--out",
        tmp_path / "out",
    )
    assert (
        told["file"]["images"] == 2
        and told["file"]["masks"] == 4
        and told["file"]["categories"] == 3
    )
    first, second, third = told["file"]["differences"]
    assert first == "2 images where the published file has 1,000: a subset"
    assert (
        second == "4 masks where the published file has 12,836: a subset" and "not the 365" in third
    )
    assert first in notes
    # three of four objects found exactly: one class at AP 100, the other with half its recall
    assert told["ap"] == pytest.approx((100 + 100 * 51 / 101) / 2) and told["box"][
        "ap"
    ] == pytest.approx(told["ap"])
    assert told["ap_rare"] == pytest.approx(told["ap"]) and told["ap_common"] is None
    assert (
        told["box"]["ap_rare"] == pytest.approx(told["box"]["ap"])
        and told["box"]["ap_frequent"] is None
    )
    best = max(told["published"], key=lambda row: row["value"])
    assert (best["backbone"], best["value"]) == ("ViTDet-L", 16.4) and "2306.01736" in best[
        "source"
    ]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == told


def test_classes_are_as_rare_as_in_the_training_set(tmp_path):
    file, annotations = benchmark_file(tmp_path)
    results = results_of(annotations[:3], tmp_path / "results.json")
    names = Taxonomy("objects365-v2", load_taxonomy("objects365-v2").categories[:3])
    first = sample(np.ones((40, 50), np.int64), {1: names.categories[0].id}, names)
    images = [replace(first, id=f"{n}", file_name=f"{n}.jpg") for n in range(11)]
    training = shard_set(tmp_path / "training", images, names, "instance")
    options = ["objects365", "--annotations", file, "--images", tmp_path, "--predictions", results]
    told, _ = ask(*options, "--out", tmp_path / "out", "--training-set", training.path)
    assert told["ap_common"] == pytest.approx(100), "11 images show the first class"
    assert told["ap_rare"] == pytest.approx(100 * 51 / 101), "none shows the second"
    assert told["frequency_from"]["digest"] == training.manifest.digest
    other = shard_set(tmp_path / "other", images, Taxonomy("one", names.categories[:1]), "instance")
    with pytest.raises(InputError, match=r"other.*has no class"):
        ask(*options, "--out", tmp_path / "again", "--training-set", other.path)


def test_people_see_the_measured_row_beside_the_published_ones(tmp_path):
    file, annotations = benchmark_file(tmp_path)
    results = results_of(annotations, tmp_path / "results.json")
    options = [
        "--annotations",
        file,
        "--images",
        tmp_path,
        "--predictions",
        results,
        "--out",
        tmp_path / "out",
    ]
    shown = runner.invoke(
        app, ["benchmark", "objects365", *map(str, options)], env={"COLUMNS": "160"}
    ).stdout
    assert "100.00" in shown and "16.40" in shown and "measured here, 2 images" in shown


def test_with_a_run_the_images_are_found_and_missing_ones_reported(tmp_path, monkeypatch):
    file, _ = benchmark_file(tmp_path)
    photo = tmp_path / "photos" / "patch2" / "objects365_v1_00000002.jpg"
    photo.parent.mkdir(parents=True)
    cv2.imwrite(str(photo), np.zeros((40, 50, 3), np.uint8))

    def load_run(checkpoint, device, settings):
        assert (checkpoint, settings) == (run, ["inference.batch_size=2"])
        return SimpleNamespace(missing_words=lambda taxonomy: [], encoding=SHIPPED)

    def predict_set(run, data, task, out, *, on_image):
        """A perfect model: answers the ground truth of the set."""
        assert [data.image(s).shape for s in data.samples()] == [(40, 50, 3)]
        return shard_set(out, list(data.samples()), data.taxonomy, "instance")

    monkeypatch.setattr("segkit.runs.run.load_run", load_run)
    monkeypatch.setattr("segkit.inference.outputs.predict_set", predict_set)
    run = hollow_run(tmp_path / "run")
    options = ("objects365", "--annotations", file, "--checkpoint", run, "--out", tmp_path / "out",
               "--set", "inference.batch_size=2", "--images")  # fmt: skip
    told, notes = ask(*options, tmp_path / "photos")
    assert told["file"]["missing_images"] == ["images/v1/patch1/objects365_v1_00000001.jpg"]
    assert "1 of 2 images is missing" in notes and told["images"]["evaluated"] == 1
    assert told["ap"] == pytest.approx(100)
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(written) == 2 and not any("bbox" in row for row in written)
    with pytest.raises(InputError, match=r"none of the file's images is there"):
        ask(*options, tmp_path / "out")


def test_standin_scores_are_those_of_pycocotools_on_the_file_itself(tmp_path, real_data):
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
    told, _ = ask(
        "objects365",
        "--annotations",
        file,
        "--images",
        real_data / "coco",
        "--predictions",
        results,
        "--out",
        tmp_path / "out",
    )
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(coco, coco.loadRes(str(results)), "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    keys = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    assert [told[key] for key in keys] == [100 * value for value in evaluator.stats[:6]]
    assert told["file"]["categories"] == 365 and len(told["file"]["differences"]) == 2


def test_a_class_under_another_name_is_told(tmp_path):
    file, annotations = benchmark_file(tmp_path, classes=365)
    results = results_of(annotations, tmp_path / "results.json")
    options = [
        "objects365",
        "--images",
        tmp_path,
        "--predictions",
        results,
        "--out",
        tmp_path / "out",
    ]
    told, _ = ask(*options, "--annotations", file)
    assert not any("categories" in line for line in told["file"]["differences"])
    content = json.loads(file.read_text())
    content["categories"][200]["name"] = "something else"
    file.write_text(json.dumps(content))
    told, notes = ask(*options, "--annotations", file)
    assert told["file"]["differences"][-1] == "365 categories that are not the 365 of Objects365 v2"
    assert "not the 365 of Objects365 v2" in notes


def test_the_screen_tells_by_which_images_classes_are_rare(tmp_path):
    file, annotations = benchmark_file(tmp_path)
    results = results_of(annotations, tmp_path / "results.json")
    options = [
        "objects365",
        "--annotations",
        file,
        "--images",
        tmp_path,
        "--predictions",
        results,
        "--out",
        tmp_path / "o",
    ]
    training = shard_set(tmp_path / "training", [], load_taxonomy("objects365-v2"), "instance")
    for more, told in (
        ([], "this file's own images"),
        (["--training-set", training.path], str(training.path)),
    ):
        screen = runner.invoke(app, ["benchmark", *map(str, [*options, *more])]).stdout
        assert f"rare, common and frequent in {told}" in screen
        assert "AP small" in screen and "AP rare" in screen and "ap_" not in screen
    with pytest.raises(InputError, match="--set does nothing here: it goes with --checkpoint"):
        ask(*options, "--set", "inference.score=0.1")


def test_a_class_list_is_known_by_its_names_under_any_ids(tmp_path):
    names = load_taxonomy("pascal-context-59")
    turned = tuple(replace(c, id=n) for n, c in enumerate(reversed(names.categories)))
    own = shard_set(tmp_path / "own", [], Taxonomy("labels", turned), "semantic")
    assert transfer_benchmark(own) == "pascal-context-59"
    fewer = shard_set(tmp_path / "fewer", [], Taxonomy("labels", turned[1:]), "semantic")
    with pytest.raises(InputError, match="no published rows for semantic labels"):
        transfer_benchmark(fewer)


@pytest.mark.parametrize(
    "nothing", [{}, {"segmentation": []}, {"segmentation": None}, {"iscrowd": 1}]
)
def test_annotations_without_a_mask_are_left_out_and_told(tmp_path, nothing):
    file, annotations = benchmark_file(tmp_path)
    results = results_of(annotations[1:], tmp_path / "results.json")
    content = json.loads(file.read_text())
    del content["annotations"][0]["segmentation"]
    content["annotations"][0] |= nothing
    file.write_text(json.dumps(content))
    options = ["objects365", "--annotations", file, "--images", tmp_path, "--predictions", results]
    told, notes = ask(*options, "--out", tmp_path / "out")
    assert told["file"]["masks"] == 3 and told["dropped_annotations"] == {"missing-mask": 1}
    assert "1 annotations have no mask: left out" in notes and told["ap"] == pytest.approx(100)


def test_published_rows_are_complete():
    assert {
        "objects365",
        "ade-panoptic",
        "ade-semantic",
        "coco-panoptic",
        "pascal-context-59",
    } <= set(benchmarks())
    for name in benchmarks():
        found = published(name)
        assert found.rows and all(
            0 < row.value < 100 and "arXiv" in row.source for row in found.rows
        )
    with pytest.raises(InputError, match="unknown benchmark 'x'; one of ade-semantic"):
        published("x")


def values(name, **wanted):
    """Published values by the rows' model, backbone or training data, of DaTaSeg's paper."""
    rows = [row for row in published(name).rows if "DaTaSeg" in row.source]
    return [
        row.value
        for row in rows
        if all(getattr(row, key) == value for key, value in wanted.items())
    ]


def test_published_rows_are_those_of_the_paper():
    """Its tables: backbones, what R50 was trained on, and direct transfer."""
    columns = ("ade-semantic", "coco-panoptic", "ade-panoptic", "objects365")
    own = {
        "ade-semantic": "ADE20K",
        "coco-panoptic": "COCO",
        "ade-panoptic": "ADE20K",
        "objects365": "Objects365",
    }
    every = "ADE20K + COCO + Objects365"
    together = {"R50": (48.1, 49.0, 29.8, 14.3), "ViTDet-B": (51.4, 52.8, 32.9, 16.1)}
    together["ViTDet-L"] = (54.0, 53.5, 33.4, 16.4)
    separate = {"R50": (42.0, 48.2, 26.9, 12.3), "ViTDet-B": (46.3, 51.9, 27.5, 14.7)}
    trained = {
        "ADE20K": (42.0, 8.4, 26.7, 1.0), "COCO": (15.3, 48.2, 11.6, 5.8), "Objects365": (11.0, 12.4, 5.8, 12.3),
        "ADE20K + Objects365": (46.3, 14.0, 26.4, 15.0), "COCO + Objects365": (18.3, 48.9, 12.3, 15.2),
        "ADE20K + COCO": (47.3, 49.0, 30.5, 5.6),
    }  # fmt: skip
    for k, name in enumerate(columns):
        for backbone, row in together.items():
            assert values(name, backbone=backbone, trained_on=every) == [row[k]]
        for backbone, row in separate.items():
            assert row[k] in values(name, backbone=backbone, trained_on=own[name], model="separate")
        for data, row in trained.items():
            assert row[k] in values(name, backbone="R50", trained_on=data)
        assert len(values(name)) == 10 + (name == "ade-panoptic"), (
            "26.9 in one table, 26.7 in the other"
        )
    transfer = {
        "pascal-context-59": [50.9, 51.1, 51.4], "pascal-context-459": [11.1, 11.6, 11.1],
        "coco-semantic": [57.7, 62.7, 62.9], "cityscapes-panoptic": [30.0, 28.0, 29.8],
    }  # fmt: skip
    for name, row in transfer.items():
        assert values(name) == row and {r.backbone for r in published(name).rows} >= {
            "R50",
            "ViTDet-B",
            "ViTDet-L",
        }


def test_other_benchmarks_score_a_set_and_show_their_rows(tmp_path):
    truth, found = sets(tmp_path)
    told, notes = ask(
        "coco-panoptic",
        "--data",
        truth.path,
        "--predictions",
        found.path,
        "--out",
        tmp_path / "out",
    )
    assert told["benchmark"] == "coco-panoptic" and told["all"]["pq"] > 0
    line = "the published rows are of coco-panoptic-133, the set has 5 classes of 'test': not comparable"
    assert line in notes and told["differences"] == [line]
    assert {row["value"] for row in told["published"]} >= {49.0, 52.8, 53.5}
    with pytest.raises(InputError, match="no published rows for panoptic test"):
        ask(
            "open-vocabulary",
            "--data",
            truth.path,
            "--predictions",
            found.path,
            "--out",
            tmp_path / "out",
        )
    names = load_taxonomy("pascal-context-59")
    ids = np.array([[1, 1, 2, 2]])
    one = shard_set(
        tmp_path / "context",
        [sample(ids, {1: names.categories[0].id, 2: names.categories[5].id}, names)],
        names,
        "semantic",
    )
    told, _ = ask(
        "open-vocabulary", "--data", one.path, "--predictions", one.path, "--out", tmp_path / "out"
    )
    assert told["miou"] == 100 and {row["value"] for row in told["published"]} == {50.9, 51.1, 51.4}
    assert told["differences"] == []
