"""Mask policies by class, list, group, draw and file; and that hidden masks leak nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.criterion.box_prompts import sample_box_prompts
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.check_sets import NamedDataset
from segkit.data.mask_policy import count_policies, describe_counts, mask_policies, resolve_files
from segkit.data.mix import DataMix
from segkit.errors import InputError
from segkit.masks import rle
from segkit.model.dataseg import DataSeg
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import DataConfig, LossConfig, ModelConfig
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy, load_taxonomy

from .scenes import TAXONOMY, instance_sample, picture

COCO = load_taxonomy("coco-80")
PAPER = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "boat",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "bottle",
    "chair",
    "couch",
    "potted plant",
    "dining table",
    "tv",
]
"""The 20 classes of Mask^X R-CNN's voc, by their names in COCO."""


def names(policies: dict[int, str], policy: str, taxonomy: Taxonomy = COCO) -> list[str]:
    return [taxonomy.by_id[key].name for key, value in policies.items() if value == policy]


def config(*items: tuple[str, str]) -> DataConfig:
    return DataConfig.model_validate({"mask_policy": dict(items)})


def test_voc20_are_the_classes_of_the_paper() -> None:
    policies = mask_policies("c", COCO, config(("c", "box"), ("c:@voc20", "mask")))
    assert names(policies, "mask") == PAPER
    swapped = mask_policies("c", COCO, config(("c", "box"), ("c:@nonvoc60", "mask")))
    assert sorted(names(swapped, "mask") + PAPER) == sorted(COCO.names)
    voc = load_taxonomy("voc-20")
    assert len(names(mask_policies("v", voc, config(("v:@voc20", "none"))), "none", voc)) == 20
    objects = load_taxonomy("objects365-v2")
    shared = mask_policies("o", objects, config(("o", "box"), ("o:@coco80", "mask")))
    assert 60 < len(names(shared, "mask", objects)) < 85


def test_groups_know_every_word_of_a_class_in_any_case() -> None:
    words = ("person", "Dining Table", "Zebra", "TV", "houseplant", "lamp")
    categories = (Category(i, name, "thing") for i, name in enumerate(words))
    own = Taxonomy("o", (*categories, Category(9, "Moniter/TV", "thing", ("monitor", "tv"))))
    voc = mask_policies("o", own, config(("o", "box"), ("o:@voc20", "mask")))
    assert names(voc, "mask", own) == ["person", "Dining Table", "TV", "houseplant", "Moniter/TV"]
    rest = mask_policies("o", own, config(("o", "box"), ("o:@nonvoc60", "mask")))
    assert names(rest, "mask", own) == ["Zebra"]


def test_a_draw_depends_on_the_seed_and_on_names_only() -> None:
    drawn = [
        names(mask_policies("c", COCO, config(("c", "box"), (f"c:@random40:{s}", "mask"))), "mask")
        for s in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [len(group) for group in drawn] == [40, 40, 40]
    renumbered = Taxonomy("r", tuple(replace(c, id=1000 - c.id) for c in reversed(COCO.categories)))
    again = mask_policies("c", renumbered, config(("c", "box"), ("c:@random40:1", "mask")))
    assert sorted(names(again, "mask", renumbered)) == sorted(drawn[0])
    panoptic = load_taxonomy("coco-panoptic-133")
    policies = mask_policies("p", panoptic, config(("p:@random80:0", "box")))
    kinds = {panoptic.by_id[key].kind for key, value in policies.items() if value == "box"}
    assert kinds == {"thing"}


def test_only_ends_of_lines_part_names(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes("a\u2028b\r\nc\x0cd\n\ne\u0085f".encode())
    resolved = resolve_files(config((f"c:@{file}", "box")))
    taxonomy = Taxonomy(
        "t",
        tuple(Category(i, n, "thing") for i, n in enumerate(("a\u2028b", "c\x0cd", "e\x85f", "a"))),
    )
    policies = mask_policies("c", taxonomy, resolved)
    assert [policies[number] for number in range(4)] == ["box", "box", "box", "mask"]


def test_classes_come_before_groups_and_groups_before_the_set(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("zebra\n\n giraffe \n")
    resolved = resolve_files(
        config(
            ("c", "box"),
            ("c:@voc20", "mask"),
            ("c:cat, dog", "none"),
            ("c:person", "box"),
            (f"c:@{file}", "mask"),
        )
    )
    file.unlink()  # a run depends on no file
    policies = mask_policies("c", COCO, resolved)
    assert set(names(policies, "none")) == {"cat", "dog"}
    expected = {*PAPER, "zebra", "giraffe"} - {"cat", "dog", "person"}
    assert set(names(policies, "mask")) == expected
    comma = Taxonomy("t", (Category(1, "door, double door", "thing"), Category(2, "b", "thing")))
    only = mask_policies("t", comma, config(("t:door, double door", "box")))
    assert only == {1: "box", 2: "mask"}


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([("c:cat, unicorn", "box")], "no such class: 'unicorn'"),
        ([("c:@vok20", "box")], "no such group; give one of: @voc20"),
        ([("c:@random81:0", "box")], "cannot draw 81 of 80 classes; draw 1 to 80"),
        ([("c:@random0:0", "box")], "cannot draw 0"),
        ([("c:@voc20", "box"), ("c:@random40:0", "mask")], "but box by data.mask_policy.c:@voc20"),
        ([("c:@voc20", "mask")], r'changes nothing.*set also c = "box"'),
        ([("c:cat", "box"), ("c:cat, dog", "none")], "'cat' is none, but box"),
    ],
)
def test_wrong_selectors_are_refused(items: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mask_policies("c", COCO, config(*items))


def test_a_group_without_classes_and_wrong_files_are_refused(tmp_path: Path) -> None:
    shapes = Taxonomy("t", (Category(1, "circle", "thing"),))
    with pytest.raises(InputError, match="the set has no class of @voc20"):
        mask_policies("t", shapes, config(("t:@voc20", "box")))
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "twice.txt").write_text("cat\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for name, message in (
        ("absent.txt", "neither a group nor a file"),
        ("empty.txt", "names no class"),
        ("latin.txt", "is not UTF-8 text"),
        ("twice.txt", "'c:cat' has two policies"),
        (".", "neither a group nor a file"),
    ):
        with pytest.raises(InputError, match=message):
            resolve_files(config(("c:cat", "box"), (f"c:@{tmp_path / name}", "none")))


def noisy(sample: Sample, seed: int) -> Sample:
    """The masks of dogs replaced by noise; boxes and areas stay."""
    rng = np.random.default_rng(seed)

    def noise() -> bytes:
        return rle.encode(rng.random((sample.height, sample.width)) < 0.5)

    segments = (
        replace(segment, mask=noise()) if segment.class_id == 9 and segment.mask else segment
        for segment in sample.segments
    )
    return replace(sample, segments=tuple(segments))


def publish(folder: Path, samples: list[Sample]) -> ShardSet:
    header = Header(taxonomy=TAXONOMY, kind="instance", name="inst", split="train", command="test")
    records = ((s, picture(80, 100, seed=number)) for number, s in enumerate(samples))
    return write_set(folder, records, header)


def step(shards: ShardSet, seed: int, dropped: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Losses and gradients of one batch of 6 images with learned queries, T and box prompts."""
    data = DataConfig(
        image_size=64,
        batch_size=6,
        mask_policy={"inst": dropped, "inst:cat": "mask"},  # type: ignore[dict-item]
    )
    batch = DataMix([NamedDataset("inst", shards, 1.0)], data, seed=seed).batch(0).to("cpu")
    torch.manual_seed(seed)
    widths = {"hidden_dim": 16, "mask_dim": 8, "queries": 4, "rounds": 1, "heads": 2}
    transfer = {"input": "cls+box"}
    model = DataSeg(
        ModelConfig(
            backbone="test_efficientnet",
            feedforward_dim=16,
            text_dim=8,
            box_mlp=True,
            weight_transfer=transfer,
            **widths,  # type: ignore[arg-type]
        )
    )
    assert model.weight_transfer is not None
    torch.nn.init.normal_(model.weight_transfer.mlp[-1].weight)  # type: ignore[arg-type]
    text = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    loss = LossConfig()
    prompts = sample_box_prompts(batch, loss, torch.default_generator)
    outputs = model(batch.images, text, prompts)
    is_thing = torch.tensor([c.kind == "thing" for c in TAXONOMY.categories])
    losses = SetCriterion(loss, {"inst": is_thing})(outputs, batch, prompts, 0)
    torch.stack(list(losses.values())).sum().backward()
    gradients = [torch.zeros(0) if p.grad is None else p.grad for p in model.parameters()]
    return losses, gradients


@pytest.mark.parametrize("dropped", ["box", "none"])
def test_masks_of_other_policies_leak_nothing(tmp_path: Path, dropped: str) -> None:
    """Noise in the place of B's masks leaves all losses and gradients bit-identical."""
    samples = [instance_sample(f"{seed}", seed) for seed in range(12)]
    clean = publish(tmp_path / "clean", samples)
    dirty = publish(tmp_path / "dirty", [noisy(s, n) for n, s in enumerate(samples)])
    for seed in range(4):
        expected, actual = step(clean, seed, dropped), step(dirty, seed, dropped)
        assert expected[0].keys() == actual[0].keys()
        assert all(torch.equal(expected[0][name], actual[0][name]) for name in expected[0])
        assert all(torch.equal(*pair) for pair in zip(expected[1], actual[1], strict=True))
    used = step(dirty, 0, "mask")[0]
    assert any(
        not torch.equal(used[name], value) for name, value in step(clean, 0, "mask")[0].items()
    )


@pytest.mark.parametrize("kept", [(), (5,), (9,)])
def test_batches_without_a_group_are_safe(tmp_path: Path, kept: tuple[int, ...]) -> None:
    """No objects at all, none of B, none of A."""
    samples = [instance_sample(f"{seed}", seed) for seed in range(6)]
    samples = [
        replace(s, segments=tuple(x for x in s.segments if x.class_id in kept)) for s in samples
    ]
    losses, gradients = step(publish(tmp_path / "set", samples), 0, "box")
    assert all(bool(value.isfinite()) for value in losses.values())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert ("dice" in losses) == (5 in kept)
    assert ("projection" in losses) == (9 in kept)


def test_inspect_and_counts_show_what_is_dropped(tmp_path: Path) -> None:
    samples = [instance_sample(f"{seed}", seed) for seed in range(12)]
    shards = publish(tmp_path / "set", samples)
    segments = [segment for sample in samples for segment in sample.segments]
    cats = sum(segment.class_id == 5 for segment in segments)
    policies = mask_policies("inst", TAXONOMY, config(("inst", "box"), ("inst:cat", "mask")))
    counts = count_policies(shards, policies)
    assert counts["mask"] == {"classes": 1, "segments": cats, "masks": cats}
    dogs = len(segments) - cats
    assert counts["box"] == {"classes": 3, "segments": dogs, "masks": dogs}
    assert describe_counts("inst", counts) == (
        f"inst: {cats} masks of 1 class are used, {dogs} of 3 classes are boxes"
    )
    command = ["inspect", str(tmp_path / "set"), "--mask-policy", "box"]
    command += ["--mask-policy", "cat=mask"]
    result = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert result["mask_policy"]["mask"] == counts["mask"] | {"names": ["cat"]}
    assert result["mask_policy"]["box"]["masks"] == dogs
    text = CliRunner().invoke(app, command, env={"COLUMNS": "150"}).stdout
    assert "Mask policy" in text and "sky, dog, sea" in text
    for wrong in (["--mask-policy", "polygon"], ["--mask-policy", "@voc=box"]):
        refused = CliRunner().invoke(app, [*command, *wrong])
        assert isinstance(refused.exception, InputError)


def test_the_name_of_a_set_may_have_a_colon(tmp_path: Path) -> None:
    file = tmp_path / "few.txt"
    file.write_text("dog\n")
    chosen = config(("a:b:cat", "box"), (f"a:b:@{file}", "none"), ("a:b:@random2:7", "mask"))
    policies = mask_policies("a:b", COCO, resolve_files(chosen))
    assert (names(policies, "box"), names(policies, "none")) == (["cat"], ["dog"])
    with pytest.raises(InputError, match="no such class: 'nope'"):
        mask_policies("a:b", COCO, config(("a:b:nope", "box")))


def test_a_recipe_takes_groups() -> None:
    recipe = load_recipe(
        "dataseg-mini", ['data.mask_policy={coco = "box", "coco:@voc20" = "mask"}']
    )
    assert recipe.data.mask_policy["coco:@voc20"] == "mask"
