"""Check a self-training before PyTorch is imported: recipe, masks, boxes, held-out images, rounds.

The first teacher trains on masks and boxes; each later round trains on the masks and on the
pseudo-masks that the round before made of the boxes. The plan holds versions and the recipe's text,
so that what is published or edited meanwhile changes nothing.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from segkit import parse, torchrun
from segkit.data.check_sets import NamedDataset
from segkit.errors import InputError, Notice
from segkit.hub import is_hugging_face
from segkit.recipes.load import known_recipes, load_recipe
from segkit.recipes.schema import Recipe
from segkit.runs.init_from import check_init_from, read_encoding
from segkit.runs.open_run import check_inference, run_folder, trained_classes
from segkit.runs.run_manifest import read_run_manifest
from segkit.shards.lineage import training_digests
from segkit.shards.reader import ShardSet
from segkit.text.embeddings import EmbeddingStore
from segkit.text.indistinct import indistinct_notes
from segkit.training.held_out import Parts, check_held_out, draw_parts
from segkit.training.options import SelfTrainOptions, with_steps
from segkit.training.preflight import (
    TrainingInputs,
    check_inputs,
    encode_names,
)

SHARE = 0.1
"""Of the images of `data` that are held back, unless the caller gives a set or another share."""
NamedPath = tuple[str, float]
"""A shard set and its sampling weight."""


@dataclass(frozen=True)
class SelfTrainingPlan:
    """The checked inputs of a self-training."""

    source: str
    """Name or file of the recipe."""
    source_text: str | None
    """Of the recipe's file; None for a shipped recipe."""
    recipe: Recipe
    """Of the first training."""
    data: list[NamedDataset]
    """Sets with masks; the names of sets are the same in all rounds."""
    boxes: NamedDataset
    """The set whose boxes are labeled in each round."""
    held_out: ShardSet | None
    """A set with masks that no round trains on; None holds a share of `data` back."""
    share: float
    parts: list[Parts | None]
    """Of each set of `data` the images that are held back, where `held_out` is None."""
    checkpoint: Path | None
    """The version of the first teacher; None trains one."""
    rounds: int
    """Maximum number of rounds after the first teacher."""
    round_steps: int
    overrides: tuple[str, ...]
    tta: bool

    @property
    def first_overrides(self) -> list[str]:
        """Of the first training, which has no scores to trust."""
        return _first_overrides(self.overrides)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What a self-training that resumes must have in common with the interrupted one."""
        held_out = self.held_out
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "data": [[data.shards.manifest.digest, data.weight] for data in self.data],
            "boxes": [self.boxes.shards.manifest.digest, self.boxes.weight],
            "held_out": self.share if held_out is None else held_out.manifest.digest,
            "checkpoint": self.checkpoint and read_run_manifest(self.checkpoint).digest,
            "round_steps": self.round_steps,
            "tta": self.tta,
        }


def plan_selftraining(
    recipe: str | Path,
    data: Sequence[NamedPath],
    boxes: NamedPath,
    options: SelfTrainOptions,
    *,
    resume: bool = False,
) -> SelfTrainingPlan:
    """Check the arguments of `selftrain`, as far as that needs no PyTorch.

    With `resume`, keys of the recipe that nothing reads are accepted, see `require_effects`.

    Raises:
        InputError: a recipe, set or run that cannot be used, held-out images that are trained on or
            have no masks, no round, a share outside 0-1, several processes, or an option or
            override that would do nothing.
    """
    if torchrun.is_distributed():
        hint = "start it without torchrun"
        raise InputError("self-training runs in one process", record="torchrun", hint=hint)
    options.check()
    loaded = load_recipe(recipe, with_steps(_first_overrides(options.overrides), options.steps))
    if not loaded.loss.box_prompts:
        hint = "set loss.box_prompts above 0, as in box-labeler-mini"
        raise InputError("the recipe trains no box prompts", record=str(recipe), hint=hint)
    inputs = check_inputs(loaded, [*data, boxes], [], resume=resume)
    checked, (*masks, unlabeled) = inputs.recipe, inputs.datasets
    if not unlabeled.shards.manifest.statistics.boxes_only:
        hint = "give a set with boxes, such as one of `segkit convert coco --boxes-only`"
        raise InputError("no segment lacks a mask", file=unlabeled.shards.path, hint=hint)
    teacher = None
    if options.checkpoint is not None:
        check_inference(options.checkpoint, (), "box-prompts")
        teacher = run_folder(options.checkpoint)
    first = teacher or checked.model.init_from
    scored, parts, share = None, [], options.share or SHARE
    if options.held_out is None:
        sets = [dataset.shards for dataset in masks]
        parts = draw_parts(sets, unlabeled.shards, share, checked.training.seed)
        scoring = [shards for shards, part in zip(sets, parts, strict=True) if part is not None]
    else:
        scored = ShardSet.open(options.held_out)
        check_held_out(scored, [dataset.shards for dataset in inputs.datasets])
        scoring = [scored]
    if first is not None and not is_hugging_face(first):
        check_init_from(checked, str(first))
        _warn_of_trained(Path(first), scoring)
    source = str(recipe)
    return SelfTrainingPlan(
        source=source,
        source_text=None if source in known_recipes() else parse.read_text(Path(source)),
        recipe=checked,
        data=masks,
        boxes=unlabeled,
        held_out=scored,
        share=share,
        parts=parts,
        checkpoint=teacher,
        rounds=options.rounds,
        round_steps=options.round_steps or max(1, checked.training.steps // 4),
        overrides=tuple(options.overrides),
        tta=options.tta,
    )


def encode_classes(plan: SelfTrainingPlan) -> list[str]:
    """Encode the class names of all sets that have no embedding yet; notes as `encode_names`.

    Raises:
        InputError: the text encoder is not installed, or has other weights than the teacher's.
    """
    sets = [*plan.data, plan.boxes]
    notes = encode_names(TrainingInputs(plan.recipe, sets, []))
    classes = {c.words: c for data in sets for c in data.shards.taxonomy.categories}
    held_out = () if plan.held_out is None else plan.held_out.taxonomy.categories
    new = [category for category in held_out if category.words not in classes]
    store = EmbeddingStore(plan.recipe.text.encoding)
    store.add(store.missing_words(new))
    if plan.checkpoint is not None:
        trained = {category.words for category in trained_classes(plan.checkpoint).categories}
        if any(words not in trained for words in (*classes, *(c.words for c in new))):
            store.check_encoder(read_encoding(plan.checkpoint)[1])
    return [*notes, *(f"--held-out: {text}" for text in indistinct_notes(new, store))]


def _first_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides of the first training, which has no scores to trust."""
    return [*overrides, "loss.trust_scores=false"]


def _warn_of_trained(run: Path, scoring: Sequence[ShardSet]) -> None:
    """Warn of sets of held-out images that the run, from which the rounds start, was trained with.

    Args:
        run: the directory of its version.
        scoring: the held-out set, or the sets that it is drawn from.
    """
    digests = training_digests(run)
    for shards in scoring:
        if shards.manifest.digest in digests:
            message = (
                f"{run} was trained with {shards.path} or a part of it: on held-out images among "
                "these, its IoU and its calibration are better than elsewhere; give --held-out SET "
                "with other images"
            )
            warnings.warn(message, Notice, stacklevel=3)
