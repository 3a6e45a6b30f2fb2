"""Weights of losses and matching costs."""

from pydantic import BaseModel, ConfigDict, Field


class LossConfig(BaseModel):
    """Loss weights; they are matching-cost weights as well (as in DETR and Mask2Former).

    DaTaSeg's paper gives none of them: class 2 and dice 5 are Mask2Former's, focal 20 is MaskFormer's, the pairwise
    weight and its warm-up are BoxInst's scaled to short runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classification: float = Field(default=2.0, ge=0)
    background: float = Field(default=0.1, ge=0)
    """Weight of the background class in the cross-entropy of unmatched proposals."""
    focal: float = Field(default=20.0, ge=0)
    dice: float = Field(default=5.0, ge=0)
    projection: float = Field(default=5.0, ge=0)
    pairwise: float = Field(default=1.0, ge=0)
    pairwise_warmup_steps: int = Field(default=500, ge=0)
    conditioned: float = Field(default=1.0, ge=0)
    """Factor on the losses of box-conditioned queries (their projection term has weight 1); 0 leaves them untrained."""
    box_noise: float = Field(default=0.05, ge=0, le=0.5)
    """Largest shift of a conditioned box's sides in training, relative to its width and height."""
    label_dropout: float = Field(default=0.5, ge=0, le=1)
    """Share of conditioned queries that are trained without their label, and asked to name it."""
