"""The core runs without the packages of any extra; what needs one says how to add it."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.extras import (
    DISTRIBUTION,
    EXTRAS,
    MissingExtraError,
    as_missing_extra,
    install_command,
    require_extra,
)
from segkit.taxonomy import load_taxonomy

from .metrics.files import shard_set
from .metrics.scenes import disturbed, random_sample
from .sources.builders import coco_instances, coco_panoptic

ROOT = Path(__file__).parents[1]
BLOCKED = sorted({package for packages in EXTRAS.values() for package in packages})
PRELUDE = f"""
import contextlib, io, json, sys, time

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""
RUN = """
from segkit.commands.app import main

def run(arguments):
    sys.argv = ["segkit", *arguments]
    out, err, code, started = io.StringIO(), io.StringIO(), 0, time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    return [code, out.getvalue(), err.getvalue(), time.process_time() - started]

results = [run(arguments) for arguments in json.loads(sys.stdin.read())]
print(json.dumps(results))
"""


def without_extras(code: str, stdin: str = "", **options: Any) -> str:
    """Output of Python code in a process in which every package of an extra is missing."""
    command = [sys.executable, "-c", PRELUDE + code]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_commands(lines: Sequence[str], folder: Path) -> list[tuple[int, str, str, float]]:
    """Exit code, stdout, stderr and CPU seconds of commands, in a process without any extra."""
    output = without_extras(RUN, json.dumps([line.split() for line in lines]), cwd=folder)
    return [tuple(result) for result in json.loads(output)]


TEACHERS = ("box", "ellipse", "grabcut")


def write_coco_sets(folder: Path) -> None:
    """The sets `truth` and `predictions`, with the classes of COCO panoptic."""
    rng, names = np.random.default_rng(0), load_taxonomy("coco-panoptic-133")
    truths = [random_sample(rng, names, str(100 + i), 40, 50) for i in range(3)]
    shard_set(folder / "truth", truths, names)
    shard_set(folder / "predictions", [disturbed(rng, truth, names) for truth in truths], names)


def test_every_command_of_the_core_runs_without_any_extra(tmp_path: Path) -> None:
    coco_panoptic(tmp_path / "native")
    write_coco_sets(tmp_path)
    (tmp_path / "map.csv").write_text("from,to\nblob,cat\nground,road\nnought,\n")
    coco_instances(tmp_path / "boxed", [{"bbox": [2, 3, 20, 15]}, {"bbox": [0, 0, 9, 9]}])
    instances = "--images boxed/images --instances boxed/instances.json"
    source = "--images native/images --panoptic native/panoptic.json"
    figures = "--data truth --predictions predictions --out"
    lines = [
        "--version",
        "vocabulary list",
        "vocabulary show voc-20",
        f"convert coco {source} --out set --workers 2",
        f"convert coco {source} --out set --dry-run",
        "validate set",
        "inspect set",
        "split set --part a=0.7 --part b=0.3 --out split",
        "merge split/a split/b --out merged",
        "diff set merged",
        "leakage set merged",
        "relabel set --taxonomy coco-panoptic-133 --map map.csv --out relabeled",
        "show set --out picture.png",
        "doctor",
        "recipes dataseg-r50",
        f"convert coco {instances} --boxes-only --out boxes",
        *(f"pseudolabel --teacher {name} --data boxes --out masks" for name in TEACHERS),
        "pseudolabel --teacher ellipse --data boxes --out shared --devices 2",
        "export coco-panoptic --data set --out out/coco",
        "export coco-instances --data set --out out/instances",
        "export yolo-seg --data set --out out/yolo",
        "export semantic --data set --out out/semantic",
        *(
            f"eval {figures} eval-{task} --task {task}"
            for task in ("panoptic", "semantic", "instance")
        ),
        f"eval {figures} eval-boundary --task panoptic --boundary --bootstrap 20",
        f"benchmark coco-panoptic {figures} bench",
    ]
    for line, (code, _, error, _) in zip(lines, run_commands(lines, tmp_path), strict=True):
        assert code == (1 if line.startswith("leakage") else 0), (line, error)
    assert json.loads((tmp_path / "eval-panoptic/metrics.json").read_text())["all"]["pq"] > 0
    assert (tmp_path / "eval-semantic/report.html").is_file()


MISSING = {
    "train --recipe dataseg-mini --data truth --out run": "train",
    "predict --checkpoint run --images photos --classes cat --out out": "train",
    "predict --checkpoint hf:a/b --images photos --out out": "train",
    "pseudolabel --checkpoint ./run --data truth --out out": "train",
    "eval --data truth --checkpoint run --task panoptic --out out": "train",
    "benchmark coco-panoptic --data truth --checkpoint run --out out": "train",
    "import hf:facebook/mask2former-swin-tiny-coco-panoptic --out out": "train",
    "demo --out out": "train",
    "browse set": "browse",
    "vocabulary encode zorp": "minilm",
    "vocabulary encode zorp --encoder clip:ViT-L-14/openai": "clip",
    "vocabulary encode zorp --encoder hf:a/b": "hf",
    "vocabulary encode zorp --templates imagenet": "clip",
    "inspect s3://bucket/set": "s3",
    "inspect gs://bucket/set": "gcs",
    "convert coco --images native/images --panoptic native/panoptic.json --out set --engine ray": (
        "ray"
    ),
}


def test_a_command_without_its_extra_names_it_at_once(tmp_path: Path) -> None:
    coco_panoptic(tmp_path / "native")
    write_coco_sets(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    results = run_commands(list(MISSING), tmp_path)
    for (line, extra), (code, out, error, seconds) in zip(MISSING.items(), results, strict=True):
        assert (code, out, error.count("\n")) == (2, "", 1), (line, error)
        assert error.endswith(
            f"which is not installed; run: pip install '{DISTRIBUTION}[{extra}]'\n"
        )
        assert seconds < 1, line
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written"


def test_the_library_names_the_extra_too() -> None:
    code = """
import segkit
for name in ("train", "Predictor", "load_run", "segment_boxes"):
    try:
        getattr(segkit, name)("nowhere")
    except ImportError as error:
        print(error)
print(segkit.open.__name__, segkit.convert.__name__, segkit.evaluate.__name__)
"""
    *errors, last = without_extras(code).splitlines()
    assert last == "open convert evaluate" and len(errors) == 4
    assert all(install_command("train") in error for error in errors)


def test_errors_of_imports_are_explained_only_for_missing_packages_of_extras() -> None:
    missing = as_missing_extra(ModuleNotFoundError("no", name="wandb.sdk"), "logging")
    assert isinstance(missing, MissingExtraError | None)
    broken = as_missing_extra(ImportError("cannot import name 'y'", name="torch"), "x")
    assert str(broken) == (
        "x needs the package torch, which cannot be imported (cannot import name 'y'); "
        f"run: pip install --upgrade '{DISTRIBUTION}[train]'"
    )
    assert as_missing_extra(ModuleNotFoundError("no", name="antigravity2"), "x") is None
    assert as_missing_extra(ImportError("no name"), "x") is None
    require_extra("train", "this test")


def test_a_folder_of_a_packages_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fiftyone").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "fiftyone", raising=False)
    with pytest.raises(MissingExtraError, match="fiftyone, which is not installed"):
        require_extra("browse", "this test")


def test_the_extras_are_those_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert project["name"] == DISTRIBUTION
    assert set(extras) == {*EXTRAS, "all", "dev"}
    core = {re.split(r"[^\w-]", item)[0] for item in project["dependencies"]}
    imported = {"open_clip_torch": "open_clip", "mlflow-skinny": "mlflow"}
    for extra, packages in EXTRAS.items():
        names = [re.split(r"[^\w-]", item)[0] for item in extras[extra]]
        assert core.isdisjoint(names)
        own = {imported.get(name, name) for name in names if name != DISTRIBUTION}
        own |= {"torch"} if f"{DISTRIBUTION}[train]" in extras[extra] else set()
        assert own == set(packages), extra
    listed = extras["all"][0].partition("[")[2].rstrip("]").split(",")
    assert set(listed) == EXTRAS.keys() - {"wandb", "mlflow"}


def test_no_text_installs_the_package_of_a_stranger() -> None:
    """`segkit` on PyPI is another project, so `pip install segkit` must stand nowhere."""
    pattern = re.compile(r"pip install[^\n`]*?['\" ]segkit(?!-cv)\b[\['\"\s]|['\"]segkit\[")
    files = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
    ]
    for folder in ("segkit", "commands", "scripts", "docs"):
        files += [
            file for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".md", ".toml")
        ]
    assert pattern.search("pip install 'segkit[s3]'") and pattern.search('"segkit[hf]",')
    assert [str(file) for file in files if pattern.search(file.read_text("utf-8"))] == []
