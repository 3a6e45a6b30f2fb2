"""The command that usually comes next, which every command names at its end."""

import shlex
from collections.abc import Callable, Mapping
from typing import Any

Result = Mapping[str, Any]
FIRST_STEPS = """\
segkit convert auto FILE_OR_FOLDER --out work/set                        your data becomes a set
segkit train --recipe dataseg-mini --data work/set --out work/run        sets become a model
segkit predict --checkpoint work/run --images photos --out work/photos   a model labels photos
segkit eval --checkpoint work/run --data work/set --task panoptic --out work/eval
segkit browse work/set                                                   look at it in FiftyOne
`segkit demo --out demo-out` runs all of it on generated scenes; `segkit --help` lists every command
"""
"""What `segkit` without a command prints: the path from data to results."""


def next_step(schema: str, result: Result) -> str | None:
    """Return the next command after a result, or None where there is none.

    Args:
        schema: name and version of the result's form, such as `segkit.inspect/1`.
        result: the command's result.
    """
    step = _STEPS.get(schema.partition("/")[0])
    return None if step is None else step(result)


def _convert(result: Result) -> str | None:
    if result["path"] is None:
        defects = ", once the defects are mended or with --on-error skip"
        return f"the same command without --dry-run{defects if result['offenders'] else ''}"
    if not result["ledger"]["kept"] or result["images_by"] == "none":  # nothing to train on
        return f"segkit inspect {_path(result)}"
    if result["kind"] == "boxes":
        # GrabCut needs neither a run nor a download
        return f"segkit pseudolabel --teacher grabcut --data {_path(result)} --out work/masks"
    return f"segkit train --recipe dataseg-mini --data {_path(result)} --out work/run"


def _inspect(result: Result) -> str:
    if result["type"] == "bank":
        return _bank(result)
    if result["type"] == "run":
        return f"segkit predict --checkpoint {_path(result)} --images photos --out work/photos"
    return f"segkit show {_path(result)}"


def _validate(result: Result) -> str | None:
    return None if result.get("violations") else f"segkit inspect {_path(result)}"


def _split(result: Result) -> str:
    first = next(iter(result["parts"].values()))
    return f"segkit inspect {_path(first)}"


def _train(result: Result) -> str:
    if not result.get("trains_queries", True):  # there are box prompts only, which need boxes
        return f"segkit pseudolabel --checkpoint {_path(result)} --data BOXES --out work/masks"
    return f"segkit eval --checkpoint {_path(result)} --data SET --task TASK --out work/eval"


def _bank(result: Result) -> str:
    return f"segkit zeroshot train --bank {_path(result)} --out work/run-zero-shot"


def _browse(result: Result) -> str:
    return f"segkit browse {_path(result)}"


def _diff(result: Result) -> str:
    changed = result["images"]["changed_labels"]
    image = f" --id={shlex.quote(changed[0])}" if changed else ""
    return f"segkit show {_word(result['b'])}{image}"


def _show(result: Result) -> str:
    if result["images_by"] == "none":  # the App shows images
        return f"segkit inspect {_word(result['set'])}"
    predictions = result["predictions"]
    more = f" --predictions {_word(predictions)}" if predictions else ""
    return f"segkit browse {_word(result['set'])}{more}"


def _evaluated(result: Result) -> str | None:
    """Show the worst images; of predictions in a file, which `show` does not read, the set."""
    from segkit.metrics.output import headline

    images = result["images"]
    if not images["evaluated"]:  # `show` refuses a set without images
        return None
    show = f"segkit show {_path(result['data'])}"
    if (
        "version" not in result["predictions"]
        or images["without_prediction"] == images["evaluated"]
    ):
        return show
    # `show` ranks by masks, and only images with something to score
    ranks = result.get("by") != "box" and headline(result)[1] is not None
    worst = " --worst" if ranks else ""
    return f"{show} --predictions {_path(result['predictions'])}{worst}"


def _leakage(result: Result) -> str:
    if result["pairs"]:  # a list of the images that stay
        leaking = _word(result["pairs"][0]["a"])
        return f"segkit split {leaking} --list kept=IDS.txt --out work/split"
    first, second = map(_word, result["sets"][:2])
    return f"segkit train --recipe dataseg-mini --data {first} --eval-data {second} --out work/run"


def _path(result: Result) -> str:
    return _word(result["path"])


def _word(value: object) -> str:
    """A value as one word of a shell: a name from data must not become a command."""
    return shlex.quote(str(value))


_SOURCES = {
    "coco-instances": "coco",
    "coco-panoptic": "coco",
    "yolo": "yolo",
    "yolo-seg": "yolo",
    "voc": "voc-boxes",
    "labelstudio": "labelstudio",
    "cvat": "cvat",
    "labelme": "labelme",
    "semantic": "semantic",
}
"""Format of an export -> the source that reads it."""
_STEPS: dict[str, Callable[[Result], str | None]] = {
    "segkit.convert": _convert,
    "segkit.validate": _validate,
    "segkit.inspect": _inspect,
    "segkit.show": _show,
    "segkit.merge": lambda result: f"segkit inspect {_path(result)}",
    "segkit.relabel": lambda result: f"segkit inspect {_path(result)}",
    "segkit.split": _split,
    "segkit.diff": _diff,
    "segkit.prune": lambda result: f"segkit inspect {_path(result)}",
    "segkit.leakage": _leakage,
    "segkit.vocabularies": lambda result: "segkit vocabulary show NAME",
    "segkit.vocabulary": lambda result: (
        "segkit predict --checkpoint RUN --images photos "
        f"--vocabulary {_word(result['name'])} --out DIR"
    ),
    "segkit.encode": lambda result: (
        "segkit predict --checkpoint RUN --images photos --classes NAMES --out DIR"
    ),
    "segkit.recipes": lambda result: "segkit train --recipe NAME --data SET --out work/run",
    "segkit.import": lambda result: (
        f"segkit predict --checkpoint {_path(result)} --images photos --out work/photos"
    ),
    "segkit.train": _train,
    "segkit.calibrate": lambda result: (
        f"segkit pseudolabel --checkpoint {_path(result)} --data BOXES --min-iou 0.7 "
        "--out work/masks"
    ),
    "segkit.zeroshot-bank": _bank,
    "segkit.zeroshot-train": _train,
    "segkit.selftrain": lambda result: (
        f"segkit train --recipe dataseg-mini --data {_word(result['masks'])} --out work/run"
    ),
    "segkit.predict": _browse,
    "segkit.pseudolabel": _browse,
    "segkit.metrics": _evaluated,
    "segkit.compare": lambda result: f"segkit show {_path(result['data'])}",
    "segkit.benchmark": _evaluated,
    "segkit.browse": lambda result: f"segkit browse {_word(result['set'])} --write-back TAG=drop",
    "segkit.review": lambda result: f"segkit inspect {_path(result)}",
    "segkit.export": lambda result: f"segkit convert {_SOURCES[result['format']]} --help",
    "segkit.demo": lambda result: (
        f"segkit predict --checkpoint {_word(result['run'])} --images photos --out work/photos"
    ),
    "segkit.doctor": lambda result: "segkit demo --out demo-out",
}
