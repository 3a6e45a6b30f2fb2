"""Refuse what a training run cannot use before PyTorch is imported and a model is built.

`check_training` is what `segkit train` calls first; `TrainingSetup.open` repeats the part that
concerns the recipe and the data, for calls from Python.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit import torchrun
from segkit.data.check_sets import (
    NamedDataset,
    check_sets,
    require_boxes,
    require_scores,
    require_targets,
    require_things,
)
from segkit.data.mask_policy import (
    PolicyCounts,
    concerns,
    count_policies,
    describe_counts,
    mask_policies,
    resolve_files,
)
from segkit.errors import InputError
from segkit.extras import require_extra
from segkit.metrics.evaluate import check_task
from segkit.metrics.output import uncounted_truth
from segkit.metrics.task_metrics import EvalOptions
from segkit.model.weights_file import weights_file
from segkit.recipes.effects import require_effects
from segkit.recipes.schema import Recipe
from segkit.runs.init_from import resolve_init_from
from segkit.runs.run_manifest import interrupted_training
from segkit.shards.manifest import TASKS
from segkit.shards.publish import require_unlocked
from segkit.shards.reader import ShardSet
from segkit.shards.zero_shot_split import ZeroShotRecord
from segkit.taxonomy import normalize
from segkit.text.embeddings import EmbeddingStore
from segkit.text.indistinct import indistinct_notes
from segkit.training.interrupted import (
    check_resumable,
    complete_fingerprint,
    require_no_interrupted_run,
    training_fingerprint,
)
from segkit.training.options import TrainOptions
from segkit.workers.devices import check_device


@dataclass(frozen=True)
class TrainingInputs:
    """The checked inputs of a training run."""

    recipe: Recipe
    datasets: list[NamedDataset]
    eval_datasets: list[NamedDataset]


def check_training(
    recipe: str | Path,
    data: Sequence[tuple[str, float]],
    out: Path,
    options: TrainOptions,
) -> TrainingInputs:
    """Check the arguments of `segkit.train`, as far as that needs no PyTorch.

    Raises:
        InputError: a recipe, data set, device or evaluation that cannot be used, or an interrupted
            run with neither `resume` nor `restart`.
        OtherRunError: the run to resume has another recipe or other data.
        SegkitError: another process is writing to `out`.
    """
    check_device(options.device)
    loaded = options.load_recipe(recipe)
    inputs = check_inputs(loaded, data, options.eval_data, resume=options.resume)
    check_loggers(inputs.recipe)
    if inputs.recipe.model.backbone_weights not in (None, "timm"):
        weights_file(str(inputs.recipe.model.backbone_weights))
    if torchrun.is_first():  # the first process may be writing there already
        require_unlocked(out)
        left = interrupted_training(out) if options.resume else None
        if left is not None:
            early = training_fingerprint(
                inputs.recipe, inputs.datasets, inputs.eval_datasets, torchrun.world_size()
            )
            check_resumable(left, complete_fingerprint(early, left), out)
        elif not options.restart:
            require_no_interrupted_run(out)
    return inputs


def check_inputs(
    recipe: Recipe,
    data: Sequence[tuple[str, float]],
    eval_data: Sequence[str],
    names: Sequence[str] | None = None,
    *,
    resume: bool = False,
) -> TrainingInputs:
    """Resolve the start of a recipe and open its data sets, see `name_sets`.

    Raises as `check_training`.
    """
    recipe = resolve_init_from(recipe)
    recipe = recipe.model_copy(update={"data": resolve_files(recipe.data)})
    datasets = name_sets(data, names)
    recipe = resolve_unseen(recipe, datasets)
    check_sets(datasets, recipe.data)
    require_targets(datasets, recipe.data)
    require_effects(recipe, resume=resume)
    if recipe.model.foreground:
        require_things(datasets, recipe, resume=resume)
    if recipe.loss.box_assist != "off":
        require_boxes(datasets, recipe.data)
    if recipe.loss.trust_scores:
        require_scores(datasets)
    eval_datasets = name_sets([(spec, 1.0) for spec in eval_data])
    check_eval_sets(eval_datasets)
    if eval_datasets and not recipe.loss.matching:
        message = "box prompts by themselves train no queries, which an evaluation reads"
        hint = "leave --eval-data out; `pseudolabel --truth` measures box prompts"
        raise InputError(message, record="--eval-data", hint=hint)
    if recipe.training.publish == "best":
        if not eval_datasets:
            hint = "give --eval-data, or set it to last"
            raise InputError("no evaluation to choose by", record="training.publish", hint=hint)
        _require_truth(eval_datasets)
    return TrainingInputs(recipe, datasets, eval_datasets)


def count_masks(inputs: TrainingInputs) -> dict[str, PolicyCounts]:
    """Count what the mask policies of each data set use and drop; empty without policies."""
    config = inputs.recipe.data
    return {
        data.name: count_policies(
            data.shards, mask_policies(data.name, data.shards.taxonomy, config)
        )
        for data in inputs.datasets
        if any(concerns(key, data.name) for key in config.mask_policy)
    }


def mask_policy_notes(inputs: TrainingInputs) -> list[str]:
    """A line for each data set with a mask policy: the masks that it drops."""
    return [describe_counts(name, counts) for name, counts in count_masks(inputs).items()]


def check_loggers(recipe: Recipe) -> None:
    """Raise MissingExtraError for a logger of the recipe that is not installed."""
    for name in recipe.training.loggers:
        require_extra(name, f"training.loggers: {name}")


def name_sets(
    data: Sequence[tuple[str, float]], names: Sequence[str] | None = None
) -> list[NamedDataset]:
    """Open sets by `names`: by default their own, or their directories' where two share one."""
    for spec, weight in data:
        if not 0 < weight < math.inf:
            hint = "give a positive number"
            raise InputError(f"invalid sampling weight {weight!r}", record=spec, hint=hint)
    opened = [(ShardSet.open(spec), weight) for spec, weight in data]
    if names is None:
        count = Counter(shards.manifest.name for shards, _ in opened)
        names = [
            shards.manifest.name if count[shards.manifest.name] == 1 else shards.path.parent.name
            for shards, _ in opened
        ]
    return [NamedDataset(name, *pair) for name, pair in zip(names, opened, strict=True)]


def resolve_unseen(recipe: Recipe, datasets: Sequence[NamedDataset]) -> Recipe:
    """Set `inference.unseen` to the unseen classes of the sets' zero-shot splits.

    Raises:
        InputError: a set has segments of a class that is unseen by the split of another, or the
            recipe names other unseen classes.
    """
    unseen: dict[str, str] = {}
    words: dict[str, str] = {}
    for data in datasets:
        record = ZeroShotRecord.from_set(data.shards)
        for category in record.taxonomy.categories if record else ():
            unseen[category.name] = data.name
            words |= {normalize(word): category.name for word in (category.name, *category.words)}
    if not unseen:
        return recipe
    for data in datasets:
        counts = data.shards.manifest.statistics.classes
        taxonomy = data.shards.taxonomy
        for class_id, label in taxonomy.unique_names.items():
            category = taxonomy.by_id[class_id]
            known = [word for word in (label, *category.words) if normalize(word) in words]
            if known and counts[label].segments:
                split_set = unseen[words[normalize(known[0])]]
                message = f"has {counts[label].segments} segments of {label!r}, which is unseen"
                hint = f"split it as well: the run would see what the split of {split_set} hides"
                raise InputError(message, file=data.shards.path, record=data.name, hint=hint)
    names = recipe.inference.unseen
    if names and {*names} != {*unseen}:
        message = f"names {len(names)} classes, the splits of the sets {len(unseen)} others"
        raise InputError(message, record="inference.unseen", hint="leave it out of the recipe")
    inference = recipe.inference.model_copy(update={"unseen": tuple(unseen)})
    return recipe.model_copy(update={"inference": inference})


def check_eval_sets(datasets: Sequence[NamedDataset]) -> None:
    """Raise InputError where two evaluation sets share a name, or one has boxes without masks or
    no images."""
    count = Counter(data.name for data in datasets)
    for data in datasets:
        if count[data.name] > 1:
            raise InputError(
                f"two sets of --eval-data are called {data.name!r}",
                file=data.shards.path,
                hint="leave one of them out, or give it another name",
            )
    for data in datasets:
        data.shards.require_images()
        check_task(data.shards, TASKS[data.shards.manifest.kind], EvalOptions())


def encode_names(inputs: TrainingInputs) -> list[str]:
    """Encode the class names that have no embedding yet.

    Returns:
        Notes on classes that the text encoder cannot tell apart, one line each.
    """
    store = EmbeddingStore(inputs.recipe.text.encoding)
    notes = []
    for data in (*inputs.datasets, *inputs.eval_datasets):
        categories = data.shards.taxonomy.categories
        store.add(store.missing_words(categories))
        notes += [f"{data.name}: {text}" for text in indistinct_notes(categories, store)]
    return list(dict.fromkeys(notes))


def resolve_text_dim(recipe: Recipe) -> Recipe:
    """Give the classifier the width of the embeddings, unless the recipe sets `model.text_dim`."""
    width = EmbeddingStore(recipe.text.encoding).dimension()
    if width is None or "text_dim" in recipe.model.model_fields_set:
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"text_dim": width})})


def _require_truth(sets: Sequence[NamedDataset]) -> None:
    """Raise InputError for a set on which no figure of an evaluation is defined: it has no images,
    or no segment that its metric counts."""
    for shards in (data.shards for data in sets):
        if uncounted_truth(shards, TASKS[shards.manifest.kind]) is None:
            continue
        segments = shards.manifest.statistics.segments
        message = f"none of its {segments} segments can be scored"
        if not segments:
            message = "it has no segments to score" if len(shards) else "it has no images"
        hint = "leave the evaluation set out, or set training.publish=last"
        raise InputError(message, file=shards.path, hint=hint)
