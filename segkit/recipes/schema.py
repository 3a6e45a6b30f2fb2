"""Recipes as typed, frozen objects: every key of every section, with its default and range."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segkit.errors import InputError
from segkit.text.encoders import MINILM


class ModelConfig(BaseModel):
    """Architecture of a `DataSeg` model; defaults are those of `dataseg-mini`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = "mobilenetv2_100"
    """A timm model that gives features at strides 4, 8, 16 and 32; or `vitdet:` and one of timm's
    plain ViTs."""
    backbone_weights: str | None = None
    """None (random), `timm` (timm's pretrained weights) or the path of a safetensors file with
    timm's names."""
    init_from: str | None = None
    """What to start from, in the place of `backbone_weights`: a run of segkit, or `hf:` and a
    Mask2Former's folder or public name."""
    freeze_norm: bool = False
    """Keep the backbone's BatchNorm at its loaded statistics (for pretrained weights and small
    batches)."""
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """RGB mean that is subtracted from images in 0-1; as the backbone's weights were trained."""
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    text_dim: int = Field(default=384, gt=0)
    """Width D_T of the text embeddings."""
    hidden_dim: int = Field(default=128, gt=0)
    mask_dim: int = Field(default=64, ge=4)
    """Width D_F of the per-pixel map and of the mask embeddings."""
    queries: int = Field(default=50, gt=0)
    """N, the number of mask proposals of an image."""
    rounds: int = Field(default=2, gt=0)
    """R; the decoder has 3 R layers, one for each scale in a round."""
    heads: int = Field(default=4, gt=0)
    feedforward_dim: int = Field(default=256, gt=0)
    pixel_decoder: Literal["fpn", "deformable"] = "fpn"
    """A feature pyramid, or Mask2Former's deformable attention; the latter brings Mask2Former's
    position encoding to the queries as well, so that its checkpoints fit."""
    encoder_layers: int = Field(default=6, ge=0)
    """Layers of the deformable pixel decoder; the default is Mask2Former's, as is the next."""
    encoder_feedforward_dim: int = Field(default=1024, gt=0)

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelConfig":
        """Heads share the width evenly, and positions take sines and cosines of x and of y: a
        quarter of it each."""
        for divisor, what in ((self.heads, f"model.heads ({self.heads})"), (4, "4")):
            if self.hidden_dim % divisor:
                raise ValueError(f"model.hidden_dim ({self.hidden_dim}) is no multiple of {what}")
        return self


class TextConfig(BaseModel):
    """The `text` part of a recipe: how class names become the rows of the classifier."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str = MINILM
    """minilm, clip:ARCH/WEIGHTS or hf:FOLDER_OR_NAME; their words must have been encoded before."""
    templates: str = "photo"
    """photo, none, imagenet or a file; see `templates_of`."""


MaskPolicy = Literal["mask", "box", "none"]
"""mask: use a segment's mask where it has one; box: never look at it, use the box; none: the
segment is void."""


@dataclass(frozen=True)
class DataConfig:
    """How crops and batches are made; checked where it is made."""

    image_size: int = 256
    """Side of the square crop, pixels."""
    batch_size: int = 8
    """Images per batch of one rank."""
    mixing: Literal["one", "all"] = "one"
    """one: a step's batch comes from one data set, drawn at its rate; all: a step takes a batch of
    every data set, and the rates weigh their losses."""
    scale_min: float = 0.5
    scale_max: float = 2.0
    """Large-scale jitter, uniform: at 1.0 the longer side of the image just fills the crop."""
    zoom_probability: float = 0.0
    """How often the crop is a square around one random segment instead, 1.2 to 2.5 times its
    box."""
    flip: bool = True
    """Mirror left and right in half of the crops."""
    color_jitter: float = 0.2
    """Strength, 0 (off) to 1: brightness, contrast and saturation within 1 +- this, hue within +- a
    fifth of it."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process. The batches are the
    same."""
    mask_policy: Mapping[str, MaskPolicy] = field(default_factory=dict)
    """By data set (`"coco": "box"`) or by class of one (`"coco:person": "none"`); what is not named
    is `mask`."""

    def __post_init__(self) -> None:
        checks = {
            "image_size": (
                self.image_size >= 32 and self.image_size % 32 == 0,
                "give a positive multiple of 32",
            ),
            "batch_size": (self.batch_size >= 1, "give 1 or more"),
            "scale_min": (0 < self.scale_min <= self.scale_max, "give 0 < scale_min <= scale_max"),
            "zoom_probability": (0 <= self.zoom_probability <= 1, "give 0 to 1"),
            "mixing": (self.mixing in ("one", "all"), "give one or all"),
            "color_jitter": (0 <= self.color_jitter <= 1, "give 0 to 1"),
            "workers": (self.workers >= 0, "give 0 or more"),
        }
        for name, (good, hint) in checks.items():
            if not good:
                raise InputError(
                    f"{getattr(self, name)} cannot be used", record=f"data.{name}", hint=hint
                )
        for key, policy in self.mask_policy.items():
            if policy not in get_args(MaskPolicy):
                raise InputError(
                    f"no policy {policy!r}",
                    record=f"data.mask_policy.{key}",
                    hint="give mask, box or none",
                )


MERGE_THRESHOLD = 0.5


class LossConfig(BaseModel):
    """Loss weights; they are matching-cost weights as well (as in DETR and Mask2Former).

    DaTaSeg's paper gives none of them: class 2 and dice 5 are Mask2Former's, focal 20 is
    MaskFormer's, the pairwise weight and its warm-up are BoxInst's scaled to short runs.
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
    """Pixels at which focal and dice losses look at a matched pair, most of them where the mask is
    unsure, and at which matching compares masks; 0 takes every cell. Mask2Former: 12,544."""
    projection: float = Field(default=5.0, ge=0)
    """Weight of the projection term where a target has only a box."""
    pairwise: float = Field(default=1.0, ge=0)
    """Weight of the pairwise color term where a target has only a box; no part of the matching
    cost."""
    pairwise_warmup_steps: int = Field(default=500, ge=0)
    """Steps over which the pairwise term's weight rises linearly, for proposals; given boxes have
    it whole."""
    matching: bool = True
    """Whether the learned queries are trained; without them, a model learns to segment given boxes
    alone."""
    conditioned: float = Field(default=1.0, ge=0)
    """Factor on the losses of box-conditioned queries (their projection term has weight 1); 0
    leaves them untrained."""
    box_noise: float = Field(default=0.05, ge=0, le=0.5)
    """Largest shift of a conditioned box's sides in training, relative to its width and height."""
    label_dropout: float = Field(default=0.5, ge=0, le=1)
    """Share of conditioned queries that are trained without their label, and asked to name it."""
    merge_threshold: float = Field(default=MERGE_THRESHOLD, ge=0, le=1)
    """A proposal is merged where its class's probability is above this. Merging by arg-max alone
    (0) starves training: a new model's proposals mostly share an arg-max, so few are left after
    MERGE and most targets find none to learn from; 1 merges nothing."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OptimizerConfig(_Section):
    """AdamW and its schedule. Defaults are Mask2Former's, except the clipping (see `clip_norm`)."""

    lr: float = Field(1e-4, gt=0)
    """Peak learning rate of everything but the backbone."""
    backbone_lr_factor: float = Field(0.1, ge=0)
    """Backbone rate / `lr`; 0 leaves the backbone's parameters as they are."""
    backbone_layer_decay: float = Field(1.0, gt=0, le=1)
    """Rate of a backbone's layer / rate of the one above it; less than 1 for `vitdet:` backbones
    alone."""
    weight_decay: float = Field(0.05, ge=0)
    """Of weight matrices and kernels; norms, biases and embeddings are never decayed."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the rate rises linearly to its peak."""
    schedule: Literal["cosine", "poly"] = "poly"
    """Fall after the warm-up: half a cosine to 0, or (1 - progress)^0.9."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the whole gradient. Mask2Former's 0.01 makes every step a clipped one."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the averaged weights, the ones used for inference; 0 means the last weights."""


class TrainingConfig(_Section):
    """Length, seed, rhythm and precision of a run."""

    steps: int = Field(1000, ge=1)
    """Optimizer steps."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Decides the initial weights, the data order and all noise."""
    evaluate_every: int = Field(1000, ge=1)
    """Steps between evaluations of the `--eval-data` sets; there is always one after the last
    step."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints from which `--resume` continues."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints kept while the run lasts; the one with the best evaluation is kept beside
    them."""
    publish: Literal["last", "best"] = "last"
    """Whose averaged weights the run is published with: the last step's, or those of the best
    evaluation."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast type of the forward pass; weights and optimizer stay float32."""
    activation_checkpointing: bool = False
    """Run layers again in the backward pass instead of keeping what they computed: less memory, a
    slower step."""
    compile: bool = False
    """`torch.compile` for backbone and pixel decoder; pays on GPUs and over long runs, and needs a
    C++ compiler."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients make one step."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: each holds all weights (ddp), or its share of weights, moments and
    average (fsdp)."""
    track: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Who is sent the figures that TensorBoard gets; each is an extra of the package."""


Strategy = Literal["box-prompts", "proposals"]
"""How pseudo-labels get their masks: the model segments each box as a prompt, or its own proposals
are matched to the boxes."""


class InferenceConfig(BaseModel):
    """Image size, thresholds and batches of inference; `INFERENCE_KEYS` lists which output reads
    which key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(default=384, ge=32)
    """Longer side of images, pixels; a model sees best near the scale of its training crops."""
    score: float = Field(default=0.5, ge=0, le=1)
    """Lowest class probability of a panoptic segment. Mask2Former and MaskFormer use 0.8, DETR
    0.85, after long schedules; a model after a short schedule is rarely that certain, and every
    segment it drops counts as missed."""
    overlap: float = Field(default=0.6, ge=0, le=1)
    """Smallest fraction of a panoptic segment's mask that must remain after better segments have
    taken their pixels. Mask2Former and MaskFormer: 0.8. `scripts/experiment_thresholds.py`
    compares values of both thresholds in one pass of the model."""
    instances: int = Field(default=100, gt=0)
    """Most instances of an image (COCO's maxDets)."""
    pseudo_score: float = Field(default=0.3, ge=0, le=1)
    """Lowest score of a pseudo-mask; a box whose mask scores less stays a box. A mask of mean
    probability 0.5 whose own box has IoU 0.6 with the given box just passes."""
    pseudo_overlap: float = Field(default=0.5, ge=0, le=1)
    """Lowest IoU of a proposal's own box with the box that it is matched to (`proposals`)."""
    pseudo_class: float = Field(default=0.1, ge=0, le=1)
    """Lowest probability that a proposal gives to the class of the box that it is matched to
    (`proposals`)."""
    batch_size: int = Field(default=8, gt=0)
    """Most images, or crops around boxes, in one forward pass; affects memory and speed only."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast type of the forward pass."""


_FORWARD = frozenset({"image_size", "batch_size", "precision"})
INFERENCE_KEYS: Mapping[str, frozenset[str]] = {
    "panoptic": _FORWARD | {"score", "overlap"},
    "semantic": _FORWARD,
    "instance": _FORWARD | {"instances"},
    "box-prompts": frozenset({"batch_size", "precision", "pseudo_score"}),
    "proposals": _FORWARD | {"pseudo_score", "pseudo_overlap", "pseudo_class"},
}
"""The keys of `InferenceConfig` that each task (predict, eval, benchmark) and each strategy
(pseudolabel) reads; a command refuses to set any other."""


class Recipe(BaseModel):
    """What a model is, how it is trained and how it is asked; the data sets and their rates are
    given beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "recipe"
    model: ModelConfig = Field(default_factory=ModelConfig)
    text: TextConfig = Field(default_factory=TextConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    inference: InferenceConfig = Field(default_factory=InferenceConfig)
