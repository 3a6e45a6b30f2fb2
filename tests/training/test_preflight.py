import fcntl
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from segkit.data.check_sets import is_target
from segkit.errors import InputError, SegkitError
from segkit.recipes.effects import effect_notes, may_have_batch_norms, require_effects
from segkit.recipes.load import known_recipes, load_recipe
from segkit.sample import Segment
from segkit.shards.header import Header
from segkit.shards.manifest import SetKind
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer
from segkit.taxonomy import Category, Taxonomy
from segkit.training.options import TrainOptions
from segkit.training.preflight import check_inputs, check_training, encode_names
from segkit.training.train import train
from segkit.training.trainer import Callbacks
from tests.commands.slips import assert_refused_before_torch
from tests.training.toy import TAXONOMY, write_recipe, write_toy_set


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_toy_set(tmp_path_factory.mktemp("data") / "toy")


def changed(
    toy: ShardSet,
    folder: Path,
    change: Callable[[Segment], Segment | None],
    kind: SetKind = "panoptic",
    taxonomy: Taxonomy = TAXONOMY,
) -> ShardSet:
    """The toy set with other segments."""
    samples = (
        replace(sample, segments=tuple(filter(None, map(change, sample.segments))))
        for sample in toy.samples()
    )
    header = replace(Header.from_set(toy, "test", {}), kind=kind, taxonomy=taxonomy, name="changed")
    return write_layer(folder, toy, samples, header)


def crowd(segment: Segment) -> Segment:
    return replace(segment, is_crowd=True)


def ignored(segment: Segment) -> Segment:
    return replace(segment, ignore=True)


def only_stuff(segment: Segment) -> Segment | None:
    return segment if segment.kind == "stuff" else None


def nothing(segment: Segment) -> None:
    return None


def mixed(segment: Segment) -> Segment:
    return crowd(segment) if segment.kind == "thing" else segment


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (crowd, "panoptic", "none of its 15 segments can be scored; leave the evaluation set out"),
        (ignored, "semantic", "none of its 15 segments can be scored"),
        (only_stuff, "instance", "none of its 6 segments can be scored"),
        (nothing, "instance", "it has no segments to score"),
        (None, "panoptic", "it has no images"),
        (crowd, "semantic", None),
        (mixed, "panoptic", None),
    ],
)
def test_evaluation_sets_without_a_figure_cannot_choose_the_best(
    toy: ShardSet,
    tmp_path: Path,
    change: Callable[[Segment], Segment | None] | None,
    kind: SetKind,
    message: str | None,
) -> None:
    """With one that has no figure, no step would be the best."""
    eval_set = (
        write_toy_set(tmp_path / "empty", seeds=())
        if change is None
        else changed(toy, tmp_path / "changed", change, kind)
    )
    file, data, eval_data = (
        write_recipe(tmp_path / "tiny.toml"),
        (str(toy.path), 1.0),
        eval_set.path,
    )
    check_inputs(load_recipe(file, ()), [data], [str(toy.path), str(eval_data)])
    best = load_recipe(file, ["training.publish=best"])
    expected = pytest.raises(InputError, match=message) if message else nullcontext()
    with expected:
        check_inputs(best, [data], [str(eval_data)])


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (crowd, "panoptic", "none of its 15 segments can be learned from; they are crowds"),
        (ignored, "panoptic", "none of its 15 segments can be learned from.*--crowds-as-objects"),
        (only_stuff, "instance", "none of its 6 segments can be learned from.*stuff in a set of"),
        (nothing, "panoptic", "has no segments to learn from; leave the data set out"),
        (nothing, "instance", "has no segments to learn from"),
        (mixed, "panoptic", None),
        (mixed, "instance", "none of its"),
    ],
)
def test_sets_without_a_target_are_refused(
    change: Any, kind: SetKind, message: str | None, toy: ShardSet, tmp_path: Path
) -> None:
    data = [(str(changed(toy, tmp_path / "set", change, kind).path), 1.0)]
    recipe = load_recipe(str(write_recipe(tmp_path / "tiny.toml")))
    if message is None:
        check_inputs(recipe, data, [])
        return
    with pytest.raises(InputError, match=message):
        check_inputs(recipe, data, [])


def test_images_without_objects_may_accompany_other_sets(toy: ShardSet, tmp_path: Path) -> None:
    negatives = changed(toy, tmp_path / "negatives", nothing, "instance")
    recipe = load_recipe(str(write_recipe(tmp_path / "tiny.toml")))
    sets = [(str(negatives.path), 1.0), (str(toy.path), 1.0)]
    assert len(check_inputs(recipe, sets, []).datasets) == 2


def test_the_mask_policy_none_leaves_no_target(toy: ShardSet, tmp_path: Path) -> None:
    file = str(write_recipe(tmp_path / "tiny.toml"))
    recipe = load_recipe(file, ['data.mask_policy={toy = "none"}'])
    with pytest.raises(InputError, match="of mask policy none"):
        check_inputs(recipe, [(str(toy.path), 1.0)], [])
    segment = next(toy.samples()).segments[0]
    assert not is_target(segment, "panoptic", {segment.class_id: "none"})
    assert is_target(segment, "panoptic", {segment.class_id: "box"})


def test_boxes_without_masks_are_required_to_assist_them(toy: ShardSet, tmp_path: Path) -> None:
    file, data = str(write_recipe(tmp_path / "tiny.toml")), [(str(toy.path), 1.0)]
    assist = "loss.box_assist=match"
    with pytest.raises(InputError, match="no data set has boxes without masks"):
        check_inputs(load_recipe(file, [assist]), data, [])
    check_inputs(load_recipe(file, [assist, 'data.mask_policy={"toy:cat" = "box"}']), data, [])
    with pytest.raises(InputError, match="no data set has boxes"):  # stuff gets no box prompt
        check_inputs(load_recipe(file, [assist, 'data.mask_policy={"toy:sky" = "box"}']), data, [])
    boxes = write_toy_set(tmp_path / "boxes", boxes_only=True, name="boxes")
    check_inputs(load_recipe(file, [assist]), [*data, (str(boxes.path), 1.0)], [])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.classes=sigmoid", "loss.matching=false"], "box prompts by themselves name nothing"),
        (["loss.classes=sigmoid", "loss.background=0.2"], "focal loss has no weight"),
        (["loss.box_assist=match", "loss.focal=0", "loss.dice=0"], "no loss and no cost"),
        *(
            (["model.foreground=3", key, "loss.box_l1=0", "loss.box_giou=0"], f"trains the {part}")
            for key, part in (
                ("inference.boxes=head", "box head"),
                ("model.refine_boxes=true", "corrections of boxes"),
            )
        ),
        (["loss.matching=false", "loss.box_prompts=0"], "nothing would be learned"),
        (
            [f"loss.{key}=0" for key in ("classification", "dense", "focal", "dice")]
            + ["loss.projection=0", "loss.pairwise=0"],
            "no loss of the queries has a weight",
        ),
        (
            [f"loss.{key}=0" for key in ("classification", "dense", "focal", "dice")]
            + ["loss.projection=0", "loss.pairwise=0", "loss.box_prompts=0"],
            "nothing would be learned",
        ),
        *(
            ([f"loss.{key}={value}", "loss.box_prompts=0"], "no box prompts are trained")
            for key, value in (("box_noise", 0.4), ("outline", 3.0), ("label_dropout", 0.9))
        ),
        *(
            ([f"loss.{key}={value}", "loss.matching=false"], "no queries are trained")
            for key, value in (
                *(("classification", 1), ("focal", 1), ("points", 64), ("projection", 50)),
                *(("merge_threshold", 0.1), ("pairwise_warmup_steps", 3), ("background", 0.5)),
            )
        ),
        (["loss.pairwise=0", "loss.pairwise_warmup_steps=3"], r"loss\.pairwise is 0"),
        (["model.encoder_layers=2"], "has an encoder"),
        *(
            (["model.freeze_norm=true", f"model.backbone={name}"], f"{name} has no batch norms")
            for name in ("vitdet:vit_tiny_patch16_224", "swin_tiny_patch4_window7_224")
        ),
        (
            ["optimizer.backbone_layer_decay=0.7", "optimizer.backbone_lr_factor=0"],
            r"backbone_layer_decay: it does nothing: the backbone is frozen.*decay=1\.0$",
        ),
        (["model.encoder_feedforward_dim=8"], "has an encoder"),
        (
            ["inference.max_size=900"],
            r"inference\.max_size: it does nothing: only inference\.resize",
        ),
    ],
)
def test_keys_without_an_effect_are_refused(
    overrides: list[str], message: str, toy: ShardSet, tmp_path: Path
) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path / "tiny.toml")), overrides)
    with pytest.raises(InputError, match=message):
        check_inputs(recipe, [(str(toy.path), 1.0)], [])


@pytest.mark.parametrize(
    ("name", "has_some"),
    [
        ("vitdet:vit_tiny_patch16_224", False),
        ("swin_tiny_patch4_window7_224", False),
        ("swinv2_cr_tiny_224", False),
        ("convnext_atto", False),
        ("convnextv2_atto", False),
        ("test_efficientnet", True),
        ("resnet18", True),
    ],
)
def test_names_tell_of_batch_norms(name: str, has_some: bool) -> None:
    norms = torch.nn.modules.batchnorm._BatchNorm
    with torch.device("meta"):
        network = timm.create_model(name.removeprefix("vitdet:"))
    assert any(isinstance(module, norms) for module in network.modules()) == has_some
    assert may_have_batch_norms(name) == has_some


def test_box_prompts_learn_without_any_weight_of_the_queries(toy: ShardSet, tmp_path: Path) -> None:
    """Their mask and projection losses have fixed weights."""
    weights = ("classification", "focal", "dice", "projection", "pairwise")
    overrides = [*(f"loss.{key}=0" for key in weights), "loss.matching=false"]
    recipe = load_recipe(str(write_recipe(tmp_path / "tiny.toml")), overrides)
    check_inputs(recipe, [(str(toy.path), 1.0)], [])


def test_an_interrupted_run_keeps_the_keys_that_nothing_reads(
    toy: ShardSet, tmp_path: Path
) -> None:
    """It may be of a version that did not refuse them, and cannot resume without them."""
    file, data = str(write_recipe(tmp_path / "tiny.toml")), [(str(toy.path), 1.0)]
    recipe = load_recipe(file, ["loss.box_prompts=0", "loss.outline=3"])
    with pytest.raises(InputError, match=r"loss\.outline: it does nothing.*set loss\.outline=0"):
        check_inputs(recipe, data, [])
    check_inputs(recipe, data, [], resume=True)
    nothing_learned = load_recipe(file, ["loss.box_prompts=0", "loss.matching=false"])
    with pytest.raises(InputError, match="nothing would be learned"):
        check_inputs(nothing_learned, data, [], resume=True)


def test_a_key_that_another_recipe_brings_can_be_set_back() -> None:
    overrides = ["loss.matching=false"]
    with pytest.raises(InputError, match=r"set loss\.points=0"):
        require_effects(load_recipe("maskx-r50", overrides))
    require_effects(load_recipe("maskx-r50", [*overrides, "loss.points=0"]))


@pytest.mark.parametrize("name", known_recipes())
def test_no_key_of_a_shipped_recipe_is_without_effect(name: str) -> None:
    require_effects(load_recipe(name))


def test_training_that_is_too_short_for_a_key_is_noted() -> None:
    short = ["training.steps=5", "optimizer.warmup_steps=6", "loss.box_assist=match"]
    first, second = effect_notes(load_recipe("dataseg-mini", short))
    assert first.startswith("loss.box_assist does nothing")
    assert second.startswith("the learning rate never reaches optimizer.lr")
    assert effect_notes(load_recipe("dataseg-mini", ["optimizer.warmup_steps=100"])) == []


def test_box_prompts_alone_are_not_evaluated(toy: ShardSet, tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path / "tiny.toml")), ["loss.matching=false"])
    data = [(str(toy.path), 1.0)]
    check_inputs(recipe, data, [])
    with pytest.raises(InputError, match="box prompts by themselves train no queries"):
        check_inputs(recipe, data, [str(toy.path)])


def test_foreground_queries_need_things(toy: ShardSet, tmp_path: Path) -> None:
    file = str(write_recipe(tmp_path / "tiny.toml"))
    recipe = load_recipe(file, ["model.foreground=3", "loss.denoising=1"])
    stuff = tuple(replace(category, kind="stuff") for category in TAXONOMY.categories)
    taxonomy = replace(TAXONOMY, categories=stuff)
    negatives = changed(toy, tmp_path / "negatives", nothing, "instance", taxonomy)
    check_inputs(recipe, [(str(toy.path), 1.0)], [])
    with pytest.raises(InputError, match="none of its classes is a thing"):
        check_inputs(recipe, [(str(toy.path), 1.0), (str(negatives.path), 1.0)], [])
    landscape = changed(toy, tmp_path / "stuff", only_stuff, taxonomy=taxonomy)
    with pytest.raises(InputError, match="no class of the data sets is a thing"):
        check_inputs(recipe, [(str(landscape.path), 1.0)], [])
    unions = changed(toy, tmp_path / "unions", lambda segment: segment, "semantic")
    with pytest.raises(InputError, match="those of semantic sets are unions"):
        check_inputs(recipe, [(str(unions.path), 1.0)], [])


def test_what_can_be_refused_is_refused_before_torch(toy: ShardSet, tmp_path: Path) -> None:
    crowds = changed(toy, tmp_path / "crowds", crowd)
    interrupted, publishing = tmp_path / "interrupted", tmp_path / "publishing"
    (interrupted / ".v1.partial" / "checkpoints" / "step-00000004").mkdir(parents=True)
    (publishing / ".v2.partial").mkdir(parents=True)
    (publishing / ".v2.partial" / "manifest.json").touch()
    recipe = str(write_recipe(tmp_path / "tiny.toml"))
    base = ["train", "--recipe", recipe, "--data", str(toy.path), "--out", str(tmp_path / "run")]
    slips = (
        ["--out", str(interrupted)],
        ["--out", str(publishing)],
        ["--data", str(crowds.path)],
        ["--data", str(toy.path)],
        ["--data", f"{crowds.path}=0"],
        ["--set", "data.mask_policy.absent=box"],
        ["--set", "data.mask_policy.toy:@voc=box"],
        ["--set", "model.weight_transfer.layers=3"],
        ["--set", "model.box_mlp=true", "--set", "loss.box_prompts=0"],
        ["--set", "training.publish=best"],
        ["--set", "loss.box_assist=match"],
        ["--set", "loss.box_assist_start=9"],
        ["--eval-data", str(toy.path), "--eval-data", str(toy.path)],
        ["--device", "gpu"],
        ["--resume", "--restart"],
    )
    assert_refused_before_torch(base, slips)


FEW_STEPS = TrainOptions(steps=3, device="cpu")


def test_resuming_with_another_recipe_or_data_is_refused_early(
    toy: ShardSet, tmp_path: Path
) -> None:
    recipe, out = str(write_recipe(tmp_path / "tiny.toml")), tmp_path / "run"
    data = [(str(toy.path), 1.0)]

    def stop(*_: Any) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train(recipe, data, out, steps=3, device="cpu", callbacks=Callbacks(on_start=stop))
    check_training(recipe, data, out, replace(FEW_STEPS, resume=True))  # the same
    with pytest.raises(InputError, match=r"differ in their recipe \(optimizer.lr\)"):
        lr = ["optimizer.lr=0.1"]
        check_training(recipe, data, out, replace(FEW_STEPS, resume=True, overrides=lr))
    with pytest.raises(InputError, match="differ in their data"):
        check_training(recipe, [(str(toy.path), 2.0)], out, replace(FEW_STEPS, resume=True))


def test_a_run_that_another_process_writes_is_refused_early(toy: ShardSet, tmp_path: Path) -> None:
    recipe, out = str(write_recipe(tmp_path / "tiny.toml")), tmp_path / "run"
    with staging(out, {}, inputs=(), resume=False, content="run"):
        lock = (out / ".lock").open("a")
        with pytest.raises(BlockingIOError), lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(SegkitError, match="another process is writing here"):
            check_training(recipe, [(str(toy.path), 1.0)], out, FEW_STEPS)
    check_training(recipe, [(str(toy.path), 1.0)], out, FEW_STEPS)


def test_class_names_of_one_embedding_are_noted(
    toy: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    names = Taxonomy("twins", (Category(1, "helmet", "stuff"), Category(2, "Helmet", "thing")))
    twins = changed(toy, tmp_path / "twins", lambda segment: segment, taxonomy=names)
    recipe = load_recipe(str(write_recipe(tmp_path / "tiny.toml")))
    (note,) = encode_names(check_inputs(recipe, [(str(twins.path), 1.0)], [str(twins.path)]))
    assert note.startswith("changed: classes 1 'helmet', 2 'Helmet' have one text embedding")


def test_scores_that_no_set_has_are_not_trusted(tmp_path: Path) -> None:
    data = write_toy_set(tmp_path / "data")
    with pytest.raises(InputError, match="no data set has pseudo-masks with scores"):
        check_inputs(
            load_recipe("dataseg-mini", ["loss.trust_scores=true"]), [(str(data.path), 1.0)], []
        )
