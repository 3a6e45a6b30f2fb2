"""Teachers without a model: boxes, ellipses, GrabCut; the margin, options and names of teachers."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.errors import InputError
from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.grabcut import MIN_AREA, grabcut
from segkit.inference.open_teacher import TeacherSpec, open_teacher
from segkit.inference.teacher import mask_place
from segkit.masks.boxes import filled_box, inscribed_ellipse
from segkit.masks.iou import mask_iou

HEIGHT, WIDTH = 90, 120
Boxes = list[tuple[float, float, float, float]]


def predict(name: str, image: np.ndarray, boxes: Boxes) -> list[BoxMask | None]:
    (masks,) = open_teacher(name).predict([ImagePrompts(image, boxes, [0] * len(boxes))])
    return list(masks)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A red disk on green, and its mask."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, (50, 45), 25, 1, -1)
    noise = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    colors = np.where(mask[..., None] > 0, (200, 30, 30), (30, 180, 30)).astype(np.uint8)
    return colors + noise, mask.astype(bool)


@pytest.mark.parametrize(("name", "draw"), [("box", filled_box), ("ellipse", inscribed_ellipse)])
def test_shapes_are_those_of_the_baselines(name: str, draw: object) -> None:
    image, _ = scene()
    boxes: Boxes = [(10, 10, 30, 21), (5.5, 7.25, 40.5, 33.5), (100, 80, 40, 40), (-9, -9, 20, 20)]
    boxes += [(0, 0, WIDTH, HEIGHT), (7, 8, 1, 1), (7.6, 8.2, 0.5, 0.5)]
    for box, answer in zip(boxes, predict(name, image, boxes), strict=True):
        assert answer is not None and answer.inside.any() and 0 < answer.score <= 1
        assert (answer.mask == draw(box, HEIGHT, WIDTH)).all()  # type: ignore[operator]
    assert predict(name, image, [(WIDTH, 3, 9, 9), (3, -20, 9, 9)]) == [None, None]


def test_grabcut_finds_an_object_by_its_colors() -> None:
    image, disk = scene()
    box = (22.0, 17.0, 57.0, 57.0)
    (answer,) = predict("grabcut", image, [box])
    assert answer is not None and mask_iou(answer.mask, disk) > 0.97
    assert answer.score == pytest.approx(51 * 51 / 57**2, abs=0.05), "the disk's own box in the box"


def test_grabcut_gets_every_pixel_that_a_box_touches() -> None:
    """With its last row and column left out, the object seems to go on outside of the box."""
    image = np.random.default_rng(0).integers(0, 60, (100, 100, 3), np.uint8)
    image[20:61, 20:61] = 230
    expected = np.zeros((100, 100), bool)
    expected[20:61, 20:61] = True
    for corner in (20.0, 20.3, 20.5, 20.9):
        mask = grabcut(image, (corner, corner, 61 - corner, 61 - corner))
        assert mask is not None and np.array_equal(mask, expected), corner


def test_grabcut_sees_large_images_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo of 12 megapixels takes as long as one of 0.8, and gets a mask of its size."""
    image, disk = scene()
    size = (40 * WIDTH, 33 * HEIGHT)  # both sides by factors of their own
    large = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    truth = cv2.resize(disk.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    seen = []
    run = cv2.grabCut
    monkeypatch.setattr(
        cv2, "grabCut", lambda image, *rest: seen.append(image.shape) or run(image, *rest)
    )
    box = (22.0 * 40, 17.0 * 33, 57.0 * 40, 57.0 * 33)
    (answer,) = predict("grabcut", large, [box])
    assert answer is not None and answer.mask.shape == truth.shape
    assert mask_iou(answer.mask, truth) > 0.97 and answer.score > 0.5
    assert seen == [(round(33 * HEIGHT * 1024 / 4800), 1024, 3)]


def test_grabcut_falls_back_to_the_ellipse_with_score_0() -> None:
    image, _ = scene()
    side = math.sqrt(MIN_AREA)
    boxes: Boxes = [
        (40, 40, side, side),  # small
        (0, 0, WIDTH, HEIGHT),  # no background
        (-50, -50, 500, 500),
        (90, 10, 28, 28),  # one color: nothing comes back
        (110.4, 80.4, 30, 30),  # mostly outside
    ]
    for box, answer in zip(boxes, predict("grabcut", image, boxes), strict=True):
        assert answer is not None and answer.score == 0
        assert (answer.mask == inscribed_ellipse(box, HEIGHT, WIDTH)).all()
    assert predict("grabcut", image, [(WIDTH + 5, 3, 90, 90)]) == [None]


def test_a_box_is_small_in_the_image_that_grabcut_gets() -> None:
    image, _ = scene()
    large = cv2.resize(image, (4096, 3072), interpolation=cv2.INTER_NEAREST)
    x, y = 50 * 4096 / WIDTH, 45 * 3072 / HEIGHT  # the center of the disk
    for side, is_ellipse in ((78, True), (82, False)):
        small, expected = large.copy(), np.zeros(large.shape[:2], bool)
        top, left = round(y - side / 2), round(x - side / 2)
        expected[top + 4 : top + side - 4, left + 4 : left + side - 4] = True
        small[expected] = (20, 20, 220)
        (answer,) = predict("grabcut", small, [(left, top, side, side)])
        assert answer is not None and (answer.score == 0) is is_ellipse


@pytest.mark.parametrize("shape", [(1500, 2001), (2001, 1500)])
def test_grabcut_has_no_mask_for_a_box_beside_a_large_image(shape: tuple[int, int]) -> None:
    """Made smaller, the image is rounded up to a row or column that the box reaches into."""
    height, width = shape
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    image[-2:, 300:1200] = image[300:1200, -2:] = 255  # an object, as far as the box reaches in
    boxes: Boxes = [(300, height, 900, 3), (width, 300, 3, 900), (width, height, 90, 90)]
    boxes += [(300, -3, 900, 3), (-3, 300, 3, 900)]
    assert predict("grabcut", image, boxes) == [None] * len(boxes)


def test_grabcut_of_many_images_equals_that_of_each_in_order() -> None:
    """Images are segmented in threads; OpenCV's generator starts anew for each box."""
    image, _ = scene()
    prompts = [
        ImagePrompts(np.roll(image, step, axis=1), [(22.0 + step, 17.0, 50.0, 50.0)] * 2, [0, 0])
        for step in range(6)
    ]
    teacher = open_teacher("grabcut")
    for item, masks in zip(prompts, teacher.predict(prompts), strict=True):
        (alone,) = teacher.predict([item])
        for a, b in zip(masks, alone, strict=True):
            assert a is not None and b is not None and (a.mask == b.mask).all()
        assert (masks[0].inside == masks[1].inside).all()  # type: ignore[union-attr]


def test_the_margin_is_five_per_cent_and_one_pixel_at_least() -> None:
    assert mask_place((100, 100, 40, 100), (1000, 1000)) == (slice(95, 205), slice(98, 142))
    assert mask_place((10, 10, 4, 4), (1000, 1000)) == (slice(9, 15), slice(9, 15))
    assert mask_place((0, 0, 40, 40), (30, 30)) == (slice(0, 30), slice(0, 30))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TeacherSpec("box", min_score=0.5), "--min-score does nothing with the teacher box"),
        (TeacherSpec("ellipse", min_score=0.0), "--min-score does nothing"),
        (TeacherSpec("grabcut", strategy="proposals"), "--strategy does nothing with"),
        (TeacherSpec("grabcut", settings=["inference.batch_size=2"]), "--set does nothing with"),
        (TeacherSpec("grabcut", device="cpu"), "--device does nothing with the teacher grabcut"),
        (TeacherSpec("grabcut", min_score=1.5), "a lowest score of 1.5; give 0 to 1"),
        (TeacherSpec("grabcut", min_score=math.nan), "a lowest score of nan"),
        (TeacherSpec("sam:owner/name", strategy="box-prompts"), "--strategy does nothing"),
        (TeacherSpec("sam2:owner/name", settings=["inference.score=1"]), "--set does nothing"),
        (TeacherSpec("sam:"), "unknown source 'sam:'; write sam:FOLDER or sam:NAME"),
        (TeacherSpec("sam:nowhere"), "nowhere: no such folder; give a folder or a public NAME"),
        (TeacherSpec("sam:a/b/c"), "a/b/c: no such folder"),
        (TeacherSpec("sam3:owner/name"), "unknown teacher 'sam3:owner/name'; give a RUN, hf:NAME,"),
        (TeacherSpec("SAM:owner/name"), "unknown teacher"),
        (TeacherSpec("grab-cut"), "unknown teacher 'grab-cut'; give a RUN, hf:NAME,"),
        (TeacherSpec("GrabCut"), "unknown teacher 'GrabCut'"),
        (TeacherSpec("sam"), "unknown teacher 'sam'"),
        (TeacherSpec("http:x"), "unknown teacher"),
        (TeacherSpec(""), "unknown teacher ''"),
        (TeacherSpec("work/absent"), "work/absent"),
        (TeacherSpec("./box"), "box"),
        (TeacherSpec("hf:owner/name", strategy="box-prompts"), "no box prompts"),
        (
            TeacherSpec("x", settings=["inference.pseudo_score=0.1"], min_score=0.2),
            "--min-score and --set inference.pseudo_score are the same setting",
        ),
    ],
)
def test_names_and_options_that_do_not_fit_are_refused(spec: TeacherSpec, message: str) -> None:
    with pytest.raises(InputError) as caught:
        spec.check()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_folder_is_not_a_model(tmp_path: Path) -> None:
    for prefix in ("sam", "sam2", "samhq", "hf"):
        with pytest.raises(InputError, match=r"has no config.json; needed are config.json and"):
            TeacherSpec(f"{prefix}:{tmp_path}").check()
