"""What helps a newcomer: the first steps, the next command, recipes, doctor, completion."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from segkit.commands import next_steps
from segkit.commands.app import app
from segkit.commands.common import complete_recipe, complete_task, complete_vocabulary
from segkit.errors import InputError
from segkit.extras import EXTRAS
from segkit.recipes.load import known_recipes
from tests.metrics.files import sets


def _lines(*arguments: object) -> list[str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output.splitlines()


def _options(command: list[str]) -> set[str]:
    """The options of a command line, each of which the command must have."""
    group = typer.main.get_command(app)
    words = [word for word in command[1:] if not word.startswith("-")]
    for word in words:
        if not hasattr(group, "commands") or word not in group.commands:
            break
        group = group.commands[word]
    if hasattr(group, "commands"):  # SOURCE or FORMAT: all of them share these options
        group = next(iter(group.commands.values()))
    known = {option for parameter in group.params for option in parameter.opts}
    given = {word for word in command if word.startswith("--")}
    assert given <= known, (command, given - known)
    return given


def test_segkit_alone_prints_the_path_from_data_to_results() -> None:
    lines = _lines()
    assert len(lines) <= 7
    for line in lines[:5]:
        _options(shlex.split(re.split(r"\s{3,}", line)[0].replace("...", "")))


def test_each_command_names_the_next_one(tmp_path: Path) -> None:
    truth, _ = sets(tmp_path, images=2)
    out = tmp_path / "x.png"
    assert _lines("inspect", truth.path)[-1] == f"next: segkit show {truth.path}"
    assert _lines("validate", truth.path)[-1] == f"next: segkit inspect {truth.path}"
    assert _lines("show", truth.path, "--out", out)[-1] == "next: segkit browse SET"
    result = CliRunner().invoke(app, ["inspect", str(truth.path), "--json"])
    json.loads(result.stdout)
    assert "next:" not in result.output


def test_every_next_command_has_the_options_it_names() -> None:
    result = {
        "path": "work/x y",
        "kind": "boxes",
        "type": "run",
        "violations": [],
        "run": "r",
        "masks": "m",
        "name": "n",
        "parts": {"train": {"path": "p"}},
    }
    for schema in next_steps._STEPS:
        for values in (result, {**result, "kind": "panoptic", "type": "set"}):
            step = next_steps.next_step(f"{schema}/1", values)
            assert step is not None
            command = shlex.split(step)
            assert command[0] == "segkit", step
            _options(command)


def test_recipes_are_listed_with_their_purpose() -> None:
    text = "\n".join(_lines("recipes"))
    assert all(name in text for name in known_recipes())


def test_a_recipe_prints_its_keys() -> None:
    lines = _lines("recipes", "dataseg-mini", "--key", "optimizer.lr")
    assert lines[0] == "optimizer.lr = 0.0005 (default 0.0001)"
    whole = "\n".join(_lines("recipes", "box-labeler-mini"))
    assert "Command:" in whole and "loss.box_prompts = 1.0" in whole
    result = CliRunner().invoke(app, ["recipes", "dataseg-mini", "--json"])
    keys = json.loads(result.stdout)["keys"]
    assert keys["optimizer.lr"]["value"] == 5e-4 and keys["data.flip"]["type"] == "bool"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "unknown recipe 'nonsense'"),
        (["dataseg-mini", "--key", "nonsense"], "no key contains 'nonsense'"),
        (["--key", "lr"], "--key prints the keys of a recipe"),
    ],
)
def test_slips_are_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["recipes", *arguments])
    assert isinstance(result.exception, InputError) and message in str(result.exception)


def test_doctor_lists_every_extra_and_how_to_install_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    result = CliRunner().invoke(app, ["doctor", "--folder", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.exception
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert {f"extra {extra}" for extra in EXTRAS} <= checks.keys()
    assert checks["extra train"]["ok"] is True and "torch 2" in checks["extra train"]["text"]
    assert checks["disk"]["text"].endswith(f"in {tmp_path}")
    missing = [check for check in checks.values() if check["ok"] is None]
    assert all(check["hint"] or check["name"] in ("CUDA", "shared memory") for check in missing)


def test_names_are_completed() -> None:
    assert complete_recipe("dataseg-m") == ["dataseg-mini"]
    assert complete_vocabulary("coco-p") == ["coco-panoptic-133"]
    assert complete_task("") == ["panoptic", "semantic", "instance"]
