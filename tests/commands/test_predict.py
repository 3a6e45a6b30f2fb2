import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError, UnchangedWarning
from segkit.extras import install_command
from segkit.masks.rle import decode
from segkit.metrics.evaluate import evaluate
from segkit.metrics.predictions import open_predictions
from segkit.recipes.schema import INFERENCE_KEYS
from segkit.shards.header import Header
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Taxonomy
from segkit.text.encoders import TextEncoder, Vectors
from segkit.text.encoding import SHIPPED
from tests.commands.slips import assert_refused_before_torch, hollow_run
from tests.training.toy import TAXONOMY

BLACK = np.zeros((32, 32, 3), np.uint8)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def invoke(*arguments: object) -> dict[str, object]:
    """The JSON object that a successful command prints."""
    result = call(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    output: dict[str, object] = json.loads(result.stdout)
    return output


def error(*arguments: object) -> str:
    """The one line with which a command refuses its input."""
    result = call(*arguments)
    assert isinstance(result.exception, InputError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_a_folder_is_predicted_in_any_vocabulary(run: Path, tmp_path: Path, task: str) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "sub").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    cv2.imwrite(str(photos / "sub" / "a.png"), pixels)
    cv2.imwrite(str(photos / "b.jpg"), pixels[:30])
    common = ("--checkpoint", run, "--vocabulary", "voc-20", "--out", out)
    output = invoke("predict", *common, "--images", photos, "--task", task)
    predictions = ShardSet.open(out / "predictions")
    assert output["images"] == len(predictions) == 2 and predictions.manifest.kind == task
    samples = {sample.file_name: sample for sample in predictions.samples()}
    assert {"sub/a.png", "b.jpg"} == set(samples)
    assert (samples["sub/a.png"].height, samples["sub/a.png"].width) == (40, 56)
    assert predictions.taxonomy.names[0] == "aeroplane"
    if task == "semantic":
        masks = [decode(s.mask, 40, 56) for s in samples["sub/a.png"].segments if s.mask]
        assert (np.sum(masks, axis=0) == 1).all(), "they cover the image"
    picture = cv2.imread(str(out / "overlays" / "v1" / "sub" / "a.jpg"))
    assert picture.shape == (40, 56, 3)


def test_images_that_differ_only_in_their_extension_keep_it(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "a.jpg", "b.jpg"):
        cv2.imwrite(str(photos / name), BLACK)
    (photos / "folder.png").mkdir()
    common = ("--checkpoint", run, "--vocabulary", "voc-20", "--out", tmp_path)
    invoke("predict", *common, "--images", photos)
    predictions = ShardSet.open(tmp_path / "predictions")
    names = {sample.id: sample.file_name for sample in predictions.samples()}
    assert names == {"a.jpg": "a.jpg", "a.png": "a.png", "b": "b.jpg"}
    pictures = sorted(file.name for file in (tmp_path / "overlays" / "v1").iterdir())
    assert pictures == ["a.jpg.jpg", "a.png.jpg", "b.jpg"]


def test_invalid_images_and_vocabularies_are_one_clear_line(run: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "empty").mkdir()
    shutil.copy(__file__, folder / "truncated.jpg")
    calls = {
        "truncated.jpg: truncated: not an image in a format that is read": (folder, "voc-20"),
        "unknown vocabulary 'klingon'": (folder, "klingon"),
        "no images found; no such file or folder": (tmp_path / "x", "voc-20"),
    }
    common = ("predict", "--checkpoint", run, "--out", tmp_path / "out")
    for message, (images, vocabulary) in calls.items():
        assert message in error(*common, "--images", images, "--vocabulary", vocabulary)
    assert not (tmp_path / "out" / "predictions" / "v1").exists()


def test_files_that_are_not_images_are_left_out_and_named(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "z.png"):
        cv2.imwrite(str(photos / name), np.zeros((32, 40, 3), np.uint8))
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.jpg").write_text("no picture")
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:-20])
    arguments = ("predict", "--checkpoint", run, "--images", photos, "--vocabulary", "voc-20")
    arguments = (*arguments, "--out", tmp_path / "out")
    line = error(*arguments)
    assert not (tmp_path / "out").exists()
    assert "cut.png" in line and "and 2 more" in line and line.endswith("or give --on-error skip")
    skipped = call(*arguments, "--on-error", "skip", "--json")
    output = json.loads(skipped.stdout)
    predictions = ShardSet.open(tmp_path / "out" / "predictions")
    assert [sample.id for sample in predictions.samples()] == ["a", "z"]
    assert output["left_out"] == 3
    defects = [Path(defect["file"]).name for defect in output["defects"]]
    assert defects == ["cut.png", "empty.jpg", "text.jpg"]
    assert all(name in skipped.stderr for name in ("cut.png", "empty.jpg", "text.jpg"))
    images = predictions.manifest.ledger.images
    assert (images.input, images.kept, images.dropped) == (5, 2, {"unreadable-image": 3})
    for name in ("a.png", "z.png"):
        (photos / name).unlink()
    assert error(*arguments, "--on-error", "skip"), "no image is left"


def test_a_picture_beside_a_folder_of_its_name_is_drawn_under_another(
    run: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    (photos / "a.jpg").mkdir(parents=True)
    for name in ("a.png", "a.jpg/x.png"):
        Image.new("RGB", (48, 32)).save(photos / name)
    out = tmp_path / "out"
    call("predict", "--checkpoint", run, "--vocabulary", "voc-20", "--images", photos, "--out", out)
    drawn = sorted(p.relative_to(out / "overlays/v1").as_posix() for p in out.rglob("v1/**/*.jpg"))
    assert [name for name in drawn if not name.startswith(".")] == [
        "a.jpg",
        "a.jpg (image).jpg",
        "a.jpg/x.jpg",
    ]


def test_a_dark_image_of_16_bits_is_noted(run: Path, tmp_path: Path) -> None:
    dark = np.random.default_rng(0).integers(0, 4096, (32, 48), np.uint16)
    cv2.imwrite(str(tmp_path / "dark.png"), dark)
    common = ("--checkpoint", run, "--vocabulary", "voc-20", "--out", tmp_path / "out")
    result = call("predict", *common, "--images", tmp_path / "dark.png")
    assert "1 image: a 16-bit image whose values fill less than a quarter" in result.stderr


def test_exif_orientation_is_ignored_and_counted(run: Path, tmp_path: Path) -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6
    Image.new("RGB", (48, 32)).save(tmp_path / "rotated.jpg", exif=orientation)
    out = tmp_path / "out"
    common = ("--checkpoint", run, "--vocabulary", "voc-20", "--out", out)
    result = call("predict", *common, "--images", tmp_path)
    assert "1 image: the file asks viewers to turn it; it is predicted as stored" in result.stderr
    predictions = ShardSet.open(out / "predictions")
    assert predictions.manifest.ledger.images.warnings == {"exif-orientation": 1}
    (sample,) = predictions.samples()
    assert (sample.width, sample.height) == (48, 32)
    assert predictions.image(sample).shape == (32, 48, 3)
    assert cv2.imread(str(out / "overlays" / "v1" / "rotated.jpg")).shape == (32, 48, 3)


def test_manifests_record_the_settings(
    run: Path, toy: ShardSet, boxes: ShardSet, tmp_path: Path
) -> None:
    photo = tmp_path / "a.png"
    cv2.imwrite(str(photo), np.zeros((32, 40, 3), np.uint8))
    predict = ("predict", "--checkpoint", run, "--no-overlays", "--set", "inference.score=0.125")
    files = ("--images", photo, "--vocabulary", "voc-20")
    invoke(*predict, *files, "--out", tmp_path / "files")
    invoke(*predict, "--data", toy.path, "--out", tmp_path / "set")
    pseudolabel = ("pseudolabel", "--checkpoint", run, "--set", "inference.pseudo_score=0.125")
    invoke(*pseudolabel, "--data", boxes.path, "--out", tmp_path / "pseudo" / "predictions")
    for name, key in (("files", "score"), ("set", "score"), ("pseudo", "pseudo_score")):
        settings = ShardSet.open(tmp_path / name / "predictions").manifest.arguments["inference"]
        assert settings[key] == 0.125 and settings["overlap"] == 0.6, "one set, one default"


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
    keys = ", ".join(f"inference.{name}" for name in sorted(INFERENCE_KEYS[output]))
    assert (
        error(*command, *common, "--set", f"inference.{key}=1")
        == f"--set: {output} does not read inference.{key}; set one of {keys}"
    )


def test_names_without_an_embedding_are_encoded_first(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    vocabulary, names = tmp_path / "new.json", tmp_path / "new.txt"
    categories = [{"id": 4, "name": "flurblewidget", "kind": "thing"}]
    vocabulary.write_text(json.dumps({"name": "new", "categories": categories}))
    names.write_text("cat\nflurblewidget\n\nsky\n")
    cv2.imwrite(str(tmp_path / "a.png"), BLACK)
    common = ("predict", "--checkpoint", run, "--images", tmp_path / "a.png", "--no-overlays")
    common = (*common, "--out", tmp_path / "o")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tokenizers", None)
        assert install_command("minilm") in error(*common, "--vocabulary", vocabulary)
    options: dict[tuple[object, ...], tuple[str, ...]] = {
        ("--vocabulary", vocabulary): ("flurblewidget",),
        ("--vocabulary", names): ("cat", "flurblewidget", "sky"),
        ("--classes", "sky, flurblewidget,cat"): ("sky", "flurblewidget", "cat"),
    }
    for option, expected in options.items():
        invoke(*common, *option)
        assert ShardSet.open(tmp_path / "o" / "predictions").taxonomy.names == expected


@pytest.mark.parametrize(
    "command",
    [("eval", "--task", "panoptic"), ("benchmark", "coco-panoptic"), ("predict", "--no-overlays")],
)
def test_new_names_of_a_set_are_encoded(
    command: tuple[str, ...],
    run: Path,
    toy: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    categories = (replace(c, name=f"flurble{c.id}", text=()) for c in toy.taxonomy.categories)
    taxonomy = Taxonomy("new", tuple(categories))
    records = ((sample, toy.image_bytes(sample)) for sample in toy.samples())
    header = Header(taxonomy=taxonomy, kind="panoptic", name="new", command="test")
    data = write_set(tmp_path / "data", records, header)
    encoded: list[str] = []

    def load_encoder(spec: str) -> TextEncoder:
        def encode(texts: Sequence[str]) -> Vectors:
            encoded.extend(texts)
            return np.eye(384, dtype=np.float32)[: len(texts)]

        return TextEncoder(encode, "made up")

    monkeypatch.setattr("segkit.text.embeddings.load_encoder", load_encoder)
    invoke(*command, "--data", data.path, "--checkpoint", run, "--out", tmp_path / "out")
    assert encoded == [
        template.replace("{}", name) for template in SHIPPED.templates for name in taxonomy.names
    ]
    assert ShardSet.open(tmp_path / "out" / "predictions").taxonomy == taxonomy


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_native_files_hold_the_same_predictions(
    run: Path, toy: ShardSet, tmp_path: Path, task: Task
) -> None:
    """What `--native` writes gives the same figures as the prediction set."""
    records = (
        (replace(s, id=f"{n + 7}", file_name=f"{n + 7:06}.png"), toy.image_bytes(s))
        for n, s in enumerate(toy.samples())
    )
    header = Header(
        taxonomy=TAXONOMY, kind="panoptic", name="numbered", split="val", command="test"
    )
    data = write_set(tmp_path / "data", records, header)
    settings = ("--set", "inference.score=0") if task == "panoptic" else ()
    common = ("--checkpoint", run, "--data", data.path, "--task", task, "--out", tmp_path)
    output = invoke("predict", *common, *settings, "--native", "--no-overlays")
    assert "overlays" not in output and not (tmp_path / "overlays").exists()
    predictions, native = ShardSet.open(tmp_path / "predictions"), Path(str(output["native"]))
    assert predictions.taxonomy == TAXONOMY and len(predictions) == len(data)
    assert not list(predictions.path.glob("*.tar")), "a layer over the same images"
    assert sum(len(sample.segments) for sample in predictions.samples()) > 0
    if task == "semantic":
        for sample in predictions.samples():
            index = cv2.imread(str(native / "masks" / sample.file_name), cv2.IMREAD_UNCHANGED)
            for segment in sample.segments:
                assert (decode(segment.mask or b"", 48, 64) == (index == segment.class_id)).all()
        return
    file = native / ("results.json" if task == "instance" else "panoptic_val.json")
    of_set, of_file = (
        evaluate(data, open_predictions(str(path), data), task).metrics
        for path in (predictions.path, file)
    )
    assert of_set == of_file


def test_without_names_the_classes_are_those_of_the_training(run: Path, tmp_path: Path) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    cv2.imwrite(str(photo), BLACK)
    invoke("predict", "--checkpoint", run, "--images", photo, "--device", "cpu", "--out", out)
    assert ShardSet.open(out / "predictions").taxonomy.names == TAXONOMY.names


def test_invalid_options_of_predict_are_one_clear_line(
    run: Path, toy: ShardSet, tmp_path: Path
) -> None:
    images, data = ("--images", tmp_path), ("--data", toy.path)
    stuff = (*images, "--classes", "sky, grass")
    empty, many = tmp_path / "e.json", tmp_path / "labels.txt"
    empty.write_text('{"name": "e", "categories": []}')
    many.write_text("70000 sky")
    beyond = ("--vocabulary", many, "--task", "semantic", "--native")
    calls: dict[str, tuple[object, ...]] = {
        "give --images DIR or --data SET": (),
        "give one of the two": (*images, *data),
        "give --vocabulary or --classes": (*data, "--vocabulary", "voc-20", "--classes", "cat"),
        "give inference.KEY=VALUE": (*data, "--set", "model.queries=3"),
        "inference.scores": (*data, "--set", "inference.scores=3"),
        "no class is a thing: sky, grass": (*stuff, "--task", "instance"),
        f"{empty}: no class names": (*images, "--vocabulary", empty),
        "the id 70000 of class 'sky' does not fit": (*images, *beyond),
        "give one of fail, skip": (*images, "--classes", "cat", "--on-error", "ignore"),
    }
    for message, arguments in calls.items():
        common = ("predict", "--checkpoint", run, "--out", tmp_path / "out")
        assert message in error(*common, *arguments)


def test_one_image_is_enough(run: Path, tmp_path: Path) -> None:
    photo, out = tmp_path / "000000000139.png", tmp_path / "out"
    cv2.imwrite(str(photo), BLACK)
    common = ("--checkpoint", run, "--vocabulary", "voc-20", "--task", "panoptic", "--out", out)
    invoke("predict", "--images", photo, *common, "--native")
    (file,) = (out / "native" / "v1").glob("*.json")
    (image,) = json.loads(file.read_text())["images"]
    assert image["id"] == 139, "the id that COCO's files use"


def test_equal_predictions_make_no_new_version(run: Path, toy: ShardSet, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), BLACK)
    for source in (("--images", tmp_path / "a.png"), ("--data", toy.path)):
        out = ("--out", tmp_path / source[0].strip("-"), "--vocabulary", "voc-20")
        common = ("predict", "--checkpoint", run, *source, *out)
        assert invoke(*common)["version"] == 1
        with pytest.warns(UnchangedWarning, match="nothing changed since .*v1"):
            assert invoke(*common)["version"] == 1
        assert invoke(*common, "--force")["version"] == 2


def test_eval_passes_settings_to_the_run(run: Path, toy: ShardSet, tmp_path: Path) -> None:
    counts = []
    for score in (0, 1):
        common = ("--data", toy.path, "--checkpoint", run, "--task", "panoptic", "--out", tmp_path)
        invoke("eval", *common, "--set", f"inference.score={score}")
        counts.append(ShardSet.open(tmp_path / "predictions").manifest.statistics.segments)
    assert counts[0] > counts[1] == 0, "no class probability is above 1"


def test_slips_of_predict_are_refused_before_torch_is_imported(
    run: Path, toy: ShardSet, tmp_path: Path
) -> None:
    checkpoint, images, data = f"--checkpoint={run}", f"--images={tmp_path}", f"--data={toy.path}"
    only_boxes = hollow_run(tmp_path / "prompts", ["loss.matching=false"])
    slips = (
        ["--checkpoint", only_boxes, data],
        ["--checkpoint", "absent", images, "--classes", "cat"],
        [checkpoint, images],
        [checkpoint, images, "--classes", "cat"],
        [checkpoint, "--data", "absent"],
        [checkpoint, images, "--classes", "cat", "--task", "semantics"],
        [checkpoint, data, "--set", "inference.scores=3"],
        [checkpoint, data, "--set", "inference.instances=3"],
        [checkpoint, data, "--on-error", "skip"],
        [checkpoint, data, "--classes", ""],
        [checkpoint, data, "--classes", " , "],
        [checkpoint, data, "--classes", "names.txt"],
        [checkpoint, data, "--vocabulary", ""],
        [checkpoint, data, "--vocabulary", "voc-20", "--classes", ""],
        [checkpoint, data, "--overlay-score", "0.5"],
        [
            checkpoint,
            data,
            "--task=instance",
            "--overlay-score=0.5",
            "--no-overlays",
            "--no-preview",
        ],
    )
    assert_refused_before_torch(["predict", "--out", "x"], slips)
