from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_convert

from segkit.model import query_selection
from segkit.model.box_coding import (
    cell_references,
    decode_boxes,
    from_pixels,
    to_corners,
    to_pixels,
)
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import DataSeg, Outputs
from segkit.model.query_selection import select_cells
from segkit.recipes.schema import ModelConfig

SMALL = ModelConfig(
    text_dim=16, hidden_dim=32, mask_dim=16, queries=7, rounds=1, heads=2, feedforward_dim=32
)
FOREGROUND = SMALL.model_copy(update={"foreground": 6})
THINGS = torch.tensor([0, 2])


def embeddings(classes: int, seed: int = 0) -> Tensor:
    rows = torch.randn(classes, 16, generator=torch.Generator().manual_seed(seed))
    return F.normalize(rows, dim=1)


def build(config: ModelConfig) -> DataSeg:
    """A model whose boxes have moved away from their references."""
    torch.manual_seed(0)
    model = DataSeg(config).eval()
    if config.foreground:
        for head in (model.foreground_head.cell_head, model.foreground_head.query_head):
            if head is not None:
                torch.nn.init.normal_(head[-1].weight, std=0.1)
    return model


@pytest.fixture(scope="module")
def model() -> DataSeg:
    return build(FOREGROUND)


def run(model: DataSeg, **options: object) -> Outputs:
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs: Outputs = model(images, embeddings(4), **{"things": THINGS, **options})
    return outputs


# --- boxes ---


@given(st.integers(0, 2**31), st.floats(0.0, 6.0))
def test_boxes_decode_as_in_torchvision(seed: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    references = torch.rand(8, 4, generator=generator) * 50 + 1
    deltas = torch.randn(8, 4, generator=generator) * spread
    corners = box_convert(references, "cxcywh", "xyxy")
    expected = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(deltas, corners)
    torch.testing.assert_close(
        to_corners(decode_boxes(deltas, references)), expected, rtol=1e-4, atol=1e-3
    )


def test_corners_and_pixels_are_those_of_torchvision() -> None:
    boxes = torch.tensor([[0.5, 0.25, 0.2, 0.5], [0.9, 0.9, 0.4, 0.1]])
    torch.testing.assert_close(to_corners(boxes), box_convert(boxes, "cxcywh", "xyxy"))
    pixels = to_pixels(boxes, (100, 200))
    expected = torch.tensor([[80.0, 0.0, 120.0, 50.0], [140.0, 85.0, 200.0, 95.0]])
    torch.testing.assert_close(pixels, expected)
    torch.testing.assert_close(from_pixels(pixels[:1], (100, 200)), boxes[:1])


def test_the_references_of_cells_are_squares_around_their_centers() -> None:
    references = cell_references([(1, 2), (2, 4)], torch.device("cpu"))  # strides 32, 16: 32 x 64
    pixels = references * torch.tensor([64.0, 32.0, 64.0, 32.0])
    assert pixels[:2].tolist() == [[16, 16, 128, 128], [48, 16, 128, 128]]
    assert pixels[2:4].tolist() == [[8, 8, 64, 64], [24, 8, 64, 64]]
    assert pixels[-1].tolist() == [56, 24, 64, 64]


def test_the_prior_of_masks_is_that_of_box_prompts(model: DataSeg) -> None:
    """Up to two half sides from the center; there every cell of the image is that near."""
    generator = torch.Generator().manual_seed(0)
    encoder, queries = model.box_prompt_encoder, torch.randn(2, 3, 32, generator=generator)
    boxes = torch.tensor(
        [[10.0, 20.0, 50.0, 70.0], [20.0, 12.0, 64.0, 60.0], [0.0, 0.0, 64.0, 96.0]]
    )
    boxes = boxes.expand(2, -1, -1)
    with torch.no_grad():
        basis = encoder(BoxPrompts.without_labels(list(boxes)), embeddings(2), (96, 64), 4).basis
        expected = encoder.mask_bias(queries, basis)
        prior = encoder.mask_prior(queries, boxes, (96, 64), 4)
    near = (basis[:, :, 1:3].abs() <= 2).all(2)
    assert near.float().mean() > 0.9
    torch.testing.assert_close(prior[near], expected[near], rtol=1e-4, atol=1e-4)


# --- selection ---


def product(cells: Tensor, rows: Tensor) -> Tensor:
    """A classifier whose background logit is 0."""
    return F.pad(cells @ rows.T, (0, 1))


def brute_force(
    scales: Sequence[Tensor], names: Tensor, count: int, right: float = 1.0, bottom: float = 1.0
) -> list[int]:
    """The cells of the first image: local maxima by score, then all others by score.

    The image ends at these shares of width and height: cells beyond are never selected.
    """
    ranked, start = [], 0
    for scale in scales:
        logits = torch.einsum("chw,tc->thw", scale[0], names)
        _, height, width = logits.shape
        rows = [y for y in range(height) if (y + 0.5) / height < bottom]
        columns = [x for x in range(width) if (x + 0.5) / width < right]
        for y in rows:
            for x in columns:
                best = int(logits[:, y, x].argmax())
                score = float(logits[best, y, x])
                around = [
                    float(logits[best, v, u])
                    for v in rows
                    for u in columns
                    if abs(v - y) <= 1 and abs(u - x) <= 1
                ]
                ranked.append((score < max(around), -score, start + y * width + x))
        start += height * width
    return [cell for _, _, cell in sorted(ranked)][:count]


@pytest.mark.parametrize("chunk", [1, 2, 1000])
def test_local_maxima_are_selected_first(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    scales = [torch.randn(1, 5, *size, generator=generator) for size in ((3, 4), (6, 8))]
    names = torch.randn(4, 5, generator=generator)
    monkeypatch.setattr(query_selection, "MAX_SCORES", chunk * 6 * 8)
    for count in (3, 20, 100):
        chosen = select_cells(scales, names, product, count)
        assert chosen[0].tolist() == brute_force(scales, names, count)


def test_no_cell_beyond_the_image_is_selected() -> None:
    generator = torch.Generator().manual_seed(4)
    scales = [torch.randn(1, 5, *size, generator=generator) for size in ((3, 4), (6, 8))]
    names = torch.randn(4, 5, generator=generator)
    padding = torch.ones(1, 96, 128, dtype=torch.bool)
    padding[:, :60, :70] = False
    inside = len(brute_force(scales, names, 100, 70 / 128, 60 / 96))
    assert 6 < inside < 60
    for count in (6, inside):
        chosen = select_cells(scales, names, product, count, padding)
        assert chosen[0].tolist() == brute_force(scales, names, count, 70 / 128, 60 / 96)
    every = select_cells(scales, names, product, 60, padding)[0].tolist()
    assert sorted(every) == list(range(60))
    assert every[:inside] == brute_force(scales, names, 100, 70 / 128, 60 / 96)


def test_foreground_queries_start_within_the_image(model: DataSeg) -> None:
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[0, :, 32:] = True
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scales, _ = model.pixel_decoder(model.backbone(images))
        _, within = model._select_cells(scales, embeddings(4)[THINGS], padding)
        _, anywhere = model._select_cells(scales, embeddings(4)[THINGS], None)
    assert bool((anywhere[0, :, 0] > 1 / 3).any()), "else the padding makes no difference"
    assert bool((within[0, :, 0] < 1 / 3).all()), "centers in the left third, which is the image"
    assert torch.equal(within[1], anywhere[1])
    with_padding, without = run(model, padding=padding).queries, run(model).queries
    assert with_padding is not None and without is not None
    assert not torch.equal(with_padding.boxes[0], without.boxes[0])


def test_selection_ignores_the_order_of_names_and_follows_their_change(model: DataSeg) -> None:
    text = embeddings(6)
    pixels = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(2))

    def selected(names: Tensor) -> set[int]:
        scales, _ = model.pixel_decoder(model.backbone(pixels))
        norm = model.transformer_decoder.norm
        return set(
            select_cells(
                scales, names, lambda cells, rows: model.text_classifier(norm(cells), rows), 12
            )[0].tolist()
        )

    with torch.no_grad():
        first = selected(text[:4])
        assert first == selected(text[[2, 0, 3, 1]])
        assert first != selected(text[4:])


def test_rows_of_stuff_select_nothing(model: DataSeg) -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    text = embeddings(4)
    other = torch.cat((text[:1], embeddings(1, seed=5), text[2:3], embeddings(1, seed=6)))
    with torch.no_grad():
        outputs = [model(images, rows, things=THINGS).queries for rows in (text, other)]
    assert torch.equal(outputs[0].boxes, outputs[1].boxes)


# --- groups ---


def test_foreground_queries_follow_the_learned_queries(model: DataSeg) -> None:
    full, short = run(model), run(model, aux_outputs=False)
    layers = 1 + 3 * FOREGROUND.rounds
    assert full.queries is not None and short.queries is not None
    assert full.queries.boxes is not None and short.queries.boxes is not None
    assert full.queries.mask_logits.shape == (2, layers, 7 + 6, 16, 24)
    assert full.queries.class_logits.shape == (2, layers, 7 + 6, 5)
    assert full.queries.boxes.shape == (2, layers, 6, 4)
    for last, layer in zip(short.queries, full.queries, strict=True):
        torch.testing.assert_close(last, layer[:, -1:])


def test_without_foreground_the_model_is_unchanged(model: DataSeg) -> None:
    plain = build(SMALL)
    state, larger = plain.state_dict(), model.state_dict()
    assert {key for key in larger if key not in state} == {
        f"foreground_head.{head}.{layer}.{kind}"
        for head in ("cell_head", "query_head")
        for layer in (0, 2)
        for kind in ("weight", "bias")
    }
    assert all(torch.equal(value, larger[key]) for key, value in state.items())
    without, decoupled = run(plain).queries, run(model).queries
    assert without is not None and decoupled is not None and without.boxes is None
    assert torch.equal(without.class_logits, decoupled.class_logits[:, :, :7])
    assert torch.equal(without.mask_logits, decoupled.mask_logits[:, :, :7])


def test_no_things_run_no_foreground(model: DataSeg) -> None:
    for things in (None, torch.zeros(0, dtype=torch.int64)):
        queries = run(model, things=things).queries
        assert queries is not None and queries.boxes is None
        assert queries.class_logits.shape[2] == 7


def test_groups_do_not_affect_each_other(model: DataSeg) -> None:
    boxes = [torch.tensor([[4.0, 4.0, 40.0, 30.0], [9.0, 9.0, 60.0, 60.0]])] * 2
    shifted = [box + 3 for box in boxes]
    expected = run(model).queries
    groups = [
        run(model, prompts=BoxPrompts.without_labels(a), noised=BoxPrompts.without_labels(b))
        for a, b in ((boxes, boxes), (shifted, boxes), (boxes, shifted))
    ]
    for outputs in groups:
        assert outputs.queries is not None and expected is not None
        for ours, theirs in zip(outputs.queries, expected, strict=True):
            assert torch.equal(ours, theirs), "learned and foreground queries see no box"
    only = run(model, learned_queries=False).queries
    assert only is not None and expected is not None
    for ours, theirs in zip(only, expected, strict=True):
        assert torch.equal(ours, theirs[:, :, -6:]), "foreground queries see no learned query"
    a, b, c = groups
    assert a.denoising and b.denoising and c.denoising and a.box_prompts and c.box_prompts
    assert torch.equal(a.denoising.mask_logits, b.denoising.mask_logits)
    assert torch.equal(a.box_prompts.mask_logits, c.box_prompts.mask_logits)
    assert not torch.equal(a.denoising.mask_logits, c.denoising.mask_logits)


def test_a_denoising_query_is_a_group_of_its_own(model: DataSeg) -> None:
    pair = torch.tensor([[4.0, 4.0, 40.0, 30.0], [9.0, 9.0, 60.0, 60.0]])
    both = run(model, noised=BoxPrompts.without_labels([pair, pair])).denoising
    single = run(model, noised=BoxPrompts.without_labels([pair[:1], pair[:1]])).denoising
    assert both is not None and single is not None
    for ours, theirs in zip(single, both, strict=True):
        torch.testing.assert_close(ours[:, :, 0], theirs[:, :, 0], rtol=1e-4, atol=1e-5)


def test_learned_boxes_are_the_same_for_all_images_and_names() -> None:
    learned = build(SMALL.model_copy(update={"foreground": 6, "foreground_boxes": "learned"}))
    first, second = (run(learned, things=torch.tensor(things)).queries for things in ([0, 2], [1]))
    assert first is not None and second is not None
    assert first.boxes is not None and second.boxes is not None
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.boxes[0, 0], first.boxes[1, 0])
    assert not torch.allclose(first.boxes[0, -1], first.boxes[1, -1])
    corners = to_corners(first.boxes[0, 0])
    assert (corners[:, 2:] > corners[:, :2]).all() and len(corners.unique(dim=0)) == 6


def test_refined_boxes_start_from_the_layer_before() -> None:
    fixed, refined = (
        run(build(FOREGROUND.model_copy(update={"refine_boxes": refine}))).queries
        for refine in (False, True)
    )
    assert fixed is not None and refined is not None
    assert fixed.boxes is not None and refined.boxes is not None
    assert torch.equal(fixed.boxes[:, 0], refined.boxes[:, 0])
    assert not torch.allclose(fixed.boxes[:, 1], fixed.boxes[:, 0])
    assert not torch.allclose(fixed.boxes[:, -1], refined.boxes[:, -1])


def test_gradients_of_the_first_layer_reach_cells_and_end_at_positions(model: DataSeg) -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    queries = model(images, embeddings(4), things=THINGS, learned_queries=False).queries
    queries.boxes[:, 0].sum().backward(retain_graph=True)
    head = model.foreground_head
    assert float(head.cell_head[-1].weight.grad.abs().sum()) > 0
    model.zero_grad(set_to_none=True)
    (queries.boxes[:, 1:].sum() + queries.mask_logits.sum()).backward()
    gradient = head.cell_head[-1].weight.grad
    assert gradient is None or not bool(gradient.any())
    assert float(head.query_head[-1].weight.grad.abs().sum()) > 0
    model.zero_grad(set_to_none=True)
