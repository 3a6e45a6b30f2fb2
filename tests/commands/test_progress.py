"""Progress where stderr is no terminal, and --quiet."""

import io
import json
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.commands.progress import _Bar, _Rate, progress_bar
from segkit.commands.shared_options import is_json, is_quiet, with_output_options
from segkit.shards.reader import ShardSet
from tests.training.toy import write_recipe


def test_a_line_now_and_then_says_what_is_done_and_when_the_rest_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0, 140.0, 141.0, 200.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress_bar("predict [b]photos[/b]", 400) as advance:
        for number in (10, 70, 1, 119):
            advance(number)
    assert capsys.readouterr().err.splitlines() == [
        "predict [b]photos[/b]  80/400  2.0 images/s  ETA 3 min",
        "predict [b]photos[/b]  200/400  2.0 images/s  ETA 2 min",
    ]


def test_items_of_an_interrupted_run_are_not_part_of_the_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 140.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress_bar("pseudolabel", 2000) as advance:
        advance.resume(1000)
        advance(400)
    assert capsys.readouterr().err == "pseudolabel  1400/2000  10.0 images/s  ETA 1 min\n"


def test_a_bar_leaves_items_of_an_interrupted_run_out_of_its_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    terminal = Console(
        file=io.StringIO(),
        force_terminal=True,
        force_interactive=False,
        width=120,
        get_time=lambda: clock[0],
    )
    monkeypatch.setattr("segkit.commands.progress.stderr", terminal)
    with progress_bar("pseudolabel", 2000) as advance:
        advance.resume(1000)
        for _ in range(5):
            clock[0] += 1
            advance(10)
        assert isinstance(advance, _Bar)
        (task,) = advance.bar.tasks
        assert (task.completed, task.speed) == (1050, 10)
        assert task.time_remaining == 95


def test_boxes_have_a_rate_of_their_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0, 140.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress_bar("pseudolabel", 200) as advance:
        for images, boxes in ((30, 200), (50, 1000)):
            advance.count_boxes(boxes)
            advance(images)
    line = "pseudolabel  80/200  2.0 images/s  30.0 boxes/s  ETA 1 min\n"
    assert capsys.readouterr().err == line


def test_a_bar_shows_the_rate_of_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    terminal = Console(
        file=io.StringIO(), force_terminal=True, width=120, get_time=lambda: clock[0]
    )
    monkeypatch.setattr("segkit.commands.progress.stderr", terminal)
    with progress_bar("pseudolabel", 200) as advance:
        for _ in range(4):
            clock[0] += 1
            advance.count_boxes(30)
            advance(10)
        assert isinstance(advance, _Bar)
        assert _Rate().render(advance.bar.tasks[0]).plain == "10.0 images/s  30.0 boxes/s"


def test_without_a_total_there_is_no_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress_bar("convert", None) as advance:
        advance()
    assert capsys.readouterr().err == "convert  1  0.0 images/s\n"


def test_quiet_takes_progress_away_and_nothing_else(
    toy: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "tiny.toml")
    common = ["train", f"--recipe={recipe}", f"--data={toy.path}", "--steps=2", "--device=cpu"]
    loud = CliRunner().invoke(app, [*common, f"--out={tmp_path / 'loud'}"])
    quiet = CliRunner().invoke(app, [*common, f"--out={tmp_path / 'quiet'}", "--quiet"])
    assert loud.exit_code == quiet.exit_code == 0, quiet.output
    assert "step 2/2" in loud.stderr and "step 2/2" not in quiet.stderr
    assert str(tmp_path / "quiet" / "v1") in quiet.stdout and "next: segkit" in quiet.stderr
    again = CliRunner().invoke(app, [*common, f"--out={tmp_path / 'again'}"])
    assert "step 2/2" in again.stderr, "it holds for one command"


FORMATS = ("coco-instances", "coco-panoptic", "voc", "labelstudio", "cvat", "labelme", "semantic")
ON_SETS = {
    **{f"export {name} --data {{toy}} --images --out {{out}}": 2 for name in FORMATS},
    "export yolo --data train={toy} --out {out}": 1,
    "export yolo-seg --data train={toy} --images --out {out}": 2,
    "merge {toy} {toy} --rename --out {out}": 2,
    "split {toy} --part a=0.5 --part b=0.5 --out {out}": 3,
    "split {toy} --part a=0.5 --part b=0.5 --no-verify-images --out {out}": 2,
    "split {toy} --zero-shot {unseen} --policy ignore-pixels --out {out}": 3,
    "relabel {toy} --taxonomy {classes} --map {map} --out {out}": 1,
    "diff {toy} {toy}": 1,
}
"""A command that reads sets, and how often it reads each image of the toy set."""


@pytest.mark.parametrize("command", ON_SETS)
def test_commands_on_sets_count_their_images(
    toy: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    files = {
        "unseen": tmp_path / "a.txt",
        "classes": tmp_path / "a.json",
        "map": tmp_path / "a.csv",
    }
    files["unseen"].write_text("cat\n")
    files["classes"].write_text(json.dumps(toy.taxonomy.to_json()))
    files["map"].write_text("from,to\n" + "".join(f"{n},{n}\n" for n in toy.taxonomy.names))
    monkeypatch.setattr("segkit.commands.progress.LINE_SECONDS", 0.0)
    outputs = []
    for number, quiet in enumerate(([], ["--quiet"])):
        out = tmp_path / f"out{number}"
        words = [word.format(toy=toy.path, out=out, **files) for word in command.split()]
        result = CliRunner().invoke(app, [*words, *quiet])
        assert result.exit_code == 0, (result.output, result.exception)
        outputs.append([line for line in result.stderr.splitlines() if "/s  ETA" in line])
    total = ON_SETS[command] * len(toy)
    assert len(outputs[0]) == total and f"  {total}/{total}  " in outputs[0][-1]
    assert outputs[0][0].startswith(command.split()[0]) and not outputs[1]


def test_every_command_has_json_and_quiet() -> None:
    def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        below = getattr(command, "commands", None)
        if below is None:
            yield path, command
        for name, entry in (below or {}).items():
            yield from leaves(entry, (*path, name))

    commands = dict(leaves(typer.main.get_command(app), ()))
    assert ("convert", "coco") in commands and ("show",) in commands
    for path, command in commands.items():
        options = [option for parameter in command.params for option in parameter.opts]
        assert {"--json", "--quiet"} <= set(options), path


def test_a_command_keeps_its_name_help_and_arguments() -> None:
    def twice(number: int) -> tuple[int, bool, bool]:
        """Double it."""
        return 2 * number, is_json(), is_quiet()

    run = with_output_options(twice)
    for output in product((False, True), repeat=2):
        assert run(number=3, as_json=output[0], quiet=output[1]) == (6, *output)
        assert not is_json() and not is_quiet()
    assert (run.__name__, run.__doc__) == ("twice", "Double it.")
