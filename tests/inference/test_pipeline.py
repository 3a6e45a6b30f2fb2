"""Batched inference against a loop over single images."""

from collections.abc import Iterator
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segkit.data.augment import full_image_crop
from segkit.inference.outputs import predicted_sample
from segkit.inference.pipeline import PATIENCE, ModelOutput, image_crop, predict_images
from segkit.inference.postprocess import LabeledMask, encode, postprocess
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
TAXONOMY = Taxonomy(
    "numbers", tuple(Category(i + 1, f"{i}", "stuff" if i == 2 else "thing") for i in range(5))
)


CLASSES = ClassEmbeddings.from_taxonomy(
    TAXONOMY, F.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(3)), dim=1)
)


class Confident(nn.Module):
    """An untrained model with the differences between its proposals enlarged."""

    def __init__(self, model: DataSeg) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, images: torch.Tensor, text: torch.Tensor, **options: Any) -> Outputs:
        proposals = self.model(images, text, **options).queries
        classes, masks = ((x - x.mean(2, keepdim=True)) for x in proposals[:2])
        return Outputs(Proposals(classes * 40, masks * 40), None)


CONFIG = ModelConfig(
    text_dim=16, hidden_dim=32, mask_dim=16, queries=12, rounds=1, heads=2, feedforward_dim=32
)


@pytest.fixture(scope="module")
def model() -> Confident:
    return build(CONFIG)


def build(config: ModelConfig) -> Confident:
    torch.manual_seed(0)
    network = DataSeg(config).eval()
    with torch.no_grad():
        network.query_content.weight.normal_()
    return Confident(network)


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def one_by_one(
    model: Confident, image: np.ndarray, task: Task, config: InferenceConfig
) -> list[LabeledMask]:
    crop = full_image_crop(*image.shape[:2], size=config.image_size)
    pixels = torch.from_numpy(crop.image(image)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        proposals = model(pixels, CLASSES.text, aux_outputs=True).queries
    logits = proposals.class_logits[0, -1], proposals.mask_logits[0, -1]
    return postprocess(task, *logits, crop, CLASSES.is_thing, config)


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_batches_equal_single_images(model: Confident, task: Task) -> None:
    config = InferenceConfig(image_size=96, batch_size=3, score=0.1, overlap=0.0, instances=20)
    pixels, sizes = images(), list[int]()
    counting = model.model.backbone.register_forward_hook(
        lambda module, inputs, output: sizes.append(len(inputs[0]))
    )

    def read(index: int) -> tuple[Sample, np.ndarray]:
        height, width = SIZES[index]
        name = f"{index}.png"
        sample = Sample(f"{index}", name, width, height, annotated=(1,), exhaustive=False)
        return sample, pixels[index]

    predictions = predict_images(
        cast(DataSeg, model), CLASSES, range(len(SIZES)), read, task, config
    )
    samples = [predicted_sample(sample, masks, TAXONOMY) for sample, masks in predictions]
    counting.remove()
    assert sum(sizes) == len(SIZES) and max(sizes) == 3, "images of equal shape share a batch"
    assert [sample.id for sample in samples] == [f"{index}" for index in range(len(SIZES))]
    segments = 0
    for sample, image in zip(samples, pixels, strict=True):
        masks = one_by_one(model, image, task, config)
        expected = [mask.to_segment(TAXONOMY) for mask in masks]
        assert [s.class_id for s in sample.segments] == [s.class_id for s in expected]
        assert (sample.annotated, sample.exhaustive) == (None, True)
        for ours, theirs in zip(sample.segments, expected, strict=True):
            assert ours.score == pytest.approx(theirs.score, abs=1e-4)
            dense = [rle.decode(s.mask or b"", sample.height, sample.width) for s in (ours, theirs)]
            assert (dense[0] != dense[1]).mean() < 2e-3, "only rounding may differ"
        segments += len(expected)
    assert segments >= 2 * len(SIZES)


def test_only_foreground_queries_show_instances() -> None:
    """Confident learned queries, which were not trained on things, are left out."""
    logits, masks = torch.zeros(5, 3), torch.randn(5, 8, 8)
    logits[:, 0] = torch.tensor([9.0, 9.0, 1.0, 2.0, 3.0])
    crop = full_image_crop(32, 32, size=32)
    output = ModelOutput("image", crop, logits, masks, boxes=torch.rand(3, 4))
    things = output.of_things()
    assert torch.equal(things.class_logits, logits[2:])
    assert torch.equal(things.mask_logits, masks[2:])
    everything = ModelOutput("image", crop, logits, masks)
    assert everything.of_things() is everything


def paddings(model: Confident) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """The images and the padding that a model gets, batch by batch."""
    pixels, seen = images(), list[tuple[torch.Tensor, torch.Tensor | None]]()
    hook = model.register_forward_pre_hook(
        lambda module, inputs, options: seen.append((inputs[0], options["padding"])),
        with_kwargs=True,
    )
    config = InferenceConfig(image_size=96, batch_size=3)
    read = lambda index: (index, pixels[index])  # noqa: E731
    list(predict_images(cast(DataSeg, model), CLASSES, range(len(SIZES)), read, "panoptic", config))
    hook.remove()
    return seen


def test_a_model_with_foreground_queries_knows_the_padding(model: Confident) -> None:
    assert all(padding is None for _, padding in paddings(model)), "nothing else reads it"
    seen = paddings(build(CONFIG.model_copy(update={"foreground": 3})))
    assert any(padding is None for _, padding in seen), "a square image fills its batch"
    gray = 0
    for shown, padding in seen:
        if padding is not None:
            beyond = shown.permute(0, 2, 3, 1)[padding]  # random pixels are not all gray
            assert (beyond == beyond[0]).all()
            inside = (shown == beyond[0, 0]).all(1) & ~padding
            assert inside.float().mean() < 0.01
            gray += int(padding.sum())
    assert gray > 0


class Instant(nn.Module):
    """Returns empty proposals at once."""

    config = CONFIG

    def forward(self, images: torch.Tensor, text: torch.Tensor, **_: object) -> Outputs:
        batch, height, width = len(images), *images.shape[2:]
        masks = torch.zeros(batch, 1, 2, height // 4, width // 4)
        return Outputs(Proposals(torch.zeros(batch, 1, 2, 6), masks), None)


def test_the_number_of_images_in_memory_is_bounded() -> None:
    """The images that are read and not yet predicted are bounded by the batch size."""
    config = InferenceConfig(image_size=32, batch_size=2)
    opened = predicted = 0

    def items() -> Iterator[int]:
        nonlocal opened
        for number in range(300):
            opened += 1
            assert opened - predicted <= 2 * 2 * 2 + PATIENCE * 2 + 4
            yield number

    def read(number: int) -> tuple[Sample, np.ndarray]:
        height, width = SIZES[number % len(SIZES)]
        return Sample(f"{number}", "x", width, height), np.zeros((height, width, 3), np.uint8)

    classes = ClassEmbeddings.from_taxonomy(TAXONOMY, torch.zeros(5, 16))
    model = cast(DataSeg, Instant())
    for sample, _ in predict_images(model, classes, items(), read, "semantic", config):
        assert sample.id == f"{predicted}"
        predicted += 1
    assert predicted == 300


def test_masks_are_encoded_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    masks = [rng.random((13, 17)) < share for share in (0.0, 0.01, 0.5, 0.99, 1.0)]
    masks += [np.zeros((13, 17), bool), np.eye(13, 17, dtype=bool)]
    regions = encode(torch.from_numpy(np.stack(masks)))
    for region, mask in zip(regions, masks, strict=True):
        assert region.counts == rle.encode(mask)
        assert region.area == mask.sum() and region.box == rle.box(region.counts, 13, 17)
    assert encode(torch.zeros(0, 3, 4, dtype=torch.bool)) == []
    assert encode(torch.zeros(1, 3, 4, dtype=torch.bool))[0].counts == rle.encode(np.zeros((3, 4)))


@pytest.mark.parametrize("resize", ["fit", "stretch", "shorter"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 20000), (1, 2000)])
def test_images_of_a_few_rows_or_columns_are_predicted(
    model: Confident, resize: Literal["fit", "stretch", "shorter"], size: tuple[int, int]
) -> None:
    config = InferenceConfig(image_size=32, max_size=64, resize=resize)
    crop = image_crop(*size, config)
    assert min(crop.content[2:]) >= 1
    assert all(side >= 32 and side % 32 == 0 for side in crop.padded_size)
    assert resize == "shorter" or max(crop.padded_size) == 32
    image = np.zeros((*size, 3), np.uint8)
    read = lambda item: (item, image)  # noqa: E731
    images = predict_images(cast(DataSeg, model), CLASSES, [0], read, "semantic", config)
    ((_, masks),) = images
    assert sum(mask.mask.sum() for mask in masks) == size[0] * size[1]
