"""The arithmetic of plans, and the page that shows it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from segkit.training import unit_costs as costs
from segkit.training.unit_costs import GPUS, crop_flops, gpu_hours, utilization

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "scripts" / "scaling.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_training_takes_its_published_hours() -> None:
    forward = costs.FORWARD_GFLOPS["dataseg-r50"].value * 1e9
    flops = 5_900_000 * crop_flops(forward)
    assert utilization() == pytest.approx(5.9e6 * 3 * 518.7e9 / (576 * 3600) / 125e12)
    hours = [gpu_hours(flops, gpu) for gpu in GPUS]
    assert hours == pytest.approx([576, 576 * 125 / 312, 576 * 125 / 989])


def test_recomputed_activations_are_a_forward_pass_more() -> None:
    assert crop_flops(10.0) == 30.0
    assert crop_flops(10.0, recomputed=True) == 40.0


def test_rows_follow_from_the_costs(scaling: ModuleType) -> None:
    labeling = list(scaling.labeling_rows())
    seconds = 25_407_598 * 119.9e9 / (989e12 * utilization())
    assert labeling[0][3] == f"{seconds / 3600:.0f} h, $72"
    assert labeling[0][4] == "15 h"  # 25.4 million times 2.1 ms
    (conversion,) = (row for row in scaling.conversion_rows() if row[0] == "COCO panoptic")
    assert conversion[2:] == ["0.30 h", "0.67 GB", "19.00 GB", "$0.01"]
    assert scaling.number(1234.0) == "1,200" and scaling.number(0.0123) == "0.012"


def test_every_cost_names_its_source(scaling: ModuleType) -> None:
    for label, _, origin, source in scaling.cost_rows():
        assert origin in ("measured", "counted", "published", "assumed") and source, label


def test_the_page_shows_the_tables_of_the_script(scaling: ModuleType) -> None:
    page = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    for table in scaling.tables():
        assert table in page, "paste the output of scripts/scaling.py into docs/scaling.md"
    assert f"{100 * utilization():.1f} % of the V100's peak" in page
