"""Run the commands of docs/tutorial.md on generated photos: times, and the pictures of the page.

    python scripts/tutorial.py --out tutorial-out [--docs docs]

Photos and boxes are generated scenes in the layout of YOLO, so that the pictures may be published.
One step is a person's: the script stands in for the labeling tool by accepting each proposed mask,
but for the one with the lowest IoU, which it replaces by the true one. Prints a Markdown table of
seconds of CPU time, and of wall time on a machine that may be busy.
"""

import argparse
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from experiments import markdown
from PIL import Image

from segkit.demo.scenes import THINGS, Scene, make_scene
from segkit.masks import brush_rle
from segkit.masks.iou import mask_iou

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
TRAIN, NEW = 40, 9
"""Photos with boxes, and photos without labels."""
PICTURES = {
    "work/boxes/v1.png": "tutorial-boxes.png",
    "work/masks/v1.png": "tutorial-masks.png",
    "work/photos/predictions/v1.png": "tutorial-predictions.png",
}
"""Contact sheets that the commands write, and their names in the docs."""
MAX_WIDTH = 760
"""Pixels of a picture in the docs."""


def write_photos(root: Path) -> list[Scene]:
    """Write the photos with their boxes as a YOLO set, and the new ones; returns the former."""
    scenes = [make_scene((7, 0, number)) for number in range(TRAIN)]
    index = {entry.id: number for number, entry in enumerate(THINGS)}
    for number, scene in enumerate(scenes):
        write_jpeg(root / "parts/images/train" / f"{number:03d}.jpg", scene)
        lines = []
        for segment, entry in scene.classes.items():
            if entry.id in index:
                ys, xs = np.nonzero(scene.ids == segment)
                left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
                box = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
                height, width = scene.ids.shape
                row = np.array(box) / (width, height, width, height)
                lines.append(" ".join([str(index[entry.id]), *(f"{value:.6f}" for value in row)]))
        label = root / "parts/labels/train" / f"{number:03d}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("".join(f"{line}\n" for line in lines))
    names = ", ".join(entry.panoptic for entry in THINGS)
    (root / "parts/data.yaml").write_text(f"path: .\ntrain: images/train\nnames: [{names}]\n")
    for number in range(NEW):
        write_jpeg(root / "photos" / f"{number}.jpg", make_scene((7, 1, number)))
    return scenes


def write_jpeg(path: Path, scene: Scene) -> None:
    """Write the picture of a scene."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])


def label_by_hand(root: Path, scenes: list[Scene]) -> None:
    """Accept the proposed masks, as Label Studio exports them, and correct the worst one."""
    tasks = json.loads((root / "to-correct/tasks.json").read_text())
    candidates = []
    for task in tasks:
        task["annotations"] = task.pop("predictions")
        scene = scenes[int(Path(task["data"]["segkit_file_name"]).stem)]
        height, width = scene.ids.shape
        truths = [scene.ids == segment for segment in scene.classes]
        for result in task["annotations"][0]["result"]:
            if result["type"] == "brushlabels":
                mask = brush_rle.decode(result["value"]["rle"], height, width)
                ious = [mask_iou(mask, truth) for truth in truths]
                best = int(np.argmax(ious))
                candidates.append((ious[best], result["value"], truths[best]))
    ious = [iou for iou, _, _ in candidates]
    print(f"{len(ious)} proposed masks, mean IoU {np.mean(ious):.2f}", file=sys.stderr)
    _, value, truth = min(candidates, key=lambda candidate: candidate[0])
    value["rle"] = brush_rle.encode(truth)
    (root / "project.json").write_text(json.dumps(tasks))


def commands() -> list[str]:
    """The commands of the page that need neither the network nor a browser."""
    text = PAGE.read_text("utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in "\n".join(blocks).splitlines()]
    return [line for line in lines if re.match(r"segkit (?!browse)", line)]


def run(command: str, root: Path) -> tuple[float, float]:
    """Run a command in a process of its own; returns seconds of CPU and wall time."""
    program = [sys.executable, "-m", "segkit.commands.entry", *shlex.split(command)[1:]]
    return timed(program, root, {"NO_COLOR": "1"})


def timed(
    program: Sequence[str], folder: Path, variables: Mapping[str, str]
) -> tuple[float, float]:
    """Run a program with more environment variables; returns seconds of CPU and wall time."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(program, cwd=folder, check=True, env=os.environ | variables)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - started


def write_picture(file: Path, target: Path) -> None:
    """Write a contact sheet in the size and colors of a page."""
    picture = Image.open(file).convert("RGB")
    if picture.width > MAX_WIDTH:
        height = round(picture.height * MAX_WIDTH / picture.width)
        picture = picture.resize((MAX_WIDTH, height), Image.Resampling.LANCZOS)
    colors = picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    colors.save(target, optimize=True)


def main() -> None:
    """Read the command line, run the page and print its times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder for all files")
    parser.add_argument("--docs", type=Path, help="folder that receives the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    scenes = write_photos(options.out)
    (recipe,) = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    (options.out / "small.toml").write_text(recipe)
    rows = []
    for command in commands():
        if command.startswith("segkit convert labelstudio"):
            label_by_hand(options.out, scenes)
        cpu, wall = run(command, options.out)
        rows.append((f"`{' '.join(command.split()[:3])}`", f"{cpu:.0f}", f"{wall:.0f}"))
    for file, name in PICTURES.items():
        if options.docs:
            write_picture(options.out / file, options.docs / name)
    print(markdown(("command", "CPU s", "wall s"), rows))


if __name__ == "__main__":
    main()
