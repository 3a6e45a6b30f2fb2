"""Fit and check calibrations, against closed forms, scikit-learn and figures by hand."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.errors import InputError
from segkit.inference import calibration_set
from segkit.inference.box_masks import ImagePrompts
from segkit.inference.calibrate import (
    ScoredBoxes,
    fit_calibration,
    fit_map,
    score_boxes,
)
from segkit.inference.predict_boxes import predict_box_masks
from segkit.masks.boxes import AREAS
from segkit.masks.rle import decode
from segkit.runs.calibration import (
    Calibration,
    ReliabilityBin,
    calibration_error,
    reliability,
)
from segkit.runs.open_run import load_run
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.training.train import train


@pytest.fixture(scope="module")
def run(toy_set: ShardSet, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return train(str(tiny), [(str(toy_set.path), 1.0)], folder / "run", steps=2, device="cpu")


def random_boxes(count: int, images: int, seed: int = 0) -> ScoredBoxes:
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.5, 1, count)
    iou = np.clip(score - 0.2 + rng.normal(0, 0.1, count), 0, 1)
    area = np.resize([100.0, 2_000.0, 20_000.0, 20_000.0], count)
    return ScoredBoxes(rng.permutation(np.arange(count) % images), area, score, iou)


def max_min(values: np.ndarray, weights: np.ndarray) -> list[float]:
    """Isotonic regression by its closed form (Barlow et al. 1972, theorem 1.4)."""

    def mean(j: int, k: int) -> float:
        return float(np.average(values[j : k + 1], weights=weights[j : k + 1]))

    last = len(values)
    return [max(min(mean(j, k) for k in range(i, last)) for j in range(i + 1)) for i in range(last)]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.floats(0, 1, allow_nan=False)), min_size=1, max_size=14
    )
)
def test_a_map_is_the_isotonic_regression_of_its_boxes(pairs: list[tuple[int, float]]) -> None:
    score = np.array([score / 8 for score, _ in pairs])
    iou = np.array([iou for _, iou in pairs])
    unique = np.unique(score)
    means = np.array([iou[score == value].mean() for value in unique])
    weights = np.array([float((score == value).sum()) for value in unique])
    fitted = fit_map(score, iou)
    assert fitted(unique) == pytest.approx(max_min(means, weights), abs=1e-9)
    assert fitted.boxes == len(pairs)
    between = fitted(np.linspace(-0.1, 1.1, 50))
    assert (np.diff(between) >= 0).all() and between.min() >= 0 and between.max() <= 1


def test_a_map_equals_scikit_learns() -> None:
    isotonic = pytest.importorskip("sklearn.isotonic")
    boxes = random_boxes(300, 10)
    score = np.round(boxes.score, 2)  # ties
    expected = isotonic.IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    expected.fit(score, boxes.iou)
    values = np.linspace(0, 1, 201)
    fitted = fit_map(score, boxes.iou)
    assert fitted(values) == pytest.approx(expected.predict(values), abs=1e-9)
    assert len(fitted.scores) < len(np.unique(score)), "only the ends of flat stretches are kept"


def test_halves_share_no_image_and_the_seed_decides_them(toy_set: ShardSet) -> None:
    boxes = random_boxes(1_000, 40)
    calibration = fit_calibration(boxes, toy_set)
    assert calibration.images == calibration.check.images == 20
    assert calibration.maps["all"].boxes + calibration.check.boxes == 1_000
    assert fit_calibration(boxes, toy_set) == calibration
    assert fit_calibration(boxes, toy_set, seed=1).maps["all"] != calibration.maps["all"]
    # the map depends on one half only, the check on the other
    fitted = np.random.default_rng(0).permutation(np.arange(40))[:20]
    changed = replace(boxes, iou=np.where(np.isin(boxes.image, fitted), boxes.iou, 0.5))
    again = fit_calibration(changed, toy_set)
    assert again.maps == calibration.maps and again.check != calibration.check


def test_sizes_with_enough_boxes_have_maps_of_their_own(toy_set: ShardSet) -> None:
    boxes = random_boxes(600, 30)  # a fourth of them small, a fourth medium: 75 in each half
    calibration = fit_calibration(boxes, toy_set)
    assert set(calibration.maps) == {"all", "large"}
    score, area = np.array([0.7, 0.7, 0.7]), np.array([100.0, 2_000.0, 9_216.0])
    pooled, large = (calibration.maps[name](score)[0] for name in ("all", "large"))
    assert calibration.expected_iou(score, area).tolist() == [pooled, pooled, large]
    assert AREAS["large"][0] == 9_216 and pooled != large


def test_a_calibrated_score_is_the_mean_iou_where_the_raw_one_is_not(toy_set: ShardSet) -> None:
    check = fit_calibration(random_boxes(4_000, 50), toy_set).check
    assert check.raw_error == pytest.approx(0.2, abs=0.02), "the boxes have score - 0.2"
    assert check.error < 0.03
    assert check.spearman == pytest.approx(check.raw_spearman, abs=0.02)


def test_the_calibration_error_is_that_of_guo() -> None:
    expected = np.array([0.05, 0.15, 0.15, 0.95, 1.0])
    iou = np.array([0.15, 0.15, 0.35, 0.9, 0.7])
    bins = reliability(expected, iou)
    assert [group.boxes for group in bins] == [1, 2, 2]
    assert bins[1] == ReliabilityBin(expected=0.15, iou=0.25, boxes=2)
    # 1/5 x 0.1 + 2/5 x 0.1 + 2/5 x |0.975 - 0.8|
    assert calibration_error(bins) == pytest.approx(0.02 + 0.04 + 0.07)


def test_constant_scores_have_no_rank_correlation(toy_set: ShardSet) -> None:
    boxes = random_boxes(400, 20)
    check = fit_calibration(replace(boxes, score=np.full(400, 0.8)), toy_set).check
    assert check.spearman is None and check.raw_spearman is None


def test_too_few_boxes_are_refused(toy_set: ShardSet) -> None:
    with pytest.raises(InputError, match=r"150 things with a true mask, \d+ in one half") as caught:
        fit_calibration(random_boxes(150, 20), toy_set)
    assert str(toy_set.path) in str(caught.value)
    nothing = ScoredBoxes(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0))
    with pytest.raises(InputError, match="0 things"):
        fit_calibration(nothing, toy_set)


def test_boxes_are_scored_as_pseudolabel_predicts_them(run: Path, toy_set: ShardSet) -> None:
    loaded = load_run(run)
    images: list[None] = []
    scored = score_boxes(loaded, toy_set, on_image=lambda: images.append(None))
    assert len(images) == len(toy_set)
    embeddings = loaded.class_embeddings(toy_set.taxonomy)
    rows = []
    for index, sample in enumerate(toy_set.samples()):
        for segment in sample.segments:
            if segment.kind == "stuff":
                continue
            prompts = ImagePrompts(toy_set.image(sample), [segment.box], [1])
            ((mask,),) = predict_box_masks(
                loaded.model, embeddings, [prompts], loaded.recipe.inference, crop_size=64
            )
            true_mask = decode(segment.mask or b"", sample.height, sample.width)
            iou = (mask.mask & true_mask).sum() / (mask.mask | true_mask).sum()
            rows.append((index, segment.box[2] * segment.box[3], mask.score, iou))
    expected = np.array(rows)
    assert scored.image.tolist() == expected[:, 0].tolist()
    assert scored.area.tolist() == expected[:, 1].tolist()
    assert scored.score == pytest.approx(expected[:, 2], abs=1e-3)
    assert scored.iou == pytest.approx(expected[:, 3], abs=0.02)


def test_only_true_masks_of_single_things_count(
    run: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    changes = (
        {"mask_from": "derived"},
        {"mask": None, "mask_from": None},
        {"is_crowd": True},
        {"ignore": True},
        {"mask_from": "pseudo"},
        {"mask_from": "prediction"},
    )

    def changed() -> Iterator[tuple[Sample, bytes]]:
        for change, sample in zip(changes, toy_set.samples(), strict=True):
            things = [s for s in sample.segments if s.kind == "thing"][:1]
            stuff = [s for s in sample.segments if s.kind == "stuff"]
            segments = (*stuff, *(replace(s, **change) for s in things))
            yield replace(sample, segments=segments), toy_set.image_bytes(sample)

    header = Header(taxonomy=toy_set.taxonomy, kind="panoptic", name="mixed", command="test")
    mixed = write_set(tmp_path / "mixed", changed(), header)
    assert score_boxes(load_run(run), mixed).image.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": (0.5, 0.5)}, "scores must ascend"),
        ({"ious": (0.9, 0.1)}, "IoUs must not fall"),
        ({"ious": (0.1,)}, "as many scores as IoUs"),
        ({"ious": (0.1, 1.5)}, "all from 0 to 1"),
    ],
)
def test_damaged_maps_are_refused(
    toy_set: ShardSet, tmp_path: Path, change: dict[str, tuple[float, ...]], message: str
) -> None:
    calibration = fit_calibration(random_boxes(400, 20), toy_set)
    valid = calibration.maps["all"].model_copy(update={"scores": (0.5, 0.8), "ious": (0.2, 0.9)})
    file = tmp_path / "calibration.json"

    def write(**update: tuple[float, ...]) -> None:
        maps = {"all": valid.model_copy(update=update)}
        file.write_text(
            calibration.model_copy(update={"maps": maps}).model_dump_json(by_alias=True)
        )

    write()
    assert Calibration.read(file).expected_iou([0.65], np.array([1.0])) == pytest.approx(0.55)
    write(**change)
    with pytest.raises(InputError, match=message) as caught:
        Calibration.read(file)
    assert "maps.all" in str(caught.value) and "calibrate the run again" in str(caught.value)


def test_the_least_number_of_boxes_is_stated(
    toy_set: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_set, "MIN_BOXES", 2)
    assert fit_calibration(random_boxes(40, 8), toy_set).min_boxes == 2
