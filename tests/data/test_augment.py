import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, functional

from segkit.data.augment import (
    PAD_VALUE,
    ZOOM_FACTORS,
    Crop,
    adjust_colors,
    color_jitter,
    full_image_crop,
    jitter_crop,
    zoom_crop,
)
from segkit.inference.upscale import to_image
from segkit.masks import rle
from tests.data.scenes import blobs, disc

NEAREST_EXACT = InterpolationMode.NEAREST_EXACT
sides = st.integers(1, 150)
seeds = st.integers(0, 2**32 - 1)
scales = st.floats(0.1, 4.0)


@st.composite
def crops(draw: st.DrawFn) -> tuple[int, int, Crop]:
    """Height, width, and a jitter or zoom crop."""
    height, width, rng = draw(sides), draw(sides), np.random.default_rng(draw(seeds))
    if draw(st.booleans()):
        return (
            height,
            width,
            jitter_crop(height, width, size=64, scale=draw(scales), rng=rng, flip=True),
        )
    x0, y0 = draw(st.floats(-20, width)), draw(st.floats(-20, height))
    box = (x0, y0, draw(st.floats(0.5, 200)), draw(st.floats(0.5, 200)))
    return height, width, zoom_crop(height, width, box, size=64, rng=rng, flip=True)


@given(crops())
def test_crops_stay_inside_image_and_padded_size(case: tuple[int, int, Crop]) -> None:
    height, width, crop = case
    x, y, w, h = crop.source
    assert min(w, h) >= 1 and min(x, y) >= 0 and x + w <= width and y + h <= height
    x, y, w, h = crop.content
    assert (
        min(w, h) >= 1
        and min(x, y) >= 0
        and x + w <= crop.padded_size[1]
        and y + h <= crop.padded_size[0]
    )


@given(crops(), seeds)
@settings(max_examples=50)
def test_image_mask_and_box_are_cropped_alike(case: tuple[int, int, Crop], seed: int) -> None:
    height, width, crop = case
    rng = np.random.default_rng(seed)
    x0, y0 = int(rng.integers(width)), int(rng.integers(height))
    x1, y1 = int(rng.integers(x0 + 1, width + 1)), int(rng.integers(y0 + 1, height + 1))
    dense = np.zeros((height, width), bool)
    dense[y0:y1, x0:x1] = True
    mask = crop.mask(rle.decompress(rle.encode(dense)), height, width)
    left, top, right, bottom = crop.clip(crop.box((x0, y0, x1 - x0, y1 - y0)))
    # for boxes of full pixels, sampling a mask by source pixels equals testing which pixel centers
    # are inside the box
    rows, columns = np.mgrid[: crop.padded_size[0], : crop.padded_size[1]] + 0.5
    inside = (
        (columns > left + 1e-6)
        & (columns < right - 1e-6)
        & (rows > top + 1e-6)
        & (rows < bottom - 1e-6)
    )
    near = (
        (columns > left - 1e-6)
        & (columns < right + 1e-6)
        & (rows > top - 1e-6)
        & (rows < bottom + 1e-6)
    )
    assert (inside <= mask).all() and (mask <= near).all()
    picture = crop.image(np.repeat(dense[..., None], 3, axis=2).astype(np.uint8) * 255)[..., 0]
    content = picture[crop.content_slices()].astype(int)
    # pixels at least one source pixel and one crop pixel from the edges are inside or outside
    reach = 1 + max(crop.content[2] / crop.source[2], crop.content[3] / crop.source[3])
    core = (np.minimum(columns - left, right - columns) > reach) & (
        np.minimum(rows - top, bottom - rows) > reach
    )
    beyond = (np.maximum(left - columns, columns - right) > reach) | (
        np.maximum(top - rows, rows - bottom) > reach
    )
    assert (content[core[crop.content_slices()]] == 255).all() and (
        content[beyond[crop.content_slices()]] == 0
    ).all()


@given(crops(), st.tuples(*[st.floats(-50, 200)] * 2, *[st.floats(0.5, 200)] * 2))
def test_to_source_inverts_box(
    case: tuple[int, int, Crop], box: tuple[float, float, float, float]
) -> None:
    crop = case[2]
    x, y, width, height = box
    assert crop.to_source(crop.box(box)) == pytest.approx(
        (x, y, x + width, y + height), rel=1e-6, abs=1e-6
    )


def test_corners_of_a_mirrored_crop_in_its_source() -> None:
    crop = Crop((100, 50, 40, 20), (2, 4, 80, 60), (64, 96), mirrored=True)
    assert crop.to_source((2.0, 4.0, 22.0, 34.0)) == (130.0, 50.0, 140.0, 60.0)
    assert crop.image_size == (20, 40)


def test_mask_sampling_equals_opencv_at_pixel_centers() -> None:
    dense = blobs(97, 131, seed=3)
    crop = Crop((10, 5, 90, 80), (7, 3, 50, 61), (64, 64))
    part = dense[5:85, 10:100].astype(np.uint8)
    expected = cv2.resize(part, (50, 61), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    mask = crop.mask(rle.decompress(rle.encode(dense)), 97, 131)
    assert (mask[3:64, 7:57] == expected).all()
    mask[3:64, 7:57] = False
    assert not mask.any()


def test_a_mirrored_crop_mirrors_its_content() -> None:
    dense = blobs(40, 60, seed=1)
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    straight = Crop((0, 0, 60, 40), (0, 0, 64, 43), (64, 64))
    mirrored = Crop(straight.source, straight.content, straight.padded_size, mirrored=True)
    for before, after in (
        (straight.image(image), mirrored.image(image)),
        (
            straight.mask(rle.decompress(rle.encode(dense)), 40, 60),
            mirrored.mask(rle.decompress(rle.encode(dense)), 40, 60),
        ),
    ):
        assert (before[:43, ::-1] == after[:43]).all() and (before[43:] == after[43:]).all()
    assert (mirrored.image(image)[43:] == PAD_VALUE).all()
    x0, y0, x1, y1 = straight.box((3, 4, 10, 12))
    assert mirrored.box((3, 4, 10, 12)) == pytest.approx((64 - x1, y0, 64 - x0, y1))


@given(st.integers(20, 400), st.integers(20, 400), scales, seeds)
def test_jitter_gives_the_longer_side_the_scaled_size(
    height: int, width: int, scale: float, seed: int
) -> None:
    crop = jitter_crop(height, width, size=64, scale=scale, rng=np.random.default_rng(seed))
    side = max(height, width) / scale  # of the source, becomes 64 pixels; rounded to full pixels
    for source, content in zip(crop.source[2:], crop.content[2:], strict=True):
        assert content == 1 or abs(content - source * 64 / side) <= 0.5 + 0.51 * content / side
    assert crop.content[:2] == (0, 0)
    if scale <= 1 - 1 / side:
        assert crop.source == (0, 0, width, height)


def test_jitter_crops_reach_every_corner_and_flip_half_of_the_time() -> None:
    jittered = [
        jitter_crop(50, 100, size=32, scale=2.0, rng=np.random.default_rng(i), flip=True)
        for i in range(400)
    ]
    assert {crop.source[0] for crop in jittered} == set(range(51))
    assert {crop.source[1] for crop in jittered} == {0}
    assert 160 < sum(crop.mirrored for crop in jittered) < 240


@given(seeds, st.integers(4, 30), st.integers(4, 30))
def test_zoom_contains_the_box_with_context(seed: int, w: int, h: int) -> None:
    rng = np.random.default_rng(seed)
    box = (float(rng.integers(200 - w)), float(rng.integers(150 - h)), float(w), float(h))
    crop = zoom_crop(150, 200, box, size=64, rng=rng, flip=True)
    x, y, width, height = crop.source
    assert x <= box[0] and y <= box[1] and box[0] + w <= x + width and box[1] + h <= y + height
    x0, y0, x1, y1 = crop.box(box)
    share = max(x1 - x0, y1 - y0) / 64
    nearest, farthest = ZOOM_FACTORS
    capped = max(w, h) < 64 / 8 / nearest
    assert share <= 1 / nearest + 0.1
    assert capped or share >= 1 / farthest - 0.05
    assert crop.content[2] / width <= 8.5


def test_the_zoomed_box_is_not_always_centered() -> None:
    centers = []
    for seed in range(100):
        crop = zoom_crop(200, 200, (90, 90, 20, 20), size=64, rng=np.random.default_rng(seed))
        x0, _, x1, _ = crop.box((90, 90, 20, 20))
        centers.append((x0 + x1) / 2)
    assert np.std(centers) > 3 and abs(np.mean(centers) - 32) < 3


@given(sides, sides, st.integers(32, 200))
def test_evaluation_keeps_the_full_image(height: int, width: int, size: int) -> None:
    crop = full_image_crop(height, width, size=size)
    assert crop.source == (0, 0, width, height)
    assert max(crop.content[2:]) == size
    assert all(side % 32 == 0 for side in crop.padded_size)
    assert (
        0 <= crop.padded_size[1] - crop.content[2] < 32
        and 0 <= crop.padded_size[0] - crop.content[3] < 32
    )


@pytest.mark.parametrize(
    ("height", "width", "size", "least"),
    [(96, 120, 240, 0.99), (150, 90, 150, 1.0), (301, 200, 160, 0.92)],
)
def test_masks_survive_crop_and_resizing_back(
    height: int, width: int, size: int, least: float
) -> None:
    dense = np.stack(
        (
            blobs(height, width, seed=height),
            disc(height, width, 0.6 * width, 0.4 * height, width / 3),
        )
    )
    crop = full_image_crop(height, width, size=size)
    padded = np.stack(
        [crop.mask(rle.decompress(rle.encode(mask)), height, width) for mask in dense]
    )
    back = to_image(torch.from_numpy(padded).float(), crop).numpy() > 0.5
    assert back.shape == dense.shape
    for ours, mask in zip(back, dense, strict=True):
        assert (ours & mask).sum() / (ours | mask).sum() >= least
    assert np.argwhere(back[1]).mean(axis=0) == pytest.approx(
        np.argwhere(dense[1]).mean(axis=0), abs=0.2
    )  # no shift


def test_low_resolution_logits_are_not_shifted() -> None:
    crop = full_image_crop(60, 100, size=100)  # padded to 64 x 128
    ramp = (torch.arange(32) + 0.5) * 4  # x of the center of each pixel at stride 4
    back = to_image(ramp.expand(1, 16, 32), crop)
    expected = torch.arange(100) + 0.5
    assert torch.allclose(back[0, :, 2:98], expected[2:98].expand(60, -1), atol=1e-4)


@given(crops(), seeds)
@settings(max_examples=40)
def test_crops_equal_torchvisions_transforms(case: tuple[int, int, Crop], seed: int) -> None:
    height, width, crop = case
    rng = np.random.default_rng(seed)
    x, y, w, h = crop.source
    left, top, content_w, content_h = crop.content
    padding = [
        left,
        top,
        crop.padded_size[1] - left - content_w,
        crop.padded_size[0] - top - content_h,
    ]

    def transform(tensor: torch.Tensor, **options: object) -> torch.Tensor:
        resized = functional.resized_crop(tensor, y, x, h, w, [content_h, content_w], **options)
        flipped = functional.horizontal_flip(resized) if crop.mirrored else resized
        return functional.pad(flipped, padding)

    dense = blobs(height, width, seed=seed)
    mask = transform(
        tv_tensors.Image(torch.from_numpy(dense[None].astype(np.uint8))),
        interpolation=NEAREST_EXACT,
    )
    sampled = crop.mask(rle.decompress(rle.encode(dense)), height, width)
    assert (sampled != mask[0].numpy()).mean() <= 0.02, "torch rounds centers between two pixels"

    box = (
        float(rng.integers(width)),
        float(rng.integers(height)),
        float(rng.integers(1, 90)),
        float(rng.integers(1, 90)),
    )
    boxes = tv_tensors.BoundingBoxes(
        [list(box)], format="XYWH", canvas_size=(height, width), dtype=torch.float64
    )
    inside = functional.convert_bounding_box_format(transform(boxes), new_format="XYXY")[0].tolist()
    ours = crop.clip(crop.box(box))
    if (ours[2] - ours[0]) * (ours[3] - ours[1]) > 1e-6:
        assert ours == pytest.approx(inside, abs=1e-4)
    else:
        assert (inside[2] - inside[0]) * (inside[3] - inside[1]) <= 1e-4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("brightness", 0.6),
        ("brightness", 1.4),
        ("contrast", 0.5),
        ("contrast", 1.5),
        ("saturation", 0.3),
        ("saturation", 1.7),
        ("hue", 0.1),
        ("hue", -0.3),
    ],
)
def test_colors_equal_torchvisions(name: str, value: float) -> None:
    # smooth colors: both round to bytes between steps, and saturated noise amplifies the difference
    y, x = np.mgrid[:48, :64]
    image = np.stack((x * 3 + 20, y * 4 + 30, 200 - x - y), axis=2).astype(np.uint8)
    factors = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, name: value}
    ours = adjust_colors(image, **factors)
    change = getattr(functional, f"adjust_{name}")
    theirs = change(torch.from_numpy(image).permute(2, 0, 1), value).permute(1, 2, 0).numpy()
    tolerance = 8 if name == "hue" else 2  # OpenCV stores the hue in 8 bits
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= tolerance
    assert np.abs(ours.astype(int) - image.astype(int)).max() > 10


def test_neutral_colors_change_nothing_and_jitter_is_seeded() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert (adjust_colors(image, brightness=1, contrast=1, saturation=1, hue=0) == image).all()
    first, again, different = (
        color_jitter(image, strength=0.4, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert (first == again).all() and (first != different).any()
