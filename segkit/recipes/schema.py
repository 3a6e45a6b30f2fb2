"""The sections and keys of a recipe, each with its default, its range and its source.

A recipe is a TOML file with one table per section: `[model]`, `[text]`, `[data]`, `[loss]`,
`[optimizer]`, `[training]` and `[inference]`. All objects are frozen and reject unknown keys.
"""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from segkit.recipes.inference_section import INFERENCE_KEYS as INFERENCE_KEYS
from segkit.recipes.inference_section import InferenceConfig as InferenceConfig
from segkit.recipes.training_sections import ClassLoss as ClassLoss
from segkit.recipes.training_sections import DataConfig as DataConfig
from segkit.recipes.training_sections import MaskPolicy as MaskPolicy
from segkit.recipes.training_sections import OptimizerConfig as OptimizerConfig
from segkit.recipes.training_sections import Precision as Precision
from segkit.recipes.training_sections import Section as Section
from segkit.recipes.training_sections import TextConfig as TextConfig
from segkit.recipes.training_sections import TrainingConfig as TrainingConfig
from segkit.recipes.training_sections import WeightTransferConfig as WeightTransferConfig

Strategy = Literal["box-prompts", "proposals"]
"""How pseudo-labels get their masks: the model segments each box as a prompt, or its own proposals
are matched to the boxes."""
MERGE_THRESHOLD = 0.5


class ModelConfig(Section):
    """Architecture of a `DataSeg` model; the defaults are those of a small one."""

    backbone: str = "mobilenetv2_100"
    """A timm model with feature maps at strides 4, 8, 16 and 32, or `vitdet:` and the name of a
    plain ViT in timm."""
    backbone_weights: str | None = None
    """Initial weights of the backbone: None (random), `timm` (timm's pretrained weights) or the
    path of a safetensors file with timm's parameter names."""
    init_from: str | None = None
    """Initial weights of the model, instead of `backbone_weights`: a segkit run, or `hf:` and the
    folder or public name of a Mask2Former."""
    freeze_norm: bool = False
    """Keep the backbone's BatchNorm statistics and affine parameters as loaded; for pretrained
    weights and small batches."""
    drop_path: float | None = Field(None, ge=0, lt=1)
    """Stochastic depth of the backbone in training: the share of images that skip its last residual
    block, rising linearly from 0 at the first. ViTDet: 0.1 for ViT-B, 0.4 for ViT-L. Unset, it is
    timm's: 0.1 for Swin, 0 for most others."""
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """RGB mean, subtracted from images in 0-1; must match the backbone's weights. Unset, it
    follows `backbone_weights = "timm"` and `init_from = "hf:..."`."""
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """RGB standard deviation, by which images are divided after `pixel_mean` is subtracted."""
    class_head: Literal["cosine", "linear", "text_residual"] = "cosine"
    """cosine: scaled cosines of projected queries and class embeddings, for training from scratch.
    linear: plain inner products, which can hold a public Mask2Former's own class head.
    text_residual: cosine plus a linear residual, which `segkit zeroshot train` trains."""
    class_scale: float = Field(10.0, gt=0, le=100)
    """Factor of the cosines in the class logits at the start; it is learned, up to CLIP's 100. Not
    for `class_head` linear."""
    text_dim: int = Field(384, gt=0)
    """D_T, the width of the text embeddings. Unset, it follows the text encoder."""
    hidden_dim: int = Field(128, gt=0)
    """Width of queries and scales; a multiple of 4 and of `heads`. Mask2Former: 256."""
    mask_dim: int = Field(64, ge=4)
    """D_F, the width of the per-pixel map and of the mask embeddings. Mask2Former: 256."""
    queries: int = Field(50, gt=0)
    """N, the number of learned queries, and so of mask proposals per image. Mask2Former: 100."""
    foreground: int = Field(0, ge=0)
    """Foreground queries per image beside the learned ones (OpenSeeD: 300): box prompts at boxes
    of `foreground_boxes`. Things then train only these, stuff only the learned queries, and sets of
    boxes no learned query. 0: learned queries for everything, as in DaTaSeg."""
    foreground_boxes: Literal["cells", "learned"] = "cells"
    """Boxes of foreground queries. cells: predicted for the cells most similar to names of things.
    learned: the same for all images, to measure what that selection is worth."""
    refine_boxes: bool = False
    """Let each decoder layer start from the box that the layer before predicts for a foreground
    query, in place of its first box (iterative refinement)."""
    rounds: int = Field(2, gt=0)
    """R; the transformer decoder has 3 R layers, one per scale in each round. Mask2Former: 3."""
    heads: int = Field(4, gt=0)
    """Attention heads of both decoders. Mask2Former: 8."""
    feedforward_dim: int = Field(256, gt=0)
    """Hidden width of the transformer decoder's feed-forward layers. Mask2Former: 2048."""
    pixel_decoder: Literal["fpn", "deformable"] = "fpn"
    """fpn: a feature pyramid. deformable: Mask2Former's deformable attention; the queries then use
    Mask2Former's position encoding as well, so that its checkpoints fit."""
    encoder_layers: int = Field(6, ge=0)
    """Layers of the deformable pixel decoder (Mask2Former's default)."""
    encoder_feedforward_dim: int = Field(1024, gt=0)
    """Hidden width of those layers' feed-forward part (Mask2Former's default)."""
    weight_transfer: WeightTransferConfig = Field(default_factory=WeightTransferConfig)
    box_mlp: bool = False
    """Add the logits of a class-agnostic MLP on the 28 x 28 grid of a box prompt to its refined
    mask (Mask^X R-CNN's fusion of FCN and MLP)."""
    label_content: bool = True
    """Add the embedding of its label to the content of a box prompt; without it, a label reaches
    the mask only through `weight_transfer`."""
    prompt_maps: bool = False
    """Show the backbone each crop's box prompt and the boxes of the other objects, as maps beside
    the image. For models of box prompts only: it needs `loss.matching = false` and
    `loss.max_box_prompts = 1`."""

    @field_validator("pixel_std")
    @classmethod
    def _check_pixel_std(cls, values: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(values) <= 0:
            raise ValueError("every value must be greater than 0")
        return values

    @model_validator(mode="after")
    def _check_widths(self) -> "ModelConfig":
        """Check that heads and position encodings divide the widths evenly.

        Position encodings take a quarter of the width for each sine and cosine of x and y.
        """
        for divisor, name in ((self.heads, f"model.heads ({self.heads})"), (4, "4")):
            if self.hidden_dim % divisor:
                raise ValueError(
                    f"model.hidden_dim ({self.hidden_dim}) is not a multiple of {name}"
                )
        return self

    @model_validator(mode="after")
    def _check_boxes(self) -> "ModelConfig":
        if self.refine_boxes and not self.foreground:
            raise ValueError("model.refine_boxes needs boxes: set model.foreground above 0")
        if self.foreground_boxes != "cells" and not self.foreground:
            raise ValueError("model.foreground_boxes needs model.foreground above 0")
        return self

    @model_validator(mode="after")
    def _check_class_scale(self) -> "ModelConfig":
        if self.class_head == "linear" and self.class_scale != 10.0:
            raise ValueError(
                "model.class_scale has no effect with a linear class_head; set it to 10"
            )
        return self


class LossConfig(Section):
    """Loss weights, which also weight the matching cost (as in DETR and Mask2Former).

    DaTaSeg's paper gives none of them: class 2 and dice 5 are Mask2Former's, focal 20 is
    MaskFormer's, the pairwise weight and its warm-up are BoxInst's, scaled to short runs.
    """

    classification: float = Field(2.0, ge=0)
    """Weight of the proposals' cross-entropy, and of -p(class) in the matching cost."""
    background: float = Field(0.1, ge=0)
    """Weight of the background class in the cross-entropy of unmatched proposals (Mask2Former's
    no-object weight)."""
    focal: float = Field(20.0, ge=0)
    """Weight of the focal term where a target has a mask."""
    dice: float = Field(5.0, ge=0)
    """Weight of the dice term where a target has a mask, for box prompts as well."""
    points: int = Field(0, ge=0)
    """Pixels at which focal and dice losses compare a matched pair, mostly where the mask is
    uncertain, and at which matching compares masks; 0 takes all cells in the losses, and in the
    matching of large maps every fourth. Mask2Former: 12,544."""
    projection: float = Field(5.0, ge=0)
    """Weight of the projection term where a target has only a box."""
    pairwise: float = Field(1.0, ge=0)
    """Weight of the pairwise color term where a target has only a box; not in the matching
    cost."""
    pairwise_warmup_steps: int = Field(500, ge=0)
    """Steps over which the pairwise weight rises linearly, for proposals; box prompts have the
    full weight from the first step."""
    dense: float = Field(0.0, ge=0)
    """Weight of the cross-entropy of the cells at strides 32, 16 and 8, which the text classifier
    names as it names queries; 0 classifies no cells. Cells within a box but not on a mask have to
    be of the box's class or background (see `segkit.criterion.dense_loss`)."""
    classes: ClassLoss = "softmax"
    """Class loss of proposals. softmax: cross-entropy over the classes and background, as in
    Mask2Former. sigmoid: focal loss of each class against background, as in OpenSeeD, from a
    probability of about 0.01 on; `background` then applies to `dense` only. Inference reads classes
    as they were trained; focal loss leaves probabilities lower: lower `inference.score` with it."""
    box_l1: float = Field(5.0, ge=0)
    """Weight of the L1 distance of predicted boxes, with `model.foreground`, where boxes of objects
    are known (OpenSeeD's and DETR's weight)."""
    box_giou: float = Field(2.0, ge=0)
    """Weight of 1 - generalized IoU of the same boxes (OpenSeeD's and DETR's weight)."""
    denoising: float = Field(0.0, ge=0)
    """Factor on the losses of denoising queries, with `model.foreground`: foreground queries at
    true boxes whose sides are shifted by up to 40 % of their length, as in OpenSeeD; 0: none."""
    matching: bool = True
    """Train the learned queries; without them, a model learns to segment box prompts only."""
    box_prompts: float = Field(1.0, ge=0)
    """Factor on the losses of box prompts (whose projection term has weight 1); 0 does not train
    them."""
    max_box_prompts: int = Field(0, ge=0)
    """Maximum box prompts of a crop, those nearest to its center in the size that inference prompts
    with; 0: up to 100."""
    box_noise: float = Field(0.05, ge=0, le=0.5)
    """Maximum shift of the sides of a box prompt in training, relative to its width and height."""
    outline: float = Field(0.0, ge=0)
    """Additional weight of the cells on a mask's outline in the cross-entropy of box prompts."""
    label_dropout: float = Field(0.5, ge=0, le=1)
    """Share of box prompts that train without their label and have to predict it."""
    box_assist: Literal["off", "match", "pseudo"] = "off"
    """How masks that the averaged model predicts for boxes without a mask assist their training,
    beside `projection` and `pairwise`. match: they count in the matching cost (OpenSeeD). pseudo:
    they are targets of focal and dice as well. Both weight a mask by its certainty and by how
    tightly it fills its box."""
    box_assist_start: int = Field(500, ge=0)
    """First step with such masks: until box prompts have been trained, their masks are worth
    little."""
    trust_scores: bool = False
    """Weight the losses of a pseudo-mask by its score, and those of its box by the rest: a mask of
    score 0 counts as absent, one of score 1 as a human's."""
    merge_threshold: float = Field(MERGE_THRESHOLD, ge=0, le=1)
    """MERGE takes a proposal whose class probability exceeds this; 1 merges nothing. Merging by
    arg-max (0) starves training: the proposals of a new model mostly share one arg-max, so MERGE
    leaves few of them and most targets have no proposal to match."""

    @model_validator(mode="after")
    def _check_box_assist(self) -> "LossConfig":
        """Check that the keys of box assist have an effect, and that box prompts are trained."""
        start = type(self).model_fields["box_assist_start"].default
        if self.box_assist == "off" and self.box_assist_start != start:
            raise ValueError('loss.box_assist_start does nothing with loss.box_assist = "off"')
        if self.box_assist != "off" and not (self.matching and self.box_prompts > 0):
            needs = "needs loss.matching = true and loss.box_prompts > 0"
            raise ValueError(f'loss.box_assist = "{self.box_assist}" {needs}')
        return self


class Recipe(Section):
    """The configuration of a run: its model, training and inference.

    Datasets and their sampling weights are given on the command line.
    """

    name: str = "recipe"
    """Name of the run in manifests and logs; the file's stem by default."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    text: TextConfig = Field(default_factory=TextConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    inference: InferenceConfig = Field(default_factory=InferenceConfig)

    @model_validator(mode="after")
    def _check_box_prompt_keys(self) -> "Recipe":
        """Check that the model's keys for box prompts have an effect, and T trained inputs."""
        model, transfer, prompted = self.model, self.model.weight_transfer, self.loss.box_prompts
        if not prompted and model.box_mlp:
            raise ValueError("model.box_mlp needs loss.box_prompts above 0")
        if not prompted and not model.label_content:
            raise ValueError("model.label_content=false needs loss.box_prompts above 0")
        if not transfer.stop_gradient:
            return self
        if "box" in transfer.input and not (prompted and model.label_content):
            raise ValueError(
                f"nothing trains the input {transfer.input} of model.weight_transfer: it needs "
                "loss.box_prompts above 0 and model.label_content"
            )
        if "cls" in transfer.input and not (self.loss.matching or self.loss.label_dropout):
            raise ValueError(
                f"nothing trains the input {transfer.input} of model.weight_transfer: it needs "
                "loss.matching or loss.label_dropout"
            )
        return self

    @model_validator(mode="after")
    def _check_dense(self) -> "Recipe":
        if self.inference.dense > 0 and self.loss.dense == 0:
            raise ValueError(
                "inference.dense needs cells that were trained to name classes; "
                "train with loss.dense above 0, or leave inference.dense at 0"
            )
        if self.inference.dense > 0 and self.inference.postprocess == "mask2former":
            raise ValueError('inference.postprocess "mask2former" does not read inference.dense')
        return self

    @model_validator(mode="after")
    def _check_prompt_maps(self) -> "Recipe":
        """Check that the features of a crop with prompt maps are those of one box prompt."""
        loss = self.loss
        if loss.max_box_prompts and not loss.box_prompts:
            raise ValueError("loss.max_box_prompts needs loss.box_prompts above 0")
        if not self.model.prompt_maps or (loss.max_box_prompts == 1 and not loss.matching):
            return self
        hint = "set loss.matching=false and loss.max_box_prompts=1"
        raise ValueError(f"model.prompt_maps takes one box prompt a crop and no queries; {hint}")

    @model_validator(mode="after")
    def _check_classes(self) -> "Recipe":
        if self.inference.classes == "sigmoid" and self.inference.postprocess == "mask2former":
            raise ValueError('inference.postprocess "mask2former" does not read inference.classes')
        return self

    @model_validator(mode="after")
    def _check_foreground(self) -> "Recipe":
        if self.model.foreground:
            if not self.loss.matching:
                raise ValueError("model.foreground needs loss.matching: it trains the queries")
            if self.inference.boxes == "head" and self.inference.postprocess == "mask2former":
                raise ValueError(
                    'inference.postprocess "mask2former" does not read inference.boxes'
                )
            return self
        defaults = LossConfig()
        for key in ("box_l1", "box_giou", "denoising"):
            if getattr(self.loss, key) != getattr(defaults, key):
                raise ValueError(f"loss.{key} needs model.foreground above 0")
        if self.inference.boxes == "head":
            raise ValueError('inference.boxes = "head" needs model.foreground above 0')
        return self
