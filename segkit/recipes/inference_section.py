"""The section of a recipe that inference reads, and which output reads which key."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from segkit.recipes.training_sections import ClassLoss, Precision, Section


class InferenceConfig(Section):
    """Image size, thresholds and batches of inference.

    `INFERENCE_KEYS` lists which output reads which key.
    """

    image_size: int = Field(384, ge=32)
    """Longer side of images, pixels; best near the scale of the training crops. With other values
    of `resize` it is another side."""
    resize: Literal["fit", "stretch", "shorter"] = "fit"
    """fit: the longer side becomes `image_size`, and padding fills both to a multiple of 32.
    stretch: both sides become `image_size`. shorter: the shorter side becomes `image_size`, the
    longer `max_size` at most, and both are stretched up to a multiple of 32. The latter two are
    those of transformers' Mask2Former."""
    max_size: int = Field(1333, ge=32)
    """Maximum of the longer side, pixels, with `resize = "shorter"`."""
    postprocess: Literal["dataseg", "mask2former"] = "dataseg"
    """dataseg: merge stuff before each pixel takes its best mask. mask2former: the answers of
    transformers' post-processing, which merges stuff afterwards; imported models have it."""
    classes: ClassLoss = "softmax"
    """How class logits of proposals are read; `loss.classes`, unless it is set. sigmoid: each class
    against background, so that a probability does not depend on the number of names."""
    score: float = Field(0.5, ge=0, le=1)
    """Minimum class probability of a panoptic segment. Mask2Former and MaskFormer take 0.8, DETR
    0.85, after long training; a briefly trained model rarely reaches that, and the segments it
    drops count as missed."""
    overlap: float = Field(0.6, ge=0, le=1)
    """Minimum fraction of a panoptic segment's mask that remains after higher-scoring segments
    took their pixels. Mask2Former and MaskFormer: 0.8. `scripts/experiment_thresholds.py` compares
    values of both thresholds in one pass of the model."""
    dense: float = Field(0.0, ge=0, le=1)
    """Share of the cells' classes in semantic output and in the stuff of panoptic output; the rest
    is that of the queries. Only for a model that was trained with `loss.dense` above 0."""
    instances: int = Field(100, gt=0)
    """Maximum number of instances per image (COCO's maxDets)."""
    instance_score: float = Field(0.0, ge=0, le=1)
    """Minimum score of an instance. Average precision wants all of them, a picture only good ones:
    transformers takes 0.5."""
    boxes: Literal["mask", "head"] = "mask"
    """Boxes of instances. mask: tight around the mask. head: as the box head predicts them for the
    foreground query that made the mask, clipped to the image (`model.foreground`)."""
    pseudo_score: float = Field(0.3, ge=0, le=1)
    """Minimum raw score of a pseudo-mask; a box whose mask scores less stays a box. With box
    prompts, the score is the mean probability within the mask, at least 0.5; with proposals, that
    times the IoU of the proposal's own box with the box."""
    pseudo_overlap: float = Field(0.5, ge=0, le=1)
    """Minimum IoU of a proposal's own box with the box that it is matched to (`proposals`)."""
    pseudo_class: float = Field(0.1, ge=0, le=1)
    """Minimum probability that a proposal gives to the class of the box that it is matched to
    (`proposals`)."""
    batch_size: int = Field(8, gt=0)
    """Maximum number of images, or crops around boxes, per forward pass; affects only memory and
    speed."""
    precision: Precision = "fp32"
    """Autocast type of the forward pass."""
    unseen: tuple[str, ...] = ()
    """Names of the classes that training did not see; training on a set of `segkit split
    --zero-shot` fills it in. `segkit eval` groups its figures by it."""
    seen_penalty: float = Field(0.0, ge=0)
    """Subtracted from the class logits of all classes but `unseen`, which a model favors (Chao et
    al., ECCV 2016, calibrated stacking). With `classes` softmax, the probability of background
    stays as it is; with sigmoid, those of unseen classes do."""

    @model_validator(mode="after")
    def _check_unseen(self) -> "InferenceConfig":
        if self.seen_penalty and not self.unseen:
            raise ValueError(
                "inference.seen_penalty does nothing without inference.unseen; name the classes"
            )
        return self


_FORWARD = frozenset({"image_size", "resize", "max_size", "batch_size", "precision"})
_PREDICT = _FORWARD | {"postprocess", "classes", "unseen", "seen_penalty"}
INFERENCE_KEYS: Mapping[str, frozenset[str]] = {
    "panoptic": _PREDICT | {"score", "overlap", "dense"},
    "semantic": _PREDICT | {"dense"},
    "instance": _PREDICT | {"instances", "instance_score", "boxes"},
    "box-prompts": frozenset({"batch_size", "precision", "pseudo_score"}),
    "proposals": _FORWARD | {"classes", "pseudo_score", "pseudo_overlap", "pseudo_class"},
    "bank": _FORWARD,
}
"""The keys of `InferenceConfig` that each task (predict, eval, benchmark), each strategy
(pseudolabel) and a feature bank (zeroshot) reads; a command refuses to set any other."""
