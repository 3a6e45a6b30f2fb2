"""What a model starts from, where the recipe's `model.init_from` names something; torch only where
that is read."""

from pathlib import Path
from typing import TYPE_CHECKING

from segkit.errors import InputError
from segkit.model.hf_source import PREFIX, name_of
from segkit.recipes.schema import Recipe
from segkit.runs.run_manifest import read_run_manifest, run_parent
from segkit.shards.manifest import Parent
from segkit.shards.publish import resolve
from segkit.storage import here
from segkit.text.encoding import Encoding

if TYPE_CHECKING:
    from segkit.model.dataseg import DataSeg

_FREE = {"init_from", "backbone_weights", "freeze_norm"}
"""Keys of the model in which a training may differ from the run that it goes on from."""


def resolve_init_from(recipe: Recipe) -> Recipe:
    """A recipe that names the version of the run it starts from, and no backbone weights beside it.

    Raises:
        InputError: no such run or folder.
    """
    source = recipe.model.init_from
    if source is None:
        return recipe
    public = source.startswith(PREFIX)
    version = f"{PREFIX}{name_of(source)}" if public else str(resolve(here(source)).resolve())
    model = recipe.model.model_copy(update={"init_from": version, "backbone_weights": None})
    return recipe.model_copy(update={"model": model})


def init_from(model: "DataSeg", source: str, encoding: Encoding) -> None:
    """Give a model the weights of another.

    Args:
        model: of the same architecture.
        source: `hf:` and a Mask2Former of Hugging Face (see `segkit.model.hf.init_from`), or a run
            of segkit, `DIR` or `DIR@v2`, whose averaged weights are taken: all of them, for nothing
            in a model belongs to one data set.
        encoding: of the class names that the model will be trained with; a run's must be the same.

    Raises:
        InputError: no such source, or one of another architecture or encoding; the message names
            what to set.
        SegkitError: a public model that could not be fetched.
    """
    from segkit.model import hf

    if source.startswith(PREFIX):
        hf.init_from(model, source)
    else:
        _from_run(model, source, encoding)


def _from_run(model: "DataSeg", source: str, encoding: Encoding) -> None:
    from segkit.model import hf
    from segkit.runs.run import load_run

    run = load_run(source)
    hf.refuse_other(model.config, run.recipe.model.model_dump(exclude=_FREE), run.path)
    if run.encoding != encoding:
        message = f"its class names were encoded by {run.encoding.name}, these by {encoding.name}, or by other templates"
        hint = f"--set text.encoder={run.recipe.text.encoder} --set text.templates={run.recipe.text.templates}"
        raise InputError(message, file=run.path, hint=hint)
    model.load_state_dict(run.model.state_dict())


def init_from_parents(source: str | None, home: Path) -> tuple[Parent, ...]:
    """How the version that will lie at `home` names the run that it started from; nothing for other
    sources."""
    if source is None or source.startswith(PREFIX):
        return ()
    folder = resolve(here(source)).resolve()
    return (run_parent(folder, read_run_manifest(folder), home),)
