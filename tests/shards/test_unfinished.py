"""Which unfinished versions a writer deletes, and what `segkit prune` learns from them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import InputError
from segkit.shards.prune import plan_pruning
from segkit.shards.publish import check_staging, staging
from tests.training.toy import write_toy_set

TRAINING = {"command": "train"}


def leave(
    folder: Path, fingerprint: dict[str, Any], inputs: Sequence[str] = (), **options: bool
) -> Path:
    """A file in the unfinished version that a killed command left."""
    with staging(folder, fingerprint, inputs=inputs, resume=True, **options) as stage:
        file = stage.path / "step-00000002"
        file.write_text("hours of work")
    return file


def replace(folder: Path, **options: bool) -> None:
    """Another command stages a version."""
    with staging(folder, {"command": "merge"}, inputs=(), resume=False, **options) as stage:
        stage.discard()


@pytest.mark.parametrize("number", [1, 7])
@pytest.mark.parametrize("old", [False, True])
def test_precious_files_survive_other_commands_and_failures(
    tmp_path: Path, old: bool, number: int
) -> None:
    """An earlier segkit left no `writer.json`; and the number need not be that of the next one."""
    file = leave(tmp_path, TRAINING, precious=True)
    if old:
        (file.parent / "writer.json").unlink()
    file = file.parent.rename(tmp_path / f".v{number}.partial") / file.name
    message = "holds an interrupted training; finish it with segkit train --resume, or give another"
    with pytest.raises(InputError, match=message):
        replace(tmp_path)
    with pytest.raises(InputError, match=message):
        check_staging(tmp_path, "shards")
    assert file.read_text() == "hours of work"
    replace(tmp_path, precious=True)  # the same command, which has asked its user
    assert not file.exists()
    with (
        pytest.raises(ZeroDivisionError),
        staging(tmp_path, TRAINING, inputs=(), resume=False, precious=True) as stage,
    ):
        (stage.path / "kept").write_text(str(1 / 0))
    assert (tmp_path / ".v1.partial").is_dir()


@pytest.mark.parametrize("old", [False, True])
def test_other_files_are_replaced_by_any_command(tmp_path: Path, old: bool) -> None:
    """Also by one that is called train, but records that its files can be made anew."""
    file = leave(tmp_path, {"command": "predict"} if old else TRAINING)
    if old:
        (file.parent / "writer.json").unlink()
    check_staging(tmp_path, "shards")
    replace(tmp_path)
    assert not file.exists()


@pytest.mark.parametrize("damage", ["", "[1]", '{"precious": 1'])
def test_a_damaged_record_is_none(tmp_path: Path, damage: str) -> None:
    file = leave(tmp_path, TRAINING, precious=True)
    (file.parent / "writer.json").write_text(damage)
    with pytest.raises(InputError, match="holds an interrupted training"):
        replace(tmp_path)


def test_what_an_earlier_segkit_left_is_resumed_and_recorded(tmp_path: Path) -> None:
    fingerprint = {"command": "predict", "version": "0.1"}
    file = leave(tmp_path, fingerprint, ["a" * 64])
    assert json.loads((file.parent / "fingerprint.json").read_text()) == fingerprint
    (file.parent / "writer.json").unlink()
    with staging(tmp_path, fingerprint, inputs=["b" * 64], resume=True) as stage:
        assert stage.resumed and file.exists()
        assert "b" * 64 in (stage.path / "writer.json").read_text()
        (stage.path / "manifest.json").write_text("{}")
        published = stage.publish()
    assert sorted(path.name for path in published.iterdir()) == ["manifest.json", file.name]


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("by", ["digest", "path"])
def test_pruning_spares_the_inputs_of_an_unfinished_version(
    tmp_path: Path, by: str, number: int
) -> None:
    first = write_toy_set(tmp_path / "toy", seeds=range(3))
    write_toy_set(tmp_path / "toy")
    assert [path.name for path in plan_pruning(tmp_path / "toy", 1, tmp_path).delete] == ["v1"]
    read = first.manifest.digest if by == "digest" else str(first.path)
    file = leave(tmp_path / "bank", {"command": "zeroshot bank"}, [read])
    file.parent.rename(tmp_path / "bank" / f".v{number}.partial")
    plan = plan_pruning(tmp_path / "toy", 1, tmp_path)
    assert plan.delete == () and list(plan.needed.values()) == [tmp_path / "bank"]
