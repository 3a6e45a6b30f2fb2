from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from segkit.errors import InputError
from segkit.model.backbone import Backbone
from segkit.model.box_prompt_encoder import CONTEXT, BoxPrompts, box_coordinates
from segkit.model.dataseg import DataSeg
from segkit.model.layers import position_grid, sine_features
from segkit.model.text_classifier import ClassEmbeddings
from segkit.model.transformer_decoder import Attention, attention_mask
from segkit.recipes.schema import ModelConfig
from segkit.taxonomy import Category, Taxonomy

SMALL = ModelConfig(
    text_dim=16, hidden_dim=32, mask_dim=16, queries=7, rounds=1, heads=2, feedforward_dim=32
)


@pytest.fixture(scope="module")
def model() -> DataSeg:
    torch.manual_seed(0)
    return DataSeg(SMALL).eval()


def embeddings(classes: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(
        torch.randn(classes, 16, generator=torch.Generator().manual_seed(seed)), dim=1
    )


@torch.no_grad()
def test_every_layer_has_n_proposals_at_stride_4(model: DataSeg) -> None:
    output = model(torch.rand(2, 3, 64, 96), embeddings(5))
    layers = 1 + 3 * SMALL.rounds
    assert output.queries.class_logits.shape == (2, layers, 7, 6)
    assert output.queries.mask_logits.shape == (2, layers, 7, 16, 24)
    assert output.box_prompts is None


@torch.no_grad()
def test_without_aux_outputs_only_the_last_layer_remains(model: DataSeg) -> None:
    images, boxes = torch.rand(2, 3, 64, 96), [torch.tensor([[4.0, 4.0, 40.0, 30.0]])] * 2
    full = model(images, embeddings(5), BoxPrompts.without_labels(boxes))
    short = model(images, embeddings(5), BoxPrompts.without_labels(boxes), aux_outputs=False)
    for layers, last in ((full.queries, short.queries), (full.box_prompts, short.box_prompts)):
        assert last.mask_logits.shape[1] == last.class_logits.shape[1] == 1
        torch.testing.assert_close(last.class_logits, layers.class_logits[:, -1:])
        torch.testing.assert_close(last.mask_logits, layers.mask_logits[:, -1:])


@torch.no_grad()
def test_box_prompts_do_not_affect_the_learned_queries(model: DataSeg) -> None:
    images, text = torch.rand(2, 3, 64, 64), embeddings(5)
    boxes = [torch.tensor([[4.0, 4.0, 40.0, 30.0]]), torch.zeros(0, 4)]
    without, prompted = model(images, text), model(images, text, BoxPrompts.without_labels(boxes))
    assert torch.equal(without.queries.class_logits, prompted.queries.class_logits)
    assert torch.equal(without.queries.mask_logits, prompted.queries.mask_logits)
    assert prompted.box_prompts.mask_logits[:, -1].shape == (2, 1, 16, 16)


@torch.no_grad()
def test_a_box_prompt_does_not_affect_the_masks_of_the_rest(model: DataSeg) -> None:
    image, text = torch.rand(1, 3, 64, 64), embeddings(5)
    boxes = torch.tensor([[4.0, 4.0, 40.0, 30.0], [10.0, 20.0, 60.0, 60.0], [0.0, 0.0, 9.0, 9.0]])
    labels = torch.tensor([1, -1, 4])
    together = model(
        image, text, BoxPrompts([boxes], [labels]), learned_queries=False
    ).box_prompts.mask_logits[0, -1]
    for i in range(3):
        single = model(
            image, text, BoxPrompts([boxes[i : i + 1]], [labels[i : i + 1]]), learned_queries=False
        ).box_prompts
        torch.testing.assert_close(single.mask_logits[0, -1, 0], together[i], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_label_changes_the_mask_and_so_does_no_label(model: DataSeg) -> None:
    image, text, box = (
        torch.rand(1, 3, 64, 64),
        embeddings(5),
        [torch.tensor([[4.0, 4.0, 40.0, 30.0]])],
    )
    logits = [
        model(
            image, text, BoxPrompts(box, [torch.tensor([label])]), learned_queries=False
        ).box_prompts.mask_logits
        for label in (-1, 0, 4)
    ]
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[1], logits[2])
    assert torch.equal(
        logits[0],
        model(
            image, text, BoxPrompts.without_labels(box), learned_queries=False
        ).box_prompts.mask_logits,
    )


@torch.no_grad()
def test_a_vocabulary_changes_no_weight(model: DataSeg) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.rand(1, 3, 64, 64)
    small, large = (
        model(image, embeddings(5)),
        model(image, torch.cat((embeddings(5), embeddings(300, seed=1)))),
    )
    assert large.queries.class_logits.shape[-1] == 306
    torch.testing.assert_close(
        large.queries.class_logits[..., :5], small.queries.class_logits[..., :5]
    )
    torch.testing.assert_close(
        large.queries.class_logits[..., -1], small.queries.class_logits[..., -1]
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_class_logits_are_scaled_cosines(model: DataSeg) -> None:
    queries, text = torch.randn(1, 4, 32), embeddings(3)
    logits = model.text_classifier(queries, text)
    embedded = model.text_classifier.project(queries)
    rows = torch.cat((text, model.text_classifier.background[None]))
    cosine = F.cosine_similarity(embedded[:, :, None], rows[None, None], dim=-1)
    torch.testing.assert_close(logits, cosine * model.text_classifier.log_scale.exp())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_class_logits_are_never_rounded(model: DataSeg, dtype: torch.dtype) -> None:
    queries, text = torch.randn(1, 4, 32), embeddings(200)
    with torch.autocast("cpu", dtype=dtype):
        output = model.text_classifier(queries, text)
    assert torch.equal(output, model.text_classifier(queries, text))


def test_attention_matches_torch() -> None:
    torch.manual_seed(0)
    ours, peer = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        peer.in_proj_weight.copy_(
            torch.cat([layer.weight for layer in (ours.query, ours.key, ours.value)])
        )
        peer.in_proj_bias.copy_(
            torch.cat([layer.bias for layer in (ours.query, ours.key, ours.value)])
        )
        peer.out_proj.load_state_dict(ours.output.state_dict())
    query, key, value = torch.randn(2, 4, 12), torch.randn(2, 9, 12), torch.randn(2, 9, 12)
    visible = torch.rand(2, 4, 9) > 0.5
    visible[..., 0] = True
    expected, _ = peer(query, key, value, attn_mask=~visible.repeat_interleave(3, dim=0))
    torch.testing.assert_close(ours(query, key, value, visible), expected)


def test_queries_attend_to_their_mask_or_region_or_everything() -> None:
    logits = torch.full((1, 3, 4, 4), -1.0)
    logits[0, 0, :2] = 1.0
    region = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    region[0, 1, 0, 0] = True
    free, bound = attention_mask(logits, None), attention_mask(logits, region)
    assert free[0, 0].view(4, 4)[:2].all()
    assert not free[0, 0].view(4, 4)[2:].any()
    assert free[0, 1].all(), "an empty mask would leave nothing to attend to"
    assert bound[0, 1].nonzero().flatten().tolist() == [0], (
        "a region smaller than a cell owns the cell it touches"
    )
    assert bound[0, 2].all()


def test_box_coordinates_run_from_minus_one_to_one_across_the_box() -> None:
    u, v = box_coordinates(torch.tensor([[[8.0, 16.0, 24.0, 48.0]]]), (16, 16), stride=4)
    assert u[0, 0, 0, 2].item() == pytest.approx((10 - 16) / 8)
    assert v[0, 0, 8, 0].item() == pytest.approx((34 - 32) / 16)
    inside = (u.abs() <= 1) & (v.abs() <= 1)
    assert inside[0, 0].nonzero().aminmax().min.tolist() == 2
    assert int(inside.sum()) == (16 // 4) * (32 // 4)


def test_the_mask_of_an_untrained_box_prompt_is_nearly_its_ellipse(model: DataSeg) -> None:
    prompts = BoxPrompts.without_labels([torch.tensor([[0.0, 0.0, 64.0, 64.0]])])
    encoded = model.box_prompt_encoder(prompts, embeddings(2), (64, 64), 4)
    bias = model.box_prompt_encoder.mask_bias(torch.zeros(1, 1, 32), encoded.basis)[0, 0]
    u, v = box_coordinates(torch.tensor([[[0.0, 0.0, 64.0, 64.0]]]), (16, 16), stride=4)
    assert torch.equal(bias > 0, (u**2 + v**2 < 1)[0, 0])
    assert encoded.region.all() and CONTEXT > 1


def test_positions_are_distinct_and_row_major() -> None:
    grid = position_grid(5, 7, 32, torch.device("cpu"))
    assert grid.shape == (35, 32)
    assert torch.cdist(grid, grid).fill_diagonal_(1.0).min() > 1e-3
    row, column = sine_features(torch.tensor(2.5 / 5), 16), sine_features(torch.tensor(3.5 / 7), 16)
    torch.testing.assert_close(grid[2 * 7 + 3], torch.cat((row, column)))


def test_frozen_norms_keep_their_statistics() -> None:
    backbone = Backbone("mobilenetv2_100", freeze_norm=True).train()
    before = {
        name: value.clone() for name, value in backbone.state_dict().items() if "running" in name
    }
    backbone(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(backbone.state_dict()[name], value) for name, value in before.items())


def test_backbone_weights_load_or_are_refused(tmp_path: pytest.TempPathFactory) -> None:
    source = Backbone("mobilenetv2_100")
    state = {name: value.contiguous() for name, value in source.network.state_dict().items()}
    save_file(state | {"text_classifier.bias": torch.zeros(3)}, tmp_path / "full.safetensors")
    loaded = Backbone("mobilenetv2_100", weights=str(tmp_path / "full.safetensors"))
    assert all(
        torch.equal(loaded.network.state_dict()[name], value) for name, value in state.items()
    )

    save_file(dict(list(state.items())[5:]), tmp_path / "part.safetensors")
    with pytest.raises(InputError, match=r"part.safetensors: 5 weights missing"):
        Backbone("mobilenetv2_100", weights=str(tmp_path / "part.safetensors"))
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(InputError, match="cannot read backbone weights"):
        Backbone("mobilenetv2_100", weights=str(tmp_path / "text.safetensors"))
    with pytest.raises(InputError, match=r"absent.safetensors: no such file"):
        Backbone("mobilenetv2_100", weights=str(tmp_path / "absent.safetensors"))
    with pytest.raises(InputError, match="unknown backbone 'mobilenetv9'"):
        Backbone("mobilenetv9")


def test_class_embeddings_follow_the_taxonomy() -> None:
    taxonomy = Taxonomy("roads", (Category(9, "road", "stuff"), Category(3, "car", "thing")))
    embeddings = ClassEmbeddings.from_taxonomy(taxonomy, torch.eye(2))
    assert embeddings.is_thing.tolist() == [True, False]


@pytest.mark.parametrize(
    ("hidden_dim", "mask_dim", "heads"), [(20, 5, 5), (132, 130, 3), (4, 4, 1)]
)
@pytest.mark.parametrize("pixel_decoder", ["fpn", "deformable"])
def test_any_width_that_the_schema_accepts_can_be_built(
    hidden_dim: int, mask_dim: int, heads: int, pixel_decoder: Literal["fpn", "deformable"]
) -> None:
    config = ModelConfig(
        text_dim=16,
        hidden_dim=hidden_dim,
        mask_dim=mask_dim,
        heads=heads,
        queries=3,
        rounds=1,
        feedforward_dim=16,
        pixel_decoder=pixel_decoder,
        encoder_layers=1,
        encoder_feedforward_dim=16,
    )
    boxes = [torch.tensor([[4.0, 4.0, 40.0, 30.0]])]
    with torch.no_grad():
        output = DataSeg(config).eval()(
            torch.rand(1, 3, 64, 64),
            embeddings(5),
            BoxPrompts.without_labels(boxes),
            aux_outputs=False,
        )
    assert (
        output.queries.mask_logits.isfinite().all()
        and output.box_prompts.mask_logits.isfinite().all()
    )


def test_the_class_scale_is_the_factor_of_the_cosines_at_the_start() -> None:
    images, text = torch.rand(1, 3, 64, 64), embeddings(5)
    logits = []
    for scale in (10.0, 30.0):
        torch.manual_seed(0)
        model = DataSeg(SMALL.model_copy(update={"class_scale": scale})).eval()
        logits.append(model(images, text).queries.class_logits)
    torch.testing.assert_close(logits[1], 3 * logits[0])
    assert logits[1].abs().max() <= 30.0
    with pytest.raises(ValueError, match="no effect with a linear class_head"):
        ModelConfig(class_head="linear", class_scale=20.0)
