"""Evaluation benchmark: seconds, peak memory and figures of segkit and of the usual alternatives.

    python scripts/bench_eval.py [--images 1000] [--classes 80 365] [--real DIR] [--markdown FILE]

Each contestant runs in its own process, on one core, from files: shard sets for segkit, PNG and
JSON for the others. The clock starts after the imports and includes reading. The inputs are written
first, once for each class list.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eval_contestants import CONTESTANTS
from eval_inputs import generated_set, real_set, write_inputs

MODULES = ("segkit.metrics.evaluate", "hotcoco", "pycocotools.cocoeval", "faster_coco_eval")
"""Imported before the clock starts."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
RUNS = 2
"""Runs of each contestant; the faster one counts."""


def run_contestant(metric: str, name: str, folder: Path) -> None:
    """Run a contestant in this process and print its cost; its own prints go to stderr."""
    modules = (*MODULES, "torchmetrics.classification") if name == "torchmetrics" else MODULES
    for module in modules:
        __import__(module)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = peak_memory()
    stdout = os.dup(1)
    os.dup2(2, 1)
    started, cpu_started = time.perf_counter(), time.process_time()
    figures = CONTESTANTS[metric][name](folder)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    sys.stdout.flush()
    os.dup2(stdout, 1)
    mib = (peak_memory() - before) / 1024
    print(json.dumps({"seconds": seconds, "cpu": cpu, "mib": mib, "figures": figures}))


def peak_memory() -> int:
    """Largest resident memory of this process so far, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1])


def measure(metric: str, name: str, folder: Path) -> dict[str, Any]:
    """Cost and figures of a contestant in a process of its own."""
    contestant = ["--contestant", metric, name, str(folder)]
    command = [sys.executable, "-W", "ignore", __file__, *contestant]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ONE_THREAD)
    if done.returncode:
        raise SystemExit(f"{metric}, {name}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(title: str, folder: Path) -> list[str]:
    """Print and return the table rows of all contestants on one set."""
    lines = []
    for metric, contestants in CONTESTANTS.items():
        reference: dict[str, float] = {}
        for name in contestants:
            runs = (measure(metric, name, folder) for _ in range(RUNS))
            row = min(runs, key=lambda row: row["cpu"])
            figures = row["figures"]
            reference = reference or figures
            difference = max(abs(value - reference[key]) for key, value in figures.items())
            cost = f"{row['seconds']:.2f} | {row['cpu']:.2f} | {row['mib']:.0f}"
            value = next(iter(figures.values()))
            line = f"| {title} | {metric} | {name} | {cost} | {value:.3f} | {difference:.1e} |"
            print(line, flush=True)
            lines.append(line)
    return lines


def main() -> None:
    """Read the command line and print the table."""
    data = Path(os.environ.get("SEGKIT_REAL_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--classes", type=int, nargs="*", default=[80, 365])
    parser.add_argument("--real", type=Path, default=data)
    parser.add_argument("--markdown", type=Path, help="also write the table there")
    parser.add_argument("--contestant", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        metric, name, folder = arguments.contestant
        run_contestant(metric, name, Path(folder))
        return
    head = ("data", "figure", "by", "s", "CPU s", "MiB", "value", "largest difference")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    print("\n".join(lines))
    sets = [
        (f"{arguments.images:,} generated, {k} classes", generated_set(arguments.images, k))
        for k in arguments.classes
    ]
    if arguments.real.is_dir():
        sets.append(("COCO panoptic val, 100 images", real_set(arguments.real)))
    for title, (names, pairs) in sets:
        with tempfile.TemporaryDirectory() as inputs:
            write_inputs(Path(inputs), names, pairs)
            lines += compare(title, Path(inputs))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
