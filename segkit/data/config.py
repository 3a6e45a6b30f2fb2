"""The `data` part of a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from segkit.errors import InputError

MaskPolicy = Literal["mask", "box", "none"]
"""mask: use a segment's mask where it has one; box: never look at it, use the box; none: the segment is void."""


@dataclass(frozen=True)
class DataConfig:
    """How crops and batches are made; checked where it is made."""

    image_size: int = 256
    """Side of the square crop, pixels."""
    batch_size: int = 8
    """Images per batch of one rank."""
    mixing: Literal["one", "all"] = "one"
    """one: a step's batch comes from one data set, drawn at its rate; all: a step takes a batch of every data set, and
    the rates weigh their losses."""
    scale_min: float = 0.5
    scale_max: float = 2.0
    """Large-scale jitter, uniform: at 1.0 the longer side of the image just fills the crop."""
    zoom_probability: float = 0.0
    """How often the crop is a square around one random segment instead, 1.2 to 2.5 times its box."""
    flip: bool = True
    """Mirror left and right in half of the crops."""
    colour_jitter: float = 0.2
    """Strength, 0 (off) to 1: brightness, contrast and saturation within 1 +- this, hue within +- a fifth of it."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process. The batches are the same."""
    mask_policy: Mapping[str, MaskPolicy] = field(default_factory=dict)
    """By data set (`"coco": "box"`) or by class of one (`"coco:person": "none"`); what is not named is `mask`."""

    def __post_init__(self) -> None:
        checks = {
            "image_size": (self.image_size >= 32 and self.image_size % 32 == 0, "give a positive multiple of 32"),
            "batch_size": (self.batch_size >= 1, "give 1 or more"),
            "scale_min": (0 < self.scale_min <= self.scale_max, "give 0 < scale_min <= scale_max"),
            "zoom_probability": (0 <= self.zoom_probability <= 1, "give 0 to 1"),
            "mixing": (self.mixing in ("one", "all"), "give one or all"),
            "colour_jitter": (0 <= self.colour_jitter <= 1, "give 0 to 1"),
            "workers": (self.workers >= 0, "give 0 or more"),
        }
        for name, (good, mend) in checks.items():
            if not good:
                raise InputError(f"{getattr(self, name)} cannot be used", record=f"data.{name}", mend=mend)
        for key, policy in self.mask_policy.items():
            if policy not in get_args(MaskPolicy):
                raise InputError(
                    f"no policy {policy!r}", record=f"data.mask_policy.{key}", mend="give mask, box or none"
                )
