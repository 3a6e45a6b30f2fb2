"""Weights of losses and matching costs, and the forms of MERGE."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MaskForm = Literal["max", "sum", "noisy-or"]
"""How the masks of proposals that are merged become one, p(c) being a proposal's probability of the class and s its
mask's at a pixel: the largest s of the group's members, the sum of p(c) s over all proposals (at most 1), or
1 - prod(1 - p(c) s) over all proposals."""
ScoreForm = Literal["mean", "max", "mass"]
"""How their class logits become one: their mean, those of the member with the largest p(c), or their mean weighted by
the area that each one's mask has."""
SURE = 0.5


class LossConfig(BaseModel):
    """Loss weights; they are matching-cost weights as well (as in DETR and Mask2Former).

    DaTaSeg's paper gives none of them: class 2 and dice 5 are Mask2Former's, focal 20 is MaskFormer's, the pairwise
    weight and its warm-up are BoxInst's scaled to short runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classification: float = Field(default=2.0, ge=0)
    """Weight of the proposals' cross-entropy, and of -p(class) in the matching cost."""
    background: float = Field(default=0.1, ge=0)
    """Weight of the background class in the cross-entropy of unmatched proposals."""
    focal: float = Field(default=20.0, ge=0)
    """Weight of the focal term where a target has a mask."""
    dice: float = Field(default=5.0, ge=0)
    """Weight of the dice term where a target has a mask, for given boxes as well."""
    points: int = Field(default=0, ge=0)
    """Pixels at which focal and dice losses look at a matched pair, most of them where the mask is unsure, and at which
    matching compares masks; 0 takes every cell. Mask2Former: 12,544."""
    projection: float = Field(default=5.0, ge=0)
    """Weight of the projection term where a target has only a box."""
    pairwise: float = Field(default=1.0, ge=0)
    """Weight of the pairwise colour term where a target has only a box; no part of the matching cost."""
    pairwise_warmup_steps: int = Field(default=500, ge=0)
    """Steps over which the pairwise term's weight rises linearly, for proposals; given boxes have it whole."""
    matching: bool = True
    """Whether the learned queries are trained; without them, a model learns to segment given boxes alone."""
    conditioned: float = Field(default=1.0, ge=0)
    """Factor on the losses of box-conditioned queries (their projection term has weight 1); 0 leaves them untrained."""
    box_noise: float = Field(default=0.05, ge=0, le=0.5)
    """Largest shift of a conditioned box's sides in training, relative to its width and height."""
    label_dropout: float = Field(default=0.5, ge=0, le=1)
    """Share of conditioned queries that are trained without their label, and asked to name it."""
    merge_masks: MaskForm = "max"
    """How masks of merged proposals become one before matching (see `MaskForm`)."""
    merge_scores: ScoreForm = "mean"
    """How class logits of merged proposals become one before matching (see `ScoreForm`)."""
    merge_sure: float = Field(default=SURE, ge=0, le=1)
    """A proposal is merged where its class's probability is above this. Merging by arg-max alone (0) starves training:
    a new model's proposals mostly share an arg-max, so few are left after MERGE and most targets find none to learn
    from; 1 merges nothing."""
