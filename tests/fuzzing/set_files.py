"""Files of shard sets, and those that commands read beside a set: predictions, maps, lists."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from segkit.shards.arrow import SCHEMA
from segkit.shards.manifest import Manifest
from segkit.shards.manifest_file import manifest_digest
from segkit.shards.reader import ShardSet
from segkit.storage import file_sha256

from ..metrics.files import results_file, sets
from ..training.toy import write_toy_set
from .kinds import OUT, FileKind, Reader
from .mutate import BAD_VALUES, Raw, binary_mutants, both, change, json_mutants, text_mutants

_EXPORTS = (
    *("coco-panoptic", "coco-instances", "yolo", "yolo-seg", "voc", "labelstudio", "cvat"),
    *("labelme", "semantic"),
)
_MANIFEST = "manifest.json"


def seal_manifest(file: Path) -> None:
    """Make the digests in a set's manifest those of its content and of its files."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return
    with suppress(Exception):  # a mutant may hold anything
        for part in content["parts"]:
            part["labels_sha256"] = file_sha256(file.parent / part["labels"])
    with suppress(Exception):
        parts = Manifest.model_validate(content).parts
        kind, taxonomy, roots = (content[key] for key in ("kind", "taxonomy", "image_roots"))
        content["digest"] = Manifest.content_digest(kind, taxonomy, parts, roots)
    with suppress(Exception):
        content["manifest_digest"] = manifest_digest(content)
        file.write_text(json.dumps(content))


def _toy(root: Path) -> Path:
    write_toy_set(root / "set")
    write_toy_set(root / "second")
    return root / "set" / "v1" / _MANIFEST


def _of_set(root: Path) -> list[Reader]:
    """Everything that reads a panoptic set with images."""
    data, out = root / "set", root / OUT
    (out / "map.csv").write_text("from,to\nsky,1\ncat,2\n")
    (out / "taxonomy.json").write_text(
        '{"name": "t", "categories": [{"id": 1, "name": "a", "kind": "stuff"},'
        ' {"id": 2, "name": "b", "kind": "thing"}]}'
    )
    evaluate = ("eval", "--data", data, "--predictions", data, "--out", out / "eval", "--json")
    relabel = ("relabel", data, "--map", out / "map.csv", "--taxonomy", out / "taxonomy.json")
    return [
        ("validate", data, "--json"),
        ("inspect", data, "--json"),
        ("inspect", data, "--all"),
        lambda: list(ShardSet.open(data).samples()),
        lambda: list(map(ShardSet.open(data).image, ShardSet.open(data).samples())),
        ("diff", data, data, "--json"),
        ("split", data, "--part", "a=0.5", "--part", "b=0.5", "--out", out / "parts"),
        ("merge", data, root / "second", "--rename", "--out", out / "merged"),
        (*relabel, "--out", out / "relabeled"),
        ("leakage", data, data),
        ("show", data, "--grid", 4, "--out", out / "shown.png"),
        *(
            ("export", name, "--data", data, "--out", out / name, "--images", "--json")
            for name in _EXPORTS
        ),
        (*evaluate, "--task", "panoptic"),
        (*evaluate, "--task", "instance"),
    ]


def _rows(data: bytes, random: Random) -> Iterator[bytes]:
    """Parquet files of labels with wrong values, and with other columns and types."""
    sink = pa.BufferReader(data)
    table = pq.read_table(sink)
    rows = table.to_pylist()
    while True:
        changed = [dict(row) for row in rows]
        for _ in range(random.choice((1, 1, 2))):
            place = random.randrange(len(changed))
            changed[place] = change(changed[place], random)
        try:
            yield _parquet(changed, SCHEMA)
            continue
        except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
            pass
        try:
            yield _parquet(changed, pa.schema([field.with_nullable(True) for field in SCHEMA]))
            continue
        except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
            pass
        yield _other_columns(table, random)


def _masks(data: bytes, random: Random) -> Iterator[bytes]:
    """Parquet files with right types and wrong values: masks, sizes, classes, places of images."""
    rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    fields = ("mask", "class_id", "kind", "area", "mask_from", "score", "source_polygon", "box")
    values: dict[str, Sequence[Any]] = {
        "mask": ("", "0", "PPP", "o" * 14 + "0", "0" * 1000, "é", " ", "P" * 9000, "_" * 12, None),
        "class_id": (-1, 0, 99, 2**62, -(2**62)),
        "area": (float("nan"), float("inf"), -1.0, 1e308),
        "score": (float("nan"), -1.0, 2.0, None),
        "box": tuple(
            dict(zip(("x", "y", "width", "height"), sides, strict=True))
            for sides in ((float("nan"),) * 4, (1e308,) * 4, (-5.0, -5.0, -5.0, -5.0), (0.0,) * 4)
        ),
        "width": (0, -1, 2**31, 2**62, 40_000, 63, 65),
        "height": (0, -1, 2**31, 2**62, 40_000, 47),
        "offset": (-1, 2**62, 0, 100),
        "length": (-1, 2**62, 0, 100),
        "annotated": ([], [99], [-(2**62)], None),
        "not_exhaustive": ([99], [1, 1]),
        "exhaustive": (False,),
    }
    texts = [value for value in BAD_VALUES if isinstance(value, str) and not isinstance(value, Raw)]
    while True:
        changed = [{**row, "segments": [dict(s) for s in row["segments"]]} for row in rows]
        row = random.choice(changed)
        if random.random() < 0.6:
            segment, name = random.choice(row["segments"]), random.choice(fields)
            segment[name] = random.choice(values.get(name, texts))
        else:
            name = random.choice([key for key in row if key != "segments"])
            row[name] = random.choice(values.get(name, texts))
        try:
            yield _parquet(changed, SCHEMA)
        except (pa.ArrowException, TypeError, ValueError):
            continue


def _other_columns(table: Any, random: Random) -> bytes:
    """A file that lacks a column, has one more, twice, or of another type."""
    place = random.randrange(len(table.schema))
    name = table.schema.names[place]
    match random.randrange(5):
        case 0:
            table = table.drop_columns([name])
        case 1:
            table = table.append_column("more", pa.array([1] * len(table)))
        case 2:
            table = table.append_column(name, table.column(place))
        case 3:
            other = pa.array([random.choice((None, "1", "a")) for _ in range(len(table))])
            table = table.set_column(place, name, other)
        case _:
            table = table.slice(0, random.choice((0, 1)))
    return _file(table)


def _parquet(rows: list[dict[str, Any]], schema: Any) -> bytes:
    return _file(pa.Table.from_pylist(rows, schema=schema))


def _file(table: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    return bytes(sink.getvalue().to_pybytes())


def _labels(root: Path) -> Path:
    _toy(root)
    return root / "set" / "v1" / "labels-00000.parquet"


def _seal_labels(file: Path) -> None:
    """Let the manifest list a changed file of labels as its own."""
    manifest = file.parent / _MANIFEST
    content = json.loads(manifest.read_bytes())
    with suppress(OSError, ValueError, pa.ArrowException):
        content["parts"][0]["rows"] = pq.read_metadata(file).num_rows
    manifest.write_text(json.dumps(content))
    seal_manifest(manifest)


def _tar(root: Path) -> Path:
    _toy(root)
    return root / "set" / "v1" / "images-00000.tar"


def _results(root: Path, *, boxes: bool = False) -> Path:
    _, predictions = sets(root, images=2)
    return results_file(root / "results.json", list(predictions.samples()), boxes)


def _evaluate(root: Path, task: str, *options: object) -> list[Reader]:
    arguments = ("--data", root / "truth", "--task", task, "--out", root / OUT / "eval")
    return [("eval", *arguments, "--predictions", root / "results.json", "--json", *options)]


def _panoptic_results(root: Path) -> Path:
    from segkit.export.coco import export_panoptic

    _, predictions = sets(root, images=2)
    export_panoptic(predictions, root / "exported")
    (source,) = (root / "exported").rglob("*.json")
    (pngs,) = {path.parent for path in (root / "exported").rglob("*.png")}
    content = json.loads(source.read_bytes())
    (root / "results.json").write_text(json.dumps(content))
    shutil.move(pngs, root / "results")
    return root / "results.json"


def _panoptic_result_png(root: Path) -> Path:
    _panoptic_results(root)
    return min((root / "results").iterdir())


def _class_map(root: Path) -> Path:
    _toy(root)
    (root / "taxonomy.json").write_text(
        '{"name": "t", "categories": [{"id": 1, "name": "a", "kind": "stuff"},'
        ' {"id": 2, "name": "b", "kind": "thing"}]}'
    )
    (root / "map.csv").write_text("from,to\nsky,a\ncat,2\n")
    return root / "map.csv"


def _relabel(root: Path) -> list[Reader]:
    arguments = ("--map", root / "map.csv", "--taxonomy", root / "taxonomy.json")
    return [
        ("relabel", root / "set", *arguments, "--out", root / OUT / "relabeled"),
        ("validate", root / OUT / "relabeled"),
    ]


def _taxonomy(root: Path) -> Path:
    _class_map(root)
    return root / "taxonomy.json"


def _image_list(root: Path) -> Path:
    _toy(root)
    (root / "train.txt").write_text("000\n001\n002\n")
    return root / "train.txt"


def _unseen(root: Path) -> Path:
    sets(root, images=2)
    (root / "unseen.txt").write_text("class 1\n")
    return root / "unseen.txt"


def kinds() -> Sequence[FileKind]:
    """All kinds of this module."""
    return (
        FileKind("manifest of a set", _toy, json_mutants, _of_set, seal_manifest),
        FileKind("rows of labels", _labels, both(_rows, _masks), _of_set, _seal_labels),
        FileKind("file of labels", _labels, binary_mutants, _of_set, _seal_labels),
        FileKind("tar of images", _tar, binary_mutants, _of_set),
        FileKind(
            "COCO results, masks",
            _results,
            json_mutants,
            lambda root: _evaluate(root, "instance"),
        ),
        FileKind(
            "COCO results, boxes",
            lambda root: _results(root, boxes=True),
            json_mutants,
            lambda root: _evaluate(root, "instance", "--by", "box"),
        ),
        FileKind(
            "COCO panoptic results",
            _panoptic_results,
            json_mutants,
            lambda root: _evaluate(root, "panoptic"),
        ),
        FileKind(
            "PNG of COCO panoptic results",
            _panoptic_result_png,
            binary_mutants,
            lambda root: _evaluate(root, "panoptic"),
        ),
        FileKind("class map", _class_map, text_mutants, _relabel),
        FileKind(
            "taxonomy",
            _taxonomy,
            json_mutants,
            lambda root: [
                ("vocabulary", "show", root / "taxonomy.json", "--json"),
                *_relabel(root),
            ],
        ),
        FileKind(
            "list of images",
            _image_list,
            text_mutants,
            lambda root: [
                (
                    "split",
                    root / "set",
                    "--list",
                    f"a={root / 'train.txt'}",
                    "--out",
                    root / OUT / "p",
                )
            ],
        ),
    )
