"""Benchmark conversion at the size of Objects365: speed and peak memory for labels without images.

    python scripts/bench_objects365.py --scale 0.05
    python scripts/bench_objects365.py --scale 1 --work objects365

The annotation file is generated as a stream: as many images and boxes as the train split has, times
the scale, in records of the same form. No image is opened (`--images-by none`). With --work the
file and the set are kept, and a killed run resumes: neither the file nor finished shards are
written again.
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
"""Size of the train split."""
WIDTH, HEIGHT, PATCH, BATCH = 640, 480, 35_000, 10_000


def generate(path: Path, scale: float) -> None:
    """Write the annotation file; it gets its name when it is complete."""
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
    """Run `segkit convert` as a user does.

    Returns:
        Its JSON object, with the wall and CPU seconds, and the peak memory of the command and its
        workers in bytes.
    """
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
        result = json.load(answer) if process.returncode == 0 else sys.exit(process.returncode)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, peak = usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss * 1024)
    return {**result, "wall": time.perf_counter() - started, "cpu": cpu, "peak": peak}


def resident(process: int) -> int:
    """Bytes in memory of a process and its descendants, from Linux's /proc.

    Memory that they share is counted several times.
    """
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # the process has just ended
        return 0
    return pages * resource.getpagesize() + sum(resident(int(child)) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=0.05, help="share of the train split")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--work",
        type=Path,
        help="folder that keeps the file and the set, so that a killed run can resume",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        annotations = work / f"objects365-{options.scale:g}.json"
        if not annotations.is_file():
            generate(annotations, options.scale)
        show(
            annotations,
            convert(annotations, work / f"set-{options.scale:g}", options.workers),
            options,
        )


def show(annotations: Path, result: dict[str, Any], options: argparse.Namespace) -> None:
    images, boxes = result["images"]["kept"], result["ledger"]["kept"]
    set_bytes = sum(path.stat().st_size for path in Path(result["path"]).iterdir())
    row = {
        "scale": f"{100 * options.scale:g} %",
        "images": f"{images:,}",
        "boxes": f"{boxes:,}",
        "JSON MiB": round(annotations.stat().st_size / 2**20),
        "set MiB": round(set_bytes / 2**20),
        "workers": options.workers,
        "wall s": round(result["wall"]),
        "CPU s": round(result["cpu"]),
        "images/CPU-s": round(images / result["cpu"]),
        "boxes/CPU-s": round(boxes / result["cpu"]),
        "peak MiB": round(result["peak"] / 2**20),
    }
    for line in (row, ["---"] * len(row), row.values()):
        print("|", " | ".join(map(str, line)), "|")


if __name__ == "__main__":
    main()
