"""Initial weights of a model: `model.init_from` names a run, or a Mask2Former of Hugging Face.

Resolving the name imports no torch; only loading the weights does.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from segkit.errors import InputError
from segkit.file_names import expand_home
from segkit.hub import HF_PREFIX, fetch_model, is_hugging_face, model_name, require_run
from segkit.recipes.schema import ModelConfig, Recipe
from segkit.runs.run_manifest import VOCABULARY, read_run_manifest
from segkit.shards.manifest import Parent
from segkit.shards.versions import resolve
from segkit.storage import local_path
from segkit.tensor_file import read_metadata
from segkit.text.encoding import Encoding

if TYPE_CHECKING:
    from segkit.model.dataseg import DataSeg

_NOT_ARCHITECTURE = {
    "init_from",
    "backbone_weights",
    "freeze_norm",
    "label_content",
    "drop_path",
    "refine_boxes",
}
"""Keys of `ModelConfig` that may differ from the run whose weights are loaded."""
RESOLVED_KEYS = ("pixel_mean", "pixel_std", "text_dim")
"""Keys of `ModelConfig` that are resolved when training starts, unless the recipe sets them."""
_ADDED_PARTS = {
    "weight_transfer": "weight_transfer.",
    "box_mlp": "box_prompt_encoder.mask_head.mlp.",
    "foreground": "foreground_head.",
    "prompt_maps": ".prompt_weight",
}
"""Keys that add a part to the model -> what the names of its weights contain. A run without the
part may start a model that has it: the part's output is 0 at first, or it adds queries."""


def resolve_init_from(recipe: Recipe) -> Recipe:
    """The recipe with `model.init_from` resolved to a run's version or a checked `hf:` name.

    It then has no `model.backbone_weights`.

    Raises:
        InputError: no such run or folder.
    """
    source = recipe.model.init_from
    if source is None:
        return recipe
    if is_hugging_face(source):
        resolved = f"{HF_PREFIX}{model_name(source)}"
    else:
        require_run(source)
        resolved = str(resolve(local_path(expand_home(source))).resolve())
    model = recipe.model.model_copy(update={"init_from": resolved, "backbone_weights": None})
    return recipe.model_copy(update={"model": model})


def init_from(model: "DataSeg", source: str, encoding: Encoding) -> None:
    """Load the weights of another model.

    Args:
        model: of the same architecture.
        source: a segkit run, `DIR` or `DIR@v2`, whose averaged weights are all loaded (no weight
            belongs to one dataset); parts that only the new model has stay as they are. Or `hf:`
            and a Mask2Former. Its class head is loaded as well into a linear `model.class_head`; a
            cosine one and the box prompt encoder stay as they are.
        encoding: of the class names that the model will be trained with; must be a run's own.

    Raises:
        InputError: no such source, or another architecture or encoding; the message gives the
            `--set` options that match it.
        SegkitError: a public model that could not be fetched.
    """
    if is_hugging_face(source) and model.config.class_head != "linear":
        from segkit.model import hf

        folder = fetch_model(source)
        _check_architecture(model.config, hf.read_config(folder), folder)
        hf.load_checkpoint(model, folder)
        return

    from segkit.runs.open_run import load_run

    run = load_run(source)
    _check_compatible(model.config, encoding, run.recipe, run.encoding, run.path)
    parts = [part for key, part in _ADDED_PARTS.items() if not _has_part(run.recipe.model, key)]
    kept = {n: w for n, w in model.state_dict().items() if any(part in n for part in parts)}
    model.load_state_dict({**kept, **run.model.state_dict()})


def check_init_from(recipe: Recipe, source: str) -> None:
    """Raise InputError where `init_from` would refuse to start a recipe's model.

    Reads no weights; of a run, imports no torch.

    Args:
        recipe: keys that are resolved when training starts are compared where it sets them.
        source: the run's version, or `hf:FOLDER_OR_NAME` of a folder or in the hub's cache.
    """
    if is_hugging_face(source):
        from segkit.model.hf import read_config

        checkpoint = fetch_model(source, optional=())
        _check_architecture(recipe.model, read_config(checkpoint), checkpoint)
        return
    from segkit.runs.open_run import read_run_files

    folder = Path(source)
    run = read_run_files(folder).recipe
    later = {key: getattr(run.model, key) for key in RESOLVED_KEYS}
    later = {k: value for k, value in later.items() if k not in recipe.model.model_fields_set}
    config = recipe.model.model_copy(update=later)
    _check_compatible(config, recipe.text.encoding, run, read_encoding(folder)[0], folder)


def read_encoding(folder: Path) -> tuple[Encoding, str | None]:
    """The encoding of the class names of a run's version, and the digest of the encoder's weights.

    Raises:
        InputError: the file of the embeddings is missing or damaged.
    """
    problem, hint = "the run cannot be read", "train it again"
    return Encoding.from_metadata(read_metadata(folder / VOCABULARY, problem=problem, hint=hint))


def init_from_parents(source: str | None, destination: Path) -> tuple[Parent, ...]:
    """The run in `model.init_from` as a parent of any version under the directory `destination`.

    Empty for other sources.
    """
    if source is None or is_hugging_face(source):
        return ()
    folder = resolve(local_path(source)).resolve()
    return (Parent.from_version(folder, read_run_manifest(folder).digest, destination),)


def _check_compatible(
    config: ModelConfig, encoding: Encoding, run: Recipe, run_encoding: Encoding, folder: Path
) -> None:
    """Raise InputError where a model differs from a run in architecture or encoding."""
    free = _NOT_ARCHITECTURE | {key for key in _ADDED_PARTS if not _has_part(run.model, key)}
    if not run.model.foreground:
        free.add("foreground_boxes")
    elif config.foreground and config.foreground_boxes == run.model.foreground_boxes == "cells":
        free.add("foreground")  # cells serve any number of queries
    _check_architecture(config, run.model.model_dump(exclude=free), folder)
    if run_encoding != encoding:
        message = (
            f"its class names were encoded by {run_encoding.name}, these by {encoding.name}, "
            "or with other templates"
        )
        hint = f"--set text.encoder={run.text.encoder} --set text.templates={run.text.templates}"
        raise InputError(message, file=folder, hint=hint)


def _check_architecture(config: ModelConfig, expected: Mapping[str, Any], folder: Path) -> None:
    """Raise InputError where a model's configuration differs from that of a folder's weights."""
    actual, expected = _flatten(config.model_dump()), _flatten(expected)
    differing = {
        key: value
        for key, value in expected.items()
        if _without_tag(actual[key]) != _without_tag(value)
    }
    if differing:
        settings = (f"model.{key}={_as_setting(value)}" for key, value in differing.items())
        hint = " ".join(f"--set {quote(setting)}" for setting in settings)
        keys = ", ".join(f"model.{key}" for key in differing)
        raise InputError(f"the checkpoint and the recipe differ in {keys}", file=folder, hint=hint)


def _has_part(config: ModelConfig, key: str) -> bool:
    """Whether a model has the part that a key of `_ADDED_PARTS` adds."""
    return bool(
        getattr(config, key) != ModelConfig.model_fields[key].get_default(call_default_factory=True)
    )


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested table with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        is_table = isinstance(value, dict)
        flat |= _flatten(value, f"{prefix}{key}.") if is_table else {prefix + key: value}
    return flat


def _as_setting(value: Any) -> str:
    """A value as `--set` takes it: TOML, with text unquoted."""
    return value if isinstance(value, str) else json.dumps(value)


def _without_tag(value: Any) -> Any:
    """A backbone's name without the tag of its pretrained weights.

    The name resnet50.a1_in1k becomes resnet50.
    """
    return value.partition(".")[0] if isinstance(value, str) else value
