import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from segkit.commands import app as program
from segkit.errors import InputError, SegkitError

BUG = "(this is a bug in segkit; SEGKIT_DEBUG=1 shows the traceback)"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("not a set", file="a", hint="give one"), 2, "error: a: not a set; give one"),
        (SegkitError("two\nlines"), 1, "error: two lines"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/x"),
            1,
            "error: out/x: No space left on device",
        ),
        (
            KeyError("k"),
            1,
            f"error: KeyError: 'k' {BUG}",
        ),
        (
            RuntimeError("in a\n file"),
            1,
            f"error: RuntimeError: in a file {BUG}",
        ),
    ],
)
def test_every_failure_is_one_line_and_an_exit_code(
    error: Exception,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(program, "app", fail)
    monkeypatch.delenv("SEGKIT_DEBUG", raising=False)
    with pytest.raises(SystemExit) as stop:
        program.main()
    assert (stop.value.code, capsys.readouterr().err) == (code, line + "\n")
    monkeypatch.setenv("SEGKIT_DEBUG", "1")
    with pytest.raises(type(error)):
        program.main()


def test_the_message_of_a_bug_is_shortened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("g++ says: " + "of many words " * 9999)

    monkeypatch.setattr(program, "app", fail)
    monkeypatch.delenv("SEGKIT_DEBUG", raising=False)
    with pytest.raises(SystemExit):
        program.main()
    output = capsys.readouterr().err
    assert output.startswith("error: RuntimeError: g++ says: of many words") and len(output) < 600


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--version"], 0), (["convert", "--nonsense"], 2), (["nonsense"], 2)]
)
def test_wrong_usage_exits_with_2(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["segkit", *arguments])
    with pytest.raises(SystemExit) as stop:
        program.main()
    assert stop.value.code == code


@pytest.mark.parametrize("number", [2**63, -(2**63), 10**400], ids=["63", "-63", "400"])
@pytest.mark.parametrize(
    ("option", "command"),
    [
        ("--limit", "convert voc --root . --split train --out set"),
        ("--ignore", "convert semantic --images . --masks . --labels . --out set"),
        ("--classes", "convert visual-genome --annotations . --images . --out set"),
        ("--seed", "split set --part a=1 --out parts"),
    ],
)
def test_an_integer_beyond_64_bits_is_refused(number: int, option: str, command: str) -> None:
    result = CliRunner().invoke(program.app, [*command.split(), f"{option}={number}"])
    if number < 0 and option in ("--limit", "--classes"):
        assert result.exit_code == 2
    else:
        message = f"an integer beyond 64 bits for {option}; give a smaller number"
        assert isinstance(result.exception, InputError) and str(result.exception) == message


def test_help_lists_the_commands_in_the_order_of_the_work() -> None:
    output = CliRunner().invoke(program.app, ["--help"], env={"COLUMNS": "300"}).stdout
    listed = re.findall(r"^\W*([a-z]+) ", output.partition("Commands")[2], re.MULTILINE)
    steps = [
        "convert",
        "validate",
        "inspect",
        "train",
        "predict",
        "pseudolabel",
        "eval",
        "benchmark",
        "browse",
    ]
    assert [name for name in listed if name in steps] == steps and listed[0] == "convert"
    assert len(listed) == len(program.app.registered_commands) + len(program.app.registered_groups)


@pytest.mark.parametrize(
    "command",
    [
        "eval --data absent --task panoptic --predictions absent",
        "benchmark coco-panoptic --data absent --predictions absent",
        "benchmark objects365 --annotations absent --images absent --predictions absent",
        "predict --checkpoint absent --images absent --classes cat",
        "pseudolabel --checkpoint absent --data absent",
        "train --recipe absent --data absent",
        "convert coco --images absent --instances absent",
        "merge absent absent",
        "split absent",
        "relabel absent --taxonomy voc-20 --map absent",
        "export semantic --data absent",
        "demo",
    ],
)
def test_a_destination_that_cannot_be_written_to_is_refused_before_any_work(
    command: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(
        program.app, [*command.split(), "--out", str(tmp_path / "file" / "out")]
    )
    assert isinstance(result.exception, InputError), result.output
    assert "file: cannot be written to (Not a directory); choose another directory" in str(
        result.exception
    )


def test_ctrl_c_ends_with_the_shells_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segkit.commands.vocabulary.known_taxonomies", interrupt)
    monkeypatch.setattr("sys.argv", ["segkit", "vocabulary", "list"])
    with pytest.raises(SystemExit) as stop:
        program.main()
    assert stop.value.code == 130


def test_an_old_key_prints_one_note(tmp_path: Path) -> None:
    recipe = tmp_path / "old.toml"
    recipe.write_text("[optimiser]\nlr = 0.1\n")
    code = f"""
import sys
from segkit.commands import app
from segkit.recipes.load import load_recipe
app.app = lambda: [load_recipe({str(recipe)!r}) for _ in range(2)]
app.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    note = f"note: {recipe}: optimiser is now called optimizer; the old name still works"
    assert done.stderr.splitlines() == [note]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_locale_lacks_are_escaped(encoding: str, tmp_path: Path) -> None:
    """In a class name, an error, and the ellipsis of a narrow table."""
    names = ["划痕", "é", "x" * 200]
    categories = [{"id": i, "name": name, "kind": "thing"} for i, name in enumerate(names)]
    file = tmp_path / "taxonomy.json"
    file.write_text(json.dumps({"name": "own", "categories": categories}))
    code = f"""
import sys
from segkit.commands.app import main
for name in {str(file)!r}, {str(tmp_path / "缺")!r}:
    sys.argv = ["segkit", "vocabulary", "show", name]
    try:
        main()
    except SystemExit as stop:
        print(stop.code)
"""
    settings = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": encoding, "COLUMNS": "60"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, **settings}
    )
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert r"\u5212\u75d5" in out and r"\u2026" in out and out.endswith("0\n2\n"), out + err
    hint, error = err.splitlines()
    assert hint.startswith("next: ") and error.startswith("error: ") and r"\u7f3a" in error


def test_names_that_are_not_utf8_end_in_one_line(tmp_path: Path) -> None:
    """As arguments, as the working directory, and in listed folders."""
    latin1 = os.fsdecode(b"caf\xe9")
    folder = tmp_path / latin1
    for name in ("images", "masks", latin1):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 6)).save(tmp_path / name / "a.png")
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / f"{latin1}.png")
    (tmp_path / "labels.txt").write_text("one\n")
    (tmp_path / "classes.txt").write_text("one\n")
    masks = ("--masks", str(tmp_path / "masks"), "--labels", str(tmp_path / "labels.txt"))
    convert = ("convert", "semantic", *masks, "--out", str(tmp_path / "set"), "--images")
    calls = [
        (tmp_path, [*convert, str(folder)]),
        (tmp_path, [*convert, str(tmp_path / "images")]),
        (tmp_path, ["inspect", str(folder)]),
        (folder, ["inspect", "absent"]),
        (tmp_path, ["convert", "yolo", "--data", str(tmp_path), "--out", str(tmp_path / "y")]),
    ]
    code = f"""
import os, sys
from segkit.commands.app import main
for folder, arguments in {calls!r}:
    os.chdir(folder)
    sys.argv = ["segkit", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        print(stop.code)
""".replace("PosixPath(", "str(")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["2"] * len(calls), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(calls)
    for line in lines:
        assert line.startswith("error: ") and "the name is not UTF-8; rename it" in line
        assert r"caf\udce9" in line
    assert not (tmp_path / "set").exists() or not list((tmp_path / "set").glob("v*"))
