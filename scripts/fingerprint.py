"""Record segkit's results on real data, to show that a refactoring leaves them unchanged.

`record` uses only the command line, so one copy of this script serves any two versions of the
package. It runs the commands of fingerprint.toml and writes `fingerprint.json` into its folder: one
flat object of figures, losses and SHA-256 sums. `compare` lists the keys in which two such files
differ. No key holds a path, time, version number or argument. Of manifests only figures and content
digests count, so their form may change. Stages that a folder already holds are not run again; a
failed one is.

    python scripts/fingerprint.py record --out old
    python scripts/fingerprint.py record --out new --segkit SEGKIT --sets old/sets --run old/run
    python scripts/fingerprint.py compare old/fingerprint.json new/fingerprint.json

Layers and lists of files name images relative to their own place, so record both folders at the
same depth of the file system, with the same --data.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
TABLE: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text("utf-8")
)
PARTS = ("sets", "exports", "losses", "eval", "demo")
STEPS = 200
"""Steps of the run that the part `eval` uses; both recordings use one run."""
SILENT = ("inspect", "validate", "diff", "leakage")
"""Commands that write nothing."""
LEFT_OUT = {
    *("schema", "segkit_version", "version", "path", "paths", "seconds", "arguments", "cache"),
    *("run", "contact_sheet", "overlays", "native", "strategy", "samples_per_second", "memory_mib"),
}
"""Keys of JSON output that name places, times, versions, or words that may be spelled anew."""
LEFT_OUT_OF_RUNS = {"digest", "files", "parents", "encoder"}
"""A run's digest covers its recipe.toml, which may be written anew."""
LEFT_OUT_OF_DEFECTS = {"error", "problem", "file", "data", "mend"}
"""Text with paths, or a copy of the record."""
NOT_HASHED = {"manifest.json", "metrics.json", "compare.json", "report.html", ".lock"}
"""Files with versions, paths or times in them; their figures count as they are printed."""
Leaf = str | int | float | bool | None


@dataclass(frozen=True)
class Stage:
    """One command; its name is that of its keys and, where `writes` is set, of its folder."""

    name: str
    command: str
    writes: bool = True


def stages() -> Iterator[Stage]:
    """All stages, in the order in which they need each other."""
    for name, options in TABLE["sets"].items():
        yield Stage(f"sets/{name}", f"convert {options} --workers 1")
        yield Stage(f"sets/{name}/inspect", f"inspect sets/{name}", writes=False)
        yield Stage(f"sets/{name}/validate", f"validate sets/{name}", writes=False)
    for name, options in TABLE["defects"].items():
        yield Stage(f"sets/{name}", f"convert {options} --workers 1")
    for kind, sets in TABLE["exports"].items():
        for arguments in sets:
            name = f"exports/{kind}/{arguments.replace(' --', '-').replace(' ', '-')}"
            yield Stage(name, f"export {kind} --data sets/{arguments}")
    for name, options in TABLE["losses"].items():
        yield Stage(f"losses/{name}", f"train --recipe {options} --device cpu")
    for name, command in TABLE["eval"].items():
        yield Stage(f"eval/{name}", command, writes=not command.startswith(SILENT))
    for name, command in TABLE["demo"].items():
        yield Stage(f"demo/{name}", command)


class Recorder:
    """Runs stages in one folder and keeps what each one printed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Take the places that the user gave."""
        self.out: Path = arguments.out.resolve()
        self.data: Path = arguments.data.resolve()
        self.segkit: Path = arguments.segkit.absolute()
        self.sets: Path | None = arguments.sets
        self.run: Path | None = arguments.run

    def call(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder."""
        words = {**TABLE["words"], "data": shlex.quote(str(self.data))}
        while "$" in command:
            command = Template(command).substitute(words)
        line = [str(self.segkit), *(self._matched(word) for word in shlex.split(command))]
        settings = {
            "OMP_NUM_THREADS": "1",
            "SEGKIT_CACHE": str(self.out / "cache"),
            "COLUMNS": "200",
        }
        place, environment = self.out, {**os.environ, **settings}
        return subprocess.run(
            line, cwd=place, env=environment, text=True, capture_output=True, check=False
        )

    def _matched(self, word: str) -> str:
        """The file that a word with a * matches; any other word as it is."""
        matches = sorted(self.out.glob(word)) if "*" in word else []
        return str(matches[0].relative_to(self.out)) if matches else word

    def printed(self, stage: Stage) -> Path:
        """Where the output of a stage is kept."""
        return self.out / "printed" / f"{stage.name.replace('/', '--')}.json"

    def do(self, stage: Stage) -> None:
        """Run a stage unless it is done; one that prints no JSON object has failed."""
        if self.printed(stage).exists():
            return
        folder, command = self.out / stage.name, f"{stage.command} --json"
        if stage.writes:
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            command += f" --out {stage.name}"
        started = time.monotonic()
        done = self.call(command)
        log(f"{stage.name}: exit {done.returncode}, {time.monotonic() - started:.0f} s")
        try:
            kept = {"exit": done.returncode, "result": json.loads(done.stdout)}
        except ValueError:
            log(done.stderr[-2000:])
            return
        self.printed(stage).parent.mkdir(exist_ok=True)
        self.printed(stage).write_text(json.dumps(kept), "utf-8")

    def keys(self, stage: Stage) -> Iterator[tuple[str, Leaf]]:
        """The keys of a stage: exit code, figures, and digests of what it wrote."""
        if not self.printed(stage).exists():
            yield f"{stage.name}:failed", True
            return
        kept = json.loads(self.printed(stage).read_text("utf-8"))
        yield f"{stage.name}:exit", kept["exit"]
        left_out, places = set(LEFT_OUT), (str(self.out), str(self.data))
        if stage.command.startswith(("train", "inspect run")):
            left_out |= LEFT_OUT_OF_RUNS
        if stage.command.startswith("convert"):
            left_out |= LEFT_OUT_OF_DEFECTS
        for key, value in flat(kept["result"], left_out):
            if not (isinstance(value, str) and any(place in value for place in places)):
                yield f"{stage.name}:{key}", value
        if stage.writes:
            yield from written(self.out / stage.name, stage.name)

    def prepare_sets(self) -> None:
        """The small inputs: class names, tables and lists of ids."""
        self.out.mkdir(parents=True, exist_ok=True)
        vocabulary = json.loads(self.call("vocabulary show camvid-11 --json").stdout)
        names = [category["name"] for category in vocabulary["categories"]]
        same = ("sky", "building", "pole", "road", "sidewalk", "fence", "car")
        to = {name: name for name in same} | {"tree": "vegetation", "sign": "traffic sign"}
        to["pedestrian"] = "person"  # and bicyclists are dropped
        file = self.data / "coco" / "annotations" / "instances_val2017.json"
        ids = sorted(image["id"] for image in json.loads(file.read_text("utf-8"))["images"])
        files: dict[str, Iterable[object]] = {
            "labels.txt": names,  # the order in CamVid's file contradicts its masks
            "classes.csv": ["from,to", *(f"{name},{to.get(name, '')}" for name in names)],
            "ids.txt": ids[:40],
            "unseen.txt": ("fence", "bicyclist"),
            "unseen-coco.txt": ("cat", "zebra", "sand"),
        }
        for name, lines in files.items():
            (self.out / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")

    def prepare_losses(self) -> None:
        """Random weights of the large backbones, whose recipes would download trained ones."""
        import timm
        import torch
        from safetensors.torch import save_file

        for name in ("resnet50", "vit_base_patch16_224"):
            file = self.out / f"{name}.safetensors"
            if not file.exists():
                torch.manual_seed(0)
                save_file(timm.create_model(name, pretrained=False).state_dict(), file)

    def prepare_eval(self) -> None:
        """Copies of sets and run, at the same relative places in every recording."""
        for source, name in ((self.sets or self.out / "sets", "given"), (self.run, "run")):
            if source is not None and not (self.out / name).exists():
                partial = self.out / f"{name}.partial"
                shutil.copytree(source, partial, dirs_exist_ok=True)
                partial.rename(self.out / name)
        if not (self.out / "run" / "v1").exists():
            data = TABLE["words"]["mini"].replace("$mixed", TABLE["words"]["mixed"])
            command = f"train --recipe {data.replace('sets/', 'given/')} --steps {STEPS} --resume"
            done = self.call(f"{command} --device cpu --out run --json")
            log(f"run: exit {done.returncode} {done.stderr[-500:]}")


def log(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def flat(value: Any, left_out: set[str], prefix: str = "") -> Iterator[tuple[str, Leaf]]:
    """The leaves of a JSON value by dotted key; a list of plain values is one leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in left_out:
                yield from flat(inner, left_out, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for position, inner in enumerate(value):
            yield from flat(inner, left_out, f"{prefix}[{position}]")
    elif isinstance(value, list):
        text = json.dumps(value)
        yield prefix, text if len(text) <= 200 else hashlib.sha256(text.encode()).hexdigest()
    else:
        yield prefix, value


def written(root: Path, name: str) -> Iterator[tuple[str, Leaf]]:
    """Digests of a folder's content: sets file by file, tensors and losses of runs, the rest."""
    loose: dict[str, list[Path]] = {}
    for folder, inner, files in os.walk(root):
        place = Path(folder)
        key = f"{name}:{place.relative_to(root)}"
        if "manifest.json" in files:
            inner.clear()
            yield from run_keys(place, key) if "metrics.jsonl" in files else set_keys(place, key)
            continue
        for path in (place / file for file in files if file not in NOT_HASHED):
            loose.setdefault(path.relative_to(root).parts[0], []).append(path)
    for first, paths in loose.items():
        yield f"{name}:files/{first}", digest(root, paths)
        yield f"{name}:files/{first}/count", len(paths)


def set_keys(version: Path, key: str) -> Iterator[tuple[str, Leaf]]:
    """The content digest of a set, and SHA-256 of each file but its manifest."""
    yield f"{key}/digest", json.loads((version / "manifest.json").read_text("utf-8"))["digest"]
    for path in sorted(version.rglob("*")):
        name = f"{key}/{path.relative_to(version)}"
        if path.name == "quarantine.jsonl":  # its other fields are text with paths
            rows = map(json.loads, path.read_text("utf-8").splitlines())
            kept = [
                [row[word] for word in ("code", "record", "class_name", "data")] for row in rows
            ]
            yield name, hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
        elif path.is_file() and path.name not in NOT_HASHED:
            yield name, digest(version, [path])


def run_keys(version: Path, key: str) -> Iterator[tuple[str, Leaf]]:
    """Losses, gradient norms and rates of each step, evaluations, pictures, tensors of a run.

    Loss terms are listed by size without their names, which may change.
    """
    for line in (version / "metrics.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        step = f"{key}/step-{row.pop('step'):04d}"
        if "evaluation" in row:
            step, row = f"{step}/{row['evaluation']}", row["metrics"]
        else:
            terms = row.pop("losses").values()
            yield f"{step}/terms", " ".join(map(repr, sorted(terms)))
        for name, value in flat(row, LEFT_OUT):
            yield f"{step}/{name}", value
    for file in ("model.safetensors", "vocabulary.safetensors"):
        yield f"{key}/{file}", tensors(version / file)
    if pictures := list(version.rglob("*.png")):
        yield f"{key}/pictures", digest(version, pictures)


def digest(root: Path, paths: Iterable[Path]) -> str:
    """SHA-256 over names and bytes of files, sorted by name."""
    total = hashlib.sha256()
    for path in sorted(paths):
        name, content = path.relative_to(root).as_posix(), path.read_bytes()
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def tensors(file: Path) -> str:
    """SHA-256 over the bytes of all tensors of a safetensors file, whatever their names are."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    spans = (entry["data_offsets"] for entry in header.values())
    sums = sorted(hashlib.sha256(content[start + a : start + b]).hexdigest() for a, b in spans)
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def record(arguments: argparse.Namespace) -> int:
    """Run the stages of the chosen parts, and write the keys of all that the folder holds."""
    recorder, everything = Recorder(arguments), list(stages())
    recorder.prepare_sets()
    keys: dict[str, Leaf] = {}
    for part in PARTS:
        stages_of_part = [stage for stage in everything if stage.name.startswith(f"{part}/")]
        if chosen := part in (arguments.part or PARTS):
            getattr(recorder, f"prepare_{part}", lambda: None)()
            for stage in stages_of_part:
                recorder.do(stage)
        if chosen or any(recorder.printed(stage).exists() for stage in stages_of_part):
            keys |= dict(pair for stage in stages_of_part for pair in recorder.keys(stage))
    file = recorder.out / "fingerprint.json"
    file.write_text(json.dumps(keys, indent=0, sort_keys=True) + "\n", "utf-8")
    failed = [key.removesuffix(":failed") for key in keys if key.endswith(":failed")]
    print(f"{len(keys)} keys; failed: {', '.join(failed) or 'none'}\n{file}")
    return 1 if failed else 0


def compare(arguments: argparse.Namespace) -> int:
    """Print keys that differ or are only in the first file, then the agreement of each part."""
    a, b = (json.loads(path.read_text("utf-8")) for path in (arguments.a, arguments.b))
    agreeing, differing = Counter[str](), 0
    for key in sorted(a.keys() | b.keys()):
        if (part := key.split("/")[0]) not in (arguments.part or PARTS):
            continue
        first, second = (json.dumps(side[key]) if key in side else "(absent)" for side in (a, b))
        agreeing[part] += first == second
        if first != second:
            differing += 1
            print(f"{key}\n  {first}\n  {second}")
    counts = ", ".join(f"{part} {agreeing[part]}" for part in arguments.part or PARTS)
    print(f"{counts} keys agree; {differing} differ")
    return 1 if differing else 0


def main() -> int:
    """Read the command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    commands = parser.add_subparsers(required=True)
    make = commands.add_parser("record", help="run the stages and write fingerprint.json")
    make.add_argument("--out", type=Path, required=True, help="folder for everything")
    make.add_argument("--data", type=Path, default=os.environ.get("SEGKIT_REAL_DATA", DATA))
    make.add_argument("--segkit", type=Path, default=Path(sys.executable).with_name("segkit"))
    make.add_argument(
        "--sets", type=Path, help="sets for the part eval; by default those of the part sets"
    )
    make.add_argument("--run", type=Path, help="run for eval; by default one is trained")
    make.set_defaults(act=record)
    look = commands.add_parser("compare", help="list the keys that differ")
    look.add_argument("a", type=Path, metavar="A.json")
    look.add_argument("b", type=Path, metavar="B.json")
    look.set_defaults(act=compare)
    for command in (make, look):
        command.add_argument("--part", choices=PARTS, nargs="+", help="these parts alone")
    arguments = parser.parse_args()
    return int(arguments.act(arguments))


if __name__ == "__main__":
    sys.exit(main())
