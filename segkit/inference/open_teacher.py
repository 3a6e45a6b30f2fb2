"""Teachers by name: check a name and its options, fetch a public model, open the teacher.

Only opening a run or a model imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segkit.arguments import check_choice
from segkit.errors import InputError
from segkit.extras import require_extra
from segkit.file_names import path_text
from segkit.hub import (
    CONFIG,
    HF_PREFIX,
    KINDS,
    PROCESSOR,
    WEIGHTS,
    check_model_type,
    check_source,
    fetch_model,
    is_hugging_face,
    model_name,
)
from segkit.inference.grabcut import GrabCutTeacher
from segkit.inference.shape_teachers import SHAPES, ShapeTeacher
from segkit.inference.teacher import Teacher
from segkit.recipes.schema import Strategy
from segkit.runs.open_run import (
    check_inference,
    check_min_iou,
    default_strategy,
    read_run_files,
    require_box_prompts,
)
from segkit.storage import StrPath

GRABCUT = "grabcut"
MIN_SCORES = {f"{name}:": 0.5 for name in ("sam", "sam2", "samhq")} | {GRABCUT: 0.0}
"""Default of the lowest score of a mask. SAM: below an IoU of 0.5, COCO no longer counts a mask as
a match. GrabCut: its score says little, see there."""
_TEACHERS = f"a RUN, {', '.join(f'{prefix}NAME' for prefix in KINDS)}, {GRABCUT}, ellipse or box"
_PROCESSORS = (PROCESSOR, "processor_config.json")
"""Files of a SAM's image processor, one of which suffices; newer versions of transformers write
the second."""


@dataclass(frozen=True)
class TeacherSpec:
    """The name of a teacher, and its options; an option that it does not read is refused."""

    name: str
    """A run, `DIR` or `DIR@v2`; a public model, `hf:`, `sam:`, `sam2:` or `samhq:` and
    NAME_OR_FOLDER; or `grabcut`, `ellipse` or `box`. `./box` is the run of that name."""
    strategy: Strategy | None = None
    """Of runs, see `RunTeacher`."""
    settings: Sequence[str] = ()
    """`inference.key=value`, of runs."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N, of runs and models."""
    min_score: float | None = None
    """Lowest score of a mask; None for the teacher's default. Not of `ellipse` and `box`, whose
    masks all have the same score."""
    min_iou: float | None = None
    """Lowest expected IoU of a mask, of box prompts of calibrated runs."""
    tta: bool = False
    """Test-time augmentation, of box prompts of runs."""

    @property
    def kind(self) -> str:
        """`sam:`, `sam2:`, `samhq:`, `grabcut`, `ellipse` or `box`, else `run`."""
        if self.name in SHAPES or self.name == GRABCUT:
            return self.name
        prefix = "".join(self.name.partition(":")[:2])
        return prefix if prefix in KINDS and prefix != HF_PREFIX else "run"

    @property
    def has_model(self) -> bool:
        """Whether the teacher has a device; GrabCut and shapes work on CPUs, whatever there is."""
        return self.kind == "run" or self.kind in KINDS

    def on(self, device: str) -> "TeacherSpec":
        """The same teacher on another device, if it has one."""
        return replace(self, device=device) if self.has_model else self

    def check(self) -> None:
        """Refuse what can be refused without torch and the network.

        Raises:
            InputError: no such teacher, an option that it does not read, a folder that is not that
                of such a model, or a package that is not installed.
        """
        self._check_options()
        if self.kind == "run":
            self._check_name()
            require_extra("train", "a run as teacher")
            strategy = self._run_strategy()
            check_inference(self.name, self._run_settings(), strategy)
            if self.min_iou is not None:
                check_min_iou(self.name, strategy)
            if self.tta:
                require_box_prompts("--tta", self.name, strategy)
        elif self.kind in KINDS:
            require_extra("hf", f"a {KINDS[self.kind].name}")
            check_source(self.name)
            folder = Path(model_name(self.name))
            if folder.is_dir():
                _check_processor(folder)

    def open(self) -> Teacher:
        """Check everything, fetch a public model where it is not cached, and load it.

        Raises:
            InputError: as of `check`, or files that cannot be loaded.
            SegkitError: a public model that cannot be fetched.
        """
        self.check()
        if self.kind in SHAPES:
            return ShapeTeacher(self.kind)
        if self.kind == GRABCUT:
            return GrabCutTeacher(self._min_score())
        if self.kind in KINDS:
            folder = fetch_model(self.name, (CONFIG, WEIGHTS), _PROCESSORS)
            check_model_type(self.name, folder)
            _check_processor(folder)
            from segkit.inference.sam import SamTeacher

            return SamTeacher(self.name, folder, self.device, self._min_score())
        from segkit.inference.run_teacher import RunTeacher
        from segkit.runs.open_run import load_run

        run = load_run(self.name, self.device, self._run_settings())
        return RunTeacher(run, self.strategy, min_iou=self.min_iou, tta=self.tta)

    def _check_options(self) -> None:
        if self.strategy is not None:
            check_choice(self.strategy, Strategy, "strategy")
        run, shape = self.kind == "run", self.kind in SHAPES
        unread = {
            "--strategy": self.strategy is not None and not run,
            "--set": bool(self.settings) and not run,
            "--device": self.device != "auto" and not self.has_model,
            "--min-score": self.min_score is not None and shape,
            "--min-iou": self.min_iou is not None and not run,
            "--tta": self.tta and not run,
        }
        for option, is_given in unread.items():
            if is_given:
                message = f"{option} does nothing with the teacher {self.name}"
                raise InputError(message, hint="leave it out")
        limits = {"a lowest score": self.min_score, "a lowest IoU": self.min_iou}
        for noun, limit in limits.items():
            if limit is not None and not 0 <= limit <= 1:
                raise InputError(f"{noun} of {limit}", hint="give 0 to 1")
        keys = [setting.partition("=")[0].strip() for setting in self.settings]
        if self.min_score is not None and "inference.pseudo_score" in keys:
            message = "--min-score and --set inference.pseudo_score are the same setting"
            raise InputError(message, hint="give one of the two")

    def _check_name(self) -> None:
        """Refuse a misspelled teacher, which would pass for the name of a run."""
        prefix = self.name.partition(":")[0]
        known = {GRABCUT, *SHAPES, *(kind.rstrip(":") for kind in KINDS)}
        url = "://" in self.name or "/" in prefix
        suspect = not prefix.strip() or prefix.lower() in known or not url
        exists = is_hugging_face(self.name) or Path(self.name.partition("@")[0]).exists()
        if suspect and not (exists and self.name):
            raise InputError(f"unknown teacher {self.name!r}", hint=f"give {_TEACHERS}")

    def _run_settings(self) -> list[str]:
        if self.min_score is None:
            return list(self.settings)
        return [*self.settings, f"inference.pseudo_score={self.min_score}"]

    def _run_strategy(self) -> Strategy:
        """The strategy that `RunTeacher` takes; reads the recipe of a run."""
        if self.strategy is not None:
            return self.strategy
        if is_hugging_face(self.name):
            return "proposals"
        return default_strategy(read_run_files(self.name).recipe)

    def _min_score(self) -> float:
        return MIN_SCORES[self.kind] if self.min_score is None else self.min_score


def open_teacher(
    name: StrPath,
    *,
    strategy: Strategy | None = None,
    settings: Sequence[str] = (),
    device: str = "auto",
    min_score: float | None = None,
    min_iou: float | None = None,
    tta: bool = False,
) -> Teacher:
    """Open a teacher, such as `sam:facebook/sam-vit-base`: `TeacherSpec(...).open()`."""
    return TeacherSpec(path_text(name), strategy, settings, device, min_score, min_iou, tta).open()


def _check_processor(folder: Path) -> None:
    """Raise InputError where the folder of a SAM has no configuration of its image processor."""
    if not any((folder / name).is_file() for name in _PROCESSORS):
        hint = "take it from the model's page"
        raise InputError(f"has no {PROCESSOR}", file=folder, hint=hint)
