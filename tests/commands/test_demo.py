import json
import signal
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segkit.commands.app import main
from segkit.demo import demo
from segkit.distributed import native_precision
from segkit.errors import UnchangedWarning
from segkit.masks import rle
from segkit.masks.boxes import filled_box
from segkit.masks.iou import mask_iou
from segkit.shards.reader import ShardSet
from segkit.shards.versions import resolve
from segkit.stopping import StoppedError
from segkit.training.interrupted import OtherRunError
from tests.snippets import snippet


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "TRAIN_SCENES", 3)
    monkeypatch.setattr(demo, "VAL_SCENES", 3)
    monkeypatch.setattr(
        demo, "SETTINGS", ("data.image_size=64", "data.batch_size=1", "inference.image_size=64")
    )


def _run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["segkit", *arguments])
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise


@pytest.mark.usefixtures("small")
def test_the_demo_runs_every_stage(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(["demo", "--out", str(out), "--steps", "2", "--json"], monkeypatch)
    result = json.loads(capsys.readouterr().out)
    assert result["schema"].startswith("segkit.demo/")
    assert {"pq", "things", "stuff"} <= set(result["panoptic"])
    assert 0 <= result["semantic"]["miou"] <= 100
    assert set(result["seconds"]) == {
        "generate",
        "convert",
        "train",
        "pseudolabel",
        "eval",
        "picture",
        "total",
    }
    hidden = ShardSet.open(out / "sets" / "hidden-val")
    scores = [
        mask_iou(
            rle.decode(segment.mask, sample.height, sample.width),
            filled_box(segment.box, sample.height, sample.width),
        )
        for sample in hidden.samples()
        for segment in sample.segments
        if segment.mask is not None
    ]
    assert result["pseudo"]["boxes"] == len(scores)
    assert result["pseudo"]["filled_box_iou"] == pytest.approx(np.mean(scores))
    assert Image.open(result["contact_sheet"]).width > 1000
    assert ShardSet.open(out / "sets" / "boxes-train").manifest.statistics.masked == 0
    recipe = tomllib.loads((resolve(out / "run") / "recipe.toml").read_text())
    assert recipe["training"]["precision"] == native_precision(torch.device("cpu"))


def test_the_code_of_the_concepts_page_runs_on_the_demo(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = snippet("concepts.md", "python", "segkit.open").replace("demo-out", str(out))
    exec(code + snippet("concepts.md", "python", "segment.mask_from"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "100001 images/v1/patch1/objects365_v1_00100001.jpg 128 128"
    assert lines[1].startswith("7 (84.0, 48.0, 44.0, 55.0) False None None")


@pytest.mark.usefixtures("small")
def test_a_second_demo_publishes_what_has_changed(
    out: Path, recwarn: pytest.WarningsRecorder
) -> None:
    before = (out / "run" / "v1" / "manifest.json").read_bytes()
    demo.run_demo(out, steps=1)
    assert (out / "run" / "v2").is_dir()
    assert (out / "run" / "v1" / "manifest.json").read_bytes() == before
    assert [path.name for path in (out / "sets" / "hidden-val").glob("v?")] == ["v1"]
    assert not [w for w in recwarn if issubclass(w.category, UnchangedWarning)]
    demo.run_demo(out, steps=1, seed=1)
    assert (out / "sets" / "hidden-val" / "v2").is_dir()


def test_an_interrupted_demo_continues_or_starts_anew_with_other_settings(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[bool, bool]] = []

    def train(*_: object, resume: bool, restart: bool, **__: object) -> Path:
        calls.append((resume, restart))
        if resume:
            raise OtherRunError("of other settings")
        raise StoppedError(signal.SIGTERM, 3)

    monkeypatch.setattr("segkit.training.train.train", train)
    with pytest.raises(StoppedError, match="SIGTERM after step 3; the same command continues"):
        demo._train(
            [ShardSet.open(out / "sets" / f"{name}-train") for name in demo.WEIGHTS],
            tmp_path,
            5,
            0,
            "cpu",
            lambda step: None,
        )
    assert calls == [(True, False), (False, True)]


def test_a_folder_of_the_user_is_not_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "mine.txt").write_text("precious")
    with pytest.raises(SystemExit) as stop:
        _run(["demo", "--out", str(tmp_path)], monkeypatch)
    assert stop.value.code == 2
    assert "the demo would empty this folder" in capsys.readouterr().err
    assert (tmp_path / "native" / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("device", ["banana", "cuda"])
def test_a_device_that_is_not_there_is_refused_at_once(
    device: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(demo, "run_demo", lambda *_, **__: pytest.fail("the demo has begun"))
    out = tmp_path / "deep" / "out"
    with pytest.raises(SystemExit) as stop:
        _run(["demo", "--out", str(out), "--device", device], monkeypatch)
    assert stop.value.code == 2
    assert f"device '{device}'" in capsys.readouterr().err
    assert not out.parent.exists()
