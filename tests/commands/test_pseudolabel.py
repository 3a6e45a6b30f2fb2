import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.inference.predictor import Predictor
from segkit.inference.run_teacher import RunTeacher
from segkit.masks.boxes import pixels_of_box
from segkit.masks.rle import area, decode
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from tests.commands.slips import assert_refused_before_torch, hollow_run
from tests.commands.test_predict import call, error, invoke


@pytest.mark.parametrize("strategy", ["box-prompts", "proposals"])
def test_boxes_become_masks(run: Path, boxes: ShardSet, tmp_path: Path, strategy: str) -> None:
    out = tmp_path / "pseudo"
    common = ("--checkpoint", run, "--data", boxes.path, "--out", out)
    output = invoke("pseudolabel", *common, "--strategy", strategy)
    layer = ShardSet.open(out)
    before = [s for sample in boxes.samples() for s in sample.segments]
    after = [(s, sample) for sample in layer.samples() for s in sample.segments]
    assert len(before) == len(after)
    assert output["boxes"] == len(before) - 1, "a crowd is not one object"
    assert output["masked"] == sum(s.mask is not None for s, _ in after)
    assert output["masked"] + output["kept_as_boxes"] == output["boxes"]  # type: ignore[operator]
    assert (output["already_masked"], output["left_alone"]) == (0, 1)
    for old, (new, sample) in zip(before, after, strict=True):
        assert (new.class_id, new.box, new.source_id) == (old.class_id, old.box, old.source_id)
        if new.mask is None:
            assert new == old
            continue
        assert new.mask_from == "pseudo" and new.score is not None and 0 < new.score <= 1
        assert new.area == area(new.mask, sample.height, sample.width) > 0
        outside = decode(new.mask, sample.height, sample.width).copy()
        outside[pixels_of_box(new.box, sample.height, sample.width)] = False
        assert not outside.any()
    assert after[0][0].mask is None and after[0][0].is_crowd
    assert not list(layer.path.glob("*.tar")), "a layer holds labels only"
    assert (layer.image(next(layer.samples())) == boxes.image(next(boxes.samples()))).all()
    parents = {parent.digest for parent in layer.manifest.parents}
    assert boxes.manifest.digest in parents and len(parents) == 2, "data and run"


def test_progress_counts_the_prompted_boxes(
    boxes: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[str, int]] = []

    class Recorder:
        def __init__(self, label: str, total: int, unit: str) -> None:
            assert (total, unit) == (len(boxes), "images")

        def __call__(self, number: int) -> None:
            counted.append(("images", number))

        def count_boxes(self, number: int) -> None:
            counted.append(("boxes", number))

        def resume(self, number: int) -> None:
            pytest.fail("nothing was interrupted")

    monkeypatch.setattr("segkit.commands.progress._Lines", Recorder)
    options = ("--teacher", "ellipse", "--data", boxes.path, "--out", tmp_path / "out")
    output = invoke("pseudolabel", *options)
    assert [name for name, _ in counted] == ["boxes", "images"] * len(boxes)
    assert sum(number for name, number in counted if name == "boxes") == output["boxes"]


def test_every_segment_is_counted_where_some_have_masks(
    run: Path, toy: ShardSet, tmp_path: Path
) -> None:
    """Masks, boxes, a crowd box and an ignored box side by side; the table equals the JSON."""

    def mixed() -> Iterator[tuple[Sample, bytes]]:
        for number, sample in enumerate(toy.samples()):
            segments = [replace(s, kind="thing") for s in sample.segments]
            if number < 3:
                marks = ({}, {"is_crowd": True}, {"ignore": True})[number]
                segments[0] = replace(segments[0], mask=None, mask_from=None, **marks)
            yield replace(sample, segments=tuple(segments)), toy.image_bytes(sample)

    header = Header(taxonomy=toy.taxonomy, kind="instance", name="mixed", command="test")
    data = write_set(tmp_path / "mixed", mixed(), header)
    total, out = data.manifest.statistics.segments, tmp_path / "out"
    common = ("pseudolabel", "--checkpoint", run, "--data", data.path, "--out", out)
    output = invoke(*common)
    assert (output["boxes"], output["left_alone"], output["already_masked"]) == (1, 2, total - 3)
    before, after = (
        [s for sample in shards.samples() for s in sample.segments]
        for shards in (data, ShardSet.open(out))
    )
    changed = [old for old, new in zip(before, after, strict=True) if new != old]
    assert len(changed) == output["masked"]
    assert all(segment.mask is None and not segment.is_crowd for segment in changed)
    printed = call(*common).stdout
    assert f"Pseudo-labels of {data.path}: {total} segments\n" in printed
    keys = ("boxes", "masked", "kept_as_boxes", "already_masked", "left_alone")
    rows = [line for line in printed.splitlines() if line.startswith("│")]
    assert [int(line.split()[-2]) for line in rows[: len(keys)]] == [output[key] for key in keys]
    assert set(output["scores"]) == {"0.0", "0.1", "0.25", "0.5", "0.75", "0.9", "1.0"}


def test_a_set_without_boxes_is_refused_before_the_model_is_loaded(
    toy: ShardSet, tmp_path: Path
) -> None:
    run, out = hollow_run(tmp_path / "run"), tmp_path / "out"
    line = error("pseudolabel", "--checkpoint", run, "--data", toy.path, "--out", out)
    assert re.fullmatch(rf"{toy.path}: no segment lacks a mask; give a set with boxes, .*", line)
    assert not out.exists()


def test_an_unknown_strategy_is_refused(run: Path, boxes: ShardSet, tmp_path: Path) -> None:
    common = ("--checkpoint", run, "--data", boxes.path, "--out", tmp_path / "out")
    line = error("pseudolabel", *common, "--strategy", "magic")
    assert line == "--strategy magic; give one of box-prompts, proposals"
    assert not (tmp_path / "out").exists()


def test_the_old_name_of_box_prompts_is_accepted_with_a_note(
    run: Path, boxes: ShardSet, tmp_path: Path
) -> None:
    common = ("pseudolabel", "--checkpoint", run, "--data", boxes.path, "--out", tmp_path)
    result = call(*common, "--strategy", "conditioned", "--json")
    assert "--strategy conditioned is now called box-prompts" in result.stderr
    assert json.loads(result.stdout)["strategy"] == "box-prompts"
    first, second = ShardSet.open(tmp_path), invoke(*common, "--strategy", "box-prompts")
    assert first.manifest.digest == second["digest"]


def test_pseudo_score_decides_which_boxes_get_masks(
    run: Path, boxes: ShardSet, tmp_path: Path
) -> None:
    counts: list[int] = []
    for score in (0, 0.3, 1):
        common = ("--checkpoint", run, "--data", boxes.path, "--out", tmp_path)
        output = invoke("pseudolabel", *common, "--set", f"inference.pseudo_score={score}")
        counts.append(int(str(output["masked"])))
    assert counts[0] > counts[2] == 0 and counts[0] >= counts[1] >= counts[2]


def test_augmentation_and_overlaps_are_recorded(run: Path, boxes: ShardSet, tmp_path: Path) -> None:
    common = ("pseudolabel", "--checkpoint", run, "--data", boxes.path, "--no-preview")
    plain = invoke(*common, "--out", tmp_path / "plain")
    augmented = invoke(*common, "--out", tmp_path / "both", "--tta", "--resolve-overlaps")
    assert not plain["tta"] and not plain["resolve_overlaps"]
    assert augmented["tta"] and augmented["resolve_overlaps"]
    assert augmented["boxes"] == plain["boxes"]
    recorded = ShardSet.open(tmp_path / "both").manifest.arguments
    assert recorded["tta"] is True and recorded["resolve_overlaps"] is True
    unset = ShardSet.open(tmp_path / "plain").manifest.arguments
    assert not {"tta", "resolve_overlaps", "min_iou"} & unset.keys(), "as before these options"


def test_box_prompts_of_a_run_without_them_are_refused(run: Path, boxes: ShardSet) -> None:
    changed = with_loss(run, box_prompts=0.0)
    assert RunTeacher(changed).strategy == "proposals"
    with pytest.raises(InputError, match="has no box prompts"):
        RunTeacher(changed, "box-prompts")
    with pytest.raises(InputError, match="has no box prompts"):
        Predictor(changed).predict_boxes(boxes.image(boxes.sample(0)), [(0, 0, 9, 9)])


def test_queries_of_a_run_for_box_prompts_are_refused(run: Path, boxes: ShardSet) -> None:
    changed = with_loss(run, matching=False)
    assert RunTeacher(changed).strategy == "box-prompts"
    with pytest.raises(InputError, match="with box prompts only"):
        RunTeacher(changed, "proposals")
    with pytest.raises(InputError, match="with box prompts only"):
        Predictor(changed).predict(boxes.image(boxes.sample(0)))


def with_loss(run: Path, **keys: object) -> Run:
    """The run as if its recipe had other loss keys."""
    trained = load_run(run)
    loss = trained.recipe.loss.model_copy(update=keys)
    return replace(trained, recipe=trained.recipe.model_copy(update={"loss": loss}))


def test_slips_of_pseudolabel_are_refused_before_torch_is_imported(
    run: Path, toy: ShardSet, boxes: ShardSet, tmp_path: Path
) -> None:
    checkpoint, data = f"--checkpoint={run}", f"--data={boxes.path}"
    without_boxes = hollow_run(tmp_path / "queries", ["loss.box_prompts=0"])
    only_boxes = hollow_run(tmp_path / "prompts", ["loss.matching=false"])
    slips = (
        [checkpoint, data, "--strategy", "magic"],
        [checkpoint, data, "--devices", "0"],
        [checkpoint, data, "--address", "auto"],
        ["--checkpoint", "absent", data],
        [checkpoint, "--data", "absent"],
        [checkpoint, "--data", str(toy.path)],
        [checkpoint, data, "--set", "inference.scores=3"],
        [checkpoint, data, "--set", "inference.score=0.3"],
        [checkpoint, data, "--tta", "--strategy", "proposals"],
        ["--checkpoint", without_boxes, data, "--strategy", "box-prompts"],
        ["--checkpoint", without_boxes, data, "--tta"],
        ["--checkpoint", only_boxes, data, "--strategy", "proposals"],
        ["--teacher", "ellipse", data, "--tta"],
        ["--teacher", "hf:some/model", data, "--tta"],
    )
    assert_refused_before_torch(["pseudolabel", "--out", "x"], slips)


def test_the_report_lies_beside_the_version_and_changes_nothing_in_it(
    run: Path, boxes: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("pseudolabel", "--checkpoint", run, "--data", boxes.path)
    output = invoke(*common, "--out", tmp_path / "with")
    report = Path(str(output["report"]))
    assert report == tmp_path / "with" / "v1.html" and report.read_text().startswith("<!DOCTYPE")
    assert output["iou"] is None and "median mean probability" in report.read_text()
    printed = call(*common, "--out", tmp_path / "printed").stdout
    assert f"{tmp_path / 'printed' / 'v1.html'}\n" in printed

    def fail(*_: object, **__: object) -> str:
        raise OSError("no room")

    monkeypatch.setattr("segkit.report.labeling.labeling_report", fail)
    result = call(*common, "--out", tmp_path / "without", "--json")
    assert "no room" in result.stderr and json.loads(result.stdout)["report"] is None
    versions = [tmp_path / name / "v1" for name in ("with", "without")]
    names = [sorted(path.name for path in version.iterdir()) for version in versions]
    assert names[0] == names[1]
    for name in names[0]:
        first, second = (version / name for version in versions)
        if name != "manifest.json":  # it names the folder
            assert first.read_bytes() == second.read_bytes()
    digests = [ShardSet.open(version).manifest.digest for version in versions]
    assert digests[0] == digests[1]


def test_hidden_truth_gives_the_iou_beside_other_teachers(
    run: Path, toy: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identified(shards: ShardSet, *, masked: bool) -> Iterator[tuple[Sample, bytes]]:
        for sample in shards.samples():
            things = [
                replace(s, source_id=f"{sample.id}-{n}")
                for n, s in enumerate(sample.segments)
                if s.kind == "thing"
            ]
            if not masked:
                things = [replace(s, mask=None, mask_from=None) for s in things]
            yield replace(sample, segments=tuple(things)), shards.image_bytes(sample)

    sets = {}
    for name, kind in (("truth", "instance"), ("bare", "boxes")):
        header = Header(taxonomy=toy.taxonomy, kind=kind, name=name, command="test")
        records = identified(toy, masked=name == "truth")
        sets[name] = write_set(tmp_path / name, records, header)
    common = ("pseudolabel", "--data", sets["bare"].path)
    invoke(*common, "--teacher", "ellipse", "--out", tmp_path / "ellipses")
    hidden = ("--truth", sets["truth"].path, "--compare", tmp_path / "ellipses")
    output = invoke(*common, "--checkpoint", run, "--out", tmp_path / "out", *hidden)
    iou = output["iou"]
    assert isinstance(iou, dict) and iou["boxes"] == output["boxes"]
    assert set(iou["compared_iou"]) == {
        "these masks", "box", "ellipse", "grabcut", str(tmp_path / "ellipses")
    }  # fmt: skip
    assert iou["compared_iou"]["ellipse"] == iou["compared_iou"][str(tmp_path / "ellipses")]
    assert iou["compared_iou"]["these masks"] == pytest.approx(iou["mean_iou"])
    printed = call(*common, "--checkpoint", run, "--out", tmp_path / "out", *hidden).stdout
    assert "IoU with the true masks" in printed
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ellipse").symlink_to("ellipses")
    renamed = ((replace(s, id=f"other {s.id}"), toy.image_bytes(s)) for s in toy.samples())
    other = write_set(tmp_path / "other", renamed, Header.from_set(toy, "test"))
    slips = (
        ["--compare", str(tmp_path / "ellipses")],
        ["--truth", "absent"],
        ["--truth", str(sets["bare"].path)],
        ["--truth", str(toy.path)],
        ["--truth", str(tmp_path / "ellipses")],
        ["--truth", str(sets["truth"].path), "--compare", "absent"],
        ["--truth", str(sets["truth"].path), "--compare", "ellipse"],
        ["--truth", str(sets["truth"].path), "--compare", str(other.path)],
    )
    command = ["pseudolabel", f"--data={sets['bare'].path}", f"--checkpoint={run}", "--out=x"]
    assert_refused_before_torch(command, slips)
