"""Check a self-training before PyTorch is imported: recipe, masks, boxes, held-out images, rounds.

The first teacher trains on masks and boxes; each later round trains on the masks and on the
pseudo-masks that the round before made of the boxes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkit import parse
from segkit.atomic import write_text
from segkit.errors import InputError
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import Recipe
from segkit.runs.open_run import check_run, run_folder
from segkit.runs.run_manifest import read_run_manifest
from segkit.shards.publish import resolve, versions
from segkit.shards.reader import ShardSet
from segkit.shards.split import assign_by_share, split
from segkit.training.preflight import check_inputs, with_steps
from segkit.workers.devices import torchrun_ranks

STATE = "selftrain.json"
"""File of a self-training's folder: its inputs, and the rounds so far."""
TRAIN_PART, HELD_OUT_PART = "train", "held-out"
NamedPath = tuple[str, float]
"""A shard set and its sampling weight."""


@dataclass(frozen=True)
class SelfTrainingPlan:
    """The checked inputs of a self-training."""

    recipe: Recipe
    data: list[NamedPath]
    """Sets with masks."""
    boxes: NamedPath
    """The set whose boxes are labeled in each round."""
    held_out: str | None
    """A set with masks that no round trains on; None holds a share of `data` back."""
    share: float
    checkpoint: str | None
    """The first teacher; None trains one."""
    round_steps: int
    overrides: tuple[str, ...]
    tta: bool

    @property
    def first_overrides(self) -> list[str]:
        """Of the first training, which has no scores to trust."""
        return _first_overrides(self.overrides)

    def fingerprint(self) -> dict[str, Any]:
        """What a self-training that resumes must have in common with the interrupted one."""

        def digest(spec: str) -> str:
            return ShardSet.open(spec).manifest.digest

        teacher = self.checkpoint and read_run_manifest(run_folder(self.checkpoint)).digest
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "data": [[digest(spec), weight] for spec, weight in self.data],
            "boxes": [digest(self.boxes[0]), self.boxes[1]],
            "held_out": digest(self.held_out) if self.held_out else self.share,
            "checkpoint": teacher,
            "round_steps": self.round_steps,
            "tta": self.tta,
        }


def plan_selftraining(
    recipe: str | Path,
    data: Sequence[NamedPath],
    boxes: NamedPath,
    *,
    rounds: int,
    held_out: str | None,
    share: float,
    checkpoint: str | None,
    steps: int | None,
    round_steps: int | None,
    overrides: Sequence[str],
    tta: bool,
) -> SelfTrainingPlan:
    """Check the arguments of `selftrain`, as far as that needs no PyTorch.

    Raises:
        InputError: a recipe, set or run that cannot be used, no round, a share outside 0-1, steps
            that nothing would read, or several processes.
    """
    if torchrun_ranks() > 1:
        hint = "start it without torchrun"
        raise InputError("self-training runs in one process", record="torchrun", hint=hint)
    if rounds < 1:
        raise InputError(f"{rounds} rounds", record="--rounds", hint="give 1 or more")
    if not 0 < share < 1:
        hint = "give a share between 0 and 1, such as 0.1"
        raise InputError(f"a held-out share of {share:g}", record="--held-out-share", hint=hint)
    if checkpoint is not None and steps is not None:
        hint = "--checkpoint replaces the first training; give --round-steps"
        raise InputError("nothing reads --steps", hint=hint)
    loaded = load_recipe(recipe, with_steps(_first_overrides(overrides), steps))
    if not loaded.loss.box_prompts:
        hint = "set loss.box_prompts above 0, as in box-labeler-mini"
        raise InputError("the recipe trains no box prompts", record=str(recipe), hint=hint)
    checked = check_inputs(loaded, [*data, boxes], []).recipe
    unlabeled = ShardSet.open(boxes[0])
    if not unlabeled.manifest.statistics.boxes_only:
        hint = "give a set with boxes, such as one converted with --boxes-only"
        raise InputError("no segment lacks a mask", file=unlabeled.path, hint=hint)
    if held_out is not None:
        _require_held_out(held_out, [*data, boxes])
    elif not any(map(_has_objects, (ShardSet.open(spec) for spec, _ in data))):
        hint = "add a set with masks of things, or give --held-out"
        raise InputError("no set of --data can hold images back", record="--data", hint=hint)
    if checkpoint is not None:
        check_run(checkpoint, (), "box-prompts")
    if round_steps is None:
        round_steps = max(1, checked.training.steps // 4)
    settings = tuple(overrides)
    return SelfTrainingPlan(
        checked, list(data), boxes, held_out, share, checkpoint, round_steps, settings, tta
    )


def _first_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides of the first training, which has no scores to trust."""
    return [*overrides, "loss.trust_scores=false"]


def _require_held_out(spec: str, trained: Sequence[NamedPath]) -> None:
    """Raise InputError where a set has no thing with a mask, or is trained on."""
    shards = ShardSet.open(spec)
    if any(shards.manifest.digest == ShardSet.open(other).manifest.digest for other, _ in trained):
        hint = "give another set, or leave --held-out out to hold a share of --data back"
        raise InputError("is trained on, so it cannot be held out", file=shards.path, hint=hint)
    if not _has_objects(shards):
        hint = "give a panoptic or instance set with masks"
        raise InputError("has no masks of things to score with", file=shards.path, hint=hint)


def _has_objects(shards: ShardSet) -> bool:
    is_object = shards.manifest.kind in ("panoptic", "instance")
    return is_object and any(
        segment.kind == "thing" and segment.has_true_mask
        for sample in shards.samples()
        for segment in sample.segments
    )


def hold_out(plan: SelfTrainingPlan, out: Path) -> tuple[list[NamedPath], list[ShardSet]]:
    """Hold images back, unless an earlier call did.

    Args:
        plan: names the sets.
        out: folder of the self-training; the parts of a set are written under `held-out/`.

    Returns:
        The sets to train on, with their weights, and those to score with.
    """
    if plan.held_out is not None:
        return plan.data, [ShardSet.open(plan.held_out)]
    data: list[NamedPath] = []
    held_out: list[ShardSet] = []
    for number, (spec, weight) in enumerate(plan.data):
        shards = ShardSet.open(spec)
        if not _has_objects(shards):
            data.append((spec, weight))
            continue
        folder = out / "held-out" / f"{number}-{shards.path.parent.name}"
        shares = {TRAIN_PART: 1 - plan.share, HELD_OUT_PART: plan.share}
        if any(not versions(folder / part) for part in shares):
            seed = plan.recipe.training.seed
            parts = assign_by_share(shards, shares, seed)
            arguments = {"set": spec, "share": plan.share, "seed": seed}
            split(shards, folder, parts, arguments, verify_images=False, force=False)
        data.append((str(resolve(folder / TRAIN_PART)), weight))
        held_out.append(ShardSet.open(folder / HELD_OUT_PART))
    return data, held_out


def read_state(out: Path, plan: SelfTrainingPlan) -> list[dict[str, Any]]:
    """The rounds of an interrupted self-training with the same inputs; none where there is none.

    Raises:
        InputError: the folder holds another self-training.
    """
    file = out / STATE
    if not file.exists():
        return []
    state = parse.read_json(file)
    parts = state if isinstance(state, dict) else {}
    inputs, rounds = parts.get("inputs"), parts.get("rounds")
    if not (isinstance(inputs, dict) and isinstance(rounds, list) and all(map(_is_round, rounds))):
        hint = "delete it, or give another --out"
        raise InputError("is not the record of a self-training", file=file, hint=hint)
    differing = [
        key
        for key, value in json.loads(json.dumps(plan.fingerprint())).items()
        if inputs.get(key) != value
    ]
    if differing:
        hint = "give the same, or another --out"
        message = f"holds a self-training with another {' and another '.join(differing)}"
        raise InputError(message, file=out, hint=hint)
    return rounds


def _is_round(entry: object) -> bool:
    """Whether JSON is the record of a round; `masks` is missing before its boxes are labeled."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("run"), str)
        and isinstance(entry.get("held_out_iou"), int | float)
        and isinstance(entry.get("masks", ""), str)
    )


def write_state(out: Path, plan: SelfTrainingPlan, rounds: Sequence[dict[str, Any]]) -> None:
    """Write inputs and rounds by one atomic rename."""
    out.mkdir(parents=True, exist_ok=True)
    state = {"schema": "segkit.selftrain/1", "inputs": plan.fingerprint(), "rounds": list(rounds)}
    write_text(out / STATE, json.dumps(state, indent=1) + "\n")
