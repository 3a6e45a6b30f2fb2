import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError, SegkitError, UnchangedWarning
from segkit.inference.label_shards import label_shards
from segkit.report.preview import write_preview
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.prune import plan_pruning, prune
from segkit.shards.publish import exclusive
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate
from segkit.shards.writer import write_layer
from segkit.training.options import SelfTrainOptions
from segkit.training.selftrain_plan import plan_selftraining
from segkit.training.selftrain_state import write_state
from tests.training.toy import write_recipe, write_toy_set


def _versions(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("v[0-9]"))


def _layer(parent: ShardSet, folder: Path) -> ShardSet:
    return write_layer(folder, parent, parent.samples(), Header.from_set(parent, "test", {}))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A set with four versions, and a layer over its second one."""
    folder = tmp_path / "work"
    for _ in range(4):
        write_toy_set(folder / "toy")
    _layer(ShardSet.open(f"{folder}/toy@v2"), folder / "layers" / "layer")
    return folder


def test_the_newest_versions_and_the_parents_of_others_stay(work: Path) -> None:
    plan = plan_pruning(work / "toy", 1, work)
    assert [path.name for path in plan.delete] == ["v1", "v3"]
    assert {path.name: child.parent.name for path, child in plan.needed.items()} == {"v2": "layer"}
    files = [file for name in ("v1", "v3") for file in (work / "toy" / name).iterdir()]
    assert plan.size == sum(file.stat().st_size for file in files)
    prune(work / "toy", plan)
    assert _versions(work / "toy") == ["v2", "v4"]
    layer = ShardSet.open(work / "layers" / "layer")
    assert not list(validate(layer.path)) and layer.image_bytes(layer.sample(0))


def test_an_old_version_keeps_its_parents_only_while_it_stays(tmp_path: Path) -> None:
    first = write_toy_set(tmp_path / "toy")
    second = _layer(first, tmp_path / "toy")
    _layer(second, tmp_path / "toy")
    plan = plan_pruning(tmp_path / "toy", 1, tmp_path)
    # v3 reads the images of v1, and names v2 as its parent
    assert plan.delete == () and sorted(path.name for path in plan.needed) == ["v1", "v2"]
    write_toy_set(tmp_path / "toy")
    plan = plan_pruning(tmp_path / "toy", 1, tmp_path)
    assert [path.name for path in plan.delete] == ["v1", "v2", "v3"]


def test_parents_of_the_set_itself_stay_wherever_is_searched(tmp_path: Path) -> None:
    """v2 is a layer of v1, and neither is in the folder that is searched."""
    _layer(write_toy_set(tmp_path / "toy"), tmp_path / "toy")
    (tmp_path / "other").mkdir()
    plan = plan_pruning(tmp_path / "toy", 1, tmp_path / "other")
    assert plan.delete == () and [path.name for path in plan.needed] == ["v1"]


@pytest.mark.parametrize("place", [".hidden", "linked"])
def test_layers_in_hidden_and_linked_folders_are_found(tmp_path: Path, place: str) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    first = write_toy_set(work / "toy")
    write_toy_set(work / "toy")
    _layer(first, elsewhere / "layer" if place == "linked" else work / place / "layer")
    if place == "linked":
        (work / place).symlink_to(elsewhere)
        (elsewhere / "loop").symlink_to(elsewhere)
    assert plan_pruning(work / "toy", 1, work).delete == ()


@pytest.mark.parametrize(
    "part",
    [
        lambda shards: {"data": {"toy": [shards.manifest.digest, 1.0]}},
        lambda shards: {"data": {}, "eval_data": ["unknown", shards.manifest.digest]},
        lambda shards: {"data": shards.manifest.digest, "arguments": {"limit": 1}},
        lambda shards: {"data": "unknown", "parents": [shards.manifest.digest]},
    ],
)
def test_what_an_interrupted_command_reads_stays(
    tmp_path: Path, part: Callable[[ShardSet], dict[str, Any]]
) -> None:
    first = write_toy_set(tmp_path / "toy", seeds=range(3))
    write_toy_set(tmp_path / "toy")
    partial = tmp_path / "run" / ".v1.partial"
    partial.mkdir(parents=True)
    (partial / "fingerprint.json").write_text(json.dumps({"command": "train"} | part(first)))
    plan = plan_pruning(tmp_path / "toy", 1, tmp_path)
    assert plan.delete == () and list(plan.needed.values()) == [tmp_path / "run"]


def test_what_a_self_training_resumes_with_stays(tmp_path: Path) -> None:
    seeds = {"masks": range(6), "boxes": range(6, 12), "apart": range(20, 26)}
    for name, numbers in seeds.items():
        write_toy_set(tmp_path / name, seeds=numbers, boxes_only=name == "boxes", name=name)
    plan = plan_selftraining(
        write_recipe(tmp_path / "tiny.toml"),
        [(str(tmp_path / "masks"), 1.0)],
        (str(tmp_path / "boxes"), 1.0),
        SelfTrainOptions(rounds=1, held_out=str(tmp_path / "apart"), steps=1, round_steps=1),
    )
    write_state(tmp_path / "work", plan, [{"run": "round-0/run/v1", "held_out_iou": 0.5}])
    for name in seeds:
        write_toy_set(tmp_path / name, seeds=range(40, 46))
        pruning = plan_pruning(tmp_path / name, 1, tmp_path)
        assert pruning.needed == {tmp_path / name / "v1": tmp_path / "work"}, name
    for _ in range(2):
        write_toy_set(tmp_path / "work" / "round-0" / "run")
    pruning = plan_pruning(tmp_path / "work" / "round-0" / "run", 1, tmp_path / "work")
    assert [path.name for path in pruning.needed] == ["v1"]
    (tmp_path / "work" / "selftrain.json").write_text('{"inputs": ')
    with pytest.raises(SegkitError, match=r"selftrain\.json"):
        plan_pruning(tmp_path / "masks", 1, tmp_path)


@pytest.mark.parametrize("command", ["pseudolabel", "merge"])
def test_what_a_running_command_reads_stays(tmp_path: Path, command: str) -> None:
    first = write_toy_set(tmp_path / "toy", seeds=range(3))
    write_toy_set(tmp_path / "toy")
    plans = []

    def samples() -> Iterator[Sample]:
        plans.append(plan_pruning(tmp_path / "toy", 1, tmp_path))
        yield from first.samples()

    def label(part: Iterable[Sample]) -> Iterator[tuple[Sample, dict[str, int]]]:
        plans.append(plan_pruning(tmp_path / "toy", 1, tmp_path))
        return ((sample, {}) for sample in part)

    header = Header.from_set(first, command)
    if command == "merge":
        write_layer(tmp_path / "layer", first, samples(), header)
    else:
        label_shards(tmp_path / "layer", first, lambda device: label, header)
    assert [(plan.delete, list(plan.needed.values())) for plan in plans] == [
        ((), [tmp_path / "layer"])
    ]


def test_versions_of_equal_content_all_stay_for_an_interrupted_command(tmp_path: Path) -> None:
    """Its fingerprint says what it reads, not in which version."""
    first = write_toy_set(tmp_path / "toy", seeds=range(3))
    write_toy_set(tmp_path / "toy", seeds=range(3))
    write_toy_set(tmp_path / "toy")
    partial = tmp_path / "layer" / ".v1.partial"
    partial.mkdir(parents=True)
    (partial / "fingerprint.json").write_text(json.dumps({"data": first.manifest.digest}))
    plan = plan_pruning(tmp_path / "toy", 1, tmp_path)
    assert plan.delete == () and [path.name for path in plan.needed] == ["v1", "v2"]


def test_the_run_that_an_interrupted_training_started_from_stays(tmp_path: Path) -> None:
    write_toy_set(tmp_path / "toy", seeds=range(3))
    write_toy_set(tmp_path / "toy")
    partial = tmp_path / "run" / ".v1.partial"
    partial.mkdir(parents=True)
    recipe = {"model": {"init_from": str(tmp_path / "toy" / "v1")}}
    (partial / "fingerprint.json").write_text(json.dumps({"command": "train", "recipe": recipe}))
    plan = plan_pruning(tmp_path / "toy", 1, tmp_path)
    assert plan.delete == () and list(plan.needed.values()) == [tmp_path / "run"]


def test_a_killed_pruning_leaves_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        write_toy_set(tmp_path / "toy")
    removed: list[Path] = []

    def kill(path: Path) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        path.unlink()

    monkeypatch.setattr("segkit.shards.publish.delete", kill)
    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path / "toy", plan_pruning(tmp_path / "toy", 1, tmp_path))
    monkeypatch.undo()
    assert (tmp_path / "toy" / ".v1.partial").is_dir()
    assert write_toy_set(tmp_path / "toy").version == 3
    assert not (tmp_path / "toy" / ".v1.partial").exists()


def test_a_preview_goes_with_its_version(tmp_path: Path) -> None:
    write_preview(write_toy_set(tmp_path / "toy"))
    write_toy_set(tmp_path / "toy")
    prune(tmp_path / "toy", plan_pruning(tmp_path / "toy", 1, tmp_path))
    assert sorted(path.name for path in (tmp_path / "toy").glob("v*")) == ["v2"]
    assert write_toy_set(tmp_path / "toy").version == 3, "numbers are not used twice"


def test_a_set_that_is_being_written_is_not_pruned(work: Path) -> None:
    plan = plan_pruning(work / "toy", 1, work)
    with (
        exclusive(work / "toy"),
        pytest.raises(SegkitError, match="another process is writing here"),
    ):
        prune(work / "toy", plan)
    assert len(_versions(work / "toy")) == 4


def test_a_manifest_that_cannot_be_read_stops_the_pruning(work: Path) -> None:
    (work / "layers" / "layer" / "v1" / "manifest.json").write_text('{"parents": [')
    with pytest.raises(SegkitError, match=r"manifest\.json"):
        plan_pruning(work / "toy", 1, work)
    with pytest.raises(InputError, match="holds no published version"):
        plan_pruning(work, 1, work)


def test_a_folder_that_cannot_be_searched_stops_the_pruning(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "file").touch()
    for name, message in (("layrs", "no such folder"), ("file", "is a file, not a folder")):
        arguments = ["prune", str(work / "toy"), "--within", str(work / name)]
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, InputError) and message in str(result.exception)
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("layers"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SegkitError, match=r"layers: cannot be read \(Permission denied\)"):
        plan_pruning(work / "toy", 1, work)
    assert len(_versions(work / "toy")) == 4


def test_the_command_lists_first_and_deletes_then(work: Path) -> None:
    arguments = ["prune", str(work / "toy"), "--within", str(work), "--json"]
    listed = json.loads(CliRunner().invoke(app, [*arguments, "--dry-run"]).stdout)
    assert len(_versions(work / "toy")) == 4 and listed["dry_run"]
    done = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert done["deleted"] == listed["deleted"] == ["v1", "v3"]
    assert _versions(work / "toy") == ["v2", "v4"] and list(done["needed"]) == ["v2"]


def test_equal_content_makes_no_new_version_unless_forced(tmp_path: Path) -> None:
    toy = write_toy_set(tmp_path / "toy")
    header = Header.from_set(toy, "test", {"argument": 1})
    first = write_layer(tmp_path / "layer", toy, toy.samples(), header, force=False)
    again = Header.from_set(toy, "test", {"argument": 2})
    with pytest.warns(UnchangedWarning, match="so no new version was published$"):
        second = write_layer(tmp_path / "layer", toy, toy.samples(), again, force=False)
    assert second.path == first.path and _versions(tmp_path / "layer") == ["v1"]
    assert not list((tmp_path / "layer").glob(".v*"))
    forced = write_layer(tmp_path / "layer", toy, toy.samples(), again, force=True)
    assert forced.version == 2
    fewer = list(toy.samples())[:-1]
    assert write_layer(tmp_path / "layer", toy, fewer, again, force=False).version == 3
