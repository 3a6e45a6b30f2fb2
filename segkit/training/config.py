"""What a recipe says about the optimiser and the run of a training; checked where it is defined."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OptimiserConfig(_Section):
    """AdamW and its schedule. Defaults are Mask2Former's, except the clipping (see `clip_norm`)."""

    lr: float = Field(1e-4, gt=0)
    """Peak learning rate of everything but the backbone."""
    backbone_lr_factor: float = Field(0.1, ge=0)
    """Backbone rate / `lr`; 0 leaves the backbone's parameters as they are."""
    backbone_layer_decay: float = Field(1.0, gt=0, le=1)
    """Rate of a backbone's layer / rate of the one above it; less than 1 for `vitdet:` backbones alone."""
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
    """Optimiser steps."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Decides the initial weights, the data order and all noise."""
    evaluate_every: int = Field(1000, ge=1)
    """Steps between evaluations of the `--eval-data` sets; there is always one after the last step."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints from which `--resume` continues."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints kept while the run lasts; the one with the best evaluation is kept beside them."""
    publish: Literal["last", "best"] = "last"
    """Whose averaged weights the run is published with: the last step's, or those of the best evaluation."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast type of the forward pass; weights and optimiser stay float32."""
    activation_checkpointing: bool = False
    """Run layers again in the backward pass instead of keeping what they computed: less memory, a slower step."""
    compile: bool = False
    """`torch.compile` for backbone and pixel decoder; pays on GPUs and over long runs, and needs a C++ compiler."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients make one step."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: each holds all weights (ddp), or its share of weights, moments and average (fsdp)."""
    track: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Who is sent the figures that TensorBoard gets; each is an extra of the package."""
