"""Arguments of the Python API with another value than the allowed ones are one clear error."""

import math
from collections.abc import Callable, Iterator
from inspect import isclass, signature
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import segkit
from segkit.browse.review import Action, write_back
from segkit.errors import InputError
from segkit.inference.open_teacher import TeacherSpec
from segkit.inference.outputs import predict_files, predict_set
from segkit.inference.predictor import Predictor
from segkit.inference.run_teacher import RunTeacher
from segkit.metrics.evaluate import compare
from segkit.metrics.task_metrics import EvalOptions
from segkit.recipes.schema import Strategy
from segkit.shards.leakage import find_leaks
from segkit.shards.merge_sets import merge_sets
from segkit.shards.prune import plan_pruning
from segkit.shards.reader import ShardSet
from segkit.shards.zero_shot_split import split_zero_shot
from segkit.sources.conversion_options import ConvertOptions
from segkit.sources.visual_genome import open_visual_genome
from segkit.taxonomy import Category, Taxonomy
from segkit.training.preflight import name_sets
from segkit.workers.devices import Workers

NOBODY: Any = object.__new__(Predictor)
ABSENT: Any = None
"""In the place of what is not looked at before the argument."""


def calls(data: ShardSet, out: Path) -> dict[Callable[..., Any], dict[str, Any]]:
    """Functions and classes with arguments of a few values, and other arguments to call them."""
    return {
        ConvertOptions: {},
        EvalOptions: {},
        Workers: {},
        RunTeacher: {"run": ABSENT},
        segkit.open_teacher: {"name": "sam2:absent"},
        segkit.pseudolabel: {"teacher": "sam2:absent", "data": data, "out": out},
        segkit.evaluate: {"truth": data, "predictions": data},
        compare: {"truth": data, "first": data, "second": data, "options": EvalOptions()},
        Predictor.predict: {"self": NOBODY, "image": "a.jpg"},
        Predictor.predict_many: {"self": NOBODY, "images": ["a.jpg"]},
        predict_set: {"run": ABSENT, "data": data, "out": out},
        predict_files: dict.fromkeys(("run", "files", "root", "taxonomy"), ABSENT) | {"out": out},
        split_zero_shot: {"data": data, "destination": out, "split": ABSENT, "arguments": {}},
    }


def literals(call: Callable[..., Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The parameters of a function or class that take a few values, and these."""
    names = {"Strategy": Strategy, "Run": object}
    annotated: Any = call.__init__ if isclass(call) else call  # type: ignore[misc]
    hints = get_type_hints(annotated, localns=names)
    for name in signature(call).parameters:
        kinds = (hints.get(name), *get_args(hints.get(name)))
        for kind in kinds:
            if get_origin(kind) is Literal:
                yield name, get_args(kind)


def test_values_are_checked_by_all_functions_that_take_a_few(
    toy_set: ShardSet, tmp_path: Path
) -> None:
    known = calls(toy_set, tmp_path / "out")
    checked = 0
    for call, others in known.items():
        for name, values in literals(call):
            for wrong in ("foo", values[0].title(), values[-1] + " ", 1, ""):
                with pytest.raises(InputError) as error:
                    call(**{**others, name: wrong})
                assert repr(wrong) in str(error.value) and "\n" not in str(error.value)
                assert all(value in str(error.value) for value in values)
                checked += 1
    assert checked == 5 * 16
    exported = {getattr(segkit, name) for name in segkit.__all__} - {segkit.__version__}
    assert not {call for call in exported - {*known} if any(literals(call))}
    assert not (tmp_path / "out").exists()


NUMBERS: dict[str, tuple[Callable[[Any], Any], tuple[Any, ...]]] = {
    "limit": (lambda value: ConvertOptions(limit=value), (0, -1, "1", math.nan)),
    "workers": (lambda value: ConvertOptions(workers=value), (0, -1)),
    "shard_bytes": (lambda value: ConvertOptions(shard_bytes=value), (0, -1, "96MiB")),
    "count": (lambda value: Workers(count=value), (0, -1, "all")),
    "bootstrap": (lambda value: EvalOptions(bootstrap=value), (-1,)),
    "max_dets": (lambda value: EvalOptions(max_dets=(1, value)), (0, -5)),
    "near": (lambda value: list(find_leaks([ABSENT] * 2, near=value)), (-1, 257)),
    "keep": (lambda value: plan_pruning(ABSENT, value, ABSENT), (0, -1)),
    "classes": (lambda value: open_visual_genome("a.json", "a", classes=value), (0, -3)),
    "sampling weight": (lambda value: name_sets([("a", value)]), (0, -1.0, math.inf, math.nan)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_checked(name: str) -> None:
    call, values = NUMBERS[name]
    for value in values:
        with pytest.raises(InputError, match=f"^invalid {name} |: invalid {name} ") as error:
            call(value)
        assert repr(value) in str(error.value) and "give " in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exif": "apply", "images_by": "reference"}, "cannot be combined"),
        ({"exif": "apply", "images_by": "none"}, "needs the images"),
        ({"exif": "refuse", "images_by": "none"}, "needs the images"),
        ({"address": "auto"}, "--address is the address of a Ray cluster"),
    ],
)
def test_options_of_conversions_that_exclude_each_other(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ConvertOptions(**options)


def test_what_commands_refuse_is_refused_by_functions(toy_set: ShardSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for call in (
        lambda: list(find_leaks([toy_set])),
        lambda: merge_sets([toy_set], out, name="a", rename=False, arguments={}),
    ):
        with pytest.raises(InputError, match="with one set; give two or more"):
            call()
    for action in ("Drop", "foo"):
        with pytest.raises(InputError, match="drop, ignore, keep-as-box"):
            write_back(toy_set, out, ABSENT, {"tag": action}, {})  # type: ignore[dict-item]
    assert get_args(Action) == ("drop", "ignore", "keep-as-box")
    with pytest.raises(InputError, match="a: unknown kind 'Thing'; give one of thing, stuff"):
        Taxonomy("own", (Category(1, "a", "Thing"),))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        Workers(device="gpu", count=2)
    with pytest.raises(InputError, match="strategy 'boxes'; give one of box-prompts, proposals"):
        TeacherSpec("a", "boxes").check()  # type: ignore[arg-type]
    assert not out.exists()
