"""Random changes of a source between interrupted conversions."""

import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segkit import atomic
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate
from segkit.sources import engine
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.engine import ConversionReport, ConvertOptions, DefectsError, convert
from segkit.sources.semantic_masks import open_semantic
from segkit.sources.yolo_labels import open_yolo

from .builders import picture
from .test_resume import contents, stop, truncate, write_annotations


class Changes:
    """Random changes of a source; images and masks have ids."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root, self.rng, self.ids = root, rng, list(range(14))
        self.boxes: dict[int, int] = {}
        for number in self.ids:
            self.write_image(number)
            self.write_mask(number)
        (root / "labels.txt").write_text("ground\nblob\n")
        (root / "data.yaml").write_text("train: images\nnames: [cat]\n")
        write_annotations(root, self.ids)

    def write_image(self, number: int) -> None:
        seed, quality = self.rng.randrange(99), self.rng.randint(10, 95)
        picture(self.root / "images" / f"{number}.jpg", seed=seed, quality=quality)

    def write_mask(self, number: int) -> None:
        pixels = np.random.default_rng(self.rng.randrange(99)).integers(0, 3, (24, 32), np.uint8)
        (self.root / "masks").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(self.root / "masks" / f"{number}.png")  # 2 is unknown
        (self.root / "labels").mkdir(exist_ok=True)
        width = self.rng.choice([0.2, 0.4, 7])  # 7 is a defect
        (self.root / "labels" / f"{number}.txt").write_text(f"0 0.5 0.5 {width} 0.5\n")

    def apply(self) -> None:
        """Make one change."""
        number = self.rng.choice(self.ids)
        image, mask = self.root / "images" / f"{number}.jpg", self.root / "masks" / f"{number}.png"
        label = self.root / "labels" / f"{number}.txt"
        change = self.rng.randrange(9)
        if change == 0:
            self.write_image(number)
        elif change == 1:
            self.write_mask(number)
        elif change == 2:
            self.rng.choice([image, mask, label]).unlink(missing_ok=True)
        elif change == 3 and image.exists():
            truncate(image)
        elif change == 4:
            self.ids.append(max(self.ids) + 1)
            self.write_image(self.ids[-1])
            self.write_mask(self.ids[-1])
        elif change == 5:
            self.ids.remove(number)
        elif change == 6:
            self.rng.shuffle(self.ids)
        elif change == 7:
            self.boxes[number] = self.rng.randint(0, 20)  # 0 is a defect
        elif image.exists():
            os.utime(image)
        write_annotations(self.root, self.ids, self.boxes)

    def convert(self, out: str, kind: str, options: ConvertOptions) -> ConversionReport:
        """Convert the source as it is now."""
        root = self.root
        if kind == "semantic":
            source: Any = open_semantic(root / "images", root / "masks", root / "labels.txt")
        elif kind == "yolo":
            source = open_yolo(root / "data.yaml")
        else:
            source = open_coco_instances(root / "instances.json", root / "images")
        return convert(source, root / out, options, arguments={})


def random_options(rng: random.Random) -> ConvertOptions:
    return ConvertOptions(
        workers=1,
        on_error=rng.choice(["skip", "skip", "fail"]),
        limit=rng.choice([None, None, 9]),
        images_by=rng.choice(["embed", "embed", "reference", "none"]),
        shard_bytes=rng.choice([2000, 2000, 3000]),
    )


def cut_short(rng: random.Random, act: Callable[[], Any]) -> None:
    """Run a conversion that stops at a random step of a random shard, if it does not fail."""
    steps = [(engine.shards, "write_sidecar"), (atomic, "sync"), (engine.shards, "sync")]
    module, name = rng.choice([*steps, (engine, "write_quarantine"), (engine, "finish")])
    step, left = getattr(module, name), rng.randrange(14)

    def stopping(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        return step(*arguments, **named) if left > 0 and name != "finish" else stop()

    with pytest.MonkeyPatch.context() as patched, suppress(KeyboardInterrupt, DefectsError):
        patched.setattr(module, name, stopping)
        act()


@pytest.mark.parametrize("kind", ["semantic", "instances", "yolo"])
@pytest.mark.parametrize("seed", range(20))
def test_random_changes_between_runs_give_what_a_fresh_run_gives(
    tmp_path: Path, kind: str, seed: int
) -> None:
    rng = random.Random(seed)
    changes = Changes(tmp_path, rng)
    options = random_options(rng)
    for _ in range(rng.randint(1, 3)):
        cut_short(rng, partial(changes.convert, "out", kind, options))
        for _ in range(rng.randint(0, 3)):
            changes.apply()
        if rng.random() < 0.3:
            options = random_options(rng)
    options = replace(options, on_error="skip")
    resumed = changes.convert("out", kind, options)
    fresh = changes.convert("fresh/out", kind, options)
    assert resumed.published is not None and fresh.published is not None
    assert resumed.ledger == fresh.ledger
    assert contents(resumed.published.path) == contents(fresh.published.path)
    assert list(validate(resumed.published.path)) == []
    assert len({sample.id for sample in resumed.published.samples()}) == len(resumed.published)
    assert ShardSet.open(tmp_path / "out").manifest.digest == fresh.published.manifest.digest
