"""Names of earlier versions and their replacements: recipe keys, and weights of published runs.

Run manifests of schema version 1 use the old names; `open_run` and `load_run` translate them. In a
recipe file or in `--set`, an old key still works and warns with OldNameWarning.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from segkit.errors import InputError, Notice

T = TypeVar("T")

KEYS = {
    "optimiser": "optimizer",
    "data.colour_jitter": "data.color_jitter",
    "loss.conditioned": "loss.box_prompts",
    "loss.merge_sure": "loss.merge_threshold",
    "training.track": "training.loggers",
}
"""Old key or section -> its name today."""
SETTLED = {
    "loss.merge_masks": "max",
    "loss.merge_scores": "mean",
    "inference.merge_masks": "max",
    "inference.merge_scores": "max",
    "inference.merge_semantic": "sum",
}
"""Removed key -> the only choice that remains (see docs/results.md for the comparison)."""
WEIGHTS = {
    "pixel_decoder.level_embedding.": "pixel_decoder.level_embed.",
    "query_decoder.level_embedding.": "transformer_decoder.level_embed.",
    "query_decoder.": "transformer_decoder.",
    "classifier.": "text_classifier.",
    "conditioner.": "box_prompt_encoder.",
}
"""Old prefix of weight names -> its replacement; the first match counts."""


class OldNameWarning(Notice):
    """A recipe file or an override uses a key's old name."""


def current_key(key: str) -> str:
    """Today's name of a dotted key."""
    for old, new in KEYS.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def update_keys(table: dict[str, Any], source: str) -> list[tuple[str, str]]:
    """Rename the old keys of a recipe's table and drop its settled keys, in place.

    Returns:
        Old and new name of each renamed key.

    Raises:
        InputError: a key under both names, or a settled key with a choice that no longer exists.
    """
    for key in SETTLED:
        section, _, name = key.partition(".")
        if name in _section(table, section):
            _check_settled(key, table[section].pop(name), source)
    renamed = []
    for old, new in KEYS.items():
        *parents, name = old.split(".")
        keys = _section(table, *parents)
        if name not in keys:
            continue
        new_name = new.rpartition(".")[2]
        if new_name in keys:
            message = f"{old!r} is the old name of {new!r}, which is also given"
            raise InputError(message, file=source, hint=f"remove {old!r}")
        keys[new_name] = keys.pop(name)
        renamed.append((old, new))
    return renamed


def update_weights(state: Mapping[str, T]) -> dict[str, T]:
    """A model's state dict, or any mapping by weight name, with old names replaced."""
    return {_current_weight(name): value for name, value in state.items()}


def _current_weight(name: str) -> str:
    for old, new in WEIGHTS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _section(table: dict[str, Any], *path: str) -> dict[str, Any]:
    """The table at a path; an empty one where there is none."""
    for name in path:
        inner = table.get(name)
        table = inner if isinstance(inner, dict) else {}
    return table


def _check_settled(key: str, value: object, source: str) -> None:
    """Raise InputError where a settled key has a choice that no longer exists."""
    if value != SETTLED[key]:
        hint = f"remove the key: {SETTLED[key]!r} is built in"
        raise InputError(f"{value!r} is no longer supported", file=source, record=key, hint=hint)
