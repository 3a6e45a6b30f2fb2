import errno
import importlib
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import filesystem

from segkit.errors import InputError, SegkitError
from segkit.training import checkpoint
from segkit.training.checkpoint import CheckpointWriter


def start(
    writer: CheckpointWriter, folder: Path, step: int, newest: int = 2, best: int | None = None
) -> Path:
    tensors = {
        "model/w": torch.full((2, 3), float(step)),
        "step": torch.tensor(step),
        "none": torch.zeros(0, 4),
    }
    values = {"scaler": {}}
    path = writer.start(folder, step, tensors, values, newest=newest, best=best)
    for tensor in tensors.values():  # as the next step does
        tensor.zero_()
    return path


def save(folder: Path, step: int, newest: int = 2, best: int | None = None) -> Path:
    writer = CheckpointWriter()
    path = start(writer, folder, step, newest, best)
    writer.wait()
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def load(path: Path) -> torch.Tensor:
    tensor = torch.zeros(2, 3)
    checkpoint.load(path, {"model/w": tensor})
    return tensor


def test_the_newest_of_the_last_k_loads_with_its_tensors_and_values(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000010", "step-00000100"]
    newest = checkpoint.newest(tmp_path)
    assert newest == checkpoint.of_step(tmp_path, 100)
    assert checkpoint.sizes(newest) == {"model/w": (2, 3), "step": (), "none": (0, 4)}
    tensors = {"model/w": torch.zeros(2, 3), "step": torch.tensor(0)}
    assert checkpoint.load(newest, tensors) == {"step": 100, "scaler": {}}
    assert torch.equal(tensors["model/w"], torch.full((2, 3), 100.0)) and tensors["step"] == 100


def test_the_best_is_kept_beside_the_newest_until_a_better_one(tmp_path: Path) -> None:
    for step, best in ((1, None), (2, 1), (3, 1), (4, 3)):
        save(tmp_path, step, newest=1, best=best)
        assert names(tmp_path) == [f"step-{kept:08d}" for kept in sorted({step} | {best or step})]


def test_a_half_written_checkpoint_is_ignored_and_then_deleted(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / "step-00000010.partial").mkdir()  # of a killed process
    newest = checkpoint.newest(tmp_path)
    assert newest is not None and load(newest)[0, 0] == 5
    save(tmp_path, 15)
    assert names(tmp_path) == ["step-00000005", "step-00000015"]


@pytest.mark.parametrize("failing", ["rmtree", "rename"])
def test_an_old_checkpoint_that_cannot_be_deleted_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """It is half deleted, as on a network disk whose files are open elsewhere, or not at all."""
    save(tmp_path, 5)
    rename = Path.rename

    def half(path: Path, ignore_errors: bool = False) -> None:
        if path.is_dir():
            (path / "values.json").unlink()
        if not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "Directory not empty")

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "step-00000005":
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(path, target)

    with monkeypatch.context() as patch:
        if failing == "rmtree":
            patch.setattr(shutil, "rmtree", half)
        else:
            patch.setattr(Path, "rename", refuse)
        save(tmp_path, 6, newest=1)
    left = {"rmtree": "step-00000005.partial", "rename": "step-00000005"}[failing]
    assert names(tmp_path) == [left, "step-00000006"]
    assert checkpoint.steps(tmp_path) == ({6} if failing == "rmtree" else {5, 6})
    save(tmp_path, 7, newest=1)
    assert names(tmp_path) == ["step-00000007"]


def test_a_kill_while_a_checkpoint_is_replaced_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5)

    def kill(path: Path, **_: object) -> None:
        next(path.iterdir()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", kill)
        save(tmp_path, 5)
    assert checkpoint.newest(tmp_path) is None
    assert load(save(tmp_path, 5))[0, 0] == 5


def test_a_checkpoint_that_cannot_be_written_takes_no_space(tmp_path: Path) -> None:
    save(tmp_path, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.FileSystemWriter, "finish", lambda *_: 1 / 0)
        with pytest.raises(SegkitError, match="step-00000010: the checkpoint cannot be written"):
            save(tmp_path, 10)
    assert names(tmp_path) == ["step-00000005"]


def test_a_checkpoint_is_written_without_a_context_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_ahead(*_: object, **__: object) -> None:
        pytest.fail("copies ahead on the current GPU")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(filesystem, "_OverlappingCpuLoader", copy_ahead)
    assert torch.equal(load(save(tmp_path, 3)), torch.full((2, 3), 3.0))


def test_an_empty_folder_has_no_checkpoint_and_an_old_one_is_refused(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "absent") is None and checkpoint.newest(tmp_path) is None
    (tmp_path / "step-00000010.pt").write_bytes(b"old")
    with pytest.raises(InputError, match=r"step-00000010\.pt.*earlier segkit.*give --restart"):
        checkpoint.newest(tmp_path)


def test_errors_name_the_checkpoint_in_one_line(tmp_path: Path) -> None:
    path = save(tmp_path, 10)
    for tensors in ({"model/other": torch.zeros(1)}, {"model/w": torch.zeros(3, 3)}):
        with pytest.raises(
            InputError, match=r"step-00000010.*not a checkpoint of this run"
        ) as caught:
            checkpoint.load(path, tensors)
        assert "\n" not in str(caught.value)
    for file in path.glob("*.distcp"):
        file.write_bytes(b"broken")
    with pytest.raises(InputError, match="step-00000010"):
        load(path)
    (path / ".metadata").write_bytes(b"broken")
    with pytest.raises(InputError, match="step-00000010"):
        checkpoint.sizes(path)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)


def test_nothing_in_a_checkpoint_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path, 10)
    (path / "digests.json").unlink()
    (path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="does not belong in a checkpoint"):
        load(path)
    # an object that is not a tensor is pickled beside the tensors, and torch would unpickle it for
    # any request of that name
    dcp.save({"model/w": Evil()}, storage_writer=dcp.FileSystemWriter(path))
    with pytest.raises(InputError, match="BytesStorageMetadata does not belong in a checkpoint"):
        load(path)
    # the tensors' own files
    save(tmp_path, 10)
    (path / "digests.json").unlink()
    for file in path.glob("*.distcp"):
        file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError):
        load(path)
    assert not Path("executed").exists()


def _build_pickle(module: str, name: str, state: dict[str, object]) -> bytes:
    """A pickle that sets attributes of a class: its name, the state, the opcode BUILD."""
    reference = b"c" + f"{module}\n{name}\n".encode()
    return b"\x80\x04" + reference + pickle.dumps((None, state), 2)[2:-1] + b"b."


def test_the_crafted_pickle_changes_a_class_where_nothing_prevents_it() -> None:
    pickle.loads(_build_pickle(__name__, "Evil", {"changed": True}))
    assert Evil.changed
    del Evil.changed


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pathlib", "PosixPath"),
        ("torch", "Size"),
        ("torch.distributed.checkpoint.metadata", "Metadata"),
        ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ],
)
def test_the_metadata_of_a_checkpoint_cannot_change_a_class(
    tmp_path: Path, module: str, name: str
) -> None:
    path = save(tmp_path, 10)
    (path / "digests.json").unlink()
    (path / ".metadata").write_bytes(_build_pickle(module, name, {"name": "changed"}))
    target = getattr(importlib.import_module(module), name)
    before = dict(vars(target))
    with pytest.raises(InputError, match="type has no state in a checkpoint"):
        load(path)
    assert dict(vars(target)) == before


def test_one_flipped_bit_in_any_file_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path, draw = save(tmp_path, 10), random.Random(0)
    for file in sorted(path.iterdir()):
        intact = file.read_bytes()
        for place in [0, len(intact) - 1, *(draw.randrange(len(intact)) for _ in range(8))]:
            flipped = bytearray(intact)
            flipped[place] ^= 1 << draw.randrange(8)
            file.write_bytes(flipped)
            with pytest.raises(InputError, match="step-00000010"):
                load(path)
        file.write_bytes(intact)
    load(path)


def test_a_checkpoint_without_digests_still_loads(tmp_path: Path) -> None:
    path = save(tmp_path, 10)
    (path / "digests.json").unlink()
    assert load(path)[0, 0] == 10


def test_no_file_outside_the_checkpoint_is_read(tmp_path: Path) -> None:
    path, outside = save(tmp_path, 10), save(tmp_path, 20)
    (path / "digests.json").unlink()
    metadata = pickle.loads((path / ".metadata").read_bytes())
    for place in metadata.storage_data.values():
        place.relative_path = f"../{outside.name}/{place.relative_path}"
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(InputError, match="is outside the checkpoint"):
        load(path)
