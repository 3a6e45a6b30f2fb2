"""How a trained model is asked: the `inference` part of a recipe, and the strategies of pseudo-labels."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from segkit.supervision.config import MaskForm, ScoreForm

Strategy = Literal["conditioned", "proposals"]
"""How boxes become masks: the model is asked for the mask of each, or its own proposals are matched to them."""


class InferenceConfig(BaseModel):
    """Image size, thresholds and batches; the thresholds concern panoptic and instance output only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(default=384, ge=32)
    """Longer side of images, pixels; a model sees best near the scale of its training crops."""
    score: float = Field(default=0.5, ge=0, le=1)
    """Least class probability of a panoptic segment. Mask2Former and MaskFormer take 0.8, DETR 0.85, after long
    trainings; a young model is hardly ever that sure, and what it leaves out counts as missed."""
    overlap: float = Field(default=0.6, ge=0, le=1)
    """Least share of a proposal's mask that must be left once better proposals have taken their pixels. Mask2Former
    and MaskFormer: 0.8. `scripts/experiment_thresholds.py` tries both thresholds in one pass of the model."""
    instances: int = Field(default=100, gt=0)
    """Most instances of an image (COCO's maxDets)."""
    merge_masks: MaskForm = "max"
    """How stuff proposals of a class become one in panoptic output."""
    merge_scores: ScoreForm = "max"
    """How their class scores become one."""
    merge_semantic: MaskForm = "sum"
    """How all proposals together decide the class of a pixel in semantic output."""
    batch_size: int = Field(default=8, gt=0)
    """Most images (or crops around boxes) that the model sees at once; a matter of memory and speed alone."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast type of the forward pass."""
