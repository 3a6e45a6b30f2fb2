"""Batched prediction against a plain loop over single images."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segkit.data.augment import full_image_crop
from segkit.inference.forward_pass import PATIENCE
from segkit.inference.postprocess import LabeledMask, answer, encode, to_segments
from segkit.inference.predict import predict_images
from segkit.masks import rle
from segkit.model.dataseg import DataSeg, Outputs, Proposals
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig, ModelConfig
from segkit.sample import Sample
from segkit.shards.manifest import Task
from segkit.taxonomy import Category, Taxonomy

SIZES = [
    (40, 60),
    (60, 40),
    (41, 60),
    (30, 90),
    (60, 60),
    (40, 60),
    (80, 120),
    (60, 41),
    (40, 59),
    (200, 30),
    (40, 60),
]
NAMES = Taxonomy(
    "own", tuple(Category(i + 1, f"{i}", "stuff" if i == 2 else "thing") for i in range(5))
)


TABLE = ClassEmbeddings.from_taxonomy(
    NAMES, F.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(3)), dim=1)
)


class Decided(nn.Module):
    """An untrained model whose proposals, all much alike, are pulled apart."""

    def __init__(self, model: DataSeg) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, text: torch.Tensor, *, aux_outputs: bool) -> Outputs:
        found = self.model(images, text, aux_outputs=aux_outputs).queries
        classes, masks = (
            (x - x.mean(2, keepdim=True)) for x in (found.class_logits, found.mask_logits)
        )
        return Outputs(Proposals(classes * 40, masks * 40), None)


@pytest.fixture(scope="module")
def model() -> Decided:
    torch.manual_seed(0)
    config = ModelConfig(
        text_dim=16, hidden_dim=32, mask_dim=16, queries=12, rounds=1, heads=2, feedforward_dim=32
    )
    made = DataSeg(config).eval()
    with torch.no_grad():
        made.query_content.weight.normal_()
    return Decided(made)


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def one_by_one(
    model: Decided, image: np.ndarray, task: Task, config: InferenceConfig
) -> list[LabeledMask]:
    crop = full_image_crop(*image.shape[:2], size=config.image_size)
    pixels = torch.from_numpy(crop.image(image)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        found = model(pixels, TABLE.text, aux_outputs=True).queries
    return answer(
        task, found.class_logits[0, -1], found.mask_logits[0, -1], crop, TABLE.is_thing, config
    )


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_batches_give_what_single_images_give(model: Decided, task: Task) -> None:
    config = InferenceConfig(image_size=96, batch_size=3, score=0.1, overlap=0.0, instances=20)
    pixels, sizes = images(), list[int]()
    counting = model.model.backbone.register_forward_hook(
        lambda module, inputs, output: sizes.append(len(inputs[0]))
    )

    def read(place: int) -> tuple[Sample, np.ndarray]:
        height, width = SIZES[place]
        return Sample(
            f"{place}", f"{place}.png", width, height, annotated=(1,), exhaustive=False
        ), pixels[place]

    found = list(predict_images(model, TABLE, NAMES, range(len(SIZES)), read, task, config))  # type: ignore[arg-type]
    counting.remove()
    assert sum(sizes) == len(SIZES) and max(sizes) == 3, "images of like shape share a batch"
    assert [sample.id for sample in found] == [f"{place}" for place in range(len(SIZES))]
    segments = 0
    for sample, image in zip(found, pixels, strict=True):
        expected = to_segments(one_by_one(model, image, task, config), NAMES)
        assert [s.class_id for s in sample.segments] == [s.class_id for s in expected]
        assert (sample.annotated, sample.exhaustive) == (None, True)
        for ours, theirs in zip(sample.segments, expected, strict=True):
            assert ours.score == pytest.approx(theirs.score, abs=1e-4)
            masks = [rle.decode(s.mask or b"", sample.height, sample.width) for s in (ours, theirs)]
            assert (masks[0] != masks[1]).mean() < 2e-3, "only rounding may differ"
        segments += len(expected)
    assert segments >= 2 * len(SIZES)


class Instant(nn.Module):
    """Proposes nothing, at once."""

    def forward(self, images: torch.Tensor, text: torch.Tensor, **_: bool) -> Outputs:
        batch, height, width = len(images), *images.shape[2:]
        made = Proposals(
            torch.zeros(batch, 1, 2, 6), torch.zeros(batch, 1, 2, height // 4, width // 4)
        )
        return Outputs(made, None)


def test_only_so_many_images_are_held() -> None:
    """However long the stream: what has been read and not yet answered is bounded by the batch
    size."""
    config = InferenceConfig(image_size=32, batch_size=2)
    opened = answered = 0

    def items() -> Iterator[int]:
        nonlocal opened
        for number in range(300):
            opened += 1
            assert opened - answered <= 2 * 2 * 2 + PATIENCE * 2 + 4
            yield number

    def read(number: int) -> tuple[Sample, np.ndarray]:
        height, width = SIZES[number % len(SIZES)]
        return Sample(f"{number}", "x", width, height), np.zeros((height, width, 3), np.uint8)

    model, table = Instant(), ClassEmbeddings.from_taxonomy(NAMES, torch.zeros(5, 16))
    for sample in predict_images(model, table, NAMES, items(), read, "semantic", config):  # type: ignore[arg-type]
        assert sample.id == f"{answered}"
        answered += 1
    assert answered == 300


def test_masks_are_coded_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    masks = [rng.random((13, 17)) < share for share in (0.0, 0.01, 0.5, 0.99, 1.0)]
    masks += [np.zeros((13, 17), bool), np.eye(13, 17, dtype=bool)]
    made = encode(torch.from_numpy(np.stack(masks)))
    for region, mask in zip(made, masks, strict=True):
        assert region.counts == rle.encode(mask)
        assert region.area == mask.sum() and region.box == rle.box(region.counts, 13, 17)
    assert encode(torch.zeros(0, 3, 4, dtype=torch.bool)) == []
    assert encode(torch.zeros(1, 3, 4, dtype=torch.bool))[0].counts == rle.encode(np.zeros((3, 4)))
