"""Opening a run by name: a directory of versions, or a public model. Imports no torch.

Only importing a public model, which is done once, needs torch.
"""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from segkit.errors import InputError
from segkit.extras import require_extra
from segkit.file_names import expand_home, path_text
from segkit.hub import check_model_type, check_source, fetch_model, is_hugging_face, require_run
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import INFERENCE_KEYS, InferenceConfig, Recipe, Strategy
from segkit.runs.run_manifest import RECIPE, RunManifest, read_run_manifest, read_taxonomies
from segkit.shards.versions import resolve
from segkit.storage import StrPath, local_path
from segkit.taxonomy import Taxonomy

if TYPE_CHECKING:
    from segkit.runs.run import Run

_ANY_RECIPE = "dataseg-mini"
"""Stands for the recipe of a public model that is not fetched yet."""


class RunFiles(NamedTuple):
    """What describes a run's version, without its weights."""

    folder: Path
    manifest: RunManifest
    recipe: Recipe


def read_run_files(
    spec: str | Path, overrides: Sequence[str] = (), output: str | None = None
) -> RunFiles:
    """Directory, manifest and recipe of a run's version; does not read its weights.

    Args:
        spec: the run, `DIR` or `DIR@v2`, or a public model, `hf:NAME_OR_FOLDER`.
        overrides: `inference.key=value`, in place of the values in the run's recipe.
        output: the task or pseudo-label strategy that the run is opened for, a key of
            `INFERENCE_KEYS`; overrides that it does not read are refused. None accepts them all.

    Raises:
        InputError: no run there, a run behind a URL, an override of another section, or one that
            does nothing, or an output that it was not trained for.
    """
    _check_overrides(overrides)
    folder = run_folder(spec)
    _check_overrides(overrides, output)
    manifest = read_run_manifest(folder)
    recipe = load_recipe(folder / RECIPE, overrides, warn=manifest.schema_version != "1")
    _check_max_size(overrides, recipe)
    _check_boxes(overrides, recipe)
    if output is not None:
        check_trained(recipe, output, spec)
    return RunFiles(folder, manifest, recipe)


def check_inference(
    spec: str | Path, overrides: Sequence[str], output: str, *, groups_unseen: bool = False
) -> None:
    """Refuse what can be refused without the weights of a run; errors as of `read_run_files`.

    A public model is not fetched.

    Args:
        spec, overrides, output: as of `read_run_files`.
        groups_unseen: whether the names in `inference.unseen` group figures, so that they do
            something without `inference.seen_penalty`.

    Raises:
        MissingExtraError: the packages that run a model are not installed.
    """
    require_extra("train", "a model")
    if not is_hugging_face(spec):
        recipe = read_run_files(spec, overrides, output).recipe
        _check_unseen(overrides, recipe, groups_unseen)
        return
    check_source(str(spec))
    _check_overrides(overrides, output)
    _check_unseen(overrides, load_recipe(_ANY_RECIPE, overrides), groups_unseen)
    if output == "box-prompts":
        raise no_box_prompts(spec)


def run_folder(spec: str | Path) -> Path:
    """The version's directory of a run, `DIR` or `DIR@v2`, or of the cached run of a public model,
    `hf:NAME_OR_FOLDER`, which is imported first where it is not cached."""
    if is_hugging_face(spec):
        # both fail within seconds, before torch is imported
        check_model_type(str(spec), fetch_model(str(spec)))
        from segkit.runs.import_checkpoint import cached_run

        return cached_run(str(spec)).resolve()
    name = expand_home(path_text(spec))
    require_run(name)
    return resolve(local_path(name)).resolve()


def trained_classes(spec: str | Path) -> Taxonomy:
    """The classes that a run was trained with, each once; imports no torch.

    A public model, `hf:NAME_OR_FOLDER`, that is not cached is imported.
    """
    return Taxonomy.union("run", list(read_taxonomies(run_folder(spec)).values()))


def load_run(spec: StrPath, device: str = "cpu", overrides: Sequence[str] = ()) -> "Run":
    """Load a run: its newest version (`DIR`) or a given one (`DIR@v2`).

    Args:
        spec: directory of the run.
        device: auto, cpu, cuda or cuda:N.
        overrides: `inference.key=value`, in place of the values in the run's recipe.

    Raises:
        InputError: no run there, an unreadable file, an override of another section, or no such
            device.
    """
    require_extra("train", "segkit.load_run")
    from segkit.runs.run import read_run

    return read_run(*read_run_files(path_text(spec), overrides), device)


def default_strategy(recipe: Recipe) -> Strategy:
    """How a run gets masks for boxes: by box prompts, if it was trained with them."""
    return "box-prompts" if recipe.loss.box_prompts > 0 else "proposals"


def check_trained(recipe: Recipe, output: str, spec: str | Path) -> None:
    """Refuse an output of layers that the training of a run left as they were.

    Args:
        recipe: the run's.
        output: a key of `INFERENCE_KEYS`.
        spec: the run, for the error.

    Raises:
        InputError: box prompts of a run without them, such as a public model, or anything else of
            a run that was trained with box prompts only.
    """
    if output == "box-prompts":
        if recipe.loss.box_prompts == 0:
            raise no_box_prompts(spec)
    elif not recipe.loss.matching:
        hint = "give pseudolabel its boxes, or a run that was trained with loss.matching = true"
        raise InputError("was trained with box prompts only, without queries", file=spec, hint=hint)


def no_box_prompts(spec: str | Path) -> InputError:
    """The error for box prompts of a public model, or of a run that was trained without them."""
    return InputError(
        "has no box prompts",
        file=spec,
        hint="give a run that was trained with loss.box_prompts above 0; without them, "
        "`segkit pseudolabel --strategy proposals` matches masks to boxes",
    )


def check_min_iou(spec: str | Path, strategy: str) -> None:
    """Refuse a lowest expected IoU where a run's masks have none.

    Args:
        spec: the run, `DIR` or `DIR@v2`, or a public model.
        strategy: how its masks are predicted.

    Raises:
        InputError: the strategy is not box-prompts, or the run is not calibrated.
    """
    require_box_prompts("--min-iou", spec, strategy)
    if not read_run_manifest(run_folder(spec)).is_calibrated:
        message = "the run is not calibrated, so that no IoU is expected of its masks"
        hint = f"segkit calibrate --checkpoint {quote(str(spec))} --data SET_WITH_MASKS"
        raise InputError(message, file=spec, hint=hint)


def require_box_prompts(option: str, spec: str | Path, strategy: str) -> None:
    """Raise InputError for an option that only box prompts read, with another strategy."""
    if strategy != "box-prompts":
        hint = "leave it out, or give a run with box prompts"
        raise InputError(f"{option} does nothing with {strategy}", file=spec, hint=hint)


def _check_overrides(overrides: Sequence[str], output: str | None = None) -> None:
    for override in overrides:
        if not override.startswith("inference."):
            hint = "only inference settings of a trained run can change: give inference.KEY=VALUE"
            raise InputError(f"cannot set {override!r}", record="--set", hint=hint)
    if output is None:
        return
    unread = InferenceConfig.model_fields.keys() - INFERENCE_KEYS[output]
    for key in _keys(overrides):
        if key.removeprefix("inference.") in unread:
            keys = (f"inference.{name}" for name in sorted(INFERENCE_KEYS[output]))
            raise InputError(
                f"{output} does not read {key}",
                record="--set",
                hint=f"set one of {', '.join(keys)}",
            )


def _check_max_size(overrides: Sequence[str], recipe: Recipe) -> None:
    """Raise InputError for a limit of the longer side where another setting decides it."""
    key, resize = "inference.max_size", recipe.inference.resize
    if key in _keys(overrides) and resize != "shorter":
        hint = "leave it out, or set inference.resize=shorter as well"
        raise InputError(
            f"inference.resize is {resize}, which does not read {key}", record="--set", hint=hint
        )


def _check_boxes(overrides: Sequence[str], recipe: Recipe) -> None:
    """Raise InputError for boxes of a box head that had no loss."""
    trained = recipe.loss.box_l1 > 0 or recipe.loss.box_giou > 0
    is_set = "inference.boxes" in _keys(overrides) and recipe.inference.boxes == "head"
    if is_set and not trained:
        hint = "leave it out, or give a run that was trained with loss.box_l1 above 0"
        raise InputError("nothing trained the run's box head", record="--set", hint=hint)


def _check_unseen(overrides: Sequence[str], recipe: Recipe, groups_unseen: bool) -> None:
    """Raise InputError for names of unseen classes that nothing reads."""
    key = "inference.unseen"
    if key in _keys(overrides) and not (groups_unseen or recipe.inference.seen_penalty):
        hint = "leave it out, or set inference.seen_penalty above 0 as well"
        message = f"{key} does nothing without inference.seen_penalty"
        raise InputError(message, record="--set", hint=hint)


def _keys(overrides: Sequence[str]) -> list[str]:
    return [override.partition("=")[0].strip() for override in overrides]
