"""Formats of labeling tools in a store: the same samples as on this machine."""

import json
from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.shards.reader import ShardSet
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.recognize import recognize
from segkit.sources.yolo_labels import open_yolo

from .test_recognize import files
from .test_remote import copied

COMMANDS = ("yolo", "cvat", "labelstudio", "labelme", "voc-boxes", "coco", "visual-genome")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_gives_the_same_samples(tmp_path: Path, store: Path, command: str) -> None:
    path = files(tmp_path / "data")[command]
    copied(tmp_path / "data", store)
    if command == "voc-boxes":
        path = path.parents[1]
    remote = store / path.relative_to(tmp_path / "data").as_posix()
    sets = []
    for place, name in ((path, "here"), (remote, "there")):
        source = recognize(place).source
        convert(source, tmp_path / name, ConvertOptions(workers=1))
        sets.append(ShardSet.open(tmp_path / name))
    here, there = sets
    assert list(here.samples()) == list(there.samples())
    assert here.manifest.digest == there.manifest.digest
    assert json.dumps(here.manifest.ledger.model_dump()) == json.dumps(
        there.manifest.ledger.model_dump()
    )


def test_a_data_yaml_in_a_store_names_its_store_only(tmp_path: Path, store: Path) -> None:
    files(tmp_path / "data")
    copied(tmp_path / "data", store)
    (yaml,) = (path for path in (tmp_path / "data").rglob("data.yaml"))
    folder = yaml.parent
    remote = store / folder.relative_to(tmp_path / "data").as_posix()
    split = next(line for line in yaml.read_text().splitlines() if line.startswith("train:"))
    images = split.partition(":")[2].strip()
    names = "names: [a, b, c]\n"
    for text in (f"train: {remote}/{images}\n", f"path: {remote}\n{split}\n", split + "\n"):
        (remote / "data.yaml").write_text(text + names)
        assert open_yolo(remote / "data.yaml").entries
    (remote / "data.yaml").write_text(f"path: {folder}\n{split}\n{names}")
    source = open_yolo(remote / "data.yaml")
    assert "does not exist" in source.notes[0] and source.images != folder
    for text in (f"train: {folder}/{images}\n", "train: memory://other/images\n"):
        (remote / "data.yaml").write_text(text + names)
        with pytest.raises(InputError, match="which is elsewhere"):
            open_yolo(remote / "data.yaml")
