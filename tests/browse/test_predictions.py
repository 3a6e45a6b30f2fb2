"""Predictions beside a set: their figures, their names, and options without effect."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from segkit.browse import dataset
from segkit.commands.app import app
from segkit.errors import InputError
from segkit.metrics.evaluate import evaluate

from .conftest import panoptic_sample
from .test_dataset import write_labels

# FiftyOne's dependencies warn about each other
pytestmark = [pytest.mark.mongo, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_predictions_of_another_set_are_refused(fo: ModuleType, tmp_path: Path) -> None:
    shards = write_labels(tmp_path / "set", "panoptic", [panoptic_sample("a")])
    foreign = write_labels(tmp_path / "foreign", "panoptic", [panoptic_sample("x")])
    with pytest.raises(InputError, match="no image of the predictions is in the set"):
        dataset.load(shards, {"predictions": foreign}, name="refused")
    assert not fo.dataset_exists("refused")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--out", "o"), "--out does nothing here; it requires --write-back"),
        (("--predictions", "p", "--write-back", "a=drop"), "--predictions does nothing here"),
        (("--leaks", "p", "--write-back", "a=drop"), "--leaks does nothing here"),
        (("--min-score", "0.9", "--write-back", "a=drop"), "--min-score does nothing here"),
        (("--host", "1.2.3.4", "--no-app"), "--host does nothing here"),
        (("--write-back", "a=drop", "--write-back", "a=ignore"), "tag 'a' has two actions"),
    ],
)
def test_options_without_effect_are_refused(
    fo: ModuleType, tmp_path: Path, options: tuple[str, ...], line: str
) -> None:
    write_labels(tmp_path / "set", "panoptic", [panoptic_sample("a")])
    outcome = CliRunner().invoke(app, ["browse", str(tmp_path / "set"), "--name", "x", *options])
    assert isinstance(outcome.exception, InputError)
    assert line in str(outcome.exception)


def test_a_least_score_is_refused_where_no_label_is_a_detection(
    fo: ModuleType, tmp_path: Path
) -> None:
    write_labels(tmp_path / "set", "semantic", [panoptic_sample("a")])
    arguments = ["browse", str(tmp_path / "set"), "--name", "maps", "--no-app"]
    outcome = CliRunner().invoke(app, [*arguments, "--min-score", "0.9"])
    assert "--min-score does nothing here" in str(outcome.exception)
    assert not fo.dataset_exists("maps")
    assert CliRunner().invoke(app, arguments).exit_code == 0


def test_several_predictions_have_figures_and_views(fo: ModuleType, tmp_path: Path) -> None:
    samples = [panoptic_sample(name) for name in "abc"]
    shards = write_labels(tmp_path / "set", "panoptic", samples)
    good = [panoptic_sample(name, score=0.9) for name in "abc"]
    bad = [replace(s, segments=s.segments[: n + 1]) for n, s in enumerate(good)]
    sets = {
        "good": write_labels(tmp_path / "good", "panoptic", good),
        "bad": write_labels(tmp_path / "bad", "panoptic", bad),
    }
    loaded = dataset.load(shards, sets, name="several")
    stored = fo.load_dataset("several")
    assert stored.values("good_figure") == pytest.approx([100.0] * 3)
    expected = 100 * evaluate(shards, sets["bad"], "panoptic").panoptic.per_image()
    assert stored.values("bad_figure") == pytest.approx(expected.tolist())
    worst = stored.load_saved_view("segkit: worst bad")
    assert worst.values("bad_figure") == sorted(stored.values("bad_figure"))
    differ = stored.load_saved_view("segkit: disagreement")
    assert differ.first().image_id == stored.sort_by("bad_figure").first().image_id
    assert any("confident" in view for view in loaded.views)


def test_images_of_both_sets_have_figures_and_the_reason_is_told_where_none_can_be(
    fo: ModuleType, tmp_path: Path
) -> None:
    part = write_labels(tmp_path / "part", "panoptic", [panoptic_sample(name) for name in "abc"])
    more = [panoptic_sample(name, score=0.9) for name in "bcde"]
    thing = replace(more[0].segments[1], mask=None, mask_from=None)
    sets = {
        "more": write_labels(tmp_path / "more", "panoptic", more),
        "boxes": write_labels(tmp_path / "boxes", "boxes", [replace(more[0], segments=(thing,))]),
    }
    loaded = dataset.load(part, sets, name="common")
    assert (loaded.predicted, loaded.unmatched) == (2, 2)
    figures = fo.load_dataset("common").values("more_figure")
    assert figures == pytest.approx([None, 100.0, 100.0])
    assert list(loaded.without_figures) == ["boxes"]


@pytest.mark.parametrize("name", ["ground_truth", "1st", "a-b", "", "x" * 50, "a.b"])
def test_predictions_need_a_name_that_can_be_a_field(
    fo: ModuleType, tmp_path: Path, name: str
) -> None:
    shards = write_labels(tmp_path / "set", "panoptic", [panoptic_sample("a")])
    with pytest.raises(InputError, match="predictions cannot be called"):
        dataset.load(shards, {name: shards})
