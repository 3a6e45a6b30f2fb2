import json
from importlib import resources

import jsonschema
import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from tests.metrics.files import panoptic_files, results_file, sets

runner = CliRunner()


def ask(*arguments):
    result = runner.invoke(app, ["eval", *map(str, arguments), "--json"], catch_exceptions=True)
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0 and result.stdout.count("\n") == 1
    return json.loads(result.stdout)


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_prints_what_it_writes_and_both_fit_the_schema(tmp_path, task):
    truth, found = sets(tmp_path, kind=task)
    told = ask(
        "--data", truth.path.parent, "--predictions", found.path.parent, "--task", task, "--out", tmp_path / "out"
    )
    assert told == json.loads((tmp_path / "out" / "metrics.json").read_text())
    schema = json.loads((resources.files("segkit.schemas") / "metrics.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(told)
    assert told["data"]["digest"] == truth.manifest.digest and told["predictions"]["version"] == 1


def test_reads_coco_files(tmp_path):
    truth, found = sets(tmp_path)
    file = panoptic_files(tmp_path / "pred.json", list(found.samples()))
    moved = (tmp_path / "pred").rename(tmp_path / "pngs")
    options = ("--data", truth.path, "--task", "panoptic", "--out", tmp_path / "out")
    with pytest.raises(InputError, match=r"the PNG folder .*pred is not there; pass it by --prediction-masks DIR"):
        ask(*options, "--predictions", file)
    assert ask(*options, "--predictions", file, "--prediction-masks", moved)["all"]["pq"] > 0
    boxes = results_file(tmp_path / "boxes.json", list(found.samples()), boxes=True)
    told = ask("--data", truth.path, "--task", "instance", "--by", "box", "--out", tmp_path, "--predictions", boxes)
    assert told["by"] == "box" and told["ap"] > 0


def test_people_get_a_table_with_the_figures(tmp_path):
    truth, found = sets(tmp_path)
    pq = ask("--data", truth.path, "--predictions", found.path, "--task", "panoptic", "--out", tmp_path)["all"]["pq"]
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


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"--task": "detection"}, r"--task detection; one of panoptic, semantic, instance"),
        ({"--by": "shape"}, r"--by shape; one of mask, box"),
        ({"--evaluator": "mine", "--task": "instance"}, r"unknown evaluator 'mine'; one of hotcoco"),
        ({"--checkpoint": "run"}, r"give --checkpoint RUN or --predictions SET"),
        ({"--predictions": "nowhere.json"}, r"nowhere.json: no such file"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, change, line):
    truth, found = sets(tmp_path, images=1)
    options = {"--data": truth.path, "--predictions": found.path, "--task": "panoptic", "--out": tmp_path} | change
    with pytest.raises(InputError, match=line):
        ask(*(part for pair in options.items() for part in pair))
