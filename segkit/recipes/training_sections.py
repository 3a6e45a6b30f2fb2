"""Sections of a recipe that stand by themselves: text, data, optimizer, training, weight transfer.

`schema.py` holds the rest and joins them.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segkit.text.encoders import MINILM
from segkit.text.encoding import Encoding

MaskPolicy = Literal["mask", "box", "none"]
"""mask: train on a segment's mask where it has one; box: train on its box only; none: treat the
segment as void."""
ClassLoss = Literal["softmax", "sigmoid"]
"""How classes are trained and read: exclusive, or each by itself against background."""
Precision = Literal["fp32", "bf16", "fp16"]
"""Autocast type of the forward pass; weights stay float32."""


class Section(BaseModel):
    """A table of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightTransferConfig(Section):
    """Weight transfer of Mask^X R-CNN: class weights add to mask embeddings."""

    input: Literal["off", "cls", "box", "cls+box", "text", "random"] = "off"
    """Class weights from which T predicts the addition to a mask embedding: the class's row in the
    text head (cls), its embedding in the box prompt encoder (box), both (cls+box), the text
    embedding (text), or a random vector as a control (random). Mask^X R-CNN's best: cls+box."""
    layers: int = Field(2, ge=1, le=3)
    """Layers of T, of 256 hidden channels."""
    activation: Literal["leaky_relu", "relu"] = "leaky_relu"
    """Between the layers of T; the slope of LeakyReLU is 0.1."""
    stop_gradient: bool = True
    """Keep the gradient of masks out of the class weights."""

    @model_validator(mode="after")
    def _check_effect(self) -> "WeightTransferConfig":
        """Check that each key has an effect beside the others."""
        changed = {
            name
            for name, field in type(self).model_fields.items()
            if getattr(self, name) != field.default
        }
        if self.input == "off" and changed:
            key = min(changed)
            raise ValueError(f"{key} has no effect while input is off; set input, such as cls")
        if self.layers == 1 and "activation" in changed:
            raise ValueError("activation has no effect with 1 layer; leave it out")
        if self.input in ("text", "random") and not self.stop_gradient:
            message = f"stop_gradient has no effect with input {self.input}, which nothing trains"
            raise ValueError(f"{message}; leave it out")
        return self


class TextConfig(Section):
    """How class names become the rows of the classifier."""

    encoder: str = MINILM
    """minilm, clip:ARCH/WEIGHTS or hf:FOLDER_OR_NAME. `segkit vocabulary encode` must have encoded
    the class names, except for the vectors that ship with minilm."""
    templates: str = "photo"
    """Sentences around a class name: photo (`a photo of a {}.`), none, imagenet (CLIP's 80), or a
    text file with one template per line."""

    @property
    def encoding(self) -> Encoding:
        """The encoding of class names that the keys ask for."""
        return Encoding.from_names(self.encoder, self.templates)


class DataConfig(Section):
    """Crops and batches."""

    image_size: int = Field(256, ge=32, multiple_of=32)
    """Side of the square crop, pixels; a multiple of 32."""
    batch_size: int = Field(8, ge=1)
    """Images per batch and process."""
    mixing: Literal["one", "all"] = "one"
    """one: each batch comes from one dataset, drawn by its sampling weight (DaTaSeg). all: each
    step takes one batch of every dataset, and the sampling weights scale their losses."""
    scale_min: float = Field(0.5, gt=0)
    """Lower bound of large-scale jitter, at most `scale_max`. The scale is uniform; at 1.0 the
    longer side of the image equals `image_size`. Mask2Former: 0.1."""
    scale_max: float = 2.0
    """Upper bound of large-scale jitter. Mask2Former: 2.0."""
    zoom_probability: float = Field(0.0, ge=0, le=1)
    """Share of crops that are a square around one random segment instead, 1.2 to 2.5 times as
    large as its box."""
    flip: bool = True
    """Mirror half of the crops horizontally."""
    color_jitter: float = Field(0.2, ge=0, le=1)
    """Strength s, 0 (off) to 1: brightness, contrast and saturation within 1 +- s, hue within
    +- s / 5."""
    workers: int = Field(0, ge=0)
    """Processes that prepare batches; 0 prepares them in the training process. The batches are
    the same for any number."""
    verify_images: bool = True
    """Compare each image's bytes with the SHA-256 in the set the first time a process reads it, so
    that a damaged image ends the run instead of training it."""
    mask_policy: Mapping[str, MaskPolicy] = Field(default_factory=dict)
    """Mask policy of a dataset (`"coco" = "box"`), of its classes (`"coco:person, car" = "none"`)
    or of a group of them: `"coco:@voc20" = "mask"`, `@nonvoc60`, `@coco80`, `@random40:SEED` (40
    things), `@FILE` (a class a line). Classes come before groups, groups before datasets; `mask`
    for all others."""

    @model_validator(mode="after")
    def _check_scales(self) -> "DataConfig":
        if self.scale_min > self.scale_max:
            limits = f"data.scale_min ({self.scale_min}) exceeds data.scale_max ({self.scale_max})"
            raise ValueError(f"{limits}; give scale_min <= scale_max")
        return self


class OptimizerConfig(Section):
    """AdamW and its schedule. Defaults are Mask2Former's, except for `clip_norm`."""

    lr: float = Field(1e-4, gt=0)
    """Peak learning rate of all parameters outside the backbone."""
    backbone_lr_factor: float = Field(0.1, ge=0)
    """Learning rate of the backbone / `lr`; 0 freezes the backbone's parameters, and computes no
    gradients of them. Layers beside the pretrained ones then learn at `lr`: the pyramid of
    `vitdet:` and the weights of `model.prompt_maps`."""
    backbone_layer_decay: float = Field(1.0, gt=0, le=1)
    """Learning rate of a backbone layer / that of the layer above; below 1 only for `vitdet:`
    backbones. ViTDet: 0.7 for ViT-B, 0.8 for ViT-L."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of matrices and kernels; norms, biases, embeddings and tables of positions are
    never decayed."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly to its peak."""
    schedule: Literal["cosine", "poly"] = "poly"
    """Decay after the warm-up: half a cosine to 0, or (1 - progress)^0.9."""
    clip_norm: float = Field(1.0, gt=0)
    """Maximum norm of the gradient. Mask2Former's 0.01 clips every step."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the averaged weights, which the run is published with; 0 publishes the last
    weights."""


class TrainingConfig(Section):
    """Length, seed, intervals and precision of a run."""

    steps: int = Field(1000, ge=1)
    """Optimizer steps."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the initial weights, the data order and all noise."""
    evaluate_every: int = Field(1000, ge=1)
    """Steps between evaluations of the `--eval-data` sets; the last step always evaluates."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between the checkpoints that `--resume` reads."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints to keep during the run; the one with the best evaluation is kept as
    well."""
    publish: Literal["last", "best"] = "last"
    """Averaged weights to publish: those of the last step, or of the best evaluation."""
    precision: Precision = "fp32"
    """Autocast type of the forward pass; weights and optimizer state stay float32."""
    activation_checkpointing: bool = False
    """Recompute layers in the backward pass instead of keeping their activations: less memory, a
    slower step."""
    compile: bool = False
    """Apply `torch.compile` to backbone and pixel decoder; pays off on GPUs in long runs, and
    needs a C++ compiler."""
    accumulate: int = Field(1, ge=1)
    """Batches per optimizer step (gradient accumulation)."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several processes, each holds all weights (ddp) or a shard of weights, optimizer state
    and averaged weights (fsdp)."""
    loggers: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Services that receive the same figures as TensorBoard; each needs the extra of its name."""
