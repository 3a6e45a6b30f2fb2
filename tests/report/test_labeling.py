"""The report of a labeling, against counts and IoUs by loops over decoded masks."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.inference.calibrate import fit_calibration
from segkit.inference.grabcut import grabcut
from segkit.inference.pseudolabel import pseudolabel
from segkit.inference.shape_teachers import ShapeTeacher
from segkit.masks.boxes import filled_box, inscribed_ellipse
from segkit.masks.iou import mask_iou
from segkit.masks.rle import decode
from segkit.report import compared_masks
from segkit.report.compared_masks import compare_masks, compared_images
from segkit.report.labeled_boxes import HiddenTruth, LabeledBoxes, read_boxes
from segkit.report.labeling import iou_summary, labeling_report
from segkit.report.object_gallery import gallery_groups
from segkit.report.reliability import calibration_report
from segkit.runs.calibration import Calibration
from segkit.runs.run_manifest import RunManifest
from segkit.sample import MaskSource, Sample
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer, write_set
from segkit.taxonomy import Taxonomy
from tests.inference.test_calibrate import random_boxes
from tests.report.test_report import Balance, check_in_browser
from tests.training.toy import TAXONOMY, write_toy_set

HOSTILE = "<script>alert(1)</script>\x1b[31m & \u202e'\""


def named_sets(folder: Path, cat: str = "cat") -> tuple[ShardSet, ShardSet]:
    """The toy set's things with ids and masks, and the same without masks."""
    toy = write_toy_set(folder / "toy")
    categories = tuple(replace(c, name=cat) if c.name == "cat" else c for c in TAXONOMY.categories)
    taxonomy = Taxonomy("named", categories)

    def records(*, masked: bool) -> Iterator[tuple[Sample, bytes]]:
        for sample in toy.samples():
            things = [
                replace(s, source_id=f"{sample.id}-{number}")
                for number, s in enumerate(sample.segments)
                if s.kind == "thing"
            ]
            bare = [replace(s, mask=None, mask_from=None) for s in things]
            segments = tuple(things if masked else bare)
            yield replace(sample, segments=segments), toy.image_bytes(sample)

    pair = []
    for name, kind in (("truth", "instance"), ("boxes", "boxes")):
        header = Header(taxonomy=taxonomy, kind=kind, name=name, command="test")
        pair.append(write_set(folder / name, records(masked=name == "truth"), header))
    return pair[0], pair[1]


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardSet, ShardSet]:
    """True masks, and ellipses in their boxes; the first box of the layer stays one."""
    folder = tmp_path_factory.mktemp("labeled")
    truth, boxes = named_sets(folder)
    layer, _ = pseudolabel(ShapeTeacher("ellipse"), boxes, folder / "ellipses")

    def without_first() -> Iterator[Sample]:
        for number, sample in enumerate(layer.samples()):
            first = replace(sample.segments[0], mask=None, mask_from=None, score=None)
            yield sample if number else replace(sample, segments=(first, *sample.segments[1:]))

    header = Header.from_set(layer, "test", {"teacher": "ellipse"})
    return truth, write_layer(folder / "layer", layer, without_first(), header)


def by_hand(truth: ShardSet, layer: ShardSet) -> np.ndarray:
    """(B, 4) IoU of each box with a mask: of the layer, the box, its ellipse and GrabCut."""
    rows = []
    for true, sample in zip(truth.samples(), layer.samples(), strict=True):
        image = np.ascontiguousarray(layer.image(sample)[..., ::-1])
        size = sample.height, sample.width
        for expected, segment in zip(true.segments, sample.segments, strict=True):
            if segment.mask is None:
                continue
            true_mask = decode(expected.mask or b"", *size)
            ellipse = inscribed_ellipse(segment.box, *size)
            cut = grabcut(image, segment.box)
            masks = [decode(segment.mask, *size), filled_box(segment.box, *size), ellipse]
            masks.append(ellipse if cut is None else cut & filled_box(segment.box, *size) | cut)
            rows.append([mask_iou(mask, true_mask) for mask in masks])
    return np.array(rows)


def test_rows_are_the_boxes_of_the_layer(labeled: tuple[ShardSet, ShardSet]) -> None:
    truth, layer = labeled
    boxes = read_boxes(layer, HiddenTruth(truth))
    segments = [s for sample in layer.samples() for s in sample.segments]
    assert len(boxes.area) == len(segments) and boxes.is_known.all()
    assert boxes.is_masked.tolist() == [s.mask is not None for s in segments]
    assert not boxes.is_masked[0] and boxes.is_masked[1:].all()
    assert boxes.area.tolist() == [s.box[2] * s.box[3] for s in segments]
    assert boxes.score[1:].tolist() == [s.score for s in segments[1:]]
    assert boxes.iou[1:] == pytest.approx(by_hand(truth, layer)[:, 0], abs=1e-12)
    assert np.isnan(boxes.iou[0])
    unknown = read_boxes(layer)
    assert not unknown.is_known.any() and np.isnan(unknown.iou).all()
    sizes = [boxes.in_size(size) for size in ("small", "medium", "large")]
    assert (np.sum(sizes, axis=0) == 1).all() and boxes.in_size("all").all()


def test_teachers_are_compared_on_the_same_boxes(labeled: tuple[ShardSet, ShardSet]) -> None:
    truth, layer = labeled
    hidden = HiddenTruth(truth)
    boxes = read_boxes(layer, hidden)
    looked_at: list[None] = []
    comparison = compare_masks(
        layer, boxes, hidden, {"true": truth}, on_image=lambda: looked_at.append(None)
    )
    assert comparison is not None
    assert len(looked_at) == compared_images(boxes) == len(layer) - 1, "one has no mask"
    expected = by_hand(truth, layer)
    for column, name in enumerate(("these masks", "box", "ellipse")):
        assert comparison.iou[name] == pytest.approx(expected[:, column], abs=1e-12)
    assert comparison.iou["grabcut"] == pytest.approx(expected[:, 3], abs=0.02), "margin"
    assert (comparison.iou["true"] == 1).all()
    summary = iou_summary(boxes, comparison)
    assert (summary["boxes"], summary["masked"]) == (len(expected) + 1, len(expected))
    assert summary["mean_iou"] == pytest.approx(expected[:, 0].mean())
    assert summary["mean_iou_all"] == pytest.approx(expected[:, 0].sum() / (len(expected) + 1))
    assert summary["compared_iou"]["box"] == pytest.approx(expected[:, 1].mean())


def test_masks_of_another_size_are_refused(
    labeled: tuple[ShardSet, ShardSet], tmp_path: Path
) -> None:
    truth, layer = labeled
    turned = [replace(s, width=s.height, height=s.width) for s in truth.samples()]
    header = Header.from_set(truth, "test", {})
    rotated = write_layer(tmp_path / "turned", truth, turned, header)
    boxes = read_boxes(layer, HiddenTruth(truth))
    with pytest.raises(InputError, match=r"turned/v1: image .*: the prediction is 48 x 64"):
        compare_masks(layer, boxes, HiddenTruth(truth), {"turned": rotated})
    with pytest.raises(
        InputError, match=r"turned/v1: image .*: the true mask is 48 x 64, the image"
    ):
        read_boxes(layer, HiddenTruth(rotated))


def test_few_boxes_spread_over_the_set_are_compared(
    labeled: tuple[ShardSet, ShardSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, layer = labeled
    monkeypatch.setattr(compared_masks, "MAX_BOXES", 2)
    hidden = HiddenTruth(truth)
    boxes = read_boxes(layer, hidden)
    comparison = compare_masks(layer, boxes, hidden, {"boxes": layer})
    assert comparison is not None and len(comparison.iou["box"]) == compared_images(boxes) == 2
    assert len(set(comparison.rows.image.tolist())) == 2
    assert comparison.iou["boxes"].tolist() == comparison.iou["these masks"].tolist()


def test_the_page_states_the_figures_and_loads_nothing(
    labeled: tuple[ShardSet, ShardSet],
) -> None:
    truth, layer = labeled
    hidden = HiddenTruth(truth)
    boxes = read_boxes(layer, hidden)
    comparison = compare_masks(layer, boxes, hidden, {})
    page = labeling_report(
        layer, boxes, score_name="tightness", truth=hidden, comparison=comparison
    )
    parser = Balance()
    parser.feed(page)
    assert not parser.open and "http" not in page
    assert parser.addresses and all(address.startswith("data:") for address in parser.addresses)
    assert f"<b>{np.nanmean(boxes.iou):.3f}</b>" in page
    masks, count = int(boxes.is_masked.sum()), len(boxes.area)
    assert f"<b>{masks}</b>" in page and f"{count} boxes in 6 images" in page
    for heading in ("IoU by teacher", "Score and IoU", "Scores", "Sizes", "Classes", "Masks"):
        assert f"<h2>{heading}</h2>" in page
    assert re.search(rf"cat</th>\s*<td class=.figure.>{count}</td>", page)
    captions = re.findall(r"<figcaption>(\d+), cat: IoU ([\d.]+)</figcaption>", page)
    iou = sorted(boxes.iou[boxes.is_masked].tolist())
    assert captions[0][1] == f"{iou[0]:.3f}" and f"{iou[-1]:.3f}" in [c for _, c in captions]
    plain = labeling_report(layer, read_boxes(layer), score_name="tightness")
    assert "IoU by teacher" not in plain and "Score and IoU" not in plain
    assert "median tightness" in plain and "box of" in plain


def test_a_layer_of_crowds_only_has_a_report(tmp_path: Path) -> None:
    _, boxes = named_sets(tmp_path)

    def crowds() -> Iterator[tuple[Sample, bytes]]:
        for sample in boxes.samples():
            segments = tuple(replace(s, is_crowd=True) for s in sample.segments)
            yield replace(sample, segments=segments), boxes.image_bytes(sample)

    header = Header(taxonomy=boxes.taxonomy, kind="boxes", name="crowds", command="test")
    data = write_set(tmp_path / "crowds", crowds(), header)
    rows = read_boxes(data)
    assert not len(rows.area)
    page = labeling_report(data, rows, score_name="score")
    assert "0 boxes in 6 images" in page and "<img" not in page


def rows_of(layer: ShardSet, count: int) -> LabeledBoxes:
    boxes = read_boxes(layer)
    return LabeledBoxes(*(np.resize(values[1:], count) for values in vars(boxes).values()))


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, {}), (1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (40, (6, 6, 6))]
)
def test_no_mask_is_in_two_groups_of_the_gallery(
    labeled: tuple[ShardSet, ShardSet], count: int, sizes: tuple[int, ...]
) -> None:
    layer = labeled[1]
    boxes, ranking = rows_of(layer, count), np.linspace(0.2, 0.9, count)
    groups = dict(gallery_groups(layer, boxes, ranking, "score", None))
    shown = [[float(i.caption.split()[-1]) for i in images] for images in groups.values()]
    assert tuple(map(len, shown)) == (sizes or (0, 0, 0))
    values = [value for group in shown for value in group]
    assert len(values) == len(set(values))
    if count == 40:
        worst, median, best = shown
        assert worst == sorted(worst) and best == sorted(best, reverse=True)
        assert worst[0] == 0.2 and best[0] == 0.9 and min(median) < 0.55 < max(median)


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    truth, boxes = named_sets(tmp_path, HOSTILE)
    layer, _ = pseudolabel(ShapeTeacher("box"), boxes, tmp_path / f"a<b>&{'x' * 20}")
    hidden = HiddenTruth(truth)
    rows = read_boxes(layer, hidden)
    comparison = compare_masks(layer, rows, hidden, {HOSTILE: truth})
    page = labeling_report(layer, rows, score_name="score", truth=hidden, comparison=comparison)
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
    assert "&lt;script&gt;" in page and "a&lt;b&gt;&amp;" in page


def test_truth_of_other_objects_is_refused(
    labeled: tuple[ShardSet, ShardSet], tmp_path: Path
) -> None:
    truth, layer = labeled
    HiddenTruth(truth).check(layer)
    renamed = (
        replace(s, segments=tuple(replace(x, source_id=f"b{x.source_id}") for x in s.segments))
        for s in truth.samples()
    )
    other = write_layer(tmp_path / "other", truth, renamed, Header.from_set(truth, "test"))
    with pytest.raises(InputError, match="no object has the image id and the annotation id"):
        HiddenTruth(other).check(layer)
    with pytest.raises(InputError, match="no segment has a mask"):
        HiddenTruth(named_sets(tmp_path / "bare")[1])


@pytest.mark.parametrize("origin", ["pseudo", "prediction"])
def test_pseudo_masks_and_predictions_are_not_the_truth(
    labeled: tuple[ShardSet, ShardSet], tmp_path: Path, origin: MaskSource
) -> None:
    truth, layer = labeled

    def changed(count: int) -> ShardSet:
        """The truth, whose first masks are of another origin."""
        left, samples = count, []
        for sample in truth.samples():
            number, left = min(left, len(sample.segments)), max(left - len(sample.segments), 0)
            marked = [replace(s, mask_from=origin, score=0.5) for s in sample.segments[:number]]
            samples.append(replace(sample, segments=(*marked, *sample.segments[number:])))
        return write_layer(tmp_path / f"s{count}", truth, samples, Header.from_set(truth, "test"))

    total = truth.manifest.statistics.masked
    with pytest.raises(InputError, match=rf"s{total}/v1: none of its {total} masks is true"):
        HiddenTruth(changed(total))
    few = HiddenTruth(changed(3))
    assert (few.predicted, HiddenTruth(truth).predicted) == (3, 0)
    assert (
        read_boxes(layer, few).is_known.sum()
        == read_boxes(layer, HiddenTruth(truth)).is_known.sum() - 3
    )


def test_pseudo_masks_of_a_truth_are_noted_and_not_compared_with(tmp_path: Path) -> None:
    truth, boxes = named_sets(tmp_path)
    samples = list(truth.samples())
    first, *others = samples[0].segments
    pseudo = replace(first, mask_from="pseudo", score=0.5)
    samples[0] = replace(samples[0], segments=(pseudo, *others))
    mixed = write_layer(tmp_path / "mixed", truth, samples, Header.from_set(truth, "test"))
    command = ["pseudolabel", "--teacher", "box", "--data", str(boxes.path), "--json"]
    command += ["--truth", str(mixed.path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert f"note: {mixed.path} has 1 pseudo-mask or prediction, which" in result.stderr
    assert json.loads(result.stdout)["iou"]["boxes"] == truth.manifest.statistics.masked - 1


@pytest.mark.parametrize("bare", ["boxes", "truth"])
def test_sets_without_annotation_ids_are_refused_as_such(tmp_path: Path, bare: str) -> None:
    sets = dict(zip(("truth", "boxes"), named_sets(tmp_path), strict=True))
    samples = (
        replace(sample, segments=tuple(replace(s, source_id=None) for s in sample.segments))
        for sample in sets[bare].samples()
    )
    header = Header.from_set(sets[bare], "test")
    sets[bare] = write_layer(tmp_path / "without-ids", sets[bare], samples, header)
    with pytest.raises(InputError, match=r"without-ids/v1: its annotations have no ids.*COCO"):
        HiddenTruth(sets["truth"]).check(sets["boxes"])


def calibration() -> Calibration:
    fake = type("Set", (), {"path": Path("set")})()
    return fit_calibration(random_boxes(600, 30), fake)


def test_a_calibration_is_drawn_with_its_figures(labeled: tuple[ShardSet, ShardSet]) -> None:
    known = calibration()
    manifest = RunManifest(
        segkit_version="0",
        name=HOSTILE,
        command="calibrate",
        parents=(),
        rates={},
        steps=1,
        parameters=1,
        encoder="minilm",
        files={},
        digest="0" * 64,
    )
    page = calibration_report(known, manifest, "work/run", HOSTILE)
    parser = Balance()
    parser.feed(page)
    assert not parser.open and "<script" not in page
    assert f"<b>{known.check.error:.3f}</b>" in page and "Reliability" in page
    assert page.count("<circle") == len(known.check.bins)
    for group in known.check.bins:
        title = f"{group.boxes} boxes: {group.expected:.3f} expected, IoU {group.iou:.3f}"
        assert title in page
    layer = labeled[1]
    section = labeling_report(
        layer, read_boxes(layer), score_name="expected IoU", calibration=known
    )
    assert "<h2>Calibration</h2>" in section and "(seed 0)" in section


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_it_fits_a_phone(tmp_path: Path) -> None:
    truth, boxes = named_sets(tmp_path, f"Fußgängerüberwege, <em>猫</em> & {60 * 'a'}")
    layer, _ = pseudolabel(ShapeTeacher("ellipse"), boxes, tmp_path / "layer")
    hidden = HiddenTruth(truth)
    rows = read_boxes(layer, hidden)
    comparison = compare_masks(layer, rows, hidden, {60 * "b": truth})
    page = labeling_report(
        layer,
        rows,
        score_name="tightness",
        calibration=calibration(),
        truth=hidden,
        comparison=comparison,
    )
    pictures = 2 * 3 * -(-len(rows.area) // 3) if len(rows.area) < 18 else 36
    check_in_browser(page, tmp_path, 390, images=page.count("<img"))
    assert page.count("<img") <= pictures
