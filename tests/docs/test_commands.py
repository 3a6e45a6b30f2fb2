"""Every command in README, docs and the command reference runs, in the order of its page.

Each page runs in a folder of its own that holds the files and sets that the pages name: data sets
of two or three tiny pictures. Commands are changed as `REPLACED` and `ADDED` say. Of a command that
one of `NOT_RUN` matches, for the reason there, only the options and the recipe are checked.
"""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import timm
from safetensors.torch import save_file
from typer.main import get_command
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.recipes.load import load_recipe
from segkit.text.embeddings import EmbeddingStore
from tests.docs.native_sets import label_by_hand, write_native_sets

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docs" / "reference" / "commands.md",
]

NOT_RUN = {
    r"^pip install": "the network",
    r"^(make|docker) ": "minutes; tests/test_docker.py and CI",
    r"^segkit demo": "minutes; tests/commands/test_demo.py runs it with two steps",
    r"^segkit browse": "a database and a browser; tests/browse and scripts/check_app.py",
    r"^segkit import hf:": "downloads a model; tests/inference/test_mask2former.py",
    r"--encoder clip:": "downloads a model; tests/text/test_encoders.py",
    r"text\.encoder=clip:": "downloads a model; tests/text/test_encoders.py",
    r"^(srun|head=)": "SLURM and several GPUs; tests/training/test_distributed.py",
    r"--recipe dataseg-swin-t .*(?<!--plan)$": "downloads a model; tests/training/test_run_plan.py",
    r"--engine ray ": "a cluster of Ray; tests/workers/test_ray_cluster.py",
    r" s3://": "a store; tests/test_storage.py",
    r"real-out/(labeler|outlined|rounds|control|coco-inst)": "hours, on real data",
    r"^python scripts/": "minutes, some on real data; their options are checked here",
}
"""Pattern of commands that no test runs as they are -> what they need, and what tests it."""

REPLACED = {
    "sam:facebook/sam-vit-base": "ellipse",
    "--checkpoint hf:facebook/mask2former-swin-tiny-coco-panoptic": "--checkpoint work/run",
    "--checkpoint work/public": "--checkpoint work/run",
    "--checkpoint work/joint": "--checkpoint work/run",
    "--set model.backbone_weights=timm": "",
    "--set model.backbone_weights=../shared/data/weights/mobilenetv2_100.safetensors": "",
    "/data/photos": "parts/images",
    "torchrun --nproc-per-node 8 --no-python ": "",
    "--devices all": "--devices 1",
    "segkit calibrate --checkpoint work/run --data work/masks": "segkit calibrate"
    " --checkpoint work/run --data work/many",
    "--recipe box-labeler-mini --data work/masks": "--recipe box-labeler-mini --data work/by-hand",
    "segkit zeroshot bank --checkpoint work/run": "segkit zeroshot bank --checkpoint work/seen-run",
}
"""Weights that would be downloaded, a folder outside, eight GPUs, a set of too few masks, and a run
of all classes, with stand-ins."""

TINY = [
    "model.backbone=test_efficientnet",
    *("model.hidden_dim=16", "model.mask_dim=8", "model.queries=4", "model.rounds=1"),
    *("model.heads=2", "model.feedforward_dim=16"),
    *("data.image_size=64", "data.batch_size=2", "data.workers=0", "inference.image_size=64"),
]
ADDED = {
    r"segkit train (?!.*--plan)": ["--steps", "2", "--device", "cpu"],
    r"segkit train ": [word for key in TINY for word in ("--set", key)],
    r"segkit selftrain ": [
        *("--steps", "2", "--round-steps", "2", "--held-out-share", "0.4", "--device", "cpu"),
        *(word for key in TINY for word in ("--set", key)),
    ],
    r"segkit train .*--recipe dataseg-r50 (?!.*--plan)": [
        *("--set", "text.encoder=minilm", "--set", "model.text_dim=384"),
        *("--set", "model.backbone_weights=tiny.safetensors"),
    ],
    r"segkit zeroshot train ": ["--set", "generator_steps=2", "--set", "head_steps=2"],
    r"segkit convert ": ["--workers", "1"],
    r"segkit split .*--zero-shot (?!.*--policy)": ["--policy", "ignore-pixels"],
}
"""Pattern of a command -> options that make it small."""

WORLD = """
segkit convert coco --images train2017 --panoptic annotations/panoptic_train2017.json \
    --out work/coco-train
segkit convert coco --images val2017 --panoptic annotations/panoptic_val2017.json \
    --out work/coco-val
segkit convert coco --images parts/images --instances parts/train.json --boxes-only \
    --out work/boxes
segkit convert coco --images parts/images --instances parts/train.json --split train \
    --out work/parts-train
segkit convert coco --images parts/images --instances parts/val.json --split val \
    --out work/parts-val
segkit convert ade --root ADEChallengeData2016 --split validation --out work/ade-val
segkit convert semantic --images streets/images --masks streets/masks \
    --labels streets/labels.txt --ignore 255 --out work/streets
segkit convert objects365 --images train --annotations zhiyuan_objv2_train.json --out work/o365
segkit convert coco --images many --instances many.json --out work/many
segkit split work/coco-train --zero-shot coco-panoptic-119-14 --policy ignore-pixels \
    --out work/zero-shot
segkit convert coco --images parts/images --instances parts/val.json --boxes-only \
    --out work/val-boxes
segkit pseudolabel --teacher ellipse --data work/val-boxes --out work/sam-masks
segkit train --recipe dataseg-mini --data work/coco-train --out work/run
segkit train --recipe dataseg-mini --data work/zero-shot/seen --out work/seen-run
segkit pseudolabel --teacher ellipse --data work/boxes --out work/masks
segkit pseudolabel --teacher ellipse --data work/o365 --out work/o365-pseudo
segkit predict --checkpoint work/run --data work/coco-val --no-overlays --out work/predicted
segkit export voc --data work/parts-train --out VOC2012 --images
segkit export cvat --data work/masks --out task --images
segkit export labelme --data work/masks --out labeled --images
segkit export labelstudio --data work/masks --out studio --images
segkit convert coco --images parts/images --instances parts/train.json --images-by reference \
    --out shared/set
"""
"""Commands that make the sets, the run and the further native files of the pages."""

COPIES = {
    "work/coco-train": ("work/coco", "work/own", "work/camvid", "sets/coco-train"),
    "work/coco-val": (
        *("work/coco-panoptic-val", "work/own-train", "work/ade-panoptic-val", "work/context-59"),
    ),
    "work/parts-train": ("work/train", "work/parts", "work/a"),
    "work/parts-val": ("work/val", "work/b", "work/by-hand"),
    "work/masks": ("work/parts-masks",),
    "work/ade-val": ("work/ade",),
    "work/boxes": ("demo-out/sets/boxes-val", "sets/standin-train", "sets/standin-val"),
    "work/run": ("demo-out/run", "real-out/run", "work/public"),
    "work/streets": ("work/camvid-train", "real-out/sets/camvid-val", "sets/camvid-train"),
}
"""Further names of sets and folders."""
WORDS = ("solder joint", "heat sink", "fish bone", "resistor", "capacitor")
"""Names of the pages that ship without an embedding."""


def commands(page: Path) -> Iterator[str]:
    """The commands of a page's shell blocks, without comments, and with variables filled in."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    for block in re.findall(r"^```(?:sh|bash)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        variables: dict[str, str] = {}
        for line in block.splitlines():
            command = re.sub(r"(^|\s)#.*", "", line).strip()
            if assignment := re.fullmatch(r'(\w+)="([^"]*)"', command):
                variables[f"${assignment[1]}"] = assignment[2]
                continue
            for variable, value in variables.items():
                command = re.sub(rf"{re.escape(variable)}\b", value, command)
            if command:
                yield command


def is_run(command: str) -> bool:
    return not any(re.search(pattern, command) for pattern in NOT_RUN)


EVERY = sorted({command for page in PAGES for command in commands(page)})
"""The commands of all pages."""
RUN = {page: listed for page in PAGES if (listed := [c for c in commands(page) if is_run(c)])}
"""The commands of each page that has any to run."""


def reduced(command: str) -> str:
    for weights, stand_in in REPLACED.items():
        command = command.replace(weights, stand_in)
    for pattern, options in ADDED.items():
        if re.match(pattern, command):
            command = f"{command} {shlex.join(options)}"
    return command


def run(command: str) -> None:
    """Run a command in this process, or one of several programs in a shell."""
    command = reduced(command)
    if not command.startswith("segkit ") or "|" in shlex.split(command):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run(["bash", "-ec", command], check=True, env=os.environ | {"PATH": path})
        return
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, f"{command}\n{result.exception!r}\n{result.output[-2000:]}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that each page gets a copy of."""
    root = tmp_path_factory.mktemp("world")
    write_native_sets(root)
    backbone = timm.create_model("test_efficientnet", pretrained=False)
    save_file(backbone.state_dict(), root / "tiny.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(root)
        rows = np.random.default_rng(0).normal(size=(len(WORDS), 384)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        store = EmbeddingStore()
        store._merge_into_cache(
            dict(zip(WORDS, rows, strict=True)), store.encoder_digest() or "", frozenset()
        )
        for command in WORLD.strip().splitlines():
            run(command)
        label_by_hand(root)
        for page in PAGES:  # recipes that a page shows
            for recipe, name in re.findall(
                r"^```toml\n(name = \"(\S+)\".*?)^```$", page.read_text("utf-8"), re.M | re.S
            ):
                Path(f"{name}.toml").write_text(recipe)
        for source, names in COPIES.items():
            for name in names:
                shutil.copytree(source, name)
        yield root


@pytest.mark.filterwarnings("ignore:nothing changed since")  # commands occur on several pages
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run(
    page: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world, tmp_path / "page")
    monkeypatch.chdir(tmp_path / "page")
    for command in RUN[page]:
        shutil.rmtree("exported", ignore_errors=True)  # several examples write there
        run(command)


def test_each_reason_is_of_a_command() -> None:
    for pattern in NOT_RUN:
        assert any(re.search(pattern, command) for command in EVERY), pattern
    for weights in REPLACED:
        assert any(weights in command for command in EVERY), weights


@pytest.mark.parametrize(
    "command", [c for c in EVERY if re.match(r"segkit |torchrun .* segkit ", c) and not is_run(c)]
)
def test_commands_that_are_not_run_have_their_options(command: str) -> None:
    words = shlex.split(command.partition("segkit ")[2])
    group: click.Command = get_command(app)
    while isinstance(group, click.Group):
        group = group.commands[words.pop(0)]
    group.make_parser(click.Context(group)).parse_args(words)
    values = {"--set": [], "--recipe": []}
    for option, value in itertools.pairwise(words):
        values.get(option, []).append(value)
    for recipe in values["--recipe"]:
        load_recipe(recipe, values["--set"])


def test_every_command_stands_in_a_block_of_the_shell() -> None:
    start = r"^(?:```\n| {4,})((?:segkit|python scripts/|make|pip|torchrun) .*)"
    for page in PAGES:
        text = re.sub(r"^```\w.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
        assert re.findall(start, text, re.M) == [], page


@pytest.mark.parametrize("command", [c for c in EVERY if c.startswith("python ")])
def test_scripts_have_the_options_of_their_commands(command: str) -> None:
    _, script, *words = shlex.split(command)
    source = (ROOT / script).read_text("utf-8")
    source += _shared_options(source)
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        in_loop = 'f"--{name}"' in source and f'"{option[2:]}"' in source
        assert in_loop or f'"{option}"' in source, option


def _shared_options(source: str) -> str:
    """The text of the scripts whose functions a script imports."""
    modules = re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE)
    files = (ROOT / "scripts" / f"{module}.py" for module in modules)
    return "".join(file.read_text("utf-8") for file in files if file.is_file())
