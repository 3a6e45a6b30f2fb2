"""The new class head of a run: what changes, and what must not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segkit.errors import InputError
from segkit.inference.outputs import predict_set
from segkit.metrics.evaluate import evaluate
from segkit.runs.check_run import check_run
from segkit.runs.open_run import load_run, trained_classes
from segkit.shards.reader import ShardSet
from segkit.taxonomy import Category, Taxonomy
from segkit.zeroshot.check_bank_inputs import check_bank_inputs
from segkit.zeroshot.class_heads import ResidualHead, train_head
from segkit.zeroshot.collect_bank import write_bank
from segkit.zeroshot.settings import ZeroShotSettings
from tests.commands.slips import assert_refused_before_torch
from tests.zeroshot.conftest import run_json

QUICK = ["generator_steps=20", "head_steps=40", "samples=4", "batch_size=32", "primitives=4"]
HEADS = ("linear", "text_residual")


@pytest.fixture(scope="module")
def bank(
    seen_run: Path, parts: dict[str, ShardSet], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    record = check_bank_inputs(seen_run, parts["seen"])
    out = tmp_path_factory.mktemp("bank") / "bank"
    return write_bank(load_run(seen_run), parts["seen"], record, out, no_object=5)


@pytest.fixture(scope="module")
def heads(bank: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("heads")
    written = {}
    for head in HEADS:
        settings = [word for key in (*QUICK, f"head={head}") for word in ("--set", key)]
        arguments = ("zeroshot", "train", "--bank", bank, "--out", out / head, *settings)
        written[head] = Path(run_json(*arguments)["path"])
    return written


@pytest.mark.parametrize("head", HEADS)
def test_only_the_class_head_changes(heads: dict[str, Path], seen_run: Path, head: str) -> None:
    before, after = (load_file(p / "model.safetensors") for p in (seen_run, heads[head]))
    mine = {name for name in after if name.startswith("text_classifier.")}
    assert before.keys() - after.keys() <= {"text_classifier.log_scale"}
    assert all(name in before for name in after.keys() - mine)
    for name in after.keys() - mine:
        assert before[name].numpy().tobytes() == after[name].numpy().tobytes(), name
    assert list(check_run(heads[head])) == []
    assert trained_classes(heads[head]).names == ("cow", "dog", "cat", "sky")
    run = load_run(heads[head])
    assert run.recipe.inference.unseen == ("cow",) and run.manifest.command == "zeroshot train"
    assert run.manifest.logs.keys() == {"metrics.jsonl"}


@pytest.mark.parametrize("head", HEADS)
def test_masks_are_identical_before_and_after(
    heads: dict[str, Path], seen_run: Path, blocks: ShardSet, head: str
) -> None:
    images = torch.rand(2, 3, 64, 64)
    outputs = []
    for path in (seen_run, heads[head]):
        run = load_run(path)
        text = run.class_embeddings(blocks.taxonomy).text
        with torch.no_grad():
            outputs.append(run.model(images, text).queries)
    assert torch.equal(outputs[0].mask_logits, outputs[1].mask_logits)
    assert not torch.allclose(outputs[0].class_logits, outputs[1].class_logits)


@pytest.mark.parametrize("head", HEADS)
def test_the_published_head_gives_the_logits_of_the_trained_one(
    heads: dict[str, Path], seen_run: Path, bank: Path, head: str, monkeypatch: Any
) -> None:
    from segkit.zeroshot import class_heads
    from segkit.zeroshot.bank import open_bank

    trained: list[Any] = []
    new_model = class_heads._new_model

    def record(*arguments: Any) -> Any:
        trained.extend(arguments[3:])
        return new_model(*arguments)

    monkeypatch.setattr(class_heads, "_new_model", record)
    content = open_bank(bank)[2]
    run = load_run(seen_run)
    settings = ZeroShotSettings.from_overrides([*QUICK, f"head={head}"])
    train_head(run, content, settings)
    features = torch.from_numpy(content.features)
    with torch.no_grad():
        expected = trained[0](trained[1].standardize(features))
        published = load_run(heads[head])
        text = published.class_embeddings(content.classes).text
        logits = published.model.text_classifier(features, text)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_other_vocabularies_still_work_with_a_residual(
    heads: dict[str, Path], seen_run: Path, blocks: ShardSet, tmp_path: Path
) -> None:
    foreign = Taxonomy("other", (Category(1, "grass", "stuff"), Category(2, "bus", "thing")))
    run = load_run(heads["text_residual"], overrides=["inference.score=0"])
    predict_set(run, blocks, "panoptic", tmp_path / "set", taxonomy=foreign)
    content = load_run(seen_run)
    text = content.class_embeddings(foreign).text
    zero = ResidualHead(content.model.text_classifier, text, _scale(16))
    features = torch.randn(5, 16)
    expected = content.model.text_classifier(features, text)
    torch.testing.assert_close(zero(features), expected)  # zero at first: the run's own logits


def _scale(width: int) -> Any:
    from segkit.zeroshot.second_stage import Scale

    return Scale(torch.zeros(width), torch.ones(width))


@pytest.mark.parametrize("head", HEADS)
def test_the_run_predicts_and_eval_reports_unseen_classes(
    heads: dict[str, Path], blocks: ShardSet, tmp_path: Path, head: str
) -> None:
    arguments = ("eval", "--data", blocks.path, "--checkpoint", heads[head], "--task", "panoptic")
    result = run_json(*arguments, "--out", tmp_path / "eval", "--set", "inference.score=0")
    figures = result["zero_shot"]
    assert (figures["seen_classes"], figures["unseen_classes"]) == (3, 1)
    assert figures["mask_recall"]["unseen"] is not None
    run = load_run(heads[head], overrides=["inference.score=0"])
    predicted = predict_set(run, blocks, "panoptic", tmp_path / "again")
    assert evaluate(blocks, predicted, "panoptic").metrics["all"] == result["all"]


def test_the_commands_write_a_bank_and_refuse_what_does_not_fit(
    seen_run: Path, parts: dict[str, ShardSet], blocks: ShardSet, tmp_path: Path
) -> None:
    arguments = ("zeroshot", "bank", "--checkpoint", seen_run, "--device", "cpu")
    result = run_json(
        *arguments, "--data", parts["seen"].path, "--out", tmp_path / "bank", "--no-object", 2
    )
    assert result["unseen"] == ["cow"] and result["no_object"] > 0
    with pytest.raises(InputError, match="is not the seen part"):
        run_json(*arguments, "--data", blocks.path, "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    train = ("zeroshot", "train", "--out", tmp_path / "r", "--bank")
    with pytest.raises(InputError, match="invalid setting"):
        run_json(*train, tmp_path / "bank", "--set", "x=1")
    with pytest.raises(InputError, match="is not a feature bank"):
        run_json(*train, seen_run)
    for head in ("linear", "text_residual"):
        wild = ("generator_lr=1e30", "generator_steps=5", "head_steps=5", f"head={head}")
        settings = [part for item in wild for part in ("--set", item)]
        with pytest.raises(InputError, match="not finite: its training diverged; give a lower"):
            run_json(*train, tmp_path / "bank", *settings)
    assert not any((tmp_path / "r").glob("v*"))
    with pytest.raises(InputError, match="holds a feature bank and nothing else"):
        run_json("zeroshot", "train", "--bank", tmp_path / "bank", "--out", tmp_path / "bank")


def test_slips_are_refused_before_torch_is_imported(
    seen_run: Path, parts: dict[str, ShardSet], blocks: ShardSet, bank: Path, tmp_path: Path
) -> None:
    out, train_set, full = str(tmp_path / "out"), str(parts["seen"].path), str(blocks.path)
    collect = ["bank", "--out", out, "--checkpoint"]
    head = ["train", "--out", out, "--bank"]
    slips = [
        [*collect, str(seen_run), "--data", full],
        [*collect, "hf:a/b", "--data", train_set],
        [*collect, str(seen_run), "--data", train_set, "--set", "inference.instances=3"],
        [*head, str(bank), "--set", "generator=gan"],
        [*head, str(bank), "--checkpoint", str(tmp_path)],
        [*head, str(seen_run)],
        [*head, full],
    ]
    assert_refused_before_torch(["zeroshot"], slips)
    assert not (tmp_path / "out").exists()


def test_the_split_command_writes_both_parts_and_refuses_slips(
    blocks: ShardSet, tmp_path: Path
) -> None:
    (tmp_path / "cows.txt").write_text("cow\n")
    split = ("split", blocks.path, "--out", tmp_path / "parts", "--zero-shot")
    parts = run_json(*split, tmp_path / "cows.txt")["parts"]
    assert {name: part["images"] for name, part in parts.items()} == {"seen": 6, "unseen": 3}
    parts = run_json(*split, tmp_path / "cows.txt", "--policy", "ignore-pixels")["parts"]
    assert {name: part["images"] for name, part in parts.items()} == {"seen": 9, "unseen": 3}
    slips = [
        [str(blocks.path), "--out", str(tmp_path / "p"), "--part", "a=1", "--zero-shot", "x"],
        [str(blocks.path), "--out", str(tmp_path / "p"), "--zero-shot", "coco-1-2"],
        [str(blocks.path), "--out", str(tmp_path / "p"), "--zero-shot", "coco-48-17"],
        [str(blocks.path), "--out", str(tmp_path / "p"), "--part", "a=1", "--policy",
         "ignore-pixels"],
        [str(blocks.path), "--out", str(tmp_path / "p"), "--zero-shot",
         str(tmp_path / "cows.txt"), "--policy", "blur"],
    ]  # fmt: skip
    assert_refused_before_torch(["split"], slips)
