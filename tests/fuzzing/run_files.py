"""Files of runs, checkpoints and public models, and those that training reads."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import torch

from segkit.model.hf import read_config
from segkit.model.hf_processor import image_sizes, pixel_statistics
from segkit.recipes.load import load_recipe
from segkit.runs.open_run import load_run
from segkit.shards.manifest_file import manifest_digest
from segkit.shards.versions import MANIFEST
from segkit.sources.vocabulary_file import open_vocabulary
from segkit.text.encoding import load_templates
from segkit.text.table import read_table
from segkit.training import checkpoint
from segkit.training.logging import evaluations
from segkit.training.train import train

from ..model.checkpoints import mask2former
from ..runs.seal import seal
from ..training.toy import write_recipe, write_toy_set
from .kinds import FileKind, Reader
from .mutate import binary_mutants, both, json_mutants, text_mutants


@cache
def _trained() -> TemporaryDirectory[str]:
    """A folder with a run, which is deleted at the end."""
    folder = TemporaryDirectory()
    root = Path(folder.name)
    data, recipe = write_toy_set(root / "set"), write_recipe(root / "tiny.toml")
    train(str(recipe), [(str(data.path), 1.0)], root / "run", steps=1, device="cpu")
    return folder


def _run(name: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        shutil.copytree(Path(_trained().name) / "run", root / "run")
        return root / "run" / "v1" / name

    return write


def _seal(file: Path) -> None:
    """Let the manifest of a run list a changed file as its own."""
    if file.name != MANIFEST:
        seal(file.parent)
        file = file.parent / MANIFEST
    with suppress(Exception):  # a mutant may hold anything
        content = json.loads(file.read_bytes())
        content["manifest_digest"] = manifest_digest(content)
        file.write_text(json.dumps(content))


def _of_run(root: Path) -> list[Reader]:
    return [
        ("validate", root / "run", "--json"),
        ("inspect", root / "run", "--json"),
        ("inspect", root / "run"),
        lambda: load_run(root / "run"),
    ]


def _checkpoint(name: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        tensors = {"model/w": torch.ones(2, 3), "step": torch.tensor(1)}
        folder = root / "checkpoints"
        writer = checkpoint.CheckpointWriter()
        path = writer.start(folder, 1, tensors, {"scaler": {}}, newest=1, best=None)
        writer.wait()
        if name != "digests.json":
            (path / "digests.json").unlink()  # as of an older segkit, or of an attacker
        return path / name

    return write


def _of_checkpoint(root: Path) -> list[Reader]:
    path = root / "checkpoints" / "step-00000001"
    return [
        lambda: checkpoint.sizes(path),
        lambda: checkpoint.load(path, {"model/w": torch.zeros(2, 3)}),
    ]


def _public_model(name: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        model = mask2former("resnet18", ("cat", "dog"))
        model.config.save_pretrained(root)  # type: ignore[union-attr,operator]
        processor = {"size": {"shortest_edge": 64, "longest_edge": 96}, "image_mean": [0.5] * 3}
        (root / "preprocessor_config.json").write_text(json.dumps(processor))
        return root / name

    return write


def _of_public_model(root: Path) -> list[Reader]:
    return [
        lambda: read_config(root),
        lambda: image_sizes(root),
        lambda: pixel_statistics(root),
    ]


def _text(name: str, text: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        (root / name).write_text(text)
        return root / name

    return write


def _table(root: Path) -> Path:
    import numpy as np

    from segkit.text.encoding import SHIPPED
    from segkit.text.table import EmbeddingTable, write_table

    rows = {word: np.eye(4, dtype=np.float32)[k] for k, word in enumerate(("cat", "dog"))}
    write_table(root / "a.safetensors", EmbeddingTable(rows, np.zeros(4, np.float32), "d"), SHIPPED)
    return root / "a.safetensors"


def _headers(data: bytes, random: Random) -> Iterator[bytes]:
    """Safetensors files with mutants of their header, of the right length."""
    length = int.from_bytes(data[:8], "little")
    for header in json_mutants(data[8 : 8 + length], random):
        yield len(header).to_bytes(8, "little") + header + data[8 + length :]


def _json_lines(data: bytes, random: Random) -> Iterator[bytes]:
    """Files of JSON lines with mutants of one line."""
    *lines, last = data.splitlines()
    for line in json_mutants(last, random):
        yield b"\n".join((*lines, line, b""))


_SAFETENSORS = both(_headers, binary_mutants)
_RECIPE = Path(__file__).parents[2] / "segkit" / "recipes" / "dataseg-mini.toml"
_LOG = """{"step": 1, "loss": 0.5}
{"step": 1, "evaluation": "toy", "metrics": {"task": "panoptic", "all": {"pq": 1.5}}}
"""


def kinds() -> Sequence[FileKind]:
    """All kinds of this module."""
    return (
        *(
            FileKind(f"{name} of a run", _run(file), mutants, _of_run, _seal)
            for name, file, mutants in (
                ("manifest", MANIFEST, json_mutants),
                ("taxonomies", "taxonomies.json", json_mutants),
                ("recipe", "recipe.toml", text_mutants),
                ("vocabulary", "vocabulary.safetensors", _SAFETENSORS),
                ("weights", "model.safetensors", _SAFETENSORS),
            )
        ),
        *(
            FileKind(f"{name} of a checkpoint", _checkpoint(file), mutants, _of_checkpoint)
            for name, file, mutants in (
                ("values", "values.json", json_mutants),
                ("digests", "digests.json", json_mutants),
                ("metadata", ".metadata", binary_mutants),
            )
        ),
        FileKind(
            "config of a public model",
            _public_model("config.json"),
            json_mutants,
            _of_public_model,
        ),
        FileKind(
            "image processor of a public model",
            _public_model("preprocessor_config.json"),
            json_mutants,
            _of_public_model,
        ),
        FileKind(
            "recipe",
            _text("a.toml", _RECIPE.read_text()),
            text_mutants,
            lambda root: [lambda: load_recipe(root / "a.toml")],
        ),
        FileKind(
            "class names",
            _text("a.txt", "cat\ndog\nsolder joint\n"),
            text_mutants,
            lambda root: [lambda: open_vocabulary(str(root / "a.txt"))],
        ),
        FileKind(
            "templates",
            _text("a.txt", "a photo of a {}.\na {} in the scene\n"),
            text_mutants,
            lambda root: [lambda: load_templates(str(root / "a.txt"))],
        ),
        FileKind(
            "text embeddings",
            _table,
            _SAFETENSORS,
            lambda root: [lambda: read_table(root / "a.safetensors")],
        ),
        FileKind(
            "log of a run",
            _text("metrics.jsonl", _LOG),
            both(text_mutants, _json_lines),
            lambda root: [lambda: evaluations(root, 1)],
        ),
    )
