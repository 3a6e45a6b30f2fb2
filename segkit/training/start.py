"""What a model starts from, where the recipe's `model.init_from` names something."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model

from segkit.errors import InputError
from segkit.model import hf
from segkit.model.dataseg import DataSeg
from segkit.shards.publish import resolve
from segkit.storage import here
from segkit.training.recipe import load_recipe
from segkit.training.run_manifest import RECIPE, WEIGHTS, read_run_manifest

_FREE = {"init_from", "backbone_weights", "freeze_norm"}
"""Keys of the model in which a training may differ from the run that it goes on from."""


def init_from(model: DataSeg, source: str) -> None:
    """Give a model the weights of another.

    Args:
        model: of the same architecture.
        source: `hf:` and a Mask2Former of Hugging Face (see `segkit.model.hf.init_from`), or a run of segkit, `DIR` or
            `DIR@v2`, whose averaged weights are taken: all of them, for nothing in a model belongs to one data set.

    Raises:
        InputError: no such source, or one of another architecture; the message names what to set.
        SegkitError: a public model that could not be fetched.
    """
    if source.startswith(hf.PREFIX):
        hf.init_from(model, source)
    else:
        _from_run(model, resolve(here(source)))


def _from_run(model: DataSeg, folder: Path) -> None:
    read_run_manifest(folder)
    trained = load_recipe(folder / RECIPE).model.model_dump(exclude=_FREE)
    hf.refuse_other(model.config, trained, folder)
    try:
        load_model(model, folder / WEIGHTS)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot read weights ({error})", file=folder / WEIGHTS, mend="train the run again") from error
