import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segkit.inference.boxes import Question, masks_of_boxes, tightness
from segkit.masks.boxes import pixels_of_box
from segkit.model.dataseg import DataSeg, Outputs, Proposals
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig, ModelConfig

TABLE = ClassEmbeddings(
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
    asked = Question(image, boxes, labels or [-1] * len(boxes))
    (found,) = masks_of_boxes(model, TABLE, [asked], CONFIG, crop_size=128)
    return np.stack([item.mask for item in found]), np.array([item.score for item in found])


def test_masks_lie_within_their_boxes(model: DataSeg, image: np.ndarray) -> None:
    masks, scores = masks_and_scores(model, image, BOXES, [0, 1, -1, 2])
    assert masks.shape == (4, 64, 80) and scores.shape == (4,)
    assert masks.any(), "an untrained model starts from ellipses"
    for mask, box in zip(masks, BOXES, strict=True):
        outside = np.ones_like(mask)
        outside[pixels_of_box(box, 64, 80)] = False
        assert not (mask & outside).any()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_mask_does_not_depend_on_the_other_boxes(model: DataSeg, image: np.ndarray) -> None:
    together, _ = masks_and_scores(model, image, BOXES)
    for mask, box in zip(together, BOXES, strict=True):
        alone, _ = masks_and_scores(model, image, [box])
        assert (alone[0] != mask).mean() < 1e-3, "only rounding may differ"


def test_images_of_any_number_of_boxes_share_batches(model: DataSeg, image: np.ndarray) -> None:
    other = image[::-1, :50].copy()
    asked = [
        ([], image),
        (BOXES, image),
        ([], image),
        (BOXES[:1], other),
        (BOXES[1:3], image),
        ([], other),
    ]
    questions = [Question(pixels, boxes, [-1] * len(boxes)) for boxes, pixels in asked]
    sizes: list[int] = []
    counting = model.backbone.register_forward_hook(
        lambda module, inputs, output: sizes.append(len(inputs[0]))
    )
    found = list(masks_of_boxes(model, TABLE, questions, CONFIG, crop_size=128))
    counting.remove()
    assert sizes == [3, 3, 1], "7 boxes in batches of 3"
    assert [len(answers) for answers in found] == [0, 4, 0, 1, 2, 0]
    for (boxes, pixels), answers in zip(asked, found, strict=True):
        for box, answer in zip(boxes, answers, strict=True):
            alone, score = masks_and_scores(model, pixels, [box])
            assert (alone[0] != answer.mask).mean() < 1e-3, "only rounding may differ"
            assert answer.score == pytest.approx(score[0], abs=0.02)


class Painter(nn.Module):
    """Answers each crop with the mask of its bright pixels: a model that is always right about
    white shapes."""

    def forward(self, images: torch.Tensor, *_: object, **__: bool) -> Outputs:
        logits = F.avg_pool2d(images.mean(1, keepdim=True), 4) * 40 - 20
        return Outputs(None, Proposals(torch.zeros(len(images), 1, 1, 4), logits[:, None]))


@pytest.mark.parametrize(
    "box", [(8.0, 8.0, 24.0, 24.0), (30.0, 0.0, 50.0, 64.0), (70.0, 50.0, 12.0, 20.0)]
)
def test_crops_come_back_to_the_right_place(box: tuple[float, float, float, float]) -> None:
    rows, columns = pixels_of_box(box, 64, 80)
    image = np.zeros((64, 80, 3), np.uint8)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    y, x = np.mgrid[:height, :width]
    shape = ((x - width / 2) / (width / 2)) ** 2 + ((y - height / 2) / (height / 2)) ** 2 < 0.9
    image[rows, columns][shape] = 255
    asked = Question(image, [box], [0])
    ((found,),) = masks_of_boxes(Painter(), TABLE, [asked], CONFIG, crop_size=128)  # type: ignore[arg-type]
    truth = image[..., 0] > 0
    assert (found.mask & truth).sum() / (found.mask | truth).sum() > 0.9
    assert found.class_index == 0 and found.score > 0.7


def test_tightness_is_the_share_of_the_box_that_is_spanned() -> None:
    mask = np.zeros((10, 20), bool)
    assert tightness(mask) == 0
    mask[2, 3] = mask[6, 12] = True
    assert tightness(mask) == pytest.approx(5 * 10 / 200)
    mask[0, 0] = mask[9, 19] = True
    assert tightness(mask) == 1
