"""The record of a self-training, `selftrain.json`: its inputs, and the rounds so far."""

import json
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from shlex import quote
from typing import Any

from segkit import parse
from segkit.atomic import write_text
from segkit.errors import InputError
from segkit.recipes.effects import drop_needless_freeze_norm
from segkit.shards.prune import SELF_TRAINING as STATE
from segkit.training.interrupted import differences
from segkit.training.selftrain_plan import SelfTrainingPlan

_PARTS = ("held-out/*/train", "held-out/*/held-out", "round-*/run", "round-*/masks")
"""Folders that a self-training writes after its record."""


def has_state(out: Path) -> bool:
    """Whether a folder has the record of a self-training, which a call resumes."""
    return (out / STATE).exists()


def read_state(out: Path, plan: SelfTrainingPlan) -> list[dict[str, Any]]:
    """The rounds of an interrupted self-training with the same inputs; none where there is none.

    Raises:
        InputError: the folder holds another self-training, or parts of one without its record.
    """
    file = out / STATE
    if not has_state(out):
        if part := next((part for pattern in _PARTS for part in out.glob(pattern)), None):
            message = f"is of a self-training, but {STATE} is missing, which names its inputs"
            raise InputError(message, file=part, hint="give another --out")
        return []
    state = parse.read_json(file)
    parts = state if isinstance(state, dict) else {}
    inputs, rounds = parts.get("inputs"), parts.get("rounds")
    if not (isinstance(inputs, dict) and isinstance(rounds, list) and all(map(_is_round, rounds))):
        hint = "give another --out"
        raise InputError("is not the record of a self-training", file=file, hint=hint)
    fingerprint = json.loads(json.dumps(plan.fingerprint))
    for recipe in (fingerprint["recipe"], inputs.get("recipe")):
        if isinstance(recipe, dict):
            drop_needless_freeze_norm(recipe)
    differing = [key for key, value in fingerprint.items() if inputs.get(key) != value]
    if differing:
        hint = f"give the same{_settings(inputs, fingerprint)}, or another --out"
        message = f"holds a self-training with another {' and another '.join(differing)}"
        raise InputError(message, file=out, hint=hint)
    return [_with_paths(entry, lambda path: _absolute(path, out)) for entry in rounds]


def _settings(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The options that give the recipe of an interrupted self-training, whose file has changed."""
    if not isinstance(before.get("recipe"), dict):
        return ""
    options = ""
    for key in sorted(differences(before["recipe"], now["recipe"])):
        value = reduce(
            lambda table, part: (table or {}).get(part), key.split("."), before["recipe"]
        )
        if "." in key and value is not None:
            options += f" --set {quote(f'{key}={json.dumps(value)}')}"
    return f", such as by{options}" if options else ""


def write_state(out: Path, plan: SelfTrainingPlan, rounds: Sequence[dict[str, Any]]) -> None:
    """Write inputs and rounds by one atomic rename; paths inside `out` relative to it."""
    out.mkdir(parents=True, exist_ok=True)
    entries = [_with_paths(entry, lambda path: _relative(path, out)) for entry in rounds]
    state = {"schema": "segkit.selftrain/1", "inputs": plan.fingerprint, "rounds": entries}
    write_text(out / STATE, json.dumps(state, indent=1) + "\n")


def _is_round(entry: object) -> bool:
    """Whether JSON is the record of a round; `masks` is missing before its boxes are labeled."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("run"), str)
        and isinstance(entry.get("held_out_iou"), int | float)
        and isinstance(entry.get("masks", ""), str)
    )


def _with_paths(entry: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The record of a round with its paths changed."""
    return entry | {key: change(entry[key]) for key in ("run", "masks") if key in entry}


def _relative(path: str, out: Path) -> str:
    """A path inside `out` relative to it, so that the folder can be moved; others unchanged."""
    inside = Path(path).resolve()
    return str(inside.relative_to(out.resolve())) if inside.is_relative_to(out.resolve()) else path


def _absolute(path: str, out: Path) -> str:
    """The path of a run or of masks; `round-N/run/vM` is in `out`.

    Earlier records name it from the working directory, or absolute, perhaps before `out` was moved.
    """
    own = out.resolve().joinpath(*Path(path).parts[-3:])
    is_elsewhere = Path(path).is_absolute() and (Path(path).exists() or not own.exists())
    return path if is_elsewhere else str(own)
