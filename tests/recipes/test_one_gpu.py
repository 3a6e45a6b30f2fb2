"""The recipes for one GPU: the published architecture, and steps as large as those they scale."""

import json
from pathlib import Path

import pytest

from segkit.model.hf import read_config
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import ModelConfig

PUBLISHED = {
    "model_type": "mask2former",
    "feature_size": 256,
    "hidden_dim": 256,
    "mask_feature_size": 256,
    "num_queries": 100,
    "decoder_layers": 10,
    "num_attention_heads": 8,
    "dim_feedforward": 2048,
    "encoder_layers": 6,
    "encoder_feedforward_dim": 1024,
    "backbone_config": {
        "model_type": "swin",
        "embed_dim": 96,
        "depths": [2, 2, 6, 2],
        "window_size": 7,
    },
}
"""What config.json of facebook/mask2former-swin-tiny-coco-panoptic says of the architecture."""


def test_the_public_swin_t_fits_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    model = load_recipe("dataseg-swin-t").model
    assert model.init_from == "hf:facebook/mask2former-swin-tiny-coco-panoptic"
    for key, value in read_config(tmp_path).items():
        assert getattr(model, key) == value, key
    assert model.class_head == "linear" and model.text_dim == 384


@pytest.mark.parametrize("name", ["dataseg-swin-t", "dataseg-r50-1gpu"])
def test_a_step_on_one_gpu_is_as_large_as_on_eight(name: str) -> None:
    single, eight = load_recipe(name), load_recipe("dataseg-r50")
    assert single.data.batch_size * single.training.accumulate == 8 * eight.data.batch_size == 16
    assert single.optimizer.lr == eight.optimizer.lr == 1e-4


def test_openseed_on_one_gpu_takes_the_public_queries_for_stuff() -> None:
    single, eight = load_recipe("openseed-swin-t-1gpu"), load_recipe("openseed-swin-t")
    assert single.data.batch_size * single.training.accumulate == 8 * eight.data.batch_size == 16
    assert single.data.mixing == eight.data.mixing == "all" and single.loss == eight.loss
    assert single.model.queries == PUBLISHED["num_queries"] and single.model.foreground == 300
    assert single.optimizer.lr == eight.optimizer.lr == 1e-4


def test_the_small_resnet_recipe_is_the_large_ones_model() -> None:
    single, eight = (load_recipe(name).model for name in ("dataseg-r50-1gpu", "dataseg-r50"))
    differing = [
        key for key in ModelConfig.model_fields if getattr(single, key) != getattr(eight, key)
    ]
    assert differing == ["text_dim"]
