"""The options of a training; imports no PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit.recipes.load import load_recipe
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


def with_steps(overrides: Sequence[str], steps: int | None) -> Sequence[str]:
    """Overrides of a recipe, with its number of steps unless that is None."""
    return overrides if steps is None else [*overrides, f"training.steps={steps}"]
