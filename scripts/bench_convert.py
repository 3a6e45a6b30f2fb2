"""Conversion, segkit against plain recipes: images per CPU-second, wall time, peak memory, share of masks exact.

    python scripts/bench_convert.py --images 2000
    python scripts/bench_convert.py --real ../shared/data/coco/annotations/panoptic_train2017.json

Every tool converts the same COCO panoptic set in a process of its own. The recipes are what people write: one
comparison of the id map for every segment. Datumaro takes part where it is installed.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WIDTH, HEIGHT, SEGMENTS = 640, 480, 10


def generate(folder: Path, images: int) -> Path:
    """A COCO panoptic set of smooth regions with wavy borders; returns the JSON."""
    rng = np.random.default_rng(0)
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    data["categories"] = [{"id": i, "name": f"class {i}", "isthing": i % 2} for i in range(1, 41)]
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True)
    for number in range(images):
        coarse = rng.random((SEGMENTS + 1, 10, 12)).astype(np.float32)
        fine = np.stack([cv2.resize(plane, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for plane in coarse])
        ids = np.concatenate(([0], rng.choice(2**24 - 1, SEGMENTS, replace=False) + 1))[fine.argmax(0)]
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        photo = cv2.resize(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), (WIDTH, HEIGHT))
        photo = cv2.add(photo, rng.integers(0, 24, photo.shape, dtype=np.uint8))
        cv2.imwrite(str(folder / "images" / f"{number}.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, 80])
        cv2.imwrite(str(folder / "panoptic" / f"{number}.png"), rgb[..., ::-1])
        infos = [segment(int(i), ids == i, rng) for i in np.unique(ids) if i]
        data["images"].append({"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT})
        data["annotations"].append({"image_id": number, "file_name": f"{number}.png", "segments_info": infos})
    (folder / "panoptic.json").write_text(json.dumps(data))
    return folder / "panoptic.json"


def segment(number: int, mask: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    category = int(rng.integers(1, 41))
    return {"id": number, "category_id": category, "area": int(mask.sum()), "bbox": [x, y, w, h], "iscrowd": 0}


def segkit(annotations: Path, images: Path, out: Path) -> None:
    from segkit.sources.coco_panoptic import open_coco_panoptic
    from segkit.sources.engine import Options, convert

    convert(open_coco_panoptic(annotations, images), out, Options(workers=1), arguments={})


def compare_and_encode(annotations: Path, images: Path, out: Path) -> None:
    """As panopticapi's converter to detection format: one mask a segment, encoded by pycocotools."""
    from PIL import Image
    from pycocotools import mask as coco

    data = json.loads(annotations.read_text())
    made = []
    for annotation in data["annotations"]:
        pixels = np.array(Image.open(annotations.with_suffix("") / annotation["file_name"]), np.uint32)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        for info in annotation["segments_info"]:
            rle = coco.encode(np.asfortranarray((ids == info["id"]).astype(np.uint8)))
            row = {"image_id": annotation["image_id"], "id": info["id"], "size": rle["size"]}
            made.append({**row, "counts": rle["counts"].decode()})
    out.mkdir()
    (out / "detections.json").write_text(json.dumps(made))


def compare_and_repaint(annotations: Path, images: Path, out: Path) -> None:
    """As Mask2Former's preparation scripts: open the image for its size, paint a class map segment by segment."""
    from PIL import Image

    data = json.loads(annotations.read_text())
    out.mkdir()
    names = {image["id"]: image["file_name"] for image in data["images"]}
    for annotation in data["annotations"]:
        picture = np.asarray(Image.open(images / names[annotation["image_id"]]))
        pixels = np.array(Image.open(annotations.with_suffix("") / annotation["file_name"]), np.uint32)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        semantic = np.full(picture.shape[:2], 255, np.uint8)
        for info in annotation["segments_info"]:
            semantic[ids == info["id"]] = info["category_id"]
        Image.fromarray(semantic).save(out / annotation["file_name"])


def datumaro(annotations: Path, images: Path, out: Path) -> None:
    from datumaro.components.dataset import Dataset

    root = out / "in"
    (root / "annotations").mkdir(parents=True)
    (root / "images").symlink_to(images.resolve())
    (root / "annotations" / "panoptic_all.json").symlink_to(annotations.resolve())
    (root / "annotations" / "panoptic_all").symlink_to(annotations.with_suffix("").resolve())
    Dataset.import_from(str(root), "coco_panoptic").export(str(out / "out"), "coco_panoptic", save_media=True)


TOOLS: dict[str, Callable[[Path, Path, Path], None]] = {
    "segkit": segkit,
    "compare and encode (panopticapi)": compare_and_encode,
    "compare and repaint (Mask2Former)": compare_and_repaint,
    "datumaro": datumaro,
}


def exact(tool: str, annotations: Path, out: Path) -> float | None:
    """Share of segments whose mask equals `ids == id` of the source PNG; None where the output keeps no segments."""
    if tool == "segkit":
        from segkit.shards.reader import ShardSet

        masks = {(s.id, g.source_id): g.mask for s in ShardSet.open(out).samples() for g in s.segments}
    elif tool.startswith("compare and encode"):
        rows = json.loads((out / "detections.json").read_text())
        masks = {(str(row["image_id"]), str(row["id"])): row["counts"].encode() for row in rows}
    else:
        return None
    from PIL import Image
    from pycocotools import mask as coco

    right = total = 0
    for annotation in json.loads(annotations.read_text())["annotations"]:
        pixels = np.array(Image.open(annotations.with_suffix("") / annotation["file_name"]), np.uint32)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        for info in annotation["segments_info"]:
            counts = masks.get((str(annotation["image_id"]), str(info["id"])))
            found = coco.decode({"size": list(ids.shape), "counts": counts}) if counts else None
            right += found is not None and bool((found == (ids == info["id"])).all())
            total += 1
    return 100 * right / max(total, 1)


def measure(tool: str, annotations: Path, images: Path) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, __file__, "--tool", tool, "--json", annotations, "--pictures", images, "--out", out]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{tool}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return None
        return {**json.loads(done.stdout.splitlines()[-1]), "exact": exact(tool, annotations, out)}


def run_tool(tool: str, annotations: Path, images: Path, out: Path) -> None:
    """What the process of its own does; the clock starts after the imports of this file."""
    started, before = time.perf_counter(), time.process_time()
    TOOLS[tool](annotations, images, out)
    wall, cpu = time.perf_counter() - started, time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="size of the generated set")
    parser.add_argument("--real", type=Path, help="a COCO panoptic JSON instead; images in ../<split> as COCO has them")
    parser.add_argument("--tool", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pictures", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    if given.tool:
        run_tool(given.tool, given.json, given.pictures, given.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        annotations = given.real or generate(Path(folder) / "set", given.images)
        split = annotations.stem.removeprefix("panoptic_")
        images = annotations.parents[1] / split if given.real else annotations.parent / "images"
        count = len(json.loads(annotations.read_text())["images"])
        print(f"{count} images\n\n| tool | images per CPU-second | wall s | peak RSS MiB | masks exact % |")
        print("| --- | --- | --- | --- | --- |")
        for tool in TOOLS:
            found = measure(tool, annotations, images)
            if found:
                share = "-" if found["exact"] is None else f"{found['exact']:.1f}"
                print(f"| {tool} | {count / found['cpu']:.0f} | {found['wall']:.1f} | {found['peak']:.0f} | {share} |")


if __name__ == "__main__":
    main()
