from typing import cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segkit.inference import predict_boxes
from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.predict_boxes import CROP_FACTOR, View, predict_box_masks
from segkit.masks.boxes import pixels_of_box, tightness
from segkit.masks.iou import mask_iou
from segkit.model.dataseg import DataSeg, Outputs, Proposals
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig, ModelConfig
from segkit.sample import Box
from tests.pretend_gpu import pretend_gpu

CLASSES = ClassEmbeddings(
    F.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=1),
    torch.ones(3) > 0,
)
CONFIG = InferenceConfig(batch_size=3)
BOXES = [
    (3.0, 5.0, 20.0, 11.0),
    (-4.0, 30.0, 30.5, 40.0),
    (60.2, 0.0, 3.9, 64.0),
    (10.0, 10.0, 0.4, 0.3),
]


@pytest.fixture(scope="module")
def model() -> DataSeg:
    torch.manual_seed(0)
    config = ModelConfig(
        text_dim=16, hidden_dim=32, mask_dim=16, queries=4, rounds=1, heads=2, feedforward_dim=32
    )
    return DataSeg(config).eval()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


def masks_and_scores(
    model: DataSeg,
    image: np.ndarray,
    boxes: list[tuple[float, float, float, float]],
    labels: list[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    prompts = ImagePrompts(image, boxes, labels or [-1] * len(boxes))
    (masks,) = predict_box_masks(model, CLASSES, [prompts], CONFIG, crop_size=128)
    return np.stack([mask.mask for mask in masks]), np.array([mask.score for mask in masks])


def test_masks_are_inside_their_boxes(model: DataSeg, image: np.ndarray) -> None:
    masks, scores = masks_and_scores(model, image, BOXES, [0, 1, -1, 2])
    assert masks.shape == (4, 64, 80) and scores.shape == (4,)
    assert masks.any(), "an untrained model starts from ellipses"
    for mask, box in zip(masks, BOXES, strict=True):
        outside = np.ones_like(mask)
        outside[pixels_of_box(box, 64, 80)] = False
        assert not (mask & outside).any()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_box_far_beyond_its_image_is_that_of_the_image(model: DataSeg, image: np.ndarray) -> None:
    far = (-1e7, -1e7, 2e7, 2e7)
    (full, clipped), _ = masks_and_scores(model, image, [(0.0, 0.0, 80.0, 64.0), far])
    assert np.array_equal(full, clipped)
    (beside,), (score,) = masks_and_scores(model, image, [(-1e6, 3.0, 9.0, 9.0)])
    assert not beside.any() and score == 0
    dot = np.zeros((1, 1, 3), np.uint8)
    assert masks_and_scores(model, dot, [(-1e5, -1e5, 2e5, 2e5)])[0].shape == (1, 1, 1)


def test_a_mask_does_not_depend_on_the_other_boxes(model: DataSeg, image: np.ndarray) -> None:
    together, _ = masks_and_scores(model, image, BOXES)
    for mask, box in zip(together, BOXES, strict=True):
        single, _ = masks_and_scores(model, image, [box])
        assert (single[0] != mask).mean() < 1e-3, "only rounding may differ"


def test_images_of_any_number_of_boxes_share_batches(model: DataSeg, image: np.ndarray) -> None:
    other = image[::-1, :50].copy()
    images = [
        ([], image),
        (BOXES, image),
        ([], image),
        (BOXES[:1], other),
        (BOXES[1:3], image),
        ([], other),
    ]
    prompts = [ImagePrompts(pixels, boxes, [-1] * len(boxes)) for boxes, pixels in images]
    sizes: list[int] = []
    counting = model.backbone.register_forward_hook(
        lambda module, inputs, output: sizes.append(len(inputs[0]))
    )
    predictions = list(predict_box_masks(model, CLASSES, prompts, CONFIG, crop_size=128))
    counting.remove()
    assert sizes == [3, 3, 1], "7 boxes in batches of 3"
    assert [len(masks) for masks in predictions] == [0, 4, 0, 1, 2, 0]
    for (boxes, pixels), masks in zip(images, predictions, strict=True):
        for box, mask in zip(boxes, masks, strict=True):
            single, score = masks_and_scores(model, pixels, [box])
            assert (single[0] != mask.mask).mean() < 1e-3, "only rounding may differ"
            assert mask.score == pytest.approx(score[0], abs=0.02)


def test_one_wait_a_batch_brings_the_masks_of_its_boxes_to_the_host(
    model: DataSeg, image: np.ndarray
) -> None:
    """Only threads wait, and only for a batch; they run no operation on the device."""
    prompts = [ImagePrompts(image, BOXES, [0, -1, 2, -1]), ImagePrompts(image, BOXES[:2], [1, -1])]
    expected = list(predict_box_masks(model, CLASSES, prompts, CONFIG, crop_size=128))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with pretend_gpu() as to_gpu:
        state = {name: to_gpu(value.detach()) for name, value in tensors.items()}
        on_gpu = cast(DataSeg, Functional(model, state))
        classes = ClassEmbeddings(to_gpu(CLASSES.text), to_gpu(CLASSES.is_thing))
        masks = list(predict_box_masks(on_gpu, classes, prompts, CONFIG, crop_size=128))
    for of_image, of_expected in zip(masks, expected, strict=True):
        for mask, other in zip(of_image, of_expected, strict=True):
            assert (mask.inside == other.inside).all()
            # other memory alignment, other vector instructions: the last digit may differ
            assert mask.score == pytest.approx(other.score, rel=1e-6)
            assert mask.class_index == other.class_index


class Functional:
    """A model with other tensors."""

    def __init__(self, model: DataSeg, state: dict[str, torch.Tensor]) -> None:
        self.model, self.state, self.config = model, state, model.config

    def __call__(self, *args: object, **kwargs: object) -> Outputs:
        outputs: Outputs = torch.func.functional_call(self.model, self.state, args, kwargs)
        return outputs


class Painter(nn.Module):
    """Predicts the bright pixels of each crop: a model that is always right about white shapes."""

    config = ModelConfig()

    def forward(self, images: torch.Tensor, *_: object, **__: bool) -> Outputs:
        logits = F.avg_pool2d(images.mean(1, keepdim=True), 4) * 40 - 20
        return Outputs(None, Proposals(torch.zeros(len(images), 1, 1, 4), logits[:, None]))


@pytest.mark.parametrize(
    "box", [(8.0, 8.0, 24.0, 24.0), (30.0, 0.0, 50.0, 64.0), (70.0, 50.0, 12.0, 20.0)]
)
def test_masks_of_crops_are_pasted_in_the_right_place(
    box: tuple[float, float, float, float],
) -> None:
    rows, columns = pixels_of_box(box, 64, 80)
    image = np.zeros((64, 80, 3), np.uint8)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    y, x = np.mgrid[:height, :width]
    shape = ((x - width / 2) / (width / 2)) ** 2 + ((y - height / 2) / (height / 2)) ** 2 < 0.9
    image[rows, columns][shape] = 255
    prompts = ImagePrompts(image, [box], [0])
    model = cast(DataSeg, Painter())
    ((prediction,),) = predict_box_masks(model, CLASSES, [prompts], CONFIG, crop_size=128)
    truth = image[..., 0] > 0
    assert (prediction.mask & truth).sum() / (prediction.mask | truth).sum() > 0.9
    assert prediction.class_index == 0 and prediction.score > 0.7


def box_mask(model: nn.Module, image: np.ndarray, box: Box, *, tta: bool) -> BoxMask:
    prompts = ImagePrompts(image, [box], [0])
    ((mask,),) = predict_box_masks(
        cast(DataSeg, model), CLASSES, [prompts], CONFIG, crop_size=128, tta=tta
    )
    return mask


@pytest.mark.parametrize(
    ("box", "equal"),
    [
        ((8.0, 8.0, 24.0, 24.0), 0.999),  # only rounding may differ
        ((56.0, 10.0, 24.0, 40.0), 0.98),  # padding is on one side of a crop, mirrored or not
    ],
)
def test_a_mirrored_view_is_the_view_of_the_mirrored_image(
    model: DataSeg, image: np.ndarray, box: Box, equal: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, width, height = box
    flipped = (image.shape[1] - x - width, y, width, height)
    mirrored = box_mask(model, image[:, ::-1].copy(), flipped, tta=False)
    monkeypatch.setattr(predict_boxes, "TTA_VIEWS", (View(CROP_FACTOR, True),))
    view = box_mask(model, image, box, tta=True)
    assert view.inside.any() and not view.inside.all()
    assert (view.mask == mirrored.mask[:, ::-1]).mean() > equal
    assert view.score == pytest.approx(mirrored.score, abs=1e-2)


def test_views_at_any_scale_are_pasted_in_the_same_place() -> None:
    rows, columns = np.mgrid[:64, :80]
    shape = (rows - 30) ** 2 + (columns - 40) ** 2 < 18**2
    shape &= columns < 50  # not its own mirror image
    image = np.repeat((255 * shape)[..., None], 3, axis=2).astype(np.uint8)
    mask = box_mask(Painter(), image, (22.0, 12.0, 28.0, 37.0), tta=True)
    assert mask_iou(mask.mask, shape) > 0.93


def test_probabilities_of_the_views_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sided(nn.Module):
        """Sure of crops that are bright on the left, and against those bright on the right."""

        config = ModelConfig()

        def forward(self, images: torch.Tensor, *_: object, **__: bool) -> Outputs:
            left, right = images[..., :64].mean((1, 2, 3)), images[..., 64:].mean((1, 2, 3))
            logit = torch.where(left > right, 3.0, -1.0)[:, None, None, None].expand(-1, 1, 32, 32)
            return Outputs(None, Proposals(torch.zeros(len(images), 1, 1, 4), logit[:, None]))

    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = 200
    averaged = box_mask(Sided(), image, (22.0, 22.0, 20.0, 20.0), tta=True)
    sure, against = 1 / (1 + np.exp(-3)), 1 / (1 + np.exp(1))
    assert averaged.inside.all() and averaged.score == pytest.approx((sure + against) / 2, abs=1e-6)
    plain = box_mask(Sided(), image, (22.0, 22.0, 20.0, 20.0), tta=False)
    assert plain.score == pytest.approx(sure, abs=1e-6)
    monkeypatch.setattr(predict_boxes, "TTA_VIEWS", (View(CROP_FACTOR, False),) * 2)
    twice = box_mask(Sided(), image, (22.0, 22.0, 20.0, 20.0), tta=True)
    assert (twice.inside == plain.inside).all() and twice.score == plain.score


def test_augmentation_runs_the_model_six_times_a_box(model: DataSeg, image: np.ndarray) -> None:
    sizes: list[int] = []
    counting = model.backbone.register_forward_hook(
        lambda module, inputs, output: sizes.append(len(inputs[0]))
    )
    prompts = [ImagePrompts(image, BOXES[:2], [0, 1]), ImagePrompts(image, BOXES[:1], [-1])]
    config = InferenceConfig(batch_size=4)
    masks = list(predict_box_masks(model, CLASSES, prompts, config, crop_size=128, tta=True))
    counting.remove()
    assert sum(sizes) == 18 and sizes[:4] == [4] * 4 and [len(rows) for rows in masks] == [2, 1]


def test_tightness_is_the_iou_of_the_tight_box_with_the_box() -> None:
    mask = np.zeros((10, 20), bool)
    assert tightness(mask) == 0
    mask[2, 3] = mask[6, 12] = True
    assert tightness(mask) == pytest.approx(5 * 10 / 200)
    mask[0, 0] = mask[9, 19] = True
    assert tightness(mask) == 1


def test_with_prompt_maps_a_mask_depends_on_the_other_boxes(
    model: DataSeg, image: np.ndarray
) -> None:
    torch.manual_seed(0)
    aware = DataSeg(model.config.model_copy(update={"prompt_maps": True})).eval()
    aware.load_state_dict(model.state_dict(), strict=False)
    nn.init.normal_(aware.get_parameter("backbone.network.conv_stem.prompt_weight"))

    def logits_of(model: DataSeg, boxes: list[Box], neighbors: list[Box]) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        hook = model.backbone.register_forward_hook(lambda _, inputs, maps: seen.append(maps[0]))
        prompts = ImagePrompts(image, boxes, [-1] * len(boxes), neighbors)
        list(predict_box_masks(model, CLASSES, [prompts], CONFIG, crop_size=128))
        hook.remove()
        return seen[0][0]

    box, near, far = BOXES[0], (10.0, 8.0, 20.0, 20.0), (70.0, 55.0, 5.0, 5.0)
    single, beside = logits_of(aware, [box], []), logits_of(aware, [box], [near])
    assert not torch.allclose(single, beside)
    torch.testing.assert_close(logits_of(aware, [box, near], []), beside)
    torch.testing.assert_close(logits_of(aware, [box], [far]), single)
    torch.testing.assert_close(logits_of(model, [box], [near]), logits_of(model, [box], []))
