"""Self-training, the library behind `segkit selftrain`: a run labels the boxes of the next run."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segkit.atomic import write_text
from segkit.data.check_sets import NamedDataset, has_boxes_only
from segkit.errors import InputError, Notice, SegkitError
from segkit.file_names import path_text
from segkit.inference.calibrate import ScoredBoxes, fit_calibration, score_boxes
from segkit.inference.pseudolabel import pseudolabel
from segkit.inference.run_teacher import RunTeacher
from segkit.progress import Progress, silent
from segkit.recipes.schema import LossConfig
from segkit.runs.calibrated_version import publish_calibrated
from segkit.runs.open_run import load_run, read_run_files
from segkit.runs.run import Run
from segkit.runs.run_manifest import read_run_manifest
from segkit.sample import needs_mask
from segkit.shards.reader import ShardSet
from segkit.shards.versions import resolve, versions
from segkit.stopping import StoppedError
from segkit.storage import StrPath, local_path
from segkit.training.held_out import hold_out
from segkit.training.options import SelfTrainOptions
from segkit.training.selftrain_plan import (
    SelfTrainingPlan,
    encode_classes,
    plan_selftraining,
)
from segkit.training.selftrain_state import has_state, read_state, write_state
from segkit.training.setup import WeightedSets, weighted_sets
from segkit.training.train import train
from segkit.training.trainer import Callbacks

KEEPS_EVERY_MASK = 0.5
"""An `inference.pseudo_score` that no mask of a box prompt fails: its score is the mean of the
probabilities above this one."""
_WITHOUT_ASSIST = tuple(
    f"loss.{key}={LossConfig.model_fields[key].default}"
    for key in ("box_assist", "box_assist_start")
)
"""Overrides of a round without boxes that masks could assist."""


@dataclass(frozen=True)
class SelfTraining:
    """The rounds of a self-training; round 0 is the first teacher."""

    rounds: list[dict[str, Any]]
    """Of each round: `round`; `run`, the version's path; `calibrated`, whether its scores are
    expected IoUs; `held_out_iou`, the mean IoU (0-1) of masks for the boxes of the held-out images;
    and `masks`, the path of the layer that its run made of the boxes, with the counts `boxes`
    (crowds and ignored ones are not labeled) and `masked`. A round that did not improve the
    held-out IoU has no layer. Paths are absolute."""

    @property
    def best(self) -> int:
        """The round of the highest held-out IoU, the first of equal ones."""
        return int(np.argmax([entry["held_out_iou"] for entry in self.rounds]))

    @property
    def stopped(self) -> bool:
        """Whether the last round did not improve on the best before it."""
        return self.best < len(self.rounds) - 1


def selftrain(
    recipe: StrPath,
    data: WeightedSets,
    boxes: StrPath | tuple[StrPath, float],
    out: StrPath,
    *,
    rounds: int = 3,
    held_out: StrPath | None = None,
    share: float | None = None,
    checkpoint: StrPath | None = None,
    steps: int | None = None,
    round_steps: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    tta: bool = False,
    progress: Progress = silent,
) -> SelfTraining:
    """Train a run on masks and boxes, label the boxes with it, train on the labels; repeat.

    A round starts from the weights of the round before and sees the same masks, and pseudo-masks in
    place of the boxes, each weighted by its score (`loss.trust_scores`): a box without a mask, and
    the doubt in a mask, still train by projection. The teacher of a round is the EMA of the
    weights, which runs are published with; where enough boxes are held out, its scores are
    calibrated on them. Rounds end when the held-out IoU does not improve.

    A call with the same arguments, or another number of rounds, resumes an interrupted one at the
    step that it was stopped at. Each round publishes versions that nothing changes:
    `out/round-N/run` and `out/round-N/masks`.

    Args:
        recipe: a shipped recipe's name or a TOML file; must train box prompts.
        data: a set with masks, or several; `(SET, WEIGHT)` or `{SET: WEIGHT}` gives a sampling
            weight other than 1.
        boxes: the set whose boxes have no masks, or `(SET, WEIGHT)`.
        out: folder of the rounds.
        rounds: maximum number of rounds after the first teacher.
        held_out: set with masks that scores the rounds, without images that are trained on; None
            holds `share` of the images of each panoptic and instance set of `data` back, by
            `training.seed`, among those that occur once in `data` and `boxes`.
        share: see `held_out`; None is 0.1.
        checkpoint: a run that is the first teacher; None trains one.
        steps: of the first teacher, instead of the recipe's.
        round_steps: of each later round; None is a quarter of the first's.
        device: auto, cpu, cuda or cuda:N.
        overrides: `section.key=value`, applied to the recipe.
        tta: predict masks with test-time augmentation, at six times the cost.
        progress: shows the stages.

    Raises:
        InputError: see `plan_selftraining`; or `out` holds another self-training.
        SegkitError: no box got a mask, or as `segkit.train`.
        StoppedError: as `segkit.train`.
    """
    out = local_path(out)
    plan = plan_selftraining(
        path_text(recipe),
        weighted_sets(data),
        weighted_sets([boxes])[0],
        SelfTrainOptions(
            rounds=rounds,
            held_out=None if held_out is None else path_text(held_out),
            share=share,
            checkpoint=None if checkpoint is None else path_text(checkpoint),
            steps=steps,
            round_steps=round_steps,
            overrides=overrides,
            tta=tta,
        ),
        resume=has_state(out),
    )
    before = read_state(out, plan)
    encode_classes(plan)
    return run_rounds(plan, out, before, device=device, progress=progress)


def run_rounds(
    plan: SelfTrainingPlan,
    out: str | Path,
    before: Sequence[dict[str, Any]],
    *,
    device: str,
    progress: Progress,
) -> SelfTraining:
    """The rounds of a plan whose classes are encoded; the rest of `selftrain`.

    Args:
        plan: the checked inputs.
        out: see `selftrain`.
        before: the rounds of an interrupted call, see `read_state`.
        device: see `selftrain`.
        progress: see `selftrain`.
    """
    folder, entries = Path(out).resolve(), list(before)
    write_state(folder, plan, entries)
    data = [dataset.shards for dataset in plan.data]
    if plan.held_out is None:
        arguments = {"share": plan.share, "seed": plan.recipe.training.seed}
        data, held_out = hold_out(data, plan.parts, folder, arguments)
    else:
        held_out = [plan.held_out]
    recipe = plan.source
    if plan.source_text is not None:  # rounds read the recipe that was checked, even if it changes
        recipe = str(folder / Path(plan.source).name)
        write_text(Path(recipe), plan.source_text)
    loop = _Loop(recipe, plan, folder, device, progress, data, held_out)
    for number in range(plan.rounds + 1):
        if number >= len(entries):
            entries.append(loop.score_round(number, entries))
            write_state(folder, plan, entries)
        result = SelfTraining(entries[: number + 1])
        if result.stopped:
            break
        if "masks" not in entries[number]:
            entries[number] |= loop.label(number)
            write_state(folder, plan, entries)
        if entries[number].get("masked") == 0 and number < plan.rounds:
            message = f"round {number}: no box got a mask that the next round could learn from"
            raise SegkitError(message, hint=_hint_without_masks(plan, number))
    return SelfTraining(entries[: number + 1])


def _hint_without_masks(plan: SelfTrainingPlan, number: int) -> str:
    """A way out where no box got a mask; `out` accepts none of these changes."""
    if number == 0 and plan.checkpoint is not None:
        return "give another --out, and another --checkpoint or none"
    option, steps = "--round-steps", plan.round_steps
    if number == 0:
        option, steps = "--steps", plan.recipe.training.steps
    changes = f"{option} above {steps}"
    if plan.recipe.inference.pseudo_score > KEEPS_EVERY_MASK:
        changes = f"--set inference.pseudo_score={KEEPS_EVERY_MASK} or {changes}"
    return f"give another --out, and {changes}"


@dataclass(frozen=True)
class _Loop:
    """The stages of a round; each publishes a version, or finds it published."""

    recipe: str
    plan: SelfTrainingPlan
    out: Path
    device: str
    progress: Progress
    data: list[ShardSet]
    """Sets with masks, without the images that are held back."""
    held_out: list[ShardSet]

    def score_round(self, number: int, before: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Train the run of a round, score it on the held-out images, and calibrate it."""
        path = self._train(number, before)
        run = load_run(path, self.device)
        scored: list[ScoredBoxes] = []
        for shards in self.held_out:
            with self.progress(f"round {number}: score", len(shards)) as advance:
                scored.append(score_boxes(run, shards, tta=self.plan.tta, on_image=advance))
        calibrated = self._calibrate(number, run, scored)
        return {
            "round": number,
            "run": str(calibrated or path),
            "calibrated": calibrated is not None or self._is_calibrated(run),
            "held_out_iou": float(np.concatenate([boxes.iou for boxes in scored]).mean()),
        }

    def label(self, number: int) -> dict[str, Any]:
        """Turn the boxes into masks by the run of a round."""
        boxes, folder = self.plan.boxes.shards, self._folder(number) / "masks"
        if not versions(folder):
            run = load_run(self._teacher(number), self.device)
            teacher = RunTeacher(run, "box-prompts", tta=self.plan.tta)
            with self.progress(f"round {number}: pseudolabel", len(boxes)) as advance:
                name = boxes.manifest.name  # so that rounds train on sets of the same names
                pseudolabel(
                    teacher,
                    boxes,
                    folder,
                    name=name,
                    on_images=advance,
                    on_boxes=advance.count_boxes,
                    on_resume=advance.resume,
                )
        layer = ShardSet.open(folder)
        counts = layer.manifest.statistics.masked - boxes.manifest.statistics.masked
        total = sum(needs_mask(s) for sample in boxes.samples() for s in sample.segments)
        return {"masks": str(layer.path), "boxes": total, "masked": counts}

    def _folder(self, number: int) -> Path:
        return self.out / f"round-{number}"

    def _teacher(self, number: int) -> Path:
        """The newest version of a round's run: the calibrated one, where there is one."""
        if number == 0 and self.plan.checkpoint is not None and not versions(self._run_folder(0)):
            return self.plan.checkpoint
        return resolve(self._run_folder(number))

    def _run_folder(self, number: int) -> Path:
        return self._folder(number) / "run"

    def _train(self, number: int, before: Sequence[dict[str, Any]]) -> Path:
        """The trained version of a round's run."""
        if number == 0 and self.plan.checkpoint is not None:
            return self.plan.checkpoint
        folder = self._run_folder(number)
        if existing := versions(folder):
            return existing[min(existing)]
        boxes, overrides = self.plan.boxes, self.plan.first_overrides
        steps = self.plan.recipe.training.steps
        if number:
            layer, steps = ShardSet.open(before[-1]["masks"]), self.plan.round_steps
            boxes = replace(boxes, shards=layer)
            if layer.manifest.name != self.plan.boxes.shards.manifest.name:  # of an earlier segkit
                boxes = replace(boxes, name=layer.manifest.name)
        pairs = zip(self.plan.data, self.data, strict=True)
        sets = [*(replace(dataset, shards=shards) for dataset, shards in pairs), boxes]
        if number:
            later = self._later_overrides(Path(before[-1]["run"]), sets)
            overrides = [*self.plan.overrides, *later]
        with self.progress(f"round {number}: train", steps, "steps") as advance:
            try:
                train(
                    self.recipe,
                    [(str(dataset.shards.path), dataset.weight) for dataset in sets],
                    folder,
                    steps=steps,
                    device=self.device,
                    overrides=overrides,
                    names=[dataset.name for dataset in sets],
                    resume=True,
                    callbacks=Callbacks(
                        on_start=lambda taken, steps: advance.resume(taken),
                        on_step=lambda record: advance(),
                    ),
                )
            except StoppedError as error:
                raise error.with_advice("the same command continues") from None
        return resolve(folder)

    def _later_overrides(self, start: Path, sets: Sequence[NamedDataset]) -> list[str]:
        """Overrides of a round that starts from a run and trusts its scores.

        Masks assist only boxes that got none, so they are off where each box of `sets` got one.
        """
        model = read_run_files(start).recipe.model
        statistics = {"pixel_mean", "pixel_std"} - self.plan.recipe.model.model_fields_set
        return [
            "loss.trust_scores=true",
            *(() if has_boxes_only(sets, self.plan.recipe.data) else _WITHOUT_ASSIST),
            f"model.init_from={json.dumps(str(start))}",
            *(f"model.{key}={json.dumps(getattr(model, key))}" for key in sorted(statistics)),
        ]

    def _is_calibrated(self, run: Run) -> bool:
        """Whether a run is calibrated for masks as the rounds predict them."""
        return run.calibration is not None and run.calibration.tta == self.plan.tta

    def _calibrate(self, number: int, run: Run, scored: Sequence[ScoredBoxes]) -> Path | None:
        """The calibrated version of a round's run; None where too few boxes are held out."""
        folder = self._run_folder(number)
        if versions(folder) and read_run_manifest(newest := resolve(folder)).command == "calibrate":
            return newest
        if self._is_calibrated(run):
            return None
        largest = int(np.argmax([len(boxes.iou) for boxes in scored]))
        try:
            calibration = fit_calibration(
                scored[largest], self.held_out[largest], tta=self.plan.tta
            )
        except InputError:  # fewer than MIN_BOXES in a half
            if run.calibration is not None:
                fitted = "with" if run.calibration.tta else "without"
                message = (
                    f"{run.path} is calibrated {fitted} --tta, and too few boxes are held out to "
                    "calibrate it anew: the scores of its masks are not the IoU to expect"
                )
                warnings.warn(message, Notice, stacklevel=2)
            return None
        return publish_calibrated(run, calibration, self.held_out[largest], folder)
