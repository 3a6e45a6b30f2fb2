"""The public Predictor against the prediction sets of the command line."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import PrivateAttr

import segkit
from segkit.errors import InputError, Notice
from segkit.inference.calibrate import fit_calibration
from segkit.inference.outputs import predict_set
from segkit.inference.predicted_masks import PredictedMask
from segkit.inference.run_teacher import RunTeacher
from segkit.masks.rle import decode
from segkit.recipes.schema import INFERENCE_KEYS, InferenceConfig
from segkit.sample import Segment
from segkit.shards.header import Header
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer
from segkit.taxonomy import Category, Taxonomy
from segkit.text.embeddings import EmbeddingStore
from segkit.text.vocabulary import taxonomy_from_names
from tests.inference.test_calibrate import random_boxes
from tests.training.toy import TAXONOMY


@pytest.fixture(scope="module")
def run(toy_set: ShardSet, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = ["inference.score=0.1", "inference.overlap=0", "inference.batch_size=2"]
    data = [(str(toy_set.path), 1.0)]
    return segkit.train(str(tiny), data, folder / "run", steps=1, device="cpu", overrides=settings)


def assert_equal(masks: list[PredictedMask], segments: tuple[Segment, ...], size: object) -> None:
    assert len(masks) == len(segments)
    for mask, segment in zip(masks, segments, strict=True):
        assert (mask.class_id, mask.kind) == (segment.class_id, segment.kind)
        assert mask.score == pytest.approx(segment.score, abs=1e-4)
        assert mask.size == size == mask.mask.shape
        expected = decode(segment.mask or b"", *mask.size)
        assert (mask.mask != expected).mean() < 2e-3, "only rounding may differ"


@contextmanager
def no_encoder() -> Iterator[list[str]]:
    """Encode nothing, and yield the list of the words that would be encoded."""
    words: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmbeddingStore, "add", lambda store, new: words.extend(new))
        yield words


class RecordingConfig(InferenceConfig):
    """Inference settings that record which of them are read."""

    _read: set[str] = PrivateAttr(default_factory=set)

    def __getattribute__(self, name: str) -> Any:
        if name in InferenceConfig.model_fields:
            self._read.add(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("output", sorted(INFERENCE_KEYS.keys() - {"bank"}))
def test_each_output_reads_the_settings_that_its_command_accepts(
    run: Path, toy_set: ShardSet, tmp_path: Path, output: Any
) -> None:
    loaded = segkit.load_run(run)
    config = RecordingConfig(
        score=0.1, overlap=0.0, pseudo_overlap=0.0, pseudo_class=0.0, unseen=("cat",)
    )
    config._read.clear()  # of the validation
    recipe = loaded.recipe.model_copy(update={"inference": config})
    loaded = replace(loaded, recipe=recipe)
    if output in ("panoptic", "semantic", "instance"):
        predict_set(loaded, toy_set, output, tmp_path / "set")
    else:
        segkit.pseudolabel(loaded, boxes_of(toy_set, tmp_path / "boxes"), tmp_path, strategy=output)
    assert config._read == INFERENCE_KEYS[output]


def boxes_of(data: ShardSet, out: Path) -> ShardSet:
    """The set with its masks removed."""
    samples = (
        replace(
            sample,
            segments=tuple(
                replace(segment, kind="thing", mask=None, mask_from=None)
                for segment in sample.segments
            ),
        )
        for sample in data.samples()
    )
    header = replace(Header.from_set(data, "test", {}), kind="boxes")
    return write_layer(out, data, samples, header)


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_masks_equal_the_segments_of_a_prediction_set(
    run: Path, toy_set: ShardSet, tmp_path: Path, task: Task
) -> None:
    predictor = segkit.Predictor(run, "cpu")
    images = [toy_set.image(sample) for sample in toy_set.samples()]
    predictions = list(predict_set(predictor.run, toy_set, task, tmp_path / "set").samples())
    many = list(predictor.predict_many(images, task=task))
    assert len(many) == len(images) and sum(map(len, many)) > 0
    for image, masks, sample in zip(images, many, predictions, strict=True):
        assert_equal(masks, sample.segments, image.shape[:2])
    assert_equal(
        predictor.predict(images[0], task=task), predictions[0].segments, images[0].shape[:2]
    )


def test_classes_are_names_a_taxonomy_or_those_of_the_run(run: Path, toy_set: ShardSet) -> None:
    predictor = segkit.Predictor(segkit.load_run(run))
    image = toy_set.image(next(toy_set.samples()))
    masks = predictor.predict(image, ["sky", "dog"], "semantic")
    assert {mask.name for mask in masks} <= {"sky", "dog"} and len(masks) > 0
    assert np.sum([mask.mask for mask in masks], axis=0).min() == 1, "they cover the image"
    named = Taxonomy("animals", (Category(7, "dog", "thing"), Category(9, "cat", "thing")))
    assert {mask.class_id for mask in predictor.predict(image, named, "semantic")} <= {7, 9}
    assert predictor.taxonomy() == TAXONOMY
    with pytest.raises(InputError, match="comes twice"):
        predictor.predict(image, ["dog", "Dog"])


def test_an_opened_run_predicts(run: Path, toy_set: ShardSet, tmp_path: Path) -> None:
    opened = segkit.open_run(str(run), device="cpu")
    image = toy_set.image(next(toy_set.samples()))
    file = tmp_path / "photo.png"
    file.write_bytes(toy_set.image_bytes(next(toy_set.samples())))
    masks, same = opened.predict(image), opened.predict(str(file), classes=None)
    assert masks and {mask.name for mask in masks} <= set(TAXONOMY.names)
    assert [(m.name, m.score, m.box) for m in same] == [(m.name, m.score, m.box) for m in masks]
    names = {mask.name for mask in opened.predict(file, classes=["zebra"])}
    assert names <= {"zebra"}
    with pytest.raises(InputError, match="not the manifest of a run"):
        segkit.open_run(toy_set.path)


def test_the_classes_of_several_data_sets_are_joined(run: Path) -> None:
    predictor = segkit.Predictor(run, "cpu")
    more = Taxonomy("more", (TAXONOMY.categories[0], Category(99, "zebra", "thing")))
    predictor.run.taxonomies["more"] = more
    joined = predictor.taxonomy()
    assert joined.names == (*TAXONOMY.names, "zebra")
    assert [category.id for category in joined.categories] == list(range(1, len(joined.names) + 1))


def test_boxes_are_segmented_as_by_segment_boxes(run: Path, toy_set: ShardSet) -> None:
    predictor = segkit.Predictor(run, "cpu")
    image = toy_set.image(next(toy_set.samples()))
    boxes = [(4.0, 4.0, 30.0, 20.0), (0.0, 10.0, 12.0, 30.0)]
    masks, scores = predictor.predict_boxes(image, boxes, ["dog", None])
    expected = segkit.segment_boxes(predictor.run, image, boxes, ["dog", None])
    assert np.array_equal(masks, expected[0]) and np.array_equal(scores, expected[1])


def test_box_labels_are_names_of_any_vocabulary(run: Path, toy_set: ShardSet) -> None:
    loaded = segkit.load_run(run)
    image = toy_set.image(next(toy_set.samples()))
    boxes = [(4.0, 4.0, 30.0, 20.0), (0.0, 10.0, 12.0, 30.0)]
    named, scores = segkit.segment_boxes(loaded, image, boxes, ["dog", "tree"])
    unnamed, _ = segkit.segment_boxes(loaded, image, boxes)
    assert named.shape == unnamed.shape == (2, *image.shape[:2]) and scores.shape == (2,)
    with no_encoder(), pytest.raises(InputError, match="flurblewidget"):
        segkit.segment_boxes(loaded, image, boxes[:1], ["flurblewidget"])
    assert segkit.segment_boxes(loaded, image, [])[0].shape == (0, *image.shape[:2])
    mixed, _ = segkit.segment_boxes(
        loaded, image[..., ::-1][..., ::-1], np.array(boxes), ["dog", None]
    )
    assert np.array_equal(mixed[0], named[0]) and np.array_equal(mixed[1], unnamed[1])
    integers = np.array(boxes, np.int64)
    assert np.array_equal(segkit.segment_boxes(loaded, image, integers)[0], unnamed)


@pytest.mark.parametrize(
    ("image", "boxes", "labels", "message"),
    [
        (
            np.zeros((40, 50, 3), np.float32),
            [(0, 0, 9, 9)],
            None,
            r"shape \(40, 50, 3\) and type float32",
        ),
        (np.zeros((40, 50), np.uint8), [(0, 0, 9, 9)], None, r"shape \(40, 50\)"),
        (np.zeros((40, 50, 4), np.uint8), [(0, 0, 9, 9)], None, r"shape \(40, 50, 4\)"),
        (np.zeros((40, 50, 3), np.uint8), [(0, 0, 9, 9)], ["cat", "dog"], "2 labels for 1 boxes"),
        (np.zeros((40, 50, 3), np.uint8), [(0, 0, 9, 9), (5, 5, -3, 9)], None, "box 1 is"),
        (np.zeros((40, 50, 3), np.uint8), [(0, 0, np.nan, 9)], None, "box 0 is"),
        (
            np.zeros((40, 50, 3), np.uint8),
            [(60, 0, 9, 9)],
            None,
            "box 0 is outside the image of 50 x 40",
        ),
    ],
)
def test_invalid_boxes_images_and_labels_are_refused(
    run: Path, image, boxes, labels, message
) -> None:
    with pytest.raises(InputError, match=message):
        segkit.segment_boxes(segkit.load_run(run), image, boxes, labels)


def test_invalid_input_is_refused_at_the_call(run: Path) -> None:
    predictor = segkit.Predictor(run, "cpu")
    image = np.zeros((40, 50, 3), np.uint8)
    with pytest.raises(InputError, match="unknown task 'instances'; give one of panoptic"):
        predictor.predict_many([image], ["cat"], "instances")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="classes are one text, 'cat'; give a list of names"):
        predictor.predict_many([image], "cat", "instance")
    with pytest.raises(InputError, match="a class name is empty"):
        predictor.predict_many([image], ["cat", " "])
    with pytest.raises(InputError, match="no class is a thing: sky"):
        predictor.predict_many([image], ["sky"], "instance")
    with no_encoder(), pytest.raises(InputError, match="flurblewidget"):
        predictor.predict_many([image], ["flurblewidget"])
    for invalid in (image.astype(np.float32), image[..., 0], image[..., [0, 0, 0, 0]]):
        with pytest.raises(InputError, match="an image of shape"):
            predictor.predict(invalid)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="an image of shape"):
        predictor.predict(image[:0])
    picture = Image.fromarray(image)
    for foreign in (picture, image.tolist()):
        with pytest.raises(InputError, match="an image of the type"):
            predictor.predict(foreign)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="labels are one text, 'cat'"):
        predictor.predict_boxes(image, [(1, 2, 9, 9)] * 3, "cat")
    with pytest.raises(InputError, match="a label is empty"):
        predictor.predict_boxes(image, [(1, 2, 9, 9)], [" "])
    with pytest.raises(InputError, match="box 0 is 1"):
        predictor.predict_boxes(image, [1, 2, 30, 40])  # type: ignore[list-item]
    assert predictor.predict(image[:, ::-1]) is not None, "an array of any strides"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's, of arrays that must not be written to
        predictor.predict(np.asarray(picture))


def test_an_image_file_is_predicted_like_its_pixels(
    run: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    predictor = segkit.Predictor(str(run), device="cpu")
    image = toy_set[0].image
    file = tmp_path / "photo.png"
    Image.fromarray(image).save(file)
    expected = predictor.predict(image)
    assert predictor.predict(file) == expected == predictor.predict(str(file))
    with pytest.raises(InputError, match=r"nowhere\.png"):
        predictor.predict(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text\.png"):
        predictor.predict(tmp_path / "text.png")


def test_new_names_are_encoded_whoever_asks_for_them(run: Path, toy_set: ShardSet) -> None:
    loaded, gadget = segkit.load_run(run), taxonomy_from_names(["a brand-new gadget"])
    for use in (
        lambda: segkit.Predictor(loaded).predict(toy_set[0].image, gadget.names),
        lambda: RunTeacher(loaded).prepare(gadget),
        lambda: loaded.class_embeddings(gadget),
    ):
        with no_encoder() as words, pytest.raises(InputError, match="a brand-new gadget"):
            use()
        assert words == ["a brand-new gadget"]


def test_predictions_can_be_drawn_and_handed_over(run: Path, toy_set: ShardSet) -> None:
    pytest.importorskip("supervision")
    masks = segkit.Predictor(run, device="cpu").predict(toy_set[0].image, task="semantic")
    detections = masks.to_supervision()
    assert len(detections) == len(masks) > 0
    assert all(
        np.array_equal(row, mask.mask) for row, mask in zip(detections.mask, masks, strict=True)
    )
    assert (masks.draw() != masks.draw(min_score=1.1)).any()
    assert masks._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("tta", [False, True])
def test_expected_iou_is_that_of_masks_without_augmentation(
    run: Path, toy_set: ShardSet, tta: bool
) -> None:
    loaded = segkit.load_run(run)
    calibration = fit_calibration(random_boxes(600, 30), toy_set, tta=tta)
    image, boxes = toy_set.image(toy_set.sample(0)), [(5, 5, 30, 30), (0, 0, 9, 20)]
    masks, raw = segkit.Predictor(loaded).predict_boxes(image, boxes)
    predictor = segkit.Predictor(replace(loaded, calibration=calibration))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unchanged, scores = predictor.predict_boxes(image, boxes)
    expected = raw if tta else calibration.expected_iou(raw, np.array([900.0, 180.0]))
    assert (unchanged == masks).all() and scores == pytest.approx(expected, abs=1e-6)
    assert not np.allclose(raw, calibration.expected_iou(raw, np.array([900.0, 180.0])))
    notes = [str(warning.message) for warning in caught if warning.category is Notice]
    assert ["scores are mean probabilities" in note for note in notes] == [True] * tta


def test_a_taxonomy_without_classes_is_refused(run: Path, toy_set: ShardSet) -> None:
    with pytest.raises(InputError, match="no class names; give at least one"):
        segkit.Predictor(run).predict(toy_set.image(toy_set.sample(0)), Taxonomy("none", ()))
