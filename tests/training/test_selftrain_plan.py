"""Self-training refuses what it can before round 0, and pins versions, names and recipe."""

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segkit.errors import InputError, Notice, SegkitError
from segkit.inference.calibrate import ScoredBoxes
from segkit.progress import Advance, silent
from segkit.recipes.load import load_recipe
from segkit.runs.open_run import load_run
from segkit.runs.run_manifest import read_run_manifest
from segkit.shards.reader import ShardSet
from segkit.taxonomy import Category, Taxonomy
from segkit.text import embeddings
from segkit.text.encoding import Encoding
from segkit.training import selftrain as module
from segkit.training import selftrain_plan as plan_module
from segkit.training.options import SelfTrainOptions
from segkit.training.selftrain import SelfTraining, _hint_without_masks, selftrain
from segkit.training.selftrain_plan import SelfTrainingPlan, encode_classes, plan_selftraining
from segkit.training.train import train
from tests.commands.slips import assert_refused_before_torch
from tests.training.toy import TAXONOMY, write_recipe, write_toy_set

FAST = ["inference.pseudo_score=0", "loss.matching=false"]
UNKNOWN = Taxonomy("unknown", (Category(1, "sky", "stuff"), Category(2, "zorblax gizmo", "thing")))
BASE = ["--recipe", "tiny.toml", "--data", "masks", "--boxes", "boxes", "--out", "work"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with box prompts."""
    folder = tmp_path_factory.mktemp("teacher")
    data = write_toy_set(folder / "set")
    recipe = write_recipe(folder / "tiny.toml")
    train(recipe, [(str(data.path), 1.0)], folder / "run", steps=1, device="cpu", overrides=FAST)
    return folder / "run"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_toy_set(tmp_path / "masks", name="masks")
    write_toy_set(tmp_path / "boxes", boxes_only=True, name="boxes", seeds=range(6, 12))
    write_toy_set(tmp_path / "apart", name="apart", seeds=range(12, 16))
    write_recipe(tmp_path / "tiny.toml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def improving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each round score better than the one before."""

    def score(run: Any, data: ShardSet, **_: object) -> ScoredBoxes:
        number = str(run.path).rpartition("round-")[2].partition("/")[0]
        iou = (int(number) + 1) / 10 if number.isdigit() else 0.05
        return ScoredBoxes(np.zeros(1, np.int64), *(np.full(1, iou),) * 3)

    monkeypatch.setattr(module, "score_boxes", score)


def rounds(data: list[str], out: str = "work", **options: Any) -> SelfTraining:
    defaults = {"rounds": 1, "steps": 1, "round_steps": 1, "device": "cpu", "overrides": FAST}
    sets = [(spec, 1.0) for spec in data]
    return selftrain("tiny.toml", sets, ("boxes", 1.0), out, **(defaults | options))


def plan(**options: Any) -> SelfTrainingPlan:
    chosen = replace(SelfTrainOptions(rounds=1, share=0.34, overrides=FAST), **options)
    return plan_selftraining("tiny.toml", [("masks", 1.0)], ("boxes", 1.0), chosen)


def names_of_rounds(result: SelfTraining) -> list[set[str]]:
    """The names of the sets that the run of each round was trained on."""
    return [set(load_run(entry["run"]).taxonomies) for entry in result.rounds]


@pytest.mark.usefixtures("improving")
def test_a_set_named_masks_and_a_policy_for_the_boxes_pass_all_rounds(home: Path) -> None:
    policy = "data.mask_policy.boxes=mask"
    result = rounds(["masks"], rounds=2, held_out="apart", overrides=[*FAST, policy])
    assert names_of_rounds(result) == [{"masks", "boxes"}] * 3
    assert ShardSet.open("work/round-0/masks").manifest.name == "boxes"


@pytest.mark.usefixtures("improving")
def test_sets_of_one_name_keep_those_of_their_folders(home: Path) -> None:
    shutil.rmtree("masks")
    write_toy_set(home / "a", seeds=range(3))
    write_toy_set(home / "b", seeds=range(3, 6))
    policies = ["data.mask_policy.a=mask", "data.mask_policy.b=box"]
    result = rounds(["a", "b"], share=0.5, overrides=[*FAST, *policies])
    assert names_of_rounds(result) == [{"a", "b", "boxes"}] * 2


def test_sets_of_one_name_and_folder_are_refused_before_any_work(home: Path) -> None:
    for folder in ("x", "y"):
        shutil.move(write_toy_set(home / "set", name="same").path.parent, home / folder / "set")
    with pytest.raises(InputError, match="two data sets are named 'set'"):
        rounds(["x/set", "y/set"], share=0.5)
    assert not Path("work").exists()


def test_inputs_are_the_versions_at_the_start(
    home: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, improving: None
) -> None:
    shutil.copytree(teacher, "teacher")
    before = {name: ShardSet.open(name).manifest.digest for name in ("masks", "boxes", "apart")}
    scored: list[Path] = []
    score = module.score_boxes
    monkeypatch.setattr(
        module,
        "score_boxes",
        lambda run, data, **o: (scored.append(data.path), score(run, data))[1],
    )

    @contextmanager
    def publish(label: str, total: int, unit: str = "images") -> Iterator[Advance]:
        if label == "round 0: score":
            write_toy_set(home / "masks", name="masks", seeds=range(2))
            write_toy_set(home / "boxes", boxes_only=True, name="boxes", seeds=range(6, 8))
            write_toy_set(home / "apart", name="apart", seeds=range(12, 13))
            shutil.copytree("teacher/v1", "teacher/v2")
            (home / "tiny.toml").write_text("name = 'changed'\n")
        with silent(label, total) as advance:
            yield advance

    options = {"held_out": "apart", "checkpoint": "teacher", "steps": None, "progress": publish}
    result = rounds(["masks"], **options)
    run = load_run(result.rounds[1]["run"])
    layer = ShardSet.open(result.rounds[0]["masks"])
    assert len(layer) == 6 and layer.manifest.parents[0].digest == before["boxes"]
    start = read_run_manifest(teacher / "v1").digest
    digests = {parent.digest for parent in run.manifest.parents}
    assert digests == {before["masks"], layer.manifest.digest, start}
    assert run.recipe.name == "tiny"
    assert result.rounds[0]["run"] == str(home / "teacher/v1")
    assert {path.name for path in scored} == {"v1"}
    inputs = json.loads(Path("work/selftrain.json").read_text())["inputs"]
    assert inputs["boxes"][0] == before["boxes"] and inputs["data"][0][0] == before["masks"]
    assert inputs["held_out"] == before["apart"]


@pytest.mark.parametrize("where", ["held-out", "boxes"])
def test_a_class_without_an_embedding_is_refused_before_any_round(
    home: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def load(name: str) -> None:
        raise InputError("the encoder is not installed")

    monkeypatch.setattr(embeddings, "load_encoder", load)
    monkeypatch.setattr(module, "load_run", lambda *_: pytest.fail("a round was begun"))
    if where == "boxes":
        write_toy_set(home / "boxes", boxes_only=True, name="boxes", taxonomy=UNKNOWN)
        write_toy_set(home / "masks", name="masks", seeds=range(6, 12))
    else:
        write_toy_set(home / "apart", name="apart", taxonomy=UNKNOWN, seeds=range(12, 16))
    options = {"held_out": "apart", "checkpoint": str(teacher), "steps": None}
    with pytest.raises(InputError, match="the encoder is not installed"):
        rounds(["masks"], **options)
    assert not Path("work").exists()


def test_a_teacher_with_other_weights_of_the_text_encoder_is_refused(
    home: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has vectors of its own classes, but those of others would not be comparable."""
    monkeypatch.setattr(plan_module, "read_encoding", lambda folder: (Encoding(), "00000000"))
    assert encode_classes(plan(checkpoint=str(teacher))) == []
    dogs = Taxonomy("dogs", (Category(1, "sky", "stuff"), Category(2, "dog", "thing")))
    write_toy_set(home / "boxes", boxes_only=True, name="boxes", taxonomy=dogs, seeds=range(6, 12))
    with pytest.raises(InputError, match="encoded by other weights"):
        encode_classes(plan(checkpoint=str(teacher)))


def test_new_classes_of_held_out_images_are_encoded_first(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[str] = []
    monkeypatch.setattr(embeddings.EmbeddingStore, "add", lambda self, new: words.extend(new))
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail(str(words)))
    write_toy_set(home / "apart", name="apart", taxonomy=UNKNOWN, seeds=range(12, 16))
    with pytest.raises(pytest.fail.Exception, match="zorblax gizmo"):
        rounds(["masks"], held_out="apart")


def test_options_that_do_nothing_and_late_refusals(home: Path, teacher: Path) -> None:
    checkpoint = ["--checkpoint", str(teacher)]
    slips = [
        [*BASE, "--held-out", "apart", "--held-out-share", "0.3"],
        [*BASE, "--set", "loss.trust_scores=false"],
        [*BASE, "--set", "loss.trust_scores=true"],
        [*BASE, *checkpoint, "--set", f"model.init_from={teacher}"],
        [*BASE, *checkpoint, "--round-steps", "2", "--set", "training.steps=7"],
        [*BASE, *checkpoint, "--set", "loss.matching=false", "--set", "model.hidden_dim=32"],
        [*BASE, *checkpoint, "--set", "text.templates=none"],
        [*BASE, "--set", f"model.init_from={teacher}", "--set", "model.queries=5"],
        [*BASE, "--set", "inference.max_size=900"],
        [*BASE, "--held-out-share", "0.01"],
        ["--recipe", "tiny.toml", "--data", "masks", "--boxes", "boxes", "--held-out", "copy"],
    ]
    write_toy_set(home / "copy", name="copy", seeds=range(5, 13))
    assert_refused_before_torch(["selftrain"], [[*slip, "--out", "work"] for slip in slips])
    assert not (home / "work").exists()


def test_the_settings_of_another_architecture_are_in_the_message(home: Path, teacher: Path) -> None:
    with pytest.raises(InputError, match=r"differ in model\.queries; --set model\.queries=4"):
        plan(checkpoint=str(teacher), overrides=[*FAST, "model.queries=5"])
    with pytest.raises(InputError, match=r"encoded by .* or with other templates"):
        plan(checkpoint=str(teacher), overrides=[*FAST, "text.templates=none"])
    # pixel statistics, which a run resolves when it starts, are those of the checkpoint
    assert plan(checkpoint=str(teacher)).checkpoint == (teacher / "v1").resolve()
    with pytest.raises(InputError, match=r"differ in model\.pixel_mean"):
        plan(checkpoint=str(teacher), overrides=[*FAST, "model.pixel_mean=[0.1, 0.2, 0.3]"])


def test_later_rounds_have_the_pixel_statistics_of_the_first_run(
    home: Path, improving: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("other")
    data, mean = write_toy_set(folder / "set"), [0.1, 0.2, 0.3]
    overrides = [*FAST, f"model.pixel_mean={mean}"]
    sets = [(str(data.path), 1.0)]
    train("tiny.toml", sets, folder / "run", steps=1, device="cpu", overrides=overrides)
    result = rounds(["masks"], held_out="apart", checkpoint=str(folder / "run"), steps=None)
    assert list(load_run(result.rounds[1]["run"]).recipe.model.pixel_mean) == mean


def test_boxes_that_get_no_mask_end_the_rounds_clearly(home: Path, improving: None) -> None:
    strict = ["inference.pseudo_score=1", "loss.matching=false"]
    with pytest.raises(SegkitError, match="round 0: no box got a mask") as caught:
        rounds(["masks"], held_out="apart", overrides=strict)
    assert caught.value.exit_code == 1
    assert not Path("work/round-1").exists()
    # its hint, literally
    hint = "give another --out, and --set inference.pseudo_score=0.5 or --steps above 1"
    assert caught.value.hint == hint
    kept = [*strict, "inference.pseudo_score=0.5"]
    result = rounds(["masks"], "another", held_out="apart", overrides=kept)
    assert len(result.rounds) == 2 and result.rounds[0]["masked"] > 0
    with pytest.raises(SegkitError, match="no box got a mask"):  # not refused
        rounds(["masks"], "longer", held_out="apart", overrides=strict, steps=2)
    assert read_run_manifest("longer/round-0/run").steps == 2


def test_a_checkpoint_that_gives_no_masks_is_to_be_replaced(home: Path, improving: None) -> None:
    strict = ["inference.pseudo_score=1", "loss.matching=false"]
    train("tiny.toml", [("masks", 1.0)], "strict", steps=1, device="cpu", overrides=strict)
    train("tiny.toml", [("masks", 1.0)], "kind", steps=1, device="cpu", overrides=FAST)
    options: dict[str, Any] = {"held_out": "apart", "overrides": strict, "steps": None}
    with pytest.raises(SegkitError, match="round 0: no box got a mask") as caught:
        rounds(["masks"], checkpoint="strict", **options)
    assert caught.value.hint == "give another --out, and another --checkpoint or none"
    result = rounds(["masks"], "another", checkpoint="kind", **options)
    assert len(result.rounds) == 2


def test_a_later_round_without_masks_asks_for_more_of_its_steps() -> None:
    recipe = load_recipe("box-labeler-mini", ["inference.pseudo_score=0.6"])
    later: Any = SimpleNamespace(recipe=recipe, checkpoint=Path("run"), round_steps=7)
    assert _hint_without_masks(later, 1) == (
        "give another --out, and --set inference.pseudo_score=0.5 or --round-steps above 7"
    )
    later.recipe = load_recipe("box-labeler-mini", [])
    assert _hint_without_masks(later, 1) == "give another --out, and --round-steps above 7"


def test_the_share_in_use_is_a_tenth_unless_given(home: Path) -> None:
    assert plan(share=None, held_out="apart").share == 0.1
    assert plan(share=0.34).share == 0.34
    write_toy_set(home / "masks", name="masks", seeds=range(20, 40), taxonomy=replace(TAXONOMY))
    (parts,) = plan(share=None).parts
    assert parts is not None and [*parts.values()].count("held-out") == 2


def notices(**options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan(**options)
    return [str(warning.message) for warning in caught if issubclass(warning.category, Notice)]


@pytest.mark.parametrize("source", ["checkpoint", "init_from"])
def test_held_out_images_that_the_first_teacher_was_trained_with_are_noted(
    home: Path, source: str
) -> None:
    sets = [(str(ShardSet.open("masks").path), 1.0)]
    train("tiny.toml", sets, home / "first", steps=1, device="cpu", overrides=FAST)
    start: dict[str, Any] = {"checkpoint": "first"}
    if source == "init_from":
        start = {"overrides": [*FAST, f"model.init_from={home / 'first'}"]}
    (note,) = notices(**start)
    assert note.startswith(f"{home / 'first' / 'v1'} was trained with {home / 'masks' / 'v1'} or")
    assert notices(**start, held_out="apart", share=None) == []
    assert notices() == []
    write_toy_set(home / "more", name="more", seeds=range(20, 26))
    shutil.move("masks", "trained")
    shutil.move("more", "masks")
    assert notices(**start) == []
    (given,) = notices(**start, held_out="trained", share=None)
    assert f"was trained with {home / 'trained' / 'v1'} or a part of it" in given
