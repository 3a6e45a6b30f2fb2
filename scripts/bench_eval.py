"""Evaluation side by side: seconds, peak memory and figures of segkit and of what others use.

    python scripts/bench_eval.py [--images 1000] [--classes 80 365] [--real DIR] [--markdown FILE]

Every contestant runs in a process of its own, on one core, from files: shard sets for segkit, PNG
and JSON for the others.
Time starts after the imports and includes reading. The generated set is written first, once a class
list.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.taxonomy import Category, Taxonomy

HEIGHT, WIDTH = 480, 640


# --- the generated set
# --------------------------------------------------------------------------------------------


def id_map(rng: np.random.Generator, segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches with the winding borders of real masks (the largest of smooth random fields), and
    where void lies."""
    low = rng.normal(size=(segments, 4, 4)) + 0.5 * rng.normal(size=(segments, 1, 1))
    fine = rng.normal(scale=0.04, size=(segments, 60, 80))
    best, ids = np.full((HEIGHT, WIDTH), -np.inf, np.float32), np.zeros((HEIGHT, WIDTH), np.int32)
    for number in range(segments):
        field = cv2.resize(
            low[number].astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
        )
        field += cv2.resize(
            fine[number].astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR
        )
        above = field > best
        best[above], ids[above] = field[above], number + 1
    return ids, best < -0.2


def to_sample(
    ids: np.ndarray, classes: dict[int, int], names: Taxonomy, image: str, rng: Any = None
) -> Sample:
    segments = []
    for number, region in rle.regions(ids).items():
        if number:
            kind, score = (
                names.by_id[classes[number]].kind,
                None if rng is None else float(rng.random()),
            )
            mask_from = "human" if rng is None else "prediction"
            segments.append(
                Segment(
                    classes[number],
                    kind,
                    region.box,
                    region.counts,
                    region.area,
                    mask_from=mask_from,
                    score=score,
                )
            )
    return Sample(image, f"{image}.jpg", WIDTH, HEIGHT, tuple(segments))


def generated(images: int, classes: int) -> tuple[Taxonomy, Iterator[tuple[Sample, Sample]]]:
    kinds = ["thing" if k < classes * 3 // 5 else "stuff" for k in range(classes)]
    names = Taxonomy(
        f"generated-{classes}",
        tuple(Category(k + 1, f"class {k + 1}", kinds[k]) for k in range(classes)),
    )

    def pairs() -> Iterator[tuple[Sample, Sample]]:
        rng = np.random.default_rng(0)
        for number in range(1, images + 1):
            ids, void = id_map(rng, int(rng.integers(8, 15)))
            of = {int(i): int(rng.zipf(1.3)) % classes + 1 for i in np.unique(ids)}
            moved = np.roll(ids, rng.integers(-6, 7, 2), (0, 1))
            other = {
                i: c if rng.random() < 0.8 else int(rng.integers(classes)) + 1
                for i, c in of.items()
            }
            truth = to_sample(np.where(void, 0, ids), of, names, str(number))
            yield truth, to_sample(moved, other, names, str(number), rng)

    return names, pairs()


def write_inputs(folder: Path, names: Taxonomy, pairs: Iterator[tuple[Sample, Sample]]) -> None:
    """Shard sets, panoptic PNG + JSON, class PNGs, instances and results JSON: the same data for
    everybody."""
    from segkit.shards.header import Header
    from segkit.shards.writer import write_set

    both = list(pairs)
    for side, kind in ((0, "truth"), (1, "found")):
        samples = [pair[side] for pair in both]
        write_set(
            folder / kind,
            ((s, None) for s in samples),
            Header(
                taxonomy=names,
                kind="panoptic",
                name=kind,
                split="val",
                command="bench",
                images_by="none",
            ),
        )
        write_coco(folder, kind, samples, names)


def write_coco(folder: Path, kind: str, samples: list[Sample], names: Taxonomy) -> None:
    for name in (f"panoptic_{kind}", f"semantic_{kind}"):
        (folder / name).mkdir()
    categories = [
        {"id": c.id, "name": c.name, "isthing": int(c.kind == "thing")} for c in names.categories
    ]
    images = [
        {"id": int(s.id), "file_name": s.file_name, "width": s.width, "height": s.height}
        for s in samples
    ]
    panoptic, objects = [], []
    for sample in samples:
        ids = rle.paint(
            [(n, s.mask) for n, s in enumerate(sample.segments, 1)], sample.height, sample.width
        )
        png = np.stack([ids // 65536, ids // 256 % 256, ids % 256], -1).astype(np.uint8)  # B, G, R
        cv2.imwrite(str(folder / f"panoptic_{kind}" / f"{sample.id}.png"), png)
        # classes 0-based; 65535 is void (16 bits, as 365 classes do not fit into 8)
        of = np.array([65535] + [names.index[s.class_id] for s in sample.segments])
        cv2.imwrite(
            str(folder / f"semantic_{kind}" / f"{sample.id}.png"), of[ids].astype(np.uint16)
        )
        infos = []
        for number, s in enumerate(sample.segments, 1):
            crowd = int(s.is_crowd)
            infos.append(
                {
                    "id": number,
                    "category_id": s.class_id,
                    "area": int(s.area),
                    "iscrowd": crowd,
                    "bbox": s.box,
                }
            )
            if s.kind == "thing":
                mask = {"size": [sample.height, sample.width], "counts": s.mask.decode()}
                row = {"image_id": int(sample.id), "category_id": s.class_id, "segmentation": mask}
                extra = {"id": len(objects) + 1, "area": s.area, "iscrowd": crowd, "bbox": s.box}
                objects.append(row | (extra if kind == "truth" else {"score": s.score}))
        panoptic.append(
            {"image_id": int(sample.id), "file_name": f"{sample.id}.png", "segments_info": infos}
        )
    head = {"images": images, "categories": categories}
    things = [c for c in categories if c["isthing"]]
    dump(folder / f"panoptic_{kind}.json", head | {"annotations": panoptic})
    dump(
        folder / f"instances_{kind}.json",
        head | {"categories": things, "annotations": objects} if kind == "truth" else objects,
    )


def dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


# --- contestants: each returns {figure: value in percent}
# ----------------------------------------------------------


def pq_numpy(folder: Path) -> dict[str, float]:
    """The reference's way: dense maps, one `unique` over pairs of ids, dictionaries."""
    truth, found = (
        json.loads((folder / f"panoptic_{kind}.json").read_text()) for kind in ("truth", "found")
    )
    kinds = {c["id"]: c["isthing"] for c in truth["categories"]}
    total = {c: [0.0, 0, 0, 0] for c in kinds}
    other = {row["image_id"]: row for row in found["annotations"]}

    def ids_of(kind: str, row: dict[str, Any]) -> np.ndarray:
        png = cv2.imread(str(folder / f"panoptic_{kind}" / row["file_name"])).astype(
            np.uint32
        )  # B, G, R
        return (png[..., 2] + 256 * png[..., 1] + 65536 * png[..., 0]).astype(np.uint64)

    for row in truth["annotations"]:
        mate = other[row["image_id"]]
        a, b = ids_of("truth", row), ids_of("found", mate)
        true, predicted = ({s["id"]: s for s in r["segments_info"]} for r in (row, mate))
        labels, counts = np.unique(b, return_counts=True)
        for label, n in zip(labels, counts, strict=True):
            if int(label) in predicted:
                predicted[int(label)]["area"] = int(n)
        labels, counts = np.unique(a * 2**24 + b, return_counts=True)
        common = {
            (int(p) // 2**24, int(p) % 2**24): int(n) for p, n in zip(labels, counts, strict=True)
        }
        hits, used = set(), set()
        for (t, p), n in common.items():
            if t not in true or p not in predicted or true[t]["iscrowd"]:
                continue
            if true[t]["category_id"] != predicted[p]["category_id"]:
                continue
            iou = n / (predicted[p]["area"] + true[t]["area"] - n - common.get((0, p), 0))
            if iou > 0.5:
                row_of = total[true[t]["category_id"]]
                row_of[0], row_of[1] = row_of[0] + iou, row_of[1] + 1
                hits.add(t)
                used.add(p)
        crowd = {}
        for t, s in true.items():
            if s["iscrowd"]:
                crowd[s["category_id"]] = t
            elif t not in hits:
                total[s["category_id"]][3] += 1
        for p, s in predicted.items():
            void = common.get((0, p), 0) + common.get((crowd.get(s["category_id"], -1), p), 0)
            if p not in used and void / s["area"] <= 0.5:
                total[s["category_id"]][2] += 1
    quality = {
        c: iou / (tp + (fp + fn) / 2) for c, (iou, tp, fp, fn) in total.items() if tp + fp + fn
    }
    groups = {
        "pq": list(quality.values()),
        "pq things": [q for c, q in quality.items() if kinds[c]],
    }
    return {name: 100 * float(np.mean(values)) for name, values in groups.items()}


def pq_hotcoco(folder: Path) -> dict[str, float]:
    from hotcoco.panoptic import METRIC_NAMES, PanopticEval

    files = [str(folder / f"panoptic_{kind}.json") for kind in ("truth", "found")]
    folders = {
        "gt_folder": str(folder / "panoptic_truth"),
        "pred_folder": str(folder / "panoptic_found"),
    }
    evaluation = PanopticEval(*files, **folders)
    evaluation.run()
    found = dict(zip(METRIC_NAMES, evaluation.stats, strict=False))
    return {"pq": 100 * found["PQ"], "pq things": 100 * found["PQ_th"]}


def segkit(folder: Path, task: str, files: str | None = None) -> dict[str, Any]:
    from segkit.metrics.evaluate import evaluate
    from segkit.metrics.predictions import open_predictions
    from segkit.shards.reader import ShardSet

    truth = ShardSet.open(folder / "truth")
    found = (
        ShardSet.open(folder / "found")
        if files is None
        else open_predictions(str(folder / files), truth)
    )
    return evaluate(truth, found, task).metrics


def pq_segkit(folder: Path, files: str | None = None) -> dict[str, float]:
    found = segkit(folder, "panoptic", files)
    return {"pq": found["all"]["pq"], "pq things": found["things"]["pq"]}


def pq_segkit_files(folder: Path) -> dict[str, float]:
    return pq_segkit(folder, "panoptic_found.json")


AP = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def ap_pycocotools(folder: Path) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _coco(folder, COCO, COCOeval)


def ap_faster(folder: Path) -> dict[str, float]:
    from faster_coco_eval import COCO, COCOeval_faster

    return _coco(folder, COCO, COCOeval_faster)


def ap_hotcoco(folder: Path) -> dict[str, float]:
    from hotcoco import COCO, COCOeval

    return _coco(folder, COCO, COCOeval)


def _coco(folder: Path, coco: Any, evaluate: Any) -> dict[str, float]:
    truth = coco(str(folder / "instances_truth.json"))
    evaluation = evaluate(truth, truth.loadRes(str(folder / "instances_found.json")), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {key: 100 * float(value) for key, value in zip(AP, evaluation.stats, strict=False)}


def ap_segkit(folder: Path, files: str | None = None) -> dict[str, float]:
    found = segkit(folder, "instance", files)
    return {key: found[key] if found[key] is not None else -100.0 for key in AP}


def ap_segkit_files(folder: Path) -> dict[str, float]:
    return ap_segkit(folder, "instances_found.json")


MIOU = ("miou", "fwiou", "mean_accuracy", "pixel_accuracy")


def miou_bincount(folder: Path) -> dict[str, float]:
    """mmsegmentation's way: dense maps and one bincount an image."""
    classes = len(json.loads((folder / "panoptic_truth.json").read_text())["categories"])
    matrix = np.zeros((classes, classes + 1), np.int64)
    for file in sorted((folder / "semantic_truth").iterdir()):
        maps = [
            cv2.imread(str(folder / f"semantic_{kind}" / file.name), -1).astype(np.int64)
            for kind in ("truth", "found")
        ]
        keep = maps[0] != 65535
        cells = maps[0][keep] * (classes + 1) + np.minimum(maps[1][keep], classes)
        matrix += np.bincount(cells, minlength=classes * (classes + 1)).reshape(matrix.shape)
    correct, labeled = np.diagonal(matrix), matrix.sum(1)
    with np.errstate(invalid="ignore"):
        iou, accuracy = correct / (labeled + matrix[:, :-1].sum(0) - correct), correct / labeled
    weighted = np.nansum(labeled * np.nan_to_num(iou)) / labeled.sum()
    values = (np.nanmean(iou), weighted, np.nanmean(accuracy), correct.sum() / labeled.sum())
    return {key: 100 * float(value) for key, value in zip(MIOU, values, strict=True)}


def miou_hotcoco(folder: Path) -> dict[str, float]:
    from hotcoco.semantic import SemanticEval

    classes = len(json.loads((folder / "panoptic_truth.json").read_text())["categories"])
    evaluation = SemanticEval(classes, ignore_index=65535)
    for file in sorted((folder / "semantic_truth").iterdir()):
        evaluation.update(
            *(
                cv2.imread(str(folder / f"semantic_{kind}" / file.name), -1)
                for kind in ("truth", "found")
            )
        )
    found = evaluation.results()
    return {
        key: 100 * found[name]
        for key, name in zip(MIOU, ("mIoU", "fwIoU", "mAcc", "aAcc"), strict=True)
    }


def miou_torchmetrics(folder: Path) -> dict[str, float]:
    import torch
    from torchmetrics.classification import MulticlassJaccardIndex

    classes = len(json.loads((folder / "panoptic_truth.json").read_text())["categories"])
    torch.set_num_threads(1)
    metric = MulticlassJaccardIndex(classes, ignore_index=65535, validate_args=False)
    for file in sorted((folder / "semantic_truth").iterdir()):
        truth, found = (
            torch.from_numpy(
                cv2.imread(str(folder / f"semantic_{kind}" / file.name), -1).astype(np.int64)
            )
            for kind in ("truth", "found")
        )
        metric.update(found, truth)
    return {"miou": 100 * float(metric.compute())}


def miou_segkit(folder: Path) -> dict[str, float]:
    found = segkit(folder, "semantic")
    return {key: found[key] for key in MIOU}


CONTESTANTS: dict[str, dict[str, Callable[[Path], dict[str, float]]]] = {
    "PQ": {
        "plain NumPy, as panopticapi": pq_numpy, "hotcoco": pq_hotcoco,
        "segkit, from PNG + JSON": pq_segkit_files, "segkit, from shards": pq_segkit,
    },
    "mask AP": {
        "pycocotools": ap_pycocotools, "faster-coco-eval": ap_faster, "hotcoco": ap_hotcoco,
        "segkit, from results JSON": ap_segkit_files, "segkit, from shards": ap_segkit,
    },
    "mIoU": {
        "plain NumPy, as mmsegmentation": miou_bincount, "torchmetrics": miou_torchmetrics, "hotcoco": miou_hotcoco,
        "segkit, from shards": miou_segkit,
    },
}  # fmt: skip


# --- running
# --------------------------------------------------------------------------------------------------------


def one(metric: str, name: str, folder: Path) -> None:
    """Run one contestant in this process and print what it took without imports; its own prints go
    to stderr."""
    modules = ["segkit.metrics.evaluate", "hotcoco", "pycocotools.cocoeval", "faster_coco_eval"]
    for module in [*modules, "torchmetrics.classification"] if name == "torchmetrics" else modules:
        __import__(module)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    stdout = os.dup(1)
    os.dup2(2, 1)
    started, cpu = time.perf_counter(), time.process_time()
    figures = CONTESTANTS[metric][name](folder)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    sys.stdout.flush()
    os.dup2(stdout, 1)
    print(
        json.dumps(
            {"seconds": seconds, "cpu": cpu, "mib": (peak() - before) / 1024, "figures": figures}
        )
    )


def peak() -> int:
    """Largest resident memory of this process so far, in KiB."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1])


def run(metric: str, name: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, "--one", metric, name, str(folder)]
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
        "OPENCV_FOR_THREADS_NUM": "1",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{metric}, {name}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(title: str, folder: Path) -> list[str]:
    lines = []
    for metric, contestants in CONTESTANTS.items():
        found = {
            name: min((run(metric, name, folder) for _ in range(2)), key=lambda r: r["cpu"])
            for name in contestants
        }
        first = next(iter(found.values()))
        for name, row in found.items():
            difference = max(
                abs(value - first["figures"][key]) for key, value in row["figures"].items()
            )
            figure = next(iter(row["figures"].values()))
            cost = f"{row['seconds']:.2f} | {row['cpu']:.2f} | {row['mib']:.0f}"
            line = f"| {title} | {metric} | {name} | {cost} | {figure:.3f} | {difference:.1e} |"
            print(line, flush=True)
            lines.append(line)
    return lines


def real_set(data: Path) -> tuple[Taxonomy, Iterator[tuple[Sample, Sample]]]:
    """COCO panoptic val of the real data, and predictions made by moving and relabelling its
    segments."""
    from segkit.sources.coco_panoptic import open_coco_panoptic
    from segkit.sources.engine import ConvertOptions, convert

    source = open_coco_panoptic(
        data / "coco/annotations/panoptic_val2017.json", data / "coco/val2017", None
    )
    with tempfile.TemporaryDirectory() as folder:
        made = convert(
            source, Path(folder) / "set", ConvertOptions(images_by="none", workers=1), arguments={}
        ).published
        truths = list(made.samples())

    def pairs() -> Iterator[tuple[Sample, Sample]]:
        rng = np.random.default_rng(0)
        choices = [c.id for c in source.taxonomy.categories]
        for truth in truths:
            painted = rle.paint(
                [(n, s.mask) for n, s in enumerate(truth.segments, 1)], truth.height, truth.width
            )
            moved = np.maximum(
                np.roll(painted, rng.integers(-6, 7, 2), (0, 1)), 1
            )  # class maps have no holes
            segments = []
            for number, region in rle.regions(moved).items():
                if number:
                    own = truth.segments[number - 1].class_id
                    c = own if rng.random() < 0.8 else int(rng.choice(choices))
                    kind, score = source.taxonomy.by_id[c].kind, float(rng.random())
                    made_of = (region.box, region.counts, region.area)
                    segments.append(Segment(c, kind, *made_of, mask_from="prediction", score=score))
            yield (
                truth,
                Sample(truth.id, truth.file_name, truth.width, truth.height, tuple(segments)),
            )

    return source.taxonomy, pairs()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--classes", type=int, nargs="*", default=[80, 365])
    parser.add_argument(
        "--real", type=Path, default=Path(os.environ.get("SEGKIT_REAL_DATA", "../shared/data"))
    )
    parser.add_argument("--markdown", type=Path, help="also write the table there")
    parser.add_argument("--one", nargs=3, metavar=("METRIC", "NAME", "DIR"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one[0], given.one[1], Path(given.one[2]))
        return
    head = ("data", "figure", "by", "s", "CPU s", "MiB", "value", "largest difference")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    print("\n".join(lines))
    sets = [
        (f"{given.images:,} generated, {k} classes", generated(given.images, k))
        for k in given.classes
    ]
    if given.real.is_dir():
        sets.append(("COCO panoptic val, 100 images", real_set(given.real)))
    for title, (names, pairs) in sets:
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(Path(folder), names, pairs)
            lines += compare(title, Path(folder))
    if given.markdown:
        given.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
