"""Everything that decides the shape of a model."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelConfig(BaseModel):
    """Architecture of a `DataSeg` model; defaults are those of `dataseg-mini`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = "mobilenetv2_100"
    """A timm model that gives features at strides 4, 8, 16 and 32; or `vitdet:` and one of timm's plain ViTs."""
    backbone_weights: str | None = None
    """None (random), `timm` (timm's pretrained weights) or the path of a safetensors file with timm's names."""
    init_from: str | None = None
    """What to start from, in the place of `backbone_weights`: a run of segkit, or `hf:` and a Mask2Former's folder
    or public name."""
    freeze_norm: bool = False
    """Keep the backbone's BatchNorm at its loaded statistics (for pretrained weights and small batches)."""
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
    """A feature pyramid, or Mask2Former's deformable attention; the latter brings Mask2Former's position encoding to
    the queries as well, so that its checkpoints fit."""
    encoder_layers: int = Field(default=6, ge=0)
    """Layers of the deformable pixel decoder; the default is Mask2Former's, as is the next."""
    encoder_feedforward_dim: int = Field(default=1024, gt=0)

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelConfig":
        """Heads share the width evenly, and positions take sines and cosines of x and of y: a quarter of it each."""
        for divisor, what in ((self.heads, f"model.heads ({self.heads})"), (4, "4")):
            if self.hidden_dim % divisor:
                raise ValueError(f"model.hidden_dim ({self.hidden_dim}) is no multiple of {what}")
        return self
