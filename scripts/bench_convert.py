"""Benchmark conversion beside other tools: images per CPU-second, wall time, memory, exact masks.

    python scripts/bench_convert.py --images 2000 --peer-python PYTHON
    python scripts/bench_convert.py --real coco/annotations/panoptic_val2017.json \\
        --peer-python PYTHON

Every tool converts the same masks in its own process: a COCO panoptic set, or, for tools that only
read instances, the same segments as run lengths in an instances file. The plain recipes compare the
id map once per segment. PYTHON is the interpreter of an environment that has datumaro and
supervision, whose requirements may conflict with segkit's. A tool that is not installed is left
out, with the reason on stderr.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WIDTH, HEIGHT, SEGMENTS = 640, 480, 10
Masks = Counter[tuple[str, str]]
"""(stem of the image file, COCO's compressed counts)."""


@dataclass(frozen=True)
class Inputs:
    """The same masks in two formats, and the folder of their images."""

    panoptic: Path
    images: Path
    instances: Path


def generate(folder: Path, images: int) -> Path:
    """Generate a COCO panoptic set of smooth regions with wavy borders; returns the JSON."""
    rng = np.random.default_rng(0)
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    data["categories"] = [{"id": i, "name": f"class {i}", "isthing": i % 2} for i in range(1, 41)]
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True)
    for number in range(images):
        coarse = rng.random((SEGMENTS + 1, 10, 12)).astype(np.float32)
        fine = np.stack(
            [cv2.resize(plane, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for plane in coarse]
        )
        ids = np.concatenate(([0], rng.choice(2**24 - 1, SEGMENTS, replace=False) + 1))[
            fine.argmax(0)
        ]
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        photo = cv2.resize(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), (WIDTH, HEIGHT))
        photo = cv2.add(photo, rng.integers(0, 24, photo.shape, dtype=np.uint8))
        cv2.imwrite(str(folder / "images" / f"{number}.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, 80])
        cv2.imwrite(str(folder / "panoptic" / f"{number}.png"), rgb[..., ::-1])
        infos = [segment(int(i), ids == i, rng) for i in np.unique(ids) if i]
        data["images"].append(
            {"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT}
        )
        data["annotations"].append(
            {"image_id": number, "file_name": f"{number}.png", "segments_info": infos}
        )
    (folder / "panoptic.json").write_text(json.dumps(data))
    return folder / "panoptic.json"


def segment(number: int, mask: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    category = int(rng.integers(1, 41))
    return {
        "id": number,
        "category_id": category,
        "area": int(mask.sum()),
        "bbox": [x, y, w, h],
        "iscrowd": 0,
    }


def write_instances(panoptic: Path, path: Path) -> None:
    """Write the segments of a panoptic set as an instances file with run lengths."""
    from pycocotools import mask as coco

    data = json.loads(panoptic.read_text())
    rows: list[dict[str, Any]] = []
    for annotation in data["annotations"]:
        ids = read_ids(panoptic.with_suffix("") / annotation["file_name"])
        for info in annotation["segments_info"]:
            rle = coco.encode(np.asfortranarray(ids == info["id"], np.uint8))
            shape = {"size": rle["size"], "counts": rle["counts"].decode()}
            kept = {name: info[name] for name in ("category_id", "bbox", "area")}
            owner = annotation["image_id"]
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": owner,
                    "iscrowd": 0,
                    **kept,
                    "segmentation": shape,
                }
            )
    path.write_text(json.dumps({**data, "annotations": rows}))


def read_ids(path: Path) -> np.ndarray:
    from PIL import Image

    pixels = np.array(Image.open(path), np.uint32)
    return pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]


def segkit(inputs: Inputs, out: Path) -> None:
    from segkit.sources.coco_panoptic import open_coco_panoptic
    from segkit.sources.engine import ConvertOptions, convert

    convert(
        open_coco_panoptic(inputs.panoptic, inputs.images),
        out,
        ConvertOptions(workers=1),
    )


def segkit_masks(out: Path) -> Iterator[tuple[str, str]]:
    from segkit.shards.reader import ShardSet

    for sample in ShardSet.open(out).samples():
        yield from (
            (Path(sample.file_name).stem, segment.mask.decode()) for segment in sample.segments
        )


def compare_and_encode(inputs: Inputs, out: Path) -> None:
    """As panopticapi's converter to detection format: pycocotools encodes one mask per segment."""
    from pycocotools import mask as coco

    data = json.loads(inputs.panoptic.read_text())
    rows: list[dict[str, Any]] = []
    for annotation in data["annotations"]:
        ids = read_ids(inputs.panoptic.with_suffix("") / annotation["file_name"])
        for info in annotation["segments_info"]:
            rle = coco.encode(np.asfortranarray((ids == info["id"]).astype(np.uint8)))
            shape = {"size": rle["size"], "counts": rle["counts"].decode()}
            kept = {"image_id": annotation["image_id"], "category_id": info["category_id"]}
            rows.append({"id": len(rows) + 1, **kept, "segmentation": shape})
    write_coco(out, {**data, "annotations": rows})


def compare_and_repaint(inputs: Inputs, out: Path) -> None:
    """As Mask2Former's preparation scripts: paint a class map segment by segment.

    The image is opened for its size.
    """
    from PIL import Image

    data = json.loads(inputs.panoptic.read_text())
    out.mkdir()
    names = {image["id"]: image["file_name"] for image in data["images"]}
    for annotation in data["annotations"]:
        picture = np.asarray(Image.open(inputs.images / names[annotation["image_id"]]))
        ids = read_ids(inputs.panoptic.with_suffix("") / annotation["file_name"])
        semantic = np.full(picture.shape[:2], 255, np.uint8)
        for info in annotation["segments_info"]:
            semantic[ids == info["id"]] = info["category_id"]
        Image.fromarray(semantic).save(out / annotation["file_name"])


def pycocotools(inputs: Inputs, out: Path) -> None:
    """Load an instances file, decode every mask and encode it again; no image is read."""
    from pycocotools import mask as coco
    from pycocotools.coco import COCO

    loaded = COCO(str(inputs.instances))
    rows: list[dict[str, Any]] = []
    for annotation in loaded.dataset["annotations"]:
        rle = coco.encode(np.asfortranarray(loaded.annToMask(annotation)))
        rows.append({**annotation, "segmentation": {**rle, "counts": rle["counts"].decode()}})
    write_coco(out, {**loaded.dataset, "annotations": rows})


def datumaro(inputs: Inputs, out: Path) -> None:
    from datumaro.components.dataset import Dataset

    root = out / "in"
    (root / "annotations").mkdir(parents=True)
    (root / "images").symlink_to(inputs.images.resolve())
    (root / "annotations" / "panoptic_all.json").symlink_to(inputs.panoptic.resolve())
    (root / "annotations" / "panoptic_all").symlink_to(inputs.panoptic.with_suffix("").resolve())
    Dataset.import_from(str(root), "coco_panoptic").export(
        str(out / "out"), "coco_panoptic", save_media=True
    )


def datumaro_masks(out: Path) -> Iterator[tuple[str, str]]:
    from pycocotools import mask as coco

    (path,) = (out / "out" / "annotations").glob("*.json")
    for annotation in json.loads(path.read_text())["annotations"]:
        ids = read_ids(path.with_suffix("") / annotation["file_name"])
        for number in np.unique(ids[ids > 0]):
            mask = np.asfortranarray(ids == number, np.uint8)
            yield Path(annotation["file_name"]).stem, coco.encode(mask)["counts"].decode()


def supervision(inputs: Inputs, out: Path) -> None:
    from supervision import DetectionDataset

    loaded = DetectionDataset.from_coco(str(inputs.images), str(inputs.instances), force_masks=True)
    loaded.as_coco(str(out / "images"), str(out / "coco.json"))


def write_coco(out: Path, data: dict[str, Any]) -> None:
    out.mkdir()
    (out / "coco.json").write_text(json.dumps(data))


def coco_masks(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the masks of an instances file in any form; an empty `segmentation` is skipped."""
    from pycocotools import mask as coco

    data = json.loads(path.read_text())
    images = {image["id"]: image for image in data["images"]}
    for annotation in data["annotations"]:
        image, shape = images[annotation["image_id"]], annotation["segmentation"]
        if not shape:
            continue
        if isinstance(shape, list):
            shape = coco.merge(coco.frPyObjects(shape, image["height"], image["width"]))
        elif isinstance(shape["counts"], list):
            shape = coco.frPyObjects(shape, *shape["size"])
        counts = shape["counts"]
        yield Path(image["file_name"]).stem, counts if isinstance(counts, str) else counts.decode()


def written_masks(out: Path) -> Iterator[tuple[str, str]]:
    return coco_masks(out / "coco.json")


Run = Callable[[Inputs, Path], None]
Read = Callable[[Path], Iterator[tuple[str, str]]]
TOOLS: dict[str, tuple[Run, Read | None]] = {
    "segkit: panoptic to shards, images included": (segkit, segkit_masks),
    "panopticapi's recipe: panoptic to instances": (compare_and_encode, written_masks),
    "Mask2Former's recipe: panoptic to semantic": (compare_and_repaint, None),
    "pycocotools: load instances, every mask": (pycocotools, written_masks),
    "datumaro: panoptic to panoptic, images included": (datumaro, datumaro_masks),
    "supervision: instances to instances, images included": (supervision, written_masks),
}
"""Name -> (conversion, reader of the written masks); None where the output has no segments."""
PEERS = (datumaro, supervision)


def measure(tool: str, inputs: Inputs, truth: Masks, peer_python: str) -> dict[str, Any] | str:
    """Return the figures of a tool, or the reason why it could not run."""
    run, read = TOOLS[tool]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        python = peer_python if run in PEERS else sys.executable
        paths = [inputs.panoptic, inputs.images, inputs.instances]
        command = [python, __file__, "--tool", tool, "--inputs", *paths, "--out", out]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        exact = None
        if read is not None:
            masks = Counter(read(out))
            exact = 100 * (masks & truth).total() / max(truth.total(), 1)
        return {**json.loads(done.stdout.splitlines()[-1]), "exact": exact}


def run_tool(tool: str, inputs: Inputs, out: Path) -> None:
    """Run a tool in its own process; the clock starts after the imports of this file."""
    started, before = time.perf_counter(), time.process_time()
    TOOLS[tool][0](inputs, out)
    wall, cpu = time.perf_counter() - started, time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000, help="size of the generated set")
    parser.add_argument(
        "--real",
        type=Path,
        help="a COCO panoptic JSON instead; images are in ../<split> as in COCO",
    )
    parser.add_argument(
        "--peer-python", default=sys.executable, help="Python that has datumaro and supervision"
    )
    parser.add_argument("--tool", help=argparse.SUPPRESS)
    parser.add_argument("--inputs", type=Path, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.tool:
        run_tool(options.tool, Inputs(*options.inputs), options.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        panoptic = options.real or generate(Path(folder) / "set", options.images)
        split = panoptic.stem.removeprefix("panoptic_")
        images = panoptic.parents[1] / split if options.real else panoptic.parent / "images"
        inputs = Inputs(panoptic, images, Path(folder) / "instances.json")
        write_instances(panoptic, inputs.instances)
        compare(inputs, options.peer_python)


def compare(inputs: Inputs, peer_python: str) -> None:
    """Print the table of all tools."""
    truth = Counter(coco_masks(inputs.instances))
    count = len(json.loads(inputs.panoptic.read_text())["images"])
    print(f"{count} images, {truth.total()} masks\n")
    print("| tool | images per CPU-second | wall s | peak RSS MiB | masks exact % |")
    print("| --- | --- | --- | --- | --- |")
    for tool in TOOLS:
        figures = measure(tool, inputs, truth, peer_python)
        if isinstance(figures, str):
            print(f"left out: {tool}: {figures}", file=sys.stderr)
            continue
        exact = "-" if figures["exact"] is None else f"{figures['exact']:.1f}"
        rate, wall, peak = count / figures["cpu"], figures["wall"], figures["peak"]
        print(f"| {tool} | {rate:.0f} | {wall:.1f} | {peak:.0f} | {exact} |")


if __name__ == "__main__":
    main()
