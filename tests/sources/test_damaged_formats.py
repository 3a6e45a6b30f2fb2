"""Random damage to the files of labeling tools ends in counts or in one line, never in a crash."""

import bz2
import gzip
import json
import lzma
import random
from pathlib import Path
from typing import Any

import pytest

from segkit import parse
from segkit.errors import InputError
from segkit.sources import json_stream
from segkit.sources.label_studio import open_label_studio
from segkit.sources.labelme_json import open_labelme
from segkit.sources.recognize import recognize
from segkit.sources.visual_genome import open_visual_genome
from segkit.sources.voc_boxes import open_voc_boxes
from segkit.sources.yolo_labels import open_yolo

from ..fuzzing.mutate import Raw, at, dump, paths, replaced
from . import test_cvat_xml as cvat
from . import test_label_studio as labelstudio
from . import test_labelme_json as labelme
from . import test_recognize
from .builders import dry_run, picture, write_json

DAMAGE = 60
OPENERS: dict[str, Any] = {
    "labelstudio": lambda file: open_label_studio(file, file.parent / "images"),
    "labelme": lambda file: open_labelme(file.parent),
    "yolo": open_yolo,
    "visual-genome": lambda file: open_visual_genome(file, file.parent),
}
WORDS = (
    *(b"null", b"-1", b"1e999", b"[]", b"{}", b'""', b"<a>", b"&lt;", b"\x00", b"\xff", b"NaN"),
    *(b"true", b"99999999999999999999", b"\r", b"\xef\xbb\xbf", b"..", b"/", b"%2e", b"[" * 3000),
)


def rich_files(root: Path) -> dict[str, Path]:
    """A file of each format, with shapes of several kinds."""
    paths = test_recognize.files(root)
    cvat.dump(root / "cvat", cvat.box(1, 1, 5, 5, rotation=30), cvat.mask_text("1, 2, 1"),
              cvat.polygon([(1, 1), (9, 2), (5, 9)], group=1))  # fmt: skip
    picture(root / "labelstudio" / "images" / "a.jpg")
    regions = (labelstudio.rectangle(1, 1, 9, 9), labelstudio.polygon([1, 1], [50, 2], [9, 90]))
    write_json(paths["labelstudio"], [labelstudio.task(*regions), labelstudio.task(regions[0])])
    shapes = (
        labelme.shape("polygon", labelme.TRIANGLE, group_id=1),
        labelme.shape("circle", [[9, 9], [12, 12]], group_id=1),
    )
    write_json(paths["labelme"], labelme.content(*shapes))
    return paths


def damaged(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((0, 1, 1, 2, 8, 40)))
    return data[:start] + rng.choice((b"", b"", *WORDS)) + data[end:]


GZIP = gzip.compress(b'{"shapes": []}', mtime=0)
BROKEN = {
    b"": "is empty",
    b" \n": "is empty",
    b'{"shapes": [{"label": "c': "is not JSON|is not XML",
    b"<annotation><object>": "is not XML that can be read|is not JSON",
    '{"shapes": []}'.encode("utf-16"): "is UTF-16 text|is not XML",
    b"\xff": "is not UTF-8 text|is not XML",
    GZIP: "is compressed by gzip",
    b"[" * 100_000: "is not JSON that can be read|is not XML",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>": "has a document type|is not JSON",
    b"<annotations/>": "its root is <annotations>|is not JSON",
}


@pytest.mark.parametrize("extension", [".json", ".xml"])
@pytest.mark.parametrize("data", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_is_named_where_no_file_has_a_label(
    tmp_path: Path, data: bytes, extension: str
) -> None:
    for name in ("b", "c"):
        (tmp_path / f"{name}{extension}").write_bytes(data)
        picture(tmp_path / f"{name}.jpg")
    opener = open_labelme if extension == ".json" else lambda path: open_voc_boxes(path, path)
    with pytest.raises(InputError, match=rf"b\{extension}: .*({BROKEN[data]}).*1 more") as error:
        opener(tmp_path)
    assert "--labels" not in str(error.value)


def test_a_folder_of_other_json_files_is_not_one_of_labelme(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"images": [], "annotations": []})
    with pytest.raises(InputError, match="contains no JSON file of labelme"):
        open_labelme(tmp_path)


@pytest.mark.parametrize("command", ["coco", "labelstudio", "cvat", "visual-genome", "yolo"])
def test_a_compressed_file_is_named_as_such(tmp_path: Path, command: str) -> None:
    file = rich_files(tmp_path)[command]
    for compress, name in ((gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")):
        data = compress(file.read_bytes())
        packed = file.with_name(f"{name}-{file.name}")
        packed.write_bytes(data)
        with pytest.raises(InputError, match=f"is compressed by {name}; unpack it"):
            recognize(packed)
    with pytest.raises(InputError, match="is compressed by xz; unpack it"):
        list(json_stream.members(packed, ()))
    with pytest.raises(InputError, match="is compressed by xz; unpack it"):
        parse.read_json(packed)


ODD_VALUES = (
    *(None, True, -1, 0, 1.5, 1e308, 10**30, float("nan"), "", "x", "../x", "\x00", [], {}, [[]]),
    *([None], {"a": 1}, [1, 2], "1e5", {"id": []}, ["", ""], "\ud800"),
)


def altered(value: Any, rng: random.Random) -> Any:
    """A copy of JSON values in which one node, at any depth, is another value."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        key = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
        copy[key] = altered(copy[key], rng)
        return copy
    return rng.choice(ODD_VALUES)


@pytest.mark.parametrize("command", ["labelstudio", "labelme", "yolo", "visual-genome"])
def test_values_of_other_types_end_in_counts_or_one_line(tmp_path: Path, command: str) -> None:
    """JSON is YAML, so that data.yaml is altered in the same way."""
    file = rich_files(tmp_path)[command]
    intact = {"train": "images/train", "nc": 2, "path": ".", "names": {"0": "cat", "1": "dog"}}
    intact = intact if command == "yolo" else json.loads(file.read_text())
    rng = random.Random(command)
    for _ in range(DAMAGE):
        file.write_text(json.dumps(altered(intact, rng)))
        try:
            dry_run(OPENERS[command](file)).ledger.check()
        except InputError as error:
            assert "\n" not in str(error) and str(tmp_path) in str(error)


NUMBERS = (Raw("9" * 400), Raw("-" + "9" * 5000), Raw("1e999"), Raw("NaN"), True, "7")


@pytest.mark.parametrize("command", ["labelstudio", "labelme", "visual-genome"])
def test_a_number_that_no_float_holds_is_text_or_a_defect(tmp_path: Path, command: str) -> None:
    """The defects of every number in a file, replaced in turn, can be written as JSON."""
    file = rich_files(tmp_path)[command]
    intact, opener, drops = json.loads(file.read_text()), OPENERS[command], 0
    if command == "labelstudio":
        result = labelstudio.rectangle(1, 1, 9, 9, score=0.5)
        intact[1]["predictions"] = [{"result": [result], "score": 0.5}]
        intact[1]["annotations"] = []
        opener = lambda path: open_label_studio(path, path.parent, predictions=True)  # noqa: E731
    for path in paths(intact):
        if not isinstance(at(intact, path), int | float):
            continue
        for number in NUMBERS:
            file.write_bytes(dump(replaced(intact, path, number)))
            try:
                report = dry_run(opener(file))
            except InputError as error:
                assert "\n" not in str(error) and str(tmp_path) in str(error)
                continue
            json.dumps([defect.to_json() for defect in report.defects], allow_nan=False)
            drops += report.offenders
    assert drops


@pytest.mark.parametrize(
    "command",
    ["yolo", "labels", "cvat", "labelstudio", "labelme", "voc-boxes", "visual-genome"],
)
def test_damage_ends_in_counts_or_one_line(tmp_path: Path, command: str) -> None:
    files = rich_files(tmp_path)
    file = files.get(command, tmp_path / "yolo" / "labels" / "train" / "a.txt")
    place = {"labels": files["yolo"], "voc-boxes": tmp_path / "voc"}.get(command, file)
    intact, refused, kept = file.read_bytes(), 0, 0
    rng = random.Random(command)
    for _ in range(DAMAGE):
        file.write_bytes(damaged(intact, rng))
        try:
            source = recognize(place.parent if command == "labelme" else place).source
            ledger = dry_run(source).ledger  # raises if it does not balance
        except InputError as error:
            assert "\n" not in str(error) and str(tmp_path) in str(error)
            refused += 1
        else:
            kept += ledger.annotations.kept > 0
    assert kept > 0 and (refused > 0 or command in ("labels", "voc-boxes"))
