import json
from dataclasses import replace
from importlib import resources

import jsonschema
import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from tests.metrics.files import panoptic_files, results_file, sets, shard_set

from .slips import assert_refused_before_torch, hollow_run

runner = CliRunner()


def ask(*arguments):
    result = runner.invoke(app, ["eval", *map(str, arguments), "--json"], catch_exceptions=True)
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0 and result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def metrics_schema():
    return json.loads((resources.files("segkit.schemas") / "metrics.schema.json").read_text())


def headline(told):
    return {
        "panoptic": lambda: told["all"]["pq"],
        "semantic": lambda: told["miou"],
        "instance": lambda: told["ap"],
    }[told["task"]]()


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_prints_what_it_writes_and_both_fit_the_schema(tmp_path, task):
    truth, found = sets(tmp_path, kind=task)
    told = ask(
        "--data",
        truth.path.parent,
        "--predictions",
        found.path.parent,
        "--task",
        task,
        "--out",
        tmp_path / "out",
    )
    assert told == json.loads((tmp_path / "out" / "metrics.json").read_text())
    jsonschema.Draft202012Validator(metrics_schema()).validate(told)
    assert told["data"]["digest"] == truth.manifest.digest and told["predictions"]["version"] == 1


def test_reads_coco_files(tmp_path):
    truth, found = sets(tmp_path)
    file = panoptic_files(tmp_path / "pred.json", list(found.samples()))
    moved = (tmp_path / "pred").rename(tmp_path / "pngs")
    options = ("--data", truth.path, "--task", "panoptic", "--out", tmp_path / "out")
    with pytest.raises(
        InputError, match=r"the PNG folder .*pred is not there; pass it by --prediction-masks DIR"
    ):
        ask(*options, "--predictions", file)
    assert ask(*options, "--predictions", file, "--prediction-masks", moved)["all"]["pq"] > 0
    boxes = results_file(tmp_path / "boxes.json", list(found.samples()), boxes=True)
    told = ask(
        "--data",
        truth.path,
        "--task",
        "instance",
        "--by",
        "box",
        "--out",
        tmp_path,
        "--predictions",
        boxes,
    )
    assert told["by"] == "box" and told["ap"] > 0


def test_every_evaluator_leaves_the_records_as_they_are_for_what_follows(tmp_path):
    truth, found = sets(tmp_path, kind="instance")
    options = (
        "--data",
        truth.path,
        "--predictions",
        found.path,
        "--task",
        "instance",
        "--boundary",
        "--out",
        tmp_path,
    )
    expected = ask(*options)
    for evaluator in ("faster-coco-eval", "pycocotools"):
        told = ask(*options, "--evaluator", evaluator)
        assert told["ap"] == pytest.approx(expected["ap"], abs=1e-9)
        for key in ("errors", "confusion", "boundary"):
            assert told[key] == expected[key]


def test_people_get_a_table_with_the_figures(tmp_path):
    truth, found = sets(tmp_path)
    pq = ask(
        "--data", truth.path, "--predictions", found.path, "--task", "panoptic", "--out", tmp_path
    )["all"]["pq"]
    result = runner.invoke(
        app,
        [
            "eval",
            "--data",
            str(truth.path),
            "--predictions",
            str(found.path),
            "--task",
            "panoptic",
            "--out",
            str(tmp_path),
        ],
    )
    assert result.exit_code == 0 and f"{pq:.2f}" in result.stdout and "report.html" in result.stdout


def show(*arguments):
    """What a person reads: stdout and stderr."""
    result = runner.invoke(app, ["eval", *map(str, arguments)])
    assert result.exit_code == 0, result.exception
    return result.stdout, result.stderr


@pytest.mark.parametrize(("exhaustive", "protocol"), [(True, "COCO"), (False, "LVIS")])
def test_people_see_whose_rules_an_ap_follows(tmp_path, exhaustive, protocol):
    truth, found = sets(tmp_path, kind="instance")
    images = [replace(sample, exhaustive=exhaustive) for sample in truth.samples()]
    data = shard_set(tmp_path / "data", images, truth.taxonomy, "instance")
    options = (
        "--data",
        data.path,
        "--predictions",
        found.path,
        "--task",
        "instance",
        "--out",
        tmp_path / "out",
    )
    assert f"{protocol} AP by mask (hotcoco)" in show(*options)[0]
    jsonschema.Draft202012Validator(metrics_schema()).validate(ask(*options))


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_people_see_boundaries_and_unseen_classes_where_they_asked_for_them(tmp_path, task):
    truth, found = sets(tmp_path, images=8, kind=task)
    unseen = tmp_path / "unseen.txt"
    unseen.write_text("class 1\n")
    options = ("--data", truth.path, "--predictions", found.path, "--task", task, "--out", tmp_path)
    screen, _ = show(*options, "--bootstrap", 20, "--boundary", "--unseen", unseen)
    told = json.loads((tmp_path / "metrics.json").read_text())
    shown = {
        line.split("│")[1].strip(): line for line in screen.splitlines() if line.startswith("│")
    }
    first = (
        ("boundary all", told["boundary"]["all"]["pq"])
        if task == "panoptic"
        else ("boundary AP", told["boundary"]["ap"])
    )
    for row, value in (
        first,
        ("seen", told["zero_shot"]["seen"]),
        ("harmonic", told["zero_shot"]["harmonic"]),
    ):
        assert f"{value:.2f}" in shown[row]
    low, high = told["bootstrap"]["intervals"][
        "boundary pq" if task == "panoptic" else "boundary ap"
    ]
    assert f"{low:.2f} to {high:.2f}" in screen


@pytest.mark.parametrize(
    ("task", "idle"),
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
def test_an_option_that_would_do_nothing_is_refused(tmp_path, task, idle):
    truth, found = sets(tmp_path, images=1, kind=task)
    with pytest.raises(InputError, match=f"{idle[0]} does nothing here: it goes with"):
        ask(
            "--data",
            truth.path,
            "--predictions",
            found.path,
            "--task",
            task,
            "--out",
            tmp_path,
            *idle,
        )


def test_refuses_slips_before_torch_is_imported(tmp_path):
    truth, _ = sets(tmp_path, images=1)
    (tmp_path / "wrong.txt").write_text("class 1\nclass 77\n")
    (tmp_path / "empty.txt").write_text("\n")
    options = [
        "--data",
        str(truth.path),
        "--checkpoint",
        hollow_run(tmp_path / "run"),
        "--out",
        str(tmp_path / "out"),
    ]
    slips = [
        [*options, "--task", "panoptic", "--checkpoint", str(tmp_path / "none")],
        [*options, "--task", "panoptic", "--checkpoint", str(truth.path)],
        [*options, "--task", "panoptic", "--set", "inference.scores=3"],
        [*options, "--task", "panoptic", "--set", "training.steps=3"],
        [*options, "--task", "panoptic", "--unseen", str(tmp_path / "wrong.txt")],
        [*options, "--task", "panoptic", "--unseen", str(tmp_path / "empty.txt")],
        [*options, "--task", "panoptic", "--unseen", str(tmp_path / "none.txt")],
        [*options, "--task", "instance", "--evaluator", "mine"],
        [*options, "--task", "instance", "--given-boxes"],
    ]
    boxes = shard_set(tmp_path / "boxes", _without_masks(truth), truth.taxonomy, "boxes")
    slips.append([*options, "--task", "instance", "--data", str(boxes.path)])
    assert_refused_before_torch(["eval"], slips)
    assert not (tmp_path / "out").exists()


def _without_masks(truth):
    return [
        replace(
            s, void=None, segments=tuple(replace(x, mask=None, mask_from=None) for x in s.segments)
        )
        for s in truth.samples()
    ]


def test_the_note_on_missing_masks_leaves_crowds_out_and_agrees_with_its_count(tmp_path):
    truth, _ = sets(tmp_path, kind="instance")
    things = {category.id for category in truth.taxonomy.categories if category.kind == "thing"}

    def stripped(name, *crowd):
        """The truth as predictions, the first thing of each of the first images a box alone and
        crowd or none."""
        made = list(truth.samples())
        for number, is_crowd in enumerate(crowd):
            segments = list(made[number].segments)
            at = next(i for i, s in enumerate(segments) if s.class_id in things)
            segments[at] = replace(
                segments[at], mask=None, mask_from=None, score=0.5, is_crowd=is_crowd
            )
            made[number] = replace(made[number], segments=tuple(segments))
        return shard_set(tmp_path / name, made, truth.taxonomy, "instance")

    def noted(found):
        return show(
            "--data",
            truth.path,
            "--predictions",
            found.path,
            "--task",
            "instance",
            "--out",
            tmp_path,
        )[1]

    assert "no mask" not in noted(stripped("crowd", True))
    assert "note: 1 prediction has a box but no mask" in noted(stripped("both", True, False))


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_intervals_boundaries_and_unseen_classes_fit_the_schema_and_the_report(tmp_path, task):
    truth, found = sets(tmp_path, images=8, kind=task)
    unseen = tmp_path / "unseen.txt"
    unseen.write_text("class 1\n\n")
    options = (
        "--data",
        truth.path,
        "--predictions",
        found.path,
        "--task",
        task,
        "--out",
        tmp_path / "out",
    )
    more = {
        "panoptic": ("--boundary",),
        "semantic": (),
        "instance": ("--boundary", "--max-dets", 5),
    }[task]
    told = ask(*options, "--bootstrap", 50, "--unseen", unseen, *more)
    jsonschema.Draft202012Validator(metrics_schema()).validate(told)
    name, value = {"panoptic": "pq", "semantic": "miou", "instance": "ap"}[task], headline(told)
    low, high = told["bootstrap"]["intervals"][name]
    assert 0 <= low < high <= 100 and low - 15 < value < high + 15
    row = told["per_class"]["class 1"]
    assert told["zero_shot"]["unseen"] == (row["pq"] if task == "panoptic" else row)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "zero-shot" in page and f"{low:.2f} - {high:.2f}" in page
    assert ("Boundaries" in page) == ("boundary" in told) == (task != "semantic")
    if task == "instance":
        assert told["max_dets"] == [1, 5] and "ar5" in told and "missed" in page


def test_masks_given_to_true_boxes(tmp_path):
    truth, _ = sets(tmp_path, kind="instance")
    numbered = [
        replace(s, segments=tuple(replace(x, source_id=str(i)) for i, x in enumerate(s.segments)))
        for s in truth.samples()
    ]
    remade = shard_set(tmp_path / "numbered", numbered, truth.taxonomy, "instance")
    told = ask(
        "--data", remade.path, "--predictions", remade.path, "--task", "instance", "--out", tmp_path, "--given-boxes"
    )  # fmt: skip
    jsonschema.Draft202012Validator(metrics_schema()).validate(told)
    assert "objects have a mask" in (tmp_path / "report.html").read_text()
    assert told["given_boxes"]["mean_iou"] == 1 and told["given_boxes"]["per_size"]["large"] is None


def test_compares_two_predictions(tmp_path):
    truth, found = sets(tmp_path, images=8)
    options = (
        "--data",
        truth.path,
        "--task",
        "panoptic",
        "--out",
        tmp_path / "out",
        "--bootstrap",
        60,
    )
    told = ask(*options, "--compare", found.path, truth.path)
    single = ask(*options, "--predictions", found.path)
    figure = told["figures"]["pq"]
    assert figure["a"] == pytest.approx(single["all"]["pq"]) and figure["b_better"] == 1
    assert figure["difference"] == pytest.approx(figure["b"] - single["all"]["pq"])
    assert told == json.loads((tmp_path / "out" / "compare.json").read_text())
    with pytest.raises(InputError, match="--compare takes both predictions itself"):
        ask(*options, "--compare", found.path, truth.path, "--predictions", found.path)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"--task": "detection"}, r"--task detection; one of panoptic, semantic, instance"),
        ({"--by": "shape"}, r"--by shape; one of mask, box"),
        (
            {"--evaluator": "mine"},
            r"--evaluator mine; one of hotcoco, faster-coco-eval, pycocotools",
        ),
        ({"--checkpoint": "run"}, r"give --checkpoint RUN or --predictions SET"),
        ({"--predictions": "nowhere.json"}, r"nowhere.json: no such file"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, change, line):
    truth, found = sets(tmp_path, images=1)
    options = {
        "--data": truth.path,
        "--predictions": found.path,
        "--task": "panoptic",
        "--out": tmp_path,
    } | change
    with pytest.raises(InputError, match=line):
        ask(*(part for pair in options.items() for part in pair))
