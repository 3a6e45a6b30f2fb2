"""Weight transfer: what it computes, what it leaves as it was, and where no gradient flows."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import InputError
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import DataSeg, Outputs
from segkit.model.weight_transfer import expected_addition, labels_addition
from segkit.recipes.load import load_recipe, to_toml
from segkit.recipes.schema import ModelConfig, WeightTransferConfig

SMALL = {
    "backbone": "test_efficientnet",
    "text_dim": 16,
    "hidden_dim": 32,
    "mask_dim": 16,
    "queries": 7,
    "rounds": 1,
    "heads": 2,
    "feedforward_dim": 32,
}
INPUTS = ("cls", "box", "cls+box", "text", "random")
BOXES = [torch.tensor([[4.0, 4.0, 40.0, 30.0], [20.0, 8.0, 60.0, 60.0]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([2, -1]), torch.zeros(0, dtype=torch.int64)]


def text(classes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(classes, 16, generator=generator), dim=1)


def build(head: str = "cosine", **keys: object) -> DataSeg:
    """A small model of seed 0 in evaluation mode; keys are those of `WeightTransferConfig`."""
    torch.manual_seed(0)
    transfer = WeightTransferConfig.model_validate(keys)
    fields = {**SMALL, "class_head": head, "weight_transfer": transfer}
    return DataSeg(ModelConfig.model_validate(fields)).eval()


def randomize(model: DataSeg) -> DataSeg:
    """Give T a last layer that is not zero."""
    assert model.weight_transfer is not None
    nn.init.normal_(model.weight_transfer.mlp[-1].weight, std=0.5)  # type: ignore[arg-type]
    return model


def run(model: DataSeg, rows: Tensor, labels: list[Tensor] = LABELS) -> Outputs:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return model(images, rows, BoxPrompts(BOXES, labels))  # type: ignore[no-any-return]


def tensors(outputs: Outputs) -> list[Tensor]:
    fields = (*outputs.queries, *outputs.box_prompts)  # type: ignore[misc]
    return [field for field in fields if field is not None]


def test_off_by_default_and_the_default_has_no_weights() -> None:
    assert load_recipe("dataseg-mini").model.weight_transfer.input == "off"
    names = build().state_dict().keys()
    assert not any("weight_transfer" in name or "mlp" in name for name in names)


@pytest.mark.parametrize("source", INPUTS)
@torch.no_grad()
def test_t_equal_to_zero_is_the_base_model_bit_for_bit(source: str) -> None:
    base, transfer = build(), build(input=source)
    state = transfer.state_dict()
    for name, value in base.state_dict().items():
        assert torch.equal(value, state[name]), name
    pairs = zip(tensors(run(base, text(5))), tensors(run(transfer, text(5))), strict=True)
    assert all(torch.equal(expected, actual) for expected, actual in pairs)
    changed = run(randomize(transfer), text(5))
    assert not torch.equal(run(base, text(5)).queries.mask_logits, changed.queries.mask_logits)


@torch.no_grad()
def test_addition_is_the_expectation_over_classes() -> None:
    """Against loops over queries and classes, of the formula in the docstring."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 7, 6, generator=generator)
    additions = torch.randn(5, 16, generator=generator)
    expected = torch.zeros(2, 7, 16, dtype=torch.float64)
    for image in range(2):
        for query in range(7):
            weights = [float(logits[image, query, c].double().exp()) for c in range(5)]
            for c in range(5):
                expected[image, query] += weights[c] / sum(weights) * additions[c].double()
    torch.testing.assert_close(expected_addition(logits, additions).double(), expected)
    # A certain class gets its own row, and the background logit changes nothing.
    logits[..., 3] = 1e4
    torch.testing.assert_close(expected_addition(logits, additions)[1, 4], additions[3])


@torch.no_grad()
def test_mask_logits_are_the_product_with_the_sum_of_embeddings() -> None:
    """<m_q + T(w_c), F> of the first layer's learned queries, from the parts of the model."""
    model, rows = randomize(build(input="cls+box")), text(5)
    seen: dict[str, Tensor] = {}
    model.pixel_decoder.register_forward_hook(lambda _, __, out: seen.update(pixels=out[1]))
    outputs = run(model, rows)
    queries = model.transformer_decoder.norm(model.query_content.weight)  # before all layers
    classes = outputs.queries.class_logits[0, 0]
    w = torch.cat(
        (rows @ model.text_classifier.project.weight, model.box_prompt_encoder.label_encoder(rows)),
        dim=1,
    )
    first, last = model.weight_transfer.mlp[0], model.weight_transfer.mlp[-1]
    hidden = w @ first.weight.T + first.bias
    transferred = torch.where(hidden > 0, hidden, 0.1 * hidden) @ last.weight.T + last.bias
    embedding = model.transformer_decoder.mask_head(queries)
    embedding = embedding + classes[:, :-1].softmax(-1) @ transferred
    expected = torch.einsum("nd,dhw->nhw", embedding, seen["pixels"][0])
    torch.testing.assert_close(outputs.queries.mask_logits[0, 0], expected)


@torch.no_grad()
def test_a_label_reaches_the_mask_by_t_only_without_label_content() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        **SMALL, label_content=False, weight_transfer=WeightTransferConfig(input="cls")
    )  # type: ignore[arg-type]
    model = DataSeg(config).eval()
    other = [torch.tensor([1, -1]), LABELS[1]]
    masks = [run(model, text(5), labels).box_prompts.mask_logits for labels in (LABELS, other)]
    assert torch.equal(*masks)  # T is zero
    randomize(model)
    masks = [run(model, text(5), labels).box_prompts.mask_logits for labels in (LABELS, other)]
    assert not torch.equal(masks[0][0, :, 0], masks[1][0, :, 0])
    assert torch.equal(masks[0][0, :, 1], masks[1][0, :, 1])  # of the withheld label


def test_labels_select_rows_and_withheld_ones_none() -> None:
    additions = torch.randn(3, 4)
    rows = labels_addition(torch.tensor([[2, -1], [0, -1]]), additions)
    assert torch.equal(rows[0, 0], additions[2])
    assert not rows[:, 1].any()


@pytest.mark.parametrize("head", ["cosine", "linear"])
@pytest.mark.parametrize("source", ["cls", "box", "cls+box"])
def test_stop_gradient_leaves_exactly_zero(head: str, source: str) -> None:
    """Masks train T, and the class weights only through it if the gradient is not stopped."""
    for stopped in (True, False):
        model = randomize(build(head, input=source, stop_gradient=stopped))
        additions = model._class_additions(text(5))
        assert additions is not None
        additions.square().sum().backward()
        sources = {
            "cls": model.text_classifier.project.weight,
            "box": model.box_prompt_encoder.label_encoder.weight,
        }
        for name, weight in sources.items():
            reached = weight.grad is not None and bool(weight.grad.any())
            assert reached == (name in source and not stopped), name
        assert model.weight_transfer.mlp[0].weight.grad.any()


def test_no_gradient_reaches_the_class_head_through_the_expectation() -> None:
    model = randomize(build(input="text"))
    run(model, text(5)).queries.mask_logits[:, 0].sum().backward()  # before masked attention
    assert model.text_classifier.project.weight.grad is None
    assert model.weight_transfer.mlp[-1].weight.grad.any()


@pytest.mark.parametrize("source", INPUTS)
@torch.no_grad()
def test_a_vocabulary_is_an_argument(source: str) -> None:
    """A class has the same addition in any vocabulary, and one never seen has one, too."""
    model = randomize(build(input=source))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    five, three = text(5), text(5)[[3, 0, 4]]
    additions, selected = model._class_additions(five), model._class_additions(three)
    torch.testing.assert_close(additions[[3, 0, 4]], selected)
    unseen = model._class_additions(text(1, seed=9))
    assert unseen.abs().sum() > 0
    assert torch.pdist(torch.cat((additions, unseen))).min() > 1e-3
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@torch.no_grad()
def test_random_class_weights_ignore_similarity() -> None:
    model = build(input="random")
    rows = text(2)
    near = F.normalize(rows[0] + 0.05 * rows[1], dim=0)  # cosine above 0.99
    weights = model.weight_transfer.class_weights(
        torch.stack((rows[0], near)), model.text_classifier, model.box_prompt_encoder.label_encoder
    )
    assert F.cosine_similarity(rows[0], near, dim=0) > 0.99
    assert F.cosine_similarity(weights[0], weights[1], dim=0).abs() < 0.3


def test_no_classes_no_prompts_and_no_labels_are_safe() -> None:
    model = randomize(build(input="cls")).train()
    outputs = run(model, text(0), [torch.tensor([-1, -1]), LABELS[1]])
    loss = outputs.queries.mask_logits.sum() + outputs.box_prompts.mask_logits.sum()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_the_mlp_adds_a_map_of_the_region() -> None:
    torch.manual_seed(0)
    model = DataSeg(ModelConfig(**SMALL, box_mlp=True)).eval()  # type: ignore[arg-type]
    base = run(build(), text(5))
    outputs = run(model, text(5))
    pairs = zip(tensors(base), tensors(outputs), strict=True)
    assert all(torch.equal(expected, actual) for expected, actual in pairs)  # it starts at zero
    model.box_prompt_encoder.mask_head.mlp[-1].bias.fill_(3.0)
    masks = run(model, text(5)).box_prompts.mask_logits
    assert torch.equal(masks[:, :-1], outputs.box_prompts.mask_logits[:, :-1])
    difference = (masks - outputs.box_prompts.mask_logits)[0, -1, 0]
    torch.testing.assert_close(difference[2:6, 3:9], torch.full((4, 6), 3.0))  # in the box
    assert not difference[12:].any()  # outside its region


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.weight_transfer.layers=3"], "no effect while input is off"),
        (["input=cls", "layers=1", "activation=relu"], "no effect with 1 layer"),
        (["input=text", "stop_gradient=false"], "which nothing trains"),
        (["input=box", "model.label_content=false"], "nothing trains the input box"),
        (["input=cls", "loss.matching=false", "loss.label_dropout=0"], "nothing trains"),
        (["model.box_mlp=true", "loss.box_prompts=0"], "needs loss.box_prompts"),
        (["model.label_content=false", "loss.box_prompts=0"], "needs loss.box_prompts"),
        (["input=glove"], "input"),
    ],
)
def test_keys_without_effect_are_refused(settings: list[str], message: str) -> None:
    short = ("input", "layers", "activation", "stop_gradient")
    overrides = [
        f"model.weight_transfer.{item}" if item.startswith(short) else item for item in settings
    ]
    with pytest.raises(InputError, match=message):
        load_recipe("dataseg-mini", overrides)


def test_a_recipe_of_weight_transfer_survives_toml(tmp_path: object) -> None:
    overrides = ["model.weight_transfer.input=cls+box", "model.weight_transfer.layers=3"]
    recipe = load_recipe("dataseg-mini", overrides)
    file = tmp_path / "recipe.toml"  # type: ignore[operator]
    file.write_text(to_toml(recipe))
    assert load_recipe(file) == recipe
