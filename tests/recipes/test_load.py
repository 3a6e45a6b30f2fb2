from pathlib import Path

import pytest
import torch

from segkit.errors import InputError
from segkit.model.dataseg import DataSeg
from segkit.recipes.load import known_recipes, load_recipe, to_toml
from segkit.recipes.schema import Recipe


def test_every_shipped_recipe_loads_under_its_own_name() -> None:
    assert "dataseg-mini" in known_recipes()
    for name in known_recipes():
        assert load_recipe(name).name == name


def test_every_shipped_recipe_describes_a_model() -> None:
    for name in known_recipes():
        config = load_recipe(name).model.model_copy(update={"backbone_weights": None})
        with torch.device("meta"):
            model = DataSeg(config)
        assert model.query_content.weight.shape == (config.queries, config.hidden_dim), name


def test_the_recipes_of_the_paper_differ_only_in_their_backbone_and_its_training() -> None:
    small, base = (
        load_recipe("dataseg-r50").model_dump(),
        load_recipe("dataseg-vitdet-b").model_dump(),
    )
    assert small["model"].pop("backbone") == "resnet50.a1_in1k"
    assert base["model"].pop("backbone") == "vitdet:vit_base_patch16_224.mae"
    assert (small["model"].pop("drop_path"), base["model"].pop("drop_path")) == (None, 0.1)
    norms = "freeze_norm"  # a ViT has no batch norms
    assert (small["model"].pop(norms), base["model"].pop(norms)) == (True, False)
    rates = ("backbone_lr_factor", "backbone_layer_decay")
    assert [[recipe["optimizer"].pop(key) for key in rates] for recipe in (small, base)] == [
        [0.1, 1.0],
        [1.0, 0.7],
    ]
    assert small.pop("name") != base.pop("name") and small == base


def test_a_recipe_that_extends_another_holds_only_the_differences(tmp_path: Path) -> None:
    file = tmp_path / "longer.toml"
    file.write_text(
        'extends = "dataseg-mini"\n[training]\nsteps = 9\n[data.mask_policy]\ncoco = "box"\n'
    )
    expected = ["name=longer", "training.steps=9", "data.mask_policy.coco=box"]
    assert load_recipe(file) == load_recipe("dataseg-mini", expected)
    (tmp_path / "again.toml").write_text(to_toml(load_recipe(file)))
    assert load_recipe(tmp_path / "again.toml") == load_recipe(file)


def test_a_written_recipe_loads_to_an_equal_object(tmp_path: Path) -> None:
    recipe = load_recipe(
        "dataseg-mini",
        [
            *("data.mask_policy.coco:person=box", "optimizer.lr=3e-5", "training.steps=7"),
            *(r'name="a\u007f\u0000\u2028b"', 'data.mask_policy={"c:\\u007f\\u0085" = "box"}'),
        ],
    )
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(recipe))
    assert load_recipe(file) == recipe
    assert load_recipe(file) != Recipe(name="dataseg-mini")


def test_a_file_without_a_name_takes_its_stem(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[training]\nsteps = 3\n")
    assert load_recipe(file) == Recipe(name="mine", training={"steps": 3})  # type: ignore[arg-type]


def test_overrides_are_typed_by_the_recipe() -> None:
    recipe = load_recipe(
        "dataseg-mini",
        [
            "optimizer.lr = 1",
            "data.flip=false",
            "model.backbone=resnet18",
            'name="my own"',
            "training.precision=bf16",
        ],
    )
    assert recipe.optimizer.lr == 1.0 and recipe.data.flip is False
    assert (recipe.model.backbone, recipe.name, recipe.training.precision) == (
        "resnet18",
        "my own",
        "bf16",
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", "nearest valid key is 'optimizer.lr'"),
        ("training.lr=1", "nearest valid key is 'optimizer.lr'"),
        ("stepps=1", "nearest valid key is 'training.steps'"),
        ("optimizer=1", "unknown key 'optimizer'"),
        ("optimizer.lr", "write it as section.key=value"),
        ("training.steps=ten", "training.steps"),
        ("training.steps=1.5", "training.steps"),
        ("training.steps=0", "greater than or equal to 1, not 0"),
        ("optimizer.lr='0.1'", "optimizer.lr"),
        ("optimizer.schedule=linear", "'cosine' or 'poly', not 'linear'"),
        ("data.flip=1", "data.flip"),
        ("data.image_size=100", "multiple of 32"),
        (
            "model.heads=3",
            "dataseg-mini: model: model.hidden_dim (128) is not a multiple of model.heads (3)",
        ),
        ("model.hidden_dim=130", "is not a multiple of"),
        ("model.mask_dim=3", "model.mask_dim"),
        ("data.mask_policy.coco=boxes", "data.mask_policy.coco"),
        ("model.refine_boxes=true", "model.refine_boxes needs boxes: set model.foreground above 0"),
        ("model.foreground_boxes=learned", "needs model.foreground above 0"),
        ("loss.box_l1=1.0", "loss.box_l1 needs model.foreground above 0"),
        ("loss.box_giou=1.0", "loss.box_giou needs model.foreground above 0"),
        ("loss.denoising=1.0", "loss.denoising needs model.foreground above 0"),
        ("inference.boxes=head", "needs model.foreground above 0"),
    ],
)
def test_an_invalid_override_is_refused(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("dataseg-mini", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[training]\nstep = 3",
            "unknown key 'training.step'; the nearest valid key is 'training.steps'",
        ),
        ("[trainig]\nsteps = 3", "nearest valid key is 'training.steps'"),
        ("training = 3", "'training' is a section"),
        ("[model]\nqueries = [1]", "model.queries"),
        ("[training\nsteps = 3", "not TOML"),
        ('extends = "dataseg-maxi"', "extends the unknown recipe 'dataseg-maxi'"),
        ('extends = "dataseg-mini"\n[training]\nstep = 3', "nearest valid key is 'training.steps'"),
    ],
)
def test_an_invalid_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_recipe(file)
    assert message in str(caught.value) and str(file) in str(caught.value)


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown recipe 'dataseg-maxi'.*dataseg-mini"):
        load_recipe("dataseg-maxi")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", "100"),
        ("batch_size", "0"),
        ("scale_min", "0.0"),
        ("scale_min", "3.0"),
        ("zoom_probability", "1.1"),
        ("color_jitter", "-0.1"),
        ("workers", "-1"),
        ("mask_policy", '{a = "polygon"}'),
    ],
)
def test_data_keys_out_of_range_are_refused(key: str, value: str) -> None:
    with pytest.raises(InputError, match=f"data.{key}"):
        load_recipe("dataseg-mini", [f"data.{key}={value}"])


@pytest.mark.parametrize("values", ["[0.0, 0.5, 0.5]", "[0.5, 0.5, -1.0]"])
def test_a_deviation_of_pixels_that_is_not_above_0_is_refused(values: str) -> None:
    with pytest.raises(InputError, match=r"model\.pixel_std: every value must be greater than 0"):
        load_recipe("dataseg-mini", [f"model.pixel_std={values}"])


def test_foreground_queries_need_matching_and_segkits_post_processing() -> None:
    foreground = "model.foreground=4"
    with pytest.raises(InputError, match=r"needs loss\.matching"):
        load_recipe("dataseg-mini", [foreground, "loss.matching=false"])
    head = [foreground, "inference.boxes=head"]
    assert load_recipe("dataseg-mini", head).inference.boxes == "head"
    with pytest.raises(InputError, match="does not read"):
        load_recipe("dataseg-mini", [*head, "inference.postprocess=mask2former"])


def test_box_assist_needs_box_prompts_and_its_start_an_effect() -> None:
    for key in ("loss.box_prompts=0", "loss.matching=false"):
        with pytest.raises(InputError, match=r'box_assist = "match" needs loss.matching = true'):
            load_recipe("dataseg-mini", ["loss.box_assist=match", key])
    with pytest.raises(
        InputError, match=r'box_assist_start does nothing with loss.box_assist = "off"'
    ):
        load_recipe("dataseg-mini", ["loss.box_assist_start=9"])
    recipe = load_recipe("dataseg-mini", ["loss.box_assist_start=9", "loss.box_assist=match"])
    assert recipe.loss.box_assist_start == 9


def test_classes_are_read_as_they_are_trained(tmp_path: Path) -> None:
    assert load_recipe("dataseg-mini").inference.classes == "softmax"
    assert load_recipe("dataseg-mini", ["loss.classes=sigmoid"]).inference.classes == "sigmoid"
    other = ["loss.classes=sigmoid", "inference.classes=softmax"]
    assert load_recipe("dataseg-mini", other).inference.classes == "softmax"
    assert load_recipe("openseed-swin-t").inference.classes == "sigmoid"
    for before, after in (("softmax", "sigmoid"), ("sigmoid", "softmax")):
        run = tmp_path / f"{before}.toml"  # as a run has it, with all keys
        run.write_text(to_toml(load_recipe("dataseg-mini", [f"loss.classes={before}"])))
        assert load_recipe(run, [f"loss.classes={after}"]).inference.classes == after
        both = [f"loss.classes={after}", f"inference.classes={before}"]
        assert load_recipe(run, both).inference.classes == before
    file = tmp_path / "old.toml"  # as a run of an earlier version has it
    file.write_text('[loss]\nclasses = "sigmoid"\n[inference]\nscore = 0.3\n')
    assert load_recipe(file).inference.classes == "sigmoid"
