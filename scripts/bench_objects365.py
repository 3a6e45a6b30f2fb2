"""Conversion at the size of Objects365: rate and peak memory of labels alone, at a share of its
1.74 million images.

    python scripts/bench_objects365.py --scale 0.05
    python scripts/bench_objects365.py --scale 1 --work /tmp/objects365

The annotation file is generated as a stream: as many images and boxes as the train split has, times
the scale, in its own record form. No image is opened (`--images-by none`). With --work the file and
the set stay, and a run that was killed goes on: the file is not generated again, finished shards
are not written again.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

IMAGES, BOXES, CLASSES = 1_742_289, 25_407_598, 365
"""Of the train split."""
WIDTH, HEIGHT, PATCH, BATCH = 640, 480, 35_000, 10_000


def generate(path: Path, scale: float) -> None:
    """Write the JSON; it gets its name when it is whole."""
    draft = path.with_suffix(".partial")
    rng = np.random.default_rng(0)
    images, boxes = round(IMAGES * scale), round(BOXES * scale)
    names = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    with draft.open("w") as file:
        file.write(f'{{"categories": {json.dumps(names)},\n"images": [')
        for first in range(0, images, BATCH):
            write(
                file, first, [image(number) for number in range(first, min(first + BATCH, images))]
            )
        file.write('],\n"annotations": [')
        for first in range(0, boxes, BATCH):
            count = min(BATCH, boxes - first)
            columns = zip(
                range(first, first + count),
                rng.integers(0, images, count).tolist(),  # in no order, as in the real file
                rng.integers(1, CLASSES + 1, count).tolist(),
                rng.uniform(1, 300, (count, 4)).round(8).tolist(),
                strict=True,
            )
            write(file, first, [annotation(*column) for column in columns])
        file.write("]}\n")
    draft.rename(path)


def write(file: IO[str], first: int, rows: list[dict[str, Any]]) -> None:
    file.write(("," if first else "") + json.dumps(rows)[1:-1])


def image(number: int) -> dict[str, Any]:
    name = f"images/v1/patch{number // PATCH}/objects365_v1_{number:08d}.jpg"
    return {
        "height": HEIGHT,
        "id": number,
        "license": 5,
        "width": WIDTH,
        "file_name": name,
        "url": "",
    }


def annotation(number: int, owner: int, category: int, box: list[float]) -> dict[str, Any]:
    return {
        "id": number,
        "iscrowd": 0,
        "isfake": 0,
        "area": box[2] * box[3],
        "isreflected": 0,
        "bbox": box,
        "image_id": owner,
        "category_id": category,
    }


def convert(annotations: Path, out: Path, workers: int) -> dict[str, Any]:
    """Run the command as a user does; its answer, with seconds and the peak memory of it and its
    workers (bytes)."""
    command = [
        sys.executable,
        "-c",
        "from segkit.commands.app import main; main()",
        "convert",
        "objects365",
    ]
    options = [
        "--annotations",
        annotations,
        "--images",
        annotations.parent,
        "--images-by",
        "none",
        "--out",
        out,
    ]
    started, peak = time.perf_counter(), 0
    arguments = [*command, *map(str, options), "--workers", str(workers), "--json"]
    with tempfile.TemporaryFile("w+") as answer:
        process = subprocess.Popen(arguments, stdout=answer)
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.1)
        answer.seek(0)
        told = json.load(answer) if process.returncode == 0 else sys.exit(process.returncode)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, peak = usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss * 1024)
    return {**told, "wall": time.perf_counter() - started, "cpu": cpu, "peak": peak}


def resident(process: int) -> int:
    """Bytes in memory of a process and all below it, from Linux's /proc; what they share counts
    more than once."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # it just ended
        return 0
    return pages * resource.getpagesize() + sum(resident(int(child)) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=0.05, help="share of the train split")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--work", type=Path, help="folder that keeps file and set, so that a killed run can go on"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        annotations = work / f"objects365-{given.scale:g}.json"
        if not annotations.is_file():
            generate(annotations, given.scale)
        show(annotations, convert(annotations, work / f"set-{given.scale:g}", given.workers), given)


def show(annotations: Path, told: dict[str, Any], given: argparse.Namespace) -> None:
    images, boxes = told["images"]["kept"], told["ledger"]["kept"]
    set_bytes = sum(path.stat().st_size for path in Path(told["path"]).iterdir())
    row = {
        "scale": f"{100 * given.scale:g} %",
        "images": f"{images:,}",
        "boxes": f"{boxes:,}",
        "JSON MiB": round(annotations.stat().st_size / 2**20),
        "set MiB": round(set_bytes / 2**20),
        "workers": given.workers,
        "wall s": round(told["wall"]),
        "CPU s": round(told["cpu"]),
        "images/CPU-s": round(images / told["cpu"]),
        "boxes/CPU-s": round(boxes / told["cpu"]),
        "peak MiB": round(told["peak"] / 2**20),
    }
    for line in (row, ["---"] * len(row), row.values()):
        print("|", " | ".join(map(str, line)), "|")


if __name__ == "__main__":
    main()
