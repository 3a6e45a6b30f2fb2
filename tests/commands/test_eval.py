import json
from dataclasses import replace
from importlib import resources

import cv2
import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.masks import rle
from tests.metrics.files import panoptic_files, results_file, sets, shard_set

from .slips import assert_refused_before_torch, hollow_run

runner = CliRunner()


def run_json(*arguments):
    """The JSON object on stdout."""
    result = runner.invoke(app, ["eval", *map(str, arguments), "--json"], catch_exceptions=True)
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0 and result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def metrics_schema():
    return json.loads((resources.files("segkit.schemas") / "metrics.schema.json").read_text())


def options(truth, task, out, predictions=None):
    """Command-line options of an evaluation of sets."""
    source = () if predictions is None else ("--predictions", predictions.path)
    return ("--data", truth.path, "--task", task, "--out", out, *source)


def headline(result):
    return {
        "panoptic": lambda: result["all"]["pq"],
        "semantic": lambda: result["miou"],
        "instance": lambda: result["ap"],
    }[result["task"]]()


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_prints_what_it_writes_and_both_fit_the_schema(tmp_path, task):
    truth, predictions = sets(tmp_path, kind=task)
    newest = ("--data", truth.path.parent, "--predictions", predictions.path.parent)
    result = run_json(*newest, "--task", task, "--out", tmp_path / "out")
    assert result == json.loads((tmp_path / "out" / "metrics.json").read_text())
    jsonschema.Draft202012Validator(metrics_schema()).validate(result)
    assert (
        result["data"]["digest"] == truth.manifest.digest and result["predictions"]["version"] == 1
    )


def test_reads_coco_files(tmp_path):
    truth, predictions = sets(tmp_path)
    file = panoptic_files(tmp_path / "pred.json", list(predictions.samples()))
    moved = (tmp_path / "pred").rename(tmp_path / "pngs")
    arguments = options(truth, "panoptic", tmp_path / "out")
    with pytest.raises(
        InputError,
        match=r"the PNG folder .*pred is not there; .* by `segkit eval --prediction-m",
    ):
        run_json(*arguments, "--predictions", file)
    arguments += ("--predictions", file, "--prediction-masks", moved)
    assert run_json(*arguments)["all"]["pq"] > 0
    boxes = results_file(tmp_path / "boxes.json", list(predictions.samples()), boxes=True)
    arguments = options(truth, "instance", tmp_path)
    result = run_json(*arguments, "--predictions", boxes, "--by", "box")
    assert result["by"] == "box" and result["ap"] > 0


def test_pngs_with_indices_of_their_own_are_evaluated_as_a_set(tmp_path):
    """The hint of the refusal is followed to the letter, for ids that are not file names."""
    truth, predictions = sets(tmp_path, kind="semantic")
    expected = run_json(*options(truth, "semantic", tmp_path / "set", predictions))
    rows = [replace(s, file_name=f"val/00000{s.id}.jpg") for s in truth.samples()]
    coco = shard_set(tmp_path / "coco", rows, truth.taxonomy, "semantic")
    shift = {category.id: 200 + n for n, category in enumerate(truth.taxonomy.categories)}
    pngs, images = tmp_path / "pngs", tmp_path / "images"
    for folder in (pngs, images):
        folder.mkdir()
    for sample in predictions.samples():
        pixels = np.full((sample.height, sample.width), 255, np.uint8)
        for segment in sample.segments:
            mask = rle.decode(segment.mask, sample.height, sample.width)
            pixels[mask] = shift[segment.class_id]
        cv2.imwrite(str(pngs / f"00000{sample.id}.png"), pixels)
        cv2.imwrite(str(images / f"00000{sample.id}.jpg"), pixels)
    evaluation = options(coco, "semantic", tmp_path / "out")
    with pytest.raises(InputError, match="which is no class id of the data") as error:
        run_json(*evaluation, "--predictions", pngs)
    assert "(`segkit convert semantic`) and give that set" in str(error.value)

    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{shift[c.id]} {c.name}\n" for c in truth.taxonomy.categories))
    folders = ("--images", images, "--masks", pngs, "--labels", labels)
    command = ("convert", "semantic", *folders, "--ignore", 255, "--out", tmp_path / "converted")
    converted = runner.invoke(app, [*map(str, command)])
    assert converted.exit_code == 0, converted.output
    result = run_json(*evaluation, "--predictions", tmp_path / "converted")
    assert (result["miou"], result["per_class"]) == (expected["miou"], expected["per_class"])
    assert result["images"] == expected["images"]
    drawn = ("show", coco.path, "--predictions", tmp_path / "converted", "--worst")
    shown = runner.invoke(app, [*map(str, drawn), "--out", str(tmp_path / "worst.png"), "--json"])
    assert shown.exit_code == 0, shown.output
    assert set(json.loads(shown.stdout)["images"]) == set(coco.image_ids())


def test_every_evaluator_leaves_the_records_as_they_are_for_what_follows(tmp_path):
    truth, predictions = sets(tmp_path, kind="instance")
    arguments = (*options(truth, "instance", tmp_path, predictions), "--boundary")
    expected = run_json(*arguments)
    for evaluator in ("faster-coco-eval", "pycocotools"):
        result = run_json(*arguments, "--evaluator", evaluator)
        assert result["ap"] == pytest.approx(expected["ap"], abs=1e-9)
        for key in ("errors", "confusion", "boundary"):
            assert result[key] == expected[key]


def test_the_table_shows_the_figures(tmp_path):
    truth, predictions = sets(tmp_path)
    arguments = options(truth, "panoptic", tmp_path, predictions)
    pq = run_json(*arguments)["all"]["pq"]
    screen, _ = show(*arguments)
    assert f"{pq:.2f}" in screen and "report.html" in screen


def show(*arguments):
    """Stdout and stderr without --json."""
    result = runner.invoke(app, ["eval", *map(str, arguments)])
    assert result.exit_code == 0, result.exception
    return result.stdout, result.stderr


@pytest.mark.parametrize(("exhaustive", "protocol"), [(True, "COCO"), (False, "LVIS")])
def test_the_table_names_the_protocol_of_an_ap(tmp_path, exhaustive, protocol):
    truth, predictions = sets(tmp_path, kind="instance")
    images = [replace(sample, exhaustive=exhaustive) for sample in truth.samples()]
    data = shard_set(tmp_path / "data", images, truth.taxonomy, "instance")
    arguments = options(data, "instance", tmp_path / "out", predictions)
    assert f"{protocol} AP by mask (hotcoco)" in show(*arguments)[0]
    jsonschema.Draft202012Validator(metrics_schema()).validate(run_json(*arguments))


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_the_tables_show_boundary_and_zero_shot_figures(tmp_path, task):
    truth, predictions = sets(tmp_path, images=8, kind=task)
    unseen = tmp_path / "unseen.txt"
    unseen.write_text("class 1\n")
    arguments = options(truth, task, tmp_path, predictions)
    screen, _ = show(*arguments, "--bootstrap", 20, "--boundary", "--unseen", unseen)
    result = json.loads((tmp_path / "metrics.json").read_text())
    rows = {
        line.split("│")[1].strip(): line for line in screen.splitlines() if line.startswith("│")
    }
    first = (
        ("boundary all", result["boundary"]["all"]["pq"])
        if task == "panoptic"
        else ("boundary AP", result["boundary"]["ap"])
    )
    for row, value in (
        first,
        ("seen", result["zero_shot"]["seen"]),
        ("harmonic", result["zero_shot"]["harmonic"]),
    ):
        assert f"{value:.2f}" in rows[row]
    low, high = result["bootstrap"]["intervals"][
        "boundary pq" if task == "panoptic" else "boundary ap"
    ]
    assert f"{low:.2f} to {high:.2f}" in screen


@pytest.mark.parametrize(
    ("task", "unused"),
    [
        ("panoptic", ("--by", "box")),
        ("semantic", ("--evaluator", "pycocotools")),
        ("panoptic", ("--max-dets", 10)),
        ("semantic", ("--boundary",)),
        ("instance", ("--boundary", "--by", "box")),
        ("panoptic", ("--given-boxes",)),
        ("panoptic", ("--set", "inference.score=0.1")),
        ("panoptic", ("--device", "cpu")),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path, task, unused):
    truth, predictions = sets(tmp_path, images=1, kind=task)
    with pytest.raises(InputError, match=f"{unused[0]} does nothing here; it requires"):
        run_json(*options(truth, task, tmp_path, predictions), *unused)


def test_refuses_wrong_options_before_torch_is_imported(tmp_path):
    truth, _ = sets(tmp_path, images=1)
    (tmp_path / "wrong.txt").write_text("class 1\nclass 77\n")
    (tmp_path / "empty.txt").write_text("\n")
    arguments = ["--data", str(truth.path), "--checkpoint", hollow_run(tmp_path / "run")]
    arguments += ["--out", str(tmp_path / "out")]
    slips = [
        [*arguments, "--task", "panoptic", "--checkpoint", str(tmp_path / "none")],
        [*arguments, "--task", "panoptic", "--checkpoint", str(truth.path)],
        [*arguments, "--task", "panoptic", "--set", "inference.scores=3"],
        [*arguments, "--task", "panoptic", "--set", "training.steps=3"],
        [*arguments, "--task", "panoptic", "--unseen", str(tmp_path / "wrong.txt")],
        [*arguments, "--task", "panoptic", "--unseen", str(tmp_path / "empty.txt")],
        [*arguments, "--task", "panoptic", "--unseen", str(tmp_path / "none.txt")],
        [*arguments, "--task", "instance", "--evaluator", "mine"],
        [*arguments, "--task", "instance", "--given-boxes"],
    ]
    boxes = shard_set(tmp_path / "boxes", _without_masks(truth), truth.taxonomy, "boxes")
    slips.append([*arguments, "--task", "instance", "--data", str(boxes.path)])
    assert_refused_before_torch(["eval"], slips)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
@pytest.mark.parametrize("flag", ["is_crowd", "ignore", None])
def test_a_set_with_a_box_without_a_mask_is_refused_before_it_is_predicted(tmp_path, task, flag):
    """The metrics refuse crowds and ignored segments without a mask as well."""
    truth, predictions = sets(tmp_path, kind=task)
    samples = list(truth.samples())
    things = {category.id for category in truth.taxonomy.categories if category.kind == "thing"}
    at = next(i for i, s in enumerate(samples[3].segments) if s.class_id in things)
    segments = list(samples[3].segments)
    segments[at] = replace(
        segments[at], mask=None, mask_from=None, **({flag: True} if flag else {})
    )
    samples[3] = replace(samples[3], segments=tuple(segments))
    mixed = shard_set(tmp_path / "mixed", samples, truth.taxonomy, task)
    total = sum(len(sample.segments) for sample in samples)
    line = f"mixed/v1: image {samples[3].id}: 1 of its {total} segments are boxes without a mask; "
    run = hollow_run(tmp_path / "run")
    arguments = [*options(mixed, task, tmp_path / "out"), "--checkpoint", run]
    with pytest.raises(InputError, match=line):
        run_json(*arguments)
    assert_refused_before_torch(["eval"], [[*map(str, arguments)]])
    assert not (tmp_path / "out").exists()
    if task == "instance":
        boxes = options(mixed, task, tmp_path / "out", predictions)
        assert run_json(*boxes, "--by", "box")["ap"] > 0


def test_an_evaluator_without_the_rules_of_a_set_is_refused_before_it_is_predicted(tmp_path):
    truth, _ = sets(tmp_path, images=2, kind="instance")
    samples = [replace(sample, exhaustive=False) for sample in truth.samples()]
    federated = shard_set(tmp_path / "federated", samples, truth.taxonomy, "instance")
    arguments = options(federated, "instance", tmp_path / "out")
    arguments += ("--checkpoint", hollow_run(tmp_path / "run"), "--evaluator", "pycocotools")
    with pytest.raises(InputError, match="federated/v1: pycocotools has no rules for images"):
        run_json(*arguments)
    assert_refused_before_torch(["eval"], [[*map(str, arguments)]])
    assert not (tmp_path / "out").exists()


def test_instances_are_evaluated_beside_stuff_without_a_mask(tmp_path):
    """Stuff does not count in this task, so that it needs no mask."""
    truth, predictions = sets(tmp_path, kind="panoptic")
    samples = [
        replace(
            sample,
            segments=tuple(
                replace(s, mask=None, mask_from=None) if s.kind == "stuff" else s
                for s in sample.segments
            ),
        )
        for sample in truth.samples()
    ]
    mixed = shard_set(tmp_path / "mixed", samples, truth.taxonomy)
    assert mixed.manifest.statistics.boxes_only
    ap = run_json(*options(mixed, "instance", tmp_path / "a", predictions))["ap"]
    assert ap == run_json(*options(truth, "instance", tmp_path / "b", predictions))["ap"]


def _without_masks(truth):
    return [
        replace(
            s, void=None, segments=tuple(replace(x, mask=None, mask_from=None) for x in s.segments)
        )
        for s in truth.samples()
    ]


def test_masks_for_true_boxes(tmp_path):
    truth, _ = sets(tmp_path, kind="instance")
    numbered = [
        replace(s, segments=tuple(replace(x, source_id=str(i)) for i, x in enumerate(s.segments)))
        for s in truth.samples()
    ]
    numbered_set = shard_set(tmp_path / "numbered", numbered, truth.taxonomy, "instance")
    result = run_json(*options(numbered_set, "instance", tmp_path, numbered_set), "--given-boxes")
    jsonschema.Draft202012Validator(metrics_schema()).validate(result)
    assert "objects have a mask" in (tmp_path / "report.html").read_text()
    assert (
        result["given_boxes"]["mean_iou"] == 1
        and result["given_boxes"]["per_size"]["large"] is None
    )


def test_compares_two_predictions(tmp_path):
    truth, predictions = sets(tmp_path, images=8)
    arguments = (*options(truth, "panoptic", tmp_path / "out"), "--bootstrap", 60)
    result = run_json(*arguments, "--compare", predictions.path, truth.path)
    single = run_json(*arguments, "--predictions", predictions.path)
    figure = result["figures"]["pq"]
    assert figure["a"] == pytest.approx(single["all"]["pq"]) and figure["b_better"] == 1
    assert figure["difference"] == pytest.approx(figure["b"] - single["all"]["pq"])
    assert result == json.loads((tmp_path / "out" / "compare.json").read_text())
    with pytest.raises(InputError, match="--compare A B names both predictions"):
        run_json(
            *arguments, "--compare", predictions.path, truth.path, "--predictions", predictions.path
        )


def test_a_comparison_refuses_an_evaluator_which_it_does_not_use(tmp_path):
    truth, predictions = sets(tmp_path, images=2, kind="instance")
    arguments = (*options(truth, "instance", tmp_path / "out"), "--evaluator", "pycocotools")
    compared = ("--compare", predictions.path, truth.path)
    with pytest.raises(InputError, match="--evaluator does nothing here; it requires --check"):
        run_json(*arguments, *compared)
    assert not (tmp_path / "out").exists()


def test_a_comparison_tells_what_is_missing_from_each_side(tmp_path):
    truth, predictions = sets(tmp_path, images=8, kind="instance")
    half = results_file(tmp_path / "half.json", list(predictions.samples())[:4])
    compared = ("--compare", predictions.path, half)
    arguments = (*options(truth, "instance", tmp_path / "out"), "--bootstrap", 20)
    _, notes = show(*arguments, *compared)
    assert "b: 4 of 8 images have no prediction" in " ".join(notes.split())
    assert "a: " not in notes
    sides = json.loads((tmp_path / "out" / "compare.json").read_text())["predictions"]
    assert sides["a"]["digest"] == predictions.manifest.digest
    assert sides["a"]["images"] == {"evaluated": 8, "without_prediction": 0}
    assert sides["b"]["path"] == str(half)
    assert sides["b"]["images"] == {"evaluated": 8, "without_prediction": 4}


def test_options_that_belong_to_other_predictions_are_refused(tmp_path):
    truth, predictions = sets(tmp_path)
    arguments = options(truth, "semantic", tmp_path / "out", predictions)
    with pytest.raises(InputError, match=r"is no COCO panoptic JSON.*leave --prediction-masks out"):
        run_json(*arguments, "--prediction-masks", tmp_path)
    with pytest.raises(InputError, match="--engine does nothing here; it requires --checkpoint"):
        run_json(*arguments, "--engine", "ray")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"--task": "detection"}, r"--task detection; give one of panoptic, semantic, instance"),
        ({"--by": "shape"}, r"--by shape; give one of mask, box"),
        (
            {"--evaluator": "mine"},
            r"--evaluator mine; give one of hotcoco, faster-coco-eval, pycocotools",
        ),
        ({"--checkpoint": "run"}, r"give --checkpoint RUN or --predictions SET"),
        ({"--predictions": "nowhere.json"}, r"nowhere.json: no such file"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, change, line):
    truth, predictions = sets(tmp_path, images=1)
    arguments = options(truth, "panoptic", tmp_path, predictions)
    values = dict(zip(arguments[::2], arguments[1::2], strict=True)) | change
    with pytest.raises(InputError, match=line):
        run_json(*(part for pair in values.items() for part in pair))
