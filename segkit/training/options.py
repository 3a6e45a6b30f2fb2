"""Options of `segkit train` and `segkit selftrain`; imports no PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit.arguments import check_number
from segkit.errors import InputError
from segkit.recipes.load import load_recipe
from segkit.recipes.old_names import current_key
from segkit.recipes.schema import Recipe


@dataclass(frozen=True)
class TrainOptions:
    """How a recipe trains on data sets: the options of `segkit.train`, which describes them."""

    eval_data: Sequence[str] = ()
    steps: int | None = None
    """Replaces the recipe's."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    overrides: Sequence[str] = ()
    """Each `section.key=value`."""
    names: Sequence[str] | None = None
    """Of the data sets; None takes their own."""
    resume: bool = False
    """Continue an interrupted run from its last checkpoint."""
    restart: bool = False
    """Delete the checkpoints of an interrupted run."""

    def load_recipe(self, recipe: str | Path) -> Recipe:
        """Load a recipe with the overrides and the number of steps.

        Raises:
            InputError: see `segkit.recipes.load.load_recipe`.
        """
        return load_recipe(recipe, with_steps(self.overrides, self.steps))


@dataclass(frozen=True)
class SelfTrainOptions:
    """Options of `segkit.selftrain`, which describes them."""

    rounds: int
    """Maximum number of rounds after the first teacher."""
    held_out: str | None = None
    share: float | None = None
    """Of the images that are held back, 0-1."""
    checkpoint: str | None = None
    steps: int | None = None
    round_steps: int | None = None
    overrides: Sequence[str] = ()
    tta: bool = False

    def check(self) -> None:
        """Raise InputError for an option outside its range, or one that would do nothing."""
        if self.rounds < 1:
            raise InputError(f"{self.rounds} rounds", record="--rounds", hint="give 1 or more")
        if self.share is not None and not 0 < self.share < 1:
            message = f"a held-out share of {self.share:g}"
            hint = "give a share between 0 and 1, such as 0.1"
            raise InputError(message, record="--held-out-share", hint=hint)
        if self.round_steps is not None:
            check_number(self.round_steps, "round_steps", 1)
        self._refuse_unread()

    def _refuse_unread(self) -> None:
        """Raise InputError for an option or an override that would do nothing."""
        if self.held_out is not None and self.share is not None:
            message, hint = "--held-out-share does nothing with --held-out", "give one of them"
            raise InputError(message, hint=hint)
        if self.checkpoint is not None and self.steps is not None:
            hint = "give --round-steps for the later rounds"
            raise InputError("--checkpoint replaces the training that --steps is for", hint=hint)
        unread = {
            "loss.trust_scores": "each round: the first has no scores, later ones trust them",
            "training.publish": "the rounds: they have no --eval-data and publish their last step",
        }
        if self.checkpoint is not None:
            unread["model.init_from"] = "--checkpoint, the run that the rounds start from"
            if self.round_steps is not None:
                unread["training.steps"] = (
                    "--round-steps, since --checkpoint replaces the first run"
                )
        for override in self.overrides:
            key = current_key(override.partition("=")[0].strip())
            if key in unread:
                message = f"{key} is set by {unread[key]}"
                raise InputError(message, record="--set", hint="leave it out")


def with_steps(overrides: Sequence[str], steps: int | None) -> Sequence[str]:
    """Overrides of a recipe, with its number of steps unless that is None."""
    return overrides if steps is None else [*overrides, f"training.steps={steps}"]
