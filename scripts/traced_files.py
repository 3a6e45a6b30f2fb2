"""List the files of segkit/ that run in one training step, and from one box to its mask.

    python scripts/traced_files.py      # scripts/structure.py --trace checks their number

A file counts if one of its functions is called, in any thread: in a training step from the batch
to the updated weights; in the whole step, loading of the batch included; while a loaded model
predicts the mask of a box; while a run is loaded, a set of boxes read and a label layer written.
The data set and the recipe are those of the tests.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from structure import ROOT

sys.path.insert(0, str(ROOT))
import segkit
from segkit.inference.pseudolabel import pseudolabel
from segkit.shards.reader import ShardSet
from segkit.training.train import train
from segkit.training.trainer import Callbacks
from tests.training.toy import write_recipe, write_toy_set

PACKAGE = str(ROOT / "segkit") + "/"
TRACED_STEP = 3
LOADING = "_next_batches"
"""The method of Trainer that waits for the batches of a step."""


class Tracer:
    """Records the files of segkit/ whose functions are called while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.files: set[str] = set()
        self.loading: set[str] = set()
        """Files of which functions are called only to load batches."""

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        """Record a call; the signature is that of sys.setprofile."""
        if self.on and event == "call" and frame.f_code.co_name != "<module>":
            name = frame.f_code.co_filename
            if name.startswith(PACKAGE):
                files = self.loading if _is_loading(frame) else self.files
                files.add(name.removeprefix(PACKAGE))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the tracer in this thread and in those that start meanwhile."""
        threading.setprofile(self.profile)
        sys.setprofile(self.profile)
        yield
        sys.setprofile(None)
        threading.setprofile(None)


def _is_loading(frame: FrameType | None) -> bool:
    """Whether a call happens inside the method that waits for batches, or in another thread."""
    if threading.current_thread() is not threading.main_thread():
        return True
    while frame is not None:
        if frame.f_code.co_name == LOADING:
            return True
        frame = frame.f_back
    return False


def trace_step(folder: Path) -> tuple[Path, list[str], list[str]]:
    """Train on the toy set; return the run, and the files of one step without and with loading."""
    tracer = Tracer()
    toy = write_toy_set(folder / "toy")
    recipe = write_recipe(folder / "tiny.toml")

    def switch(record: Any) -> None:
        tracer.on = record.step == TRACED_STEP - 1

    with tracer.installed():
        run = train(
            recipe,
            [(str(toy.path), 1.0)],
            folder / "run",
            steps=TRACED_STEP + 2,
            device="cpu",
            callbacks=Callbacks(on_step=switch),
        )
    return run, sorted(tracer.files), sorted(tracer.files | tracer.loading)


def trace_box(run: Path) -> list[str]:
    """Return the files from a box on an image to its mask."""
    predictor = segkit.Predictor(run, "cpu")
    image = np.zeros((48, 64, 3), np.uint8)
    tracer = Tracer()
    with tracer.installed():
        tracer.on = True
        predictor.predict_boxes(image, [(8.0, 8.0, 24.0, 24.0)], ["cat"])
        tracer.on = False
    return sorted(tracer.files | tracer.loading)


def trace_layer(run: Path, folder: Path) -> list[str]:
    """Return the files from a set of boxes and a run on disk to a label layer."""
    boxes = write_toy_set(folder / "boxes", boxes_only=True, name="boxes").path
    tracer = Tracer()
    with tracer.installed():
        tracer.on = True
        pseudolabel(segkit.load_run(run), ShardSet.open(boxes), folder / "layer")
        tracer.on = False
    return sorted(tracer.files | tracer.loading)


def trace() -> dict[str, list[str]]:
    """Return the files of each path, by its name."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SEGKIT_CACHE"] = str(folder / "cache")  # not what this user has encoded
        run, step, loaded_step = trace_step(folder)
        return {
            "one training step, from the batch": step,
            "one training step, with loading": loaded_step,
            "one box to its mask": trace_box(run),
            "a set of boxes to a layer": trace_layer(run, folder),
        }


def main() -> None:
    for name, files in trace().items():
        print(f"{name}: {len(files)} files", *files, "", sep="\n")


if __name__ == "__main__":
    main()
