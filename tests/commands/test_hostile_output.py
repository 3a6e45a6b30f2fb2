"""No control character of class names, file names, ids and folders reaches the screen or a log."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from segkit.commands import app as program
from segkit.commands import common
from segkit.inference import calibration_set
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.manifest import Ledger
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy
from tests.metrics.files import results_file
from tests.sources.builders import picture, write_json
from tests.training.toy import write_recipe, write_toy_set

SEQUENCES = "\x1b]0;pwned\x07", "\x1b[8m", "\x9b8m", "\nforged", "\r", "\u202e", "\u2028", "\x7f"
HOSTILE = "".join(SEQUENCES) + "[red]:car:[/nothing]"
SAFE = r"\x1b]0;pwned\x07\x1b[8m\x9b8m"
FROM_RICH = re.compile(r"\x1b\[(?:[0-79;]*m|\?25[hl]|2K|1A|\d*G)|\r")
"""Colors and movements of rich's tables and bars; 8, which hides text, is none of them."""
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]|\nforged")
TAXONOMY = Taxonomy(
    f"list{HOSTILE}",
    (
        Category(1, f"sky{HOSTILE}", "stuff", ("sky",)),
        Category(2, f"cat{HOSTILE}", "thing", ("cat",)),
    ),
)
CPU = ("--device", "cpu")


class Workshop:
    """A set, a run and predictions whose every name is hostile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / f"work {HOSTILE}".replace("/", "|")
        self.folder.mkdir()
        self.set = self.write(self.folder / "set")
        self.boxes = self.write(self.folder / "boxes", boxes=True)
        self.recipe = write_recipe(self.folder / "tiny.toml")

    def write(self, folder: Path, *, boxes: bool = False) -> ShardSet:
        toy = write_toy_set(self.folder / f"plain {folder.name}", boxes_only=boxes)
        records = ((_renamed(sample), toy.image_bytes(sample)) for sample in toy.samples())
        ledger = Ledger.model_validate(
            {
                name: {"input": 1, "dropped": {f"code{HOSTILE}": 1}}
                for name in ("images", "annotations")
            }
        )
        header = Header(
            taxonomy=TAXONOMY,
            kind=toy.manifest.kind,
            name=f"toy{HOSTILE}",
            split=f"train{HOSTILE}",
            command=f"test{HOSTILE}",
            arguments={f"key{HOSTILE}": HOSTILE},
        )
        return write_set(folder, records, header, ledger=ledger)

    def __getattr__(self, name: str) -> Path:
        """A path in the folder."""
        return self.folder / name.replace("_", "-")


def _renamed(sample: Sample) -> Sample:
    return replace(sample, id=f"{sample.id}{HOSTILE}", file_name=f"{sample.id}{HOSTILE}.png")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        shop = Workshop(tmp_path_factory.mktemp("hostile"))
        train = (shop.recipe, "--data", shop.set.path, "--out", shop.run, *CPU, "--steps", 2)
        code, _, errors = run("train", "--recipe", *train)
        assert code == 0, errors
        yield shop


def run(*arguments: object, terminal: bool = False) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, for pipes or for a terminal."""
    outputs = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["segkit", *map(str, arguments)])
        patch.setattr(sys, "excepthook", sys.excepthook)
        for name, error in (("stdout", False), ("stderr", True)):
            console = Console(stderr=error, force_terminal=terminal or None, width=300)
            patch.setattr(common, name, console)
        with redirect_stdout(outputs[0]), redirect_stderr(outputs[1]):
            try:
                program.main()
                code: Any = 0
            except SystemExit as stop:
                code = stop.code
    return int(code or 0), outputs[0].getvalue(), outputs[1].getvalue()


def check(
    *arguments: object,
    codes: tuple[int, ...] = (0,),
    shows: bool = True,
    terminals: tuple[bool, ...] = (False, True),
) -> None:
    """Run a command for pipes, as JSON and for a terminal; nothing hostile comes out."""
    if "--out" in arguments:  # a new destination for each
        place = arguments.index("--out") + 1
    for number, terminal in enumerate(terminals):
        fresh = list(arguments)
        if "--out" in arguments:
            fresh[place] = f"{fresh[place]}-{number}"
        code, out, err = run(*fresh, terminal=terminal)
        assert code in codes, err
        text = FROM_RICH.sub("", out + err) if terminal else out + err
        assert not CONTROLS.search(text)
        assert SAFE in text or not shows
        assert "🚗" not in text


def test_commands_of_sets(work: Workshop, tmp_path: Path) -> None:
    path = work.set.path
    check("inspect", path)
    check("inspect", path, "--json", shows=False)
    check("show", path, "--out", work.picture, terminals=(False,))
    check("diff", path, work.boxes.path)
    check("leakage", path, work.boxes.path, codes=(1,))
    check("merge", path, path, "--rename", "--out", work.merged)
    check("split", path, "--part", "train=0.5", "--part", "val=0.5", "--out", work.parts)
    check("validate", path, codes=(0, 1))  # what the crafted ledger says is not so
    check("prune", path.parent, "--dry-run")
    damaged = replace_images(work, tmp_path)
    check("validate", damaged, codes=(1,))
    mapping = work.folder / "map.csv"
    mapping.write_text("from,to\n1,1\n2,2\n")
    taxonomy = write_json(work.folder / "taxonomy.json", TAXONOMY.to_json())
    check(
        *("relabel", path, "--taxonomy", taxonomy, "--map", mapping, "--out", work.relabeled),
    )
    check("vocabulary", "show", taxonomy)
    check("vocabulary", "encode", "--file", taxonomy, shows=False)
    check("vocabulary", "encode", f"word{HOSTILE}", shows=False)


def replace_images(work: Workshop, tmp_path: Path) -> Path:
    """A set whose rows name missing files."""
    records = (
        (replace(sample, image=replace(sample.image, tar=f"{HOSTILE}.tar")), None)
        for sample in work.set.samples()
    )
    header = Header(taxonomy=TAXONOMY, kind="panoptic", name=HOSTILE, command="test")
    return write_set(tmp_path / "damaged", records, header).path


@pytest.mark.parametrize("form", ["coco-instances", "coco-panoptic", "semantic", "yolo-seg"])
def test_export(work: Workshop, form: str) -> None:
    check("export", form, "--data", work.set.path, "--out", work.folder / form, codes=(0, 1, 2))


def test_convert(work: Workshop) -> None:
    images = work.folder / "images"
    for number in range(3):
        picture(images / f"{number}{HOSTILE.replace('/', '')}.jpg")
    rows = [
        {"id": i, "file_name": f"{i}{HOSTILE.replace('/', '')}.jpg", "width": 32, "height": 24}
        for i in range(4)
    ]
    annotations = [
        {"id": 10 * i + j, "image_id": i, "category_id": j, "bbox": [1, 1, 9, 9]}
        for i in range(4)
        for j in (1, 2, 3)
    ]
    categories = [{"id": i, "name": f"class{HOSTILE}"} for i in (1, 2)]
    content = {"images": rows, "annotations": annotations, "categories": categories}
    file = write_json(work.folder / "instances.json", content)
    source = ("convert", "coco", "--images", images, "--instances", file, "--name", HOSTILE)
    check(*source, "--dry-run", codes=(0, 1, 2))
    check(*source, "--out", work.converted, codes=(2,))
    check(*source, "--out", work.converted, "--on-error", "skip")
    check(*source, "--out", work.converted, "--on-error", "skip", "--json", shows=False)
    labels = work.folder / "labels.txt"
    labels.write_text(f"a{HOSTILE}\n")
    masks = ("--masks", images, "--labels", labels)
    check("convert", "semantic", "--images", images, *masks, "--out", work.semantic, codes=(2,))


def test_training(work: Workshop) -> None:
    data = ("--data", work.set.path, "--eval-data", work.set.path, *CPU)
    check("train", "--recipe", work.recipe, *data, "--steps", 1, "--out", work.trained)
    wrong = ("--set", f"model.{HOSTILE}=1")
    check("train", "--recipe", work.recipe, *data, *wrong, "--out", work.trained, codes=(2,))
    check("inspect", work.run)


def test_predictions(work: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of = ("--checkpoint", work.run, *CPU)
    low = ("--set", "inference.score=0")
    check("predict", *run_of, *low, "--data", work.set.path, "--out", work.predicted)
    pictures = work.folder / "photos"
    picture(pictures / f"a{HOSTILE}.jpg".replace("/", ""), 64, 48)
    (pictures / f"b{HOSTILE}.jpg".replace("/", "")).write_bytes(b"no picture")
    files = ("--images", pictures, "--classes", "cat", "--on-error", "skip")
    check("predict", *run_of, *files, "--out", work.predicted)
    check("pseudolabel", *run_of, "--data", work.boxes.path, "--out", work.pseudo)
    monkeypatch.setattr(calibration_set, "MIN_BOXES", 2)
    check("calibrate", *run_of, "--data", work.set.path, "--out", work.calibrated)
    check("zeroshot", "bank", *run_of, "--data", work.set.path, "--out", work.bank, codes=(0, 2))


def test_refused_rounds_of_training(work: Workshop) -> None:
    data = ("--data", work.set.path, "--boxes", work.boxes.path, "--held-out", work.set.path)
    short = ("--rounds", 1, "--steps", 1, "--round-steps", 1, *CPU)
    check("selftrain", "--recipe", work.recipe, *data, *short, "--out", work.rounds, codes=(2,))


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_evaluation(work: Workshop, task: str) -> None:
    options = ("--data", work.set.path, "--task", task, "--out", work.folder / f"eval-{task}")
    check("eval", *options, "--checkpoint", work.run, *CPU)
    check("eval", *options, "--predictions", work.set.path)
    reports = [path.read_text() for path in work.folder.glob(f"eval-{task}*/report.html")]
    assert reports
    for text in reports:
        assert not CONTROLS.search(text.replace("\t", " "))


def test_comparisons(work: Workshop) -> None:
    data = ("--data", work.set.path, "--task", "semantic", "--out", work.compared)
    check("eval", *data, "--compare", work.set.path, work.set.path)
    data = ("--data", work.set.path, "--out", work.benchmarked)
    check("benchmark", "coco-panoptic", *data, "--predictions", work.set.path, codes=(0, 2))


def test_results_of_others(work: Workshop) -> None:
    """Errors quote ids and names of files."""
    file = work.folder / "results.json"
    wrong = [{"image_id": f"7{HOSTILE}", "category_id": 2, "score": 0.5, "bbox": [1, 2, 3, 4]}]
    for content in (wrong, [{**wrong[0], "category_id": HOSTILE}], {HOSTILE: 1}, [HOSTILE]):
        write_json(file, content)
        options = ("--data", work.set.path, "--task", "instance", "--out", work.results)
        check("eval", *options, "--predictions", file, codes=(2,))
    results_file(file, [])


def test_wrong_usage(work: Workshop) -> None:
    for arguments in (
        (f"no{HOSTILE}",),
        ("inspect", f"--no{HOSTILE}"),
        ("inspect", work.folder / f"absent{HOSTILE}"),
        ("leakage", "a", "b", "--near", HOSTILE),
        ("convert", "coco", "--images", HOSTILE, "--images-by", HOSTILE),
    ):
        check(*arguments, codes=(2,), shows=False)


def test_browse_and_import(work: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from segkit import hub
    from segkit.browse import dataset
    from segkit.runs import import_checkpoint

    result = dataset.LoadResult(HOSTILE, 1, 1, 1, 1, 1, 0, f"media{HOSTILE}")
    monkeypatch.setattr(dataset, "load", lambda *_, **__: result)
    monkeypatch.setattr(dataset, "open_app", lambda _, announce, **__: announce(HOSTILE))
    check("browse", work.set.path)
    for name in ("check_source", "fetch_model", "check_model_type"):
        monkeypatch.setattr(hub, name, lambda *_, **__: None)
    monkeypatch.setattr(import_checkpoint, "import_checkpoint", lambda *_, **__: run_path)
    run_path = next(work.run.glob("v1"))
    check("import", f"hf:{work.folder}", "--out", work.imported)


def test_every_command_is_run_here() -> None:
    """Except for those that read no data."""
    source = Path(__file__).read_text()
    groups = {group.name for group in program.app.registered_groups}
    names = {
        command.name or command.callback.__name__
        for command in program.app.registered_commands
        if command.callback is not None
    }
    missing = {name for name in names | groups if f'"{name}"' not in source}
    assert " ".join(sorted(missing)) == "demo doctor recipes"


def test_only_the_printer_prints() -> None:
    folder = Path(program.__file__).parent
    for file in folder.glob("*.py"):
        if file.name != "common.py":
            calls = re.findall(r"\b(?:print|echo|stdout\.\w+|stderr\.\w+)\(.*", file.read_text())
            assert all(re.search("__version__|Image|FIRST_STEPS", call) for call in calls), file


def test_json_on_stdout_is_the_same_text_again(work: Workshop) -> None:
    _, out, _ = run("inspect", work.set.path, "--json")
    content = json.loads(out)
    assert content["name"] == f"toy{HOSTILE}" and out.isprintable() is False  # the last newline
    assert out[:-1].isprintable() and out.isascii()
