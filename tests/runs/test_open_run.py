"""Opening a run by name: overrides that do nothing are refused, whatever the run stores."""

from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.recipes.load import load_recipe
from segkit.runs.init_from import resolve_init_from
from segkit.runs.open_run import check_inference, read_run_files
from tests.commands.slips import hollow_run

UNSEEN = 'inference.unseen=["cat"]'
TASKS = ("panoptic", "semantic", "instance")


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run = hollow_run(tmp_path / "run", [])
    assert read_run_files("~/run@v1").folder == read_run_files(run).folder
    recipe = resolve_init_from(load_recipe("dataseg-mini", ["model.init_from=~/run"]))
    assert recipe.model.init_from == str(read_run_files(run).folder)


@pytest.mark.parametrize("source", ["sam:facebook/sam-vit-base", "sam2:model", "samhq:model"])
def test_a_teacher_that_is_not_a_run_is_sent_to_pseudolabel(source: str) -> None:
    message = f"{source}: a SAM.* is not a run; give it to `segkit pseudolabel --teacher`, which"
    for refuse in (
        lambda: check_inference(source, (), "box-prompts"),
        lambda: read_run_files(source),
        lambda: resolve_init_from(load_recipe("dataseg-mini", [f"model.init_from={source}"])),
    ):
        with pytest.raises(InputError, match=message):
            refuse()


@pytest.mark.parametrize("output", [*TASKS, "proposals"])
@pytest.mark.parametrize("resize", ["fit", "stretch"])
def test_a_limit_of_the_longer_side_needs_a_shorter_side(
    tmp_path: Path, output: str, resize: str
) -> None:
    run = hollow_run(tmp_path / "run", [f"inference.resize={resize}"])
    message = f"--set: inference.resize is {resize}, which does not read inference.max_size; leave"
    with pytest.raises(InputError, match=message):
        check_inference(run, ["inference.max_size=900"], output)
    with pytest.raises(InputError, match=message):
        read_run_files(run, ["inference.max_size = 900"])
    pair = ["inference.resize=shorter", "inference.max_size=900"]
    check_inference(run, pair, output)
    assert read_run_files(run, pair).recipe.inference.max_size == 900
    shorter = hollow_run(tmp_path / "shorter", ["inference.resize=shorter"])
    check_inference(shorter, ["inference.max_size=900"], output)
    with pytest.raises(InputError, match=r"inference\.resize is fit"):
        check_inference(shorter, ["inference.max_size=900", "inference.resize=fit"], output)


@pytest.mark.parametrize("output", TASKS)
def test_unseen_classes_need_a_penalty_or_figures_to_group(tmp_path: Path, output: str) -> None:
    run = hollow_run(tmp_path / "run")
    message = "--set: inference.unseen does nothing without inference.seen_penalty; leave it out"
    for spec in (run, "hf:some/model"):
        with pytest.raises(InputError, match=message):
            check_inference(spec, [UNSEEN], output)
        check_inference(spec, [UNSEEN, "inference.seen_penalty=2"], output)
        check_inference(spec, [UNSEEN], output, groups_unseen=True)
    stored = hollow_run(tmp_path / "stored", [UNSEEN, "inference.seen_penalty=2"])
    check_inference(stored, ['inference.unseen=["sofa"]'], output)
    with pytest.raises(InputError, match=message):
        check_inference(stored, ['inference.unseen=["sofa"]', "inference.seen_penalty=0"], output)


def test_runs_that_store_such_values_open(tmp_path: Path) -> None:
    run = hollow_run(tmp_path / "run", ["inference.max_size=900", UNSEEN])
    check_inference(run, ["inference.batch_size=2"], "panoptic")
    config = read_run_files(run).recipe.inference
    assert (config.max_size, config.unseen, config.resize) == (900, ("cat",), "fit")


def test_boxes_come_only_from_a_trained_head(tmp_path: Path) -> None:
    untrained = ["loss.box_l1=0", "loss.box_giou=0"]
    for number, changes in enumerate(([], untrained[:1], untrained[1:])):
        run = hollow_run(tmp_path / str(number), ["model.foreground=3", *changes])
        check_inference(run, ["inference.boxes=head"], "instance")
    run = hollow_run(tmp_path / "untrained", ["model.foreground=3", *untrained])
    check_inference(run, ["inference.boxes=mask"], "instance")
    with pytest.raises(InputError, match="--set: nothing trained the run's box head; leave it out"):
        check_inference(run, ["inference.boxes=head"], "instance")
