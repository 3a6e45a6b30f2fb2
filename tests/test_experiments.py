"""Every row of an experiment is a recipe."""

import importlib
from argparse import Namespace
from pathlib import Path

import pytest

from segkit.recipes.load import load_recipe

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_rows_of_openseed_are_recipes_that_share_their_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    experiment = importlib.import_module("experiment_openseed")
    arguments = Namespace(recipe="dataseg-mini", steps=100, set=["training.precision=bf16"])
    for name, row in experiment.ROWS.items():
        overrides = experiment.overrides_of(row, ("model.queries=20",), arguments)
        recipe = load_recipe("dataseg-mini", overrides)
        assert recipe.model.queries + recipe.model.foreground == 20, name
        assert (recipe.model.foreground == 12) == ("decoupled" in name), name
        learned = recipe.model.foreground_boxes == "learned"
        assert learned == ("decoupled" in name and "topk" not in name), name
        assert recipe.loss.box_assist == row.assist, name
        assert recipe.loss.box_assist_start == (25 if row.assist != "off" else 500), name
