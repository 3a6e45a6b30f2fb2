"""A mask whose run lengths do not fill its image is refused by its image, wherever it is used."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import segkit
from segkit.commands.app import app
from segkit.errors import InputError
from segkit.masks import rle
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set

from ..training.toy import write_recipe, write_toy_set

PLACE = 3
"""Index of the image with a malformed mask."""
MASKS: dict[str, Callable[[int], bytes]] = {
    "short": lambda pixels: rle.compress(np.array([5, pixels - 6])),
    "long": lambda pixels: rle.compress(np.array([5, pixels])),
    "negative": lambda pixels: rle.compress(np.array([5, pixels, -10, 5])),
    "text": lambda pixels: b"no run lengths",
}


@dataclass(frozen=True)
class Sets:
    """A set, and the same with a malformed mask."""

    plain: ShardSet
    malformed: ShardSet
    recipe: Path
    mask: str

    @property
    def image(self) -> str:
        return self.plain.sample(PLACE).id


def malformed_set(folder: Path, toy: ShardSet, mask: str) -> ShardSet:
    samples = [*toy.samples()]
    sample = samples[PLACE]
    thing = next(k for k, segment in enumerate(sample.segments) if segment.kind == "thing")
    segments = [*sample.segments]
    counts = MASKS[mask](sample.height * sample.width)
    segments[thing] = replace(segments[thing], mask=counts)
    samples[PLACE] = replace(sample, segments=tuple(segments))
    header = Header(taxonomy=toy.taxonomy, kind="panoptic", name="toy", split="val", command="test")
    return write_set(folder, [(s, toy.image_bytes(s)) for s in samples], header)


EXPORTS = (
    "coco-instances",
    "coco-panoptic",
    "semantic",
    "yolo-seg",
    "cvat",
    "labelstudio",
    "labelme",
)
USES: dict[str, tuple[str, ...]] = {
    "merge": ("merge", "{set}", "{plain}"),
    "split": ("split", "{set}", "--part", "train=0.5", "--part", "val=0.5"),
    "diff": ("diff", "{set}", "{plain}"),
    "show": ("show", "{set}", "--grid", "6"),
    "train": ("train", "--recipe", "{recipe}", "--data", "{set}", "--steps", "8"),
    **{f"export {form}": ("export", form, "--data", "{set}") for form in EXPORTS},
    **{
        f"eval {task} {side}": ("eval", "--data", truth, "--task", task, "--predictions", predicted)
        for task in ("panoptic", "semantic", "instance")
        for side, truth, predicted in (
            ("truth", "{set}", "{plain}"),
            ("predictions", "{plain}", "{set}"),
        )
    },
}
"""Command lines without a destination, all of them of processes that decode or copy masks."""


@pytest.fixture(scope="module", params=MASKS)
def sets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sets:
    folder = tmp_path_factory.mktemp(request.param)
    plain = write_toy_set(folder / "plain")
    recipe = write_recipe(folder / "tiny.toml")
    return Sets(plain, malformed_set(folder / "set", plain, request.param), recipe, request.param)


@pytest.mark.parametrize("use", USES)
def test_every_use_names_the_image(sets: Sets, use: str, tmp_path: Path) -> None:
    if use.startswith("eval instance") and sets.mask == "short":
        pytest.skip("the tail is background, as for every COCO tool")
    out = tmp_path / ("out.png" if use == "show" else "out")
    names = {"set": sets.malformed.path, "plain": sets.plain.path, "recipe": sets.recipe}
    command = [part.format(**names) for part in USES[use]]
    command += ["--out", str(out)] if use != "diff" else []
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, InputError), result.output
    assert sets.image in str(result.exception) and "\n" not in str(result.exception)
    assert not [path for path in tmp_path.rglob("v1") if path.is_dir()]


def test_images_with_labels_name_it(sets: Sets) -> None:
    opened = segkit.open(sets.malformed.path)
    assert opened[PLACE - 1].masks.any()
    for read in (lambda: opened[PLACE], lambda: list(opened)):
        with pytest.raises(InputError, match=f"image {sets.image}: a mask whose run lengths"):
            read()
