"""Formats of labeling tools in a store: the same samples as on this machine."""

import json
from pathlib import Path

import pytest

from segkit.shards.reader import ShardSet
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.recognize import recognize

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
