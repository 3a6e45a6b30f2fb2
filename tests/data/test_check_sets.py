"""What the data sets of a training leave without an effect."""

from pathlib import Path

import pytest

from segkit.data.check_sets import NamedDataset, has_boxes_only, require_things
from segkit.errors import InputError
from segkit.recipes.load import load_recipe
from tests.training.toy import write_toy_set

FOREGROUND = "model.foreground=3"
OF_BOXES = ["model.refine_boxes=true", "inference.boxes=head"]


@pytest.fixture
def panoptic(tmp_path: Path) -> NamedDataset:
    return NamedDataset("panoptic", write_toy_set(tmp_path / "panoptic"), 1.0)


@pytest.fixture
def maps(tmp_path: Path) -> NamedDataset:
    return NamedDataset("maps", write_toy_set(tmp_path / "maps", kind="semantic"), 1.0)


@pytest.mark.parametrize("key", [*OF_BOXES, "loss.denoising=1"])
def test_class_maps_have_no_boxes_of_things(
    key: str, panoptic: NamedDataset, maps: NamedDataset
) -> None:
    recipe = load_recipe("dataseg-mini", [FOREGROUND, key])
    require_things([panoptic, maps], recipe, resume=False)
    require_things([maps], load_recipe("dataseg-mini", [FOREGROUND]), resume=False)
    with pytest.raises(InputError, match=f"{key.split('=')[0]}: .*those of semantic sets"):
        require_things([maps], recipe, resume=False)


def test_an_interrupted_run_keeps_what_it_was_started_with(maps: NamedDataset) -> None:
    require_things([maps], load_recipe("dataseg-mini", [FOREGROUND, *OF_BOXES]), resume=True)


def test_masks_assist_things_with_only_a_box(
    tmp_path: Path, panoptic: NamedDataset, maps: NamedDataset
) -> None:
    boxes = NamedDataset("boxes", write_toy_set(tmp_path / "boxes", boxes_only=True), 1.0)
    config = load_recipe("dataseg-mini").data
    found = [has_boxes_only(sets, config) for sets in ([panoptic], [maps, panoptic, boxes])]
    assert found == [False, True]
