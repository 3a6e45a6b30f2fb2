"""Benchmark the teachers of `segkit pseudolabel` on real boxes: time, memory and IoU.

    python scripts/bench_teachers.py
    python scripts/bench_teachers.py --teacher sam:facebook/sam-vit-base --images 105 --device cuda

The boxes are those of the validation images of the stand-in for Objects365 (docs/results.md), the
true masks its hidden ones. Each teacher runs in a process of its own, on the first --images images;
the time is that of `pseudolabel` from the set of boxes to the layer, without loading the model. By
default these are the teachers without weights on all images, and SAM, SAM 2 and SAM-HQ in the size
of their smallest public models with random weights on three: their time and memory are those of
the public weights, their masks are noise, so that no IoU is printed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from experiments import run_script

from segkit.inference.open_teacher import TeacherSpec
from segkit.inference.pseudolabel import pseudolabel
from segkit.metrics.box_prompt_iou import evaluate_box_prompts
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer

WITHOUT_WEIGHTS = ("box", "ellipse", "grabcut")
RANDOM = {
    "random sam": "ViT-B",
    "random sam2": "Hiera-T",
    "random samhq": "ViT-B",
}
"""Models of random weights, and their sizes."""
RANDOM_IMAGES = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="real data (default: SEGKIT_REAL_DATA)")
    parser.add_argument("--teacher", action="append", help="one or more, as of pseudolabel")
    parser.add_argument("--images", type=int, help="images of each teacher")
    parser.add_argument("--device", default="auto", help="of teachers with weights")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # in a teacher's process
    arguments = parser.parse_args()
    if arguments.work:
        (name,) = arguments.teacher
        print(json.dumps(measure(name, arguments.work, arguments.images, arguments.device)))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments, Path(folder))


def compare(arguments: argparse.Namespace, work: Path) -> None:
    """Print the table of all teachers."""
    from experiments import REAL_DATA, markdown
    from real import hardware

    data = arguments.data or REAL_DATA
    if not data.is_dir():
        print(f"no real data at {data} (set SEGKIT_REAL_DATA)")
        return
    total = convert(data, work)
    rows = []
    for name in arguments.teacher or (*WITHOUT_WEIGHTS, *RANDOM):
        images = arguments.images or (RANDOM_IMAGES if name in RANDOM else total)
        command = (__file__, "--work", str(work), "--teacher", name, "--images", str(images))
        done = subprocess.run(
            [sys.executable, *command, "--device", arguments.device], stdout=subprocess.PIPE
        )
        if done.returncode:
            raise SystemExit(done.returncode)
        row = json.loads(done.stdout)
        iou = "-" if name in RANDOM else f"{row['mean_iou']:.3f}"
        label = f"{name} ({RANDOM[name]})" if name in RANDOM else name
        per_image, per_box = row["seconds"] / row["images"], row["seconds"] / row["boxes"]
        counts = (str(row["images"]), str(row["boxes"]))
        times = (f"{per_image:.2f}", f"{per_box:.3f}", f"{row['cpu_seconds'] / row['boxes']:.3f}")
        peaks = (f"{row['loaded_mib']:.0f}", f"{row['peak_mib']:.0f}", row["gpu_mib"])
        rows.append((label, *counts, *times, *peaks, iou))
    columns = (
        *("teacher", "images", "boxes", "s/image", "s/box", "CPU s/box"),
        *("MiB loaded", "peak MiB", "GPU MiB", "mean IoU"),
    )
    print(f"{hardware()}\n\n{markdown(columns, rows)}")


def convert(data: Path, work: Path) -> int:
    """Convert the boxes and their true masks; returns the number of images."""
    from real import Stages, open_truth, sources

    from segkit.sources.engine import ConvertOptions
    from segkit.sources.engine import convert as convert_source

    arguments = argparse.Namespace(data=data, out=work)
    open_truth(arguments, Stages(work))
    source = sources(data, work / "labels.txt")["standin-val"]()
    options = ConvertOptions(name="boxes", workers=1)
    convert_source(source, work / "sets" / "boxes", options, arguments={})
    return len(ShardSet.open(work / "sets" / "boxes"))


def measure(name: str, work: Path, images: int, device: str) -> dict[str, Any]:
    """Label the boxes of some images by one teacher."""
    everything = ShardSet.open(work / "sets" / "boxes")
    header = replace(Header.from_set(everything, "bench"), kind="boxes")
    first = islice(everything.samples(), images)
    boxes = write_layer(work / "sets" / f"first-{images}", everything, first, header)
    spec = name
    if name in RANDOM:
        spec = save_random(name.partition(" ")[2], work / name)
    without_weights = spec in WITHOUT_WEIGHTS
    score = None if spec in ("box", "ellipse") else 0.0
    options = {} if without_weights else {"device": device}
    teacher = TeacherSpec(spec, min_score=score, **options).open()
    loaded = peak_mib()
    start, cpu = time.perf_counter(), time.process_time()
    layer, counts = pseudolabel(teacher, boxes, work / "layers" / name)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    peak = peak_mib()
    ids = {sample.id for sample in boxes.samples()}
    truth = ShardSet.open(work / "sets" / "standin-truth")
    kept = (sample for sample in truth.samples() if sample.id in ids)
    return {
        "images": images,
        "boxes": counts.boxes,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "loaded_mib": loaded,
        "peak_mib": peak,
        "gpu_mib": "-" if without_weights else gpu_mib(),
        "mean_iou": evaluate_box_prompts(kept, layer.samples(), truth.taxonomy)["mean_iou"],
    }


def save_random(kind: str, folder: Path) -> str:
    """Save a model of random weights, in the size of transformers' defaults; returns its name."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    name = {"sam": "Sam", "sam2": "Sam2", "samhq": "SamHQ"}[kind]
    config = getattr(transformers, f"{name}Config")()
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    images = "Sam2ImageProcessor" if kind == "sam2" else "SamImageProcessor"
    processor = getattr(transformers, f"{name}Processor")(getattr(transformers, images)())
    processor.save_pretrained(folder)
    return f"{kind}:{folder}"


def peak_mib() -> float:
    """Peak of this process's resident memory; the system's usage count includes the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def gpu_mib() -> str:
    import torch

    if not torch.cuda.is_available():
        return "-"
    return f"{torch.cuda.max_memory_allocated() / 2**20:.0f}"


if __name__ == "__main__":
    run_script(main)
