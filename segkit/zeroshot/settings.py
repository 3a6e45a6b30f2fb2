"""The settings of the second stage: its generator, losses, class head and schedule."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from segkit.errors import InputError
from segkit.recipes.load import override_value
from segkit.recipes.schema import Section

_GENERATOR_LOSSES = (
    *("mmd", "related", "unrelated", "reconstruction"),
    *("align_seen", "align_unseen", "align_cross"),
)


class ZeroShotSettings(Section):
    """Settings of `segkit zeroshot train`; a loss with weight 0 is not computed.

    PADing publishes its losses and the weights 5 and 0.1 of the class head; all other values were
    chosen here.
    """

    generator: Literal["primitives", "mlp"] = "primitives"
    """primitives: a transformer whose memory is learned primitives. mlp: a plain network (GMMN)."""
    primitives: int = Field(64, ge=1)
    """Number of learned primitives."""
    layers: int = Field(2, ge=1)
    """Layers of the generator, each with its own noise."""
    mmd: float = Field(1.0, ge=0)
    """Weight of the maximum mean discrepancy between real and generated features of a class."""
    bandwidths: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """Bandwidths of its kernels, in median distances of the features."""
    related: float = Field(0.1, ge=0)
    """Weight of the classification of semantic-related parts by class embeddings."""
    unrelated: float = Field(0.01, ge=0)
    """Weight of the divergence of semantic-unrelated parts from a normal distribution."""
    reconstruction: float = Field(0.1, ge=0)
    """Weight of the squared error of features rebuilt from both parts."""
    align_seen: float = Field(0.1, ge=0)
    """Weight of the alignment of seen classes with each other, as their embeddings are."""
    align_unseen: float = Field(0.1, ge=0)
    """Weight of the alignment of generated unseen classes with each other."""
    align_cross: float = Field(0.1, ge=0)
    """Weight of the alignment of generated unseen classes with seen ones."""
    temperature: float = Field(0.1, gt=0)
    """Of the cosines in alignment and classification of semantic-related parts."""
    head: Literal["linear", "text_residual"] = "linear"
    """linear: a class head for the classes of the split. text_residual: the run's text classifier
    plus a residual, which works in other vocabularies as well."""
    unseen_weight: float = Field(5.0, gt=0)
    """Weight of unseen classes in the loss of the class head (PADing)."""
    no_object_weight: float = Field(0.1, ge=0)
    """Weight of no-object in the loss of the class head (PADing)."""
    weight_decay: float = Field(1e-3, ge=0)
    """Of the class head (AdamW)."""
    schedule: Literal["alternate", "sequential"] = "sequential"
    """alternate: a step of the generator, then one of the class head, and so on. sequential: the
    generator first."""
    generator_steps: int = Field(800, ge=0)
    """Steps of the generator; 0 leaves it untrained."""
    head_steps: int = Field(600, ge=1)
    """Steps of the class head."""
    classes: int = Field(16, ge=1)
    """Seen classes in a step of the generator, drawn at random; all of the unseen ones."""
    samples: int = Field(32, ge=2)
    """Real and generated features of each class in a step of the generator."""
    batch_size: int = Field(512, ge=1)
    """Real features in a step of the class head."""
    generator_lr: float = Field(3e-3, gt=0)
    head_lr: float = Field(3e-3, gt=0)
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _check_losses(self) -> "ZeroShotSettings":
        if self.generator_steps and not any(getattr(self, name) for name in _GENERATOR_LOSSES):
            raise ValueError("every loss of the generator has weight 0; set generator_steps=0")
        if self.generator_steps and self.align_seen and not self.disentangles:
            raise ValueError(
                "align_seen compares real features: without related, unrelated or reconstruction "
                "it trains nothing; set align_seen=0"
            )
        if not self.bandwidths or min(self.bandwidths) <= 0:
            raise ValueError("bandwidths must be positive, one at least")
        return self

    @property
    def disentangles(self) -> bool:
        """Whether features are divided into semantic-related and unrelated parts."""
        return bool(self.related or self.unrelated or self.reconstruction)

    @classmethod
    def from_overrides(cls, overrides: Sequence[str]) -> "ZeroShotSettings":
        """The defaults with overrides `key=value`, the value in TOML or plain text.

        Raises:
            InputError: an unknown key, a value of another type or range, or a key that does
                nothing beside the others.
        """
        values: dict[str, Any] = {}
        for override in overrides:
            key, equals, text = (part.strip() for part in override.partition("="))
            if not equals or key not in cls.model_fields:
                hint = f"give KEY=VALUE with one of: {', '.join(cls.model_fields)}"
                raise InputError(f"invalid setting {override!r}", record="--set", hint=hint)
            values[key] = override_value(text)
        try:
            settings = cls.model_validate_json(json.dumps(values, default=str), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise InputError(message, record=f"--set {key}".strip()) from error
        for key, needed in settings._unused(values).items():
            message = f"{key} does nothing here; it requires {needed}"
            raise InputError(message, record="--set", hint="leave it out")
        return settings

    def _unused(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The keys that were set but do nothing, with the setting that each needs."""
        aligns = self.align_seen or self.align_unseen or self.align_cross
        required = {
            "primitives": (self.generator == "primitives", "generator=primitives"),
            "bandwidths": (bool(self.mmd), "mmd above 0"),
            "temperature": (bool(self.related or aligns), "related or an alignment above 0"),
            "schedule": (bool(self.generator_steps), "generator_steps above 0"),
            **dict.fromkeys(
                (*_GENERATOR_LOSSES, "generator_lr", "samples", "classes"),
                (bool(self.generator_steps), "generator_steps above 0"),
            ),
        }
        return {key: required[key][1] for key in values if key in required and not required[key][0]}
