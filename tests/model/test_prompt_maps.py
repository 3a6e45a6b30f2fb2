import pytest
import torch

from segkit.errors import InputError
from segkit.model.backbone import Backbone
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import DataSeg
from segkit.model.prompt_maps import draw_prompt_maps
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import ModelConfig

BOX = torch.tensor([[3.0, 2.0, 11.0, 7.0]])
NEIGHBORS = torch.tensor([[0.0, 0.0, 6.0, 6.0], [4.0, 3.0, 20.0, 9.0]])


def depth(x: float, y: float, box: list[float]) -> float:
    """1 at the center of a box, 0 on its sides, negative beyond."""
    x0, y0, x1, y1 = box
    u = abs(x - (x0 + x1) / 2) / ((x1 - x0) / 2)
    v = abs(y - (y0 + y1) / 2) / ((y1 - y0) / 2)
    return 1 - max(u, v)


def test_maps_are_those_drawn_pixel_by_pixel() -> None:
    prompts = BoxPrompts([BOX, BOX[:0]], [torch.tensor([0]), torch.zeros(0).long()])
    prompts.neighbors.extend([NEIGHBORS, NEIGHBORS])
    maps = draw_prompt_maps(prompts, (12, 20))
    assert maps.shape == (2, 4, 12, 20)
    for row in range(12):
        for column in range(20):
            x, y = column + 0.5, row + 0.5
            prompt = depth(x, y, BOX[0].tolist())
            nearby = max(depth(x, y, box) for box in NEIGHBORS.tolist())
            expected = [float(prompt >= 0), max(prompt, -1.0), float(nearby >= 0), max(nearby, 0.0)]
            assert maps[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)
    assert not maps[1].any(), "an image without a prompt"


def test_an_image_without_other_boxes_has_empty_maps_of_them() -> None:
    maps = draw_prompt_maps(BoxPrompts([BOX], [torch.tensor([0])]), (12, 20))
    assert maps[0, 0].any() and not maps[0, 2:].any()


def test_two_prompts_in_an_image_are_an_error() -> None:
    with pytest.raises(ValueError, match="one box prompt"):
        draw_prompt_maps(BoxPrompts([NEIGHBORS], [torch.tensor([0, 1])]), (12, 20))


def tiny(prompt_maps: bool) -> DataSeg:
    torch.manual_seed(0)
    sizes = {"hidden_dim": 16, "mask_dim": 8, "queries": 4, "heads": 2, "feedforward_dim": 16}
    return DataSeg(
        ModelConfig(
            backbone="test_efficientnet", text_dim=8, rounds=1, prompt_maps=prompt_maps, **sizes
        )
    ).eval()


def test_before_training_the_maps_change_nothing_and_then_they_learn() -> None:
    plain, prompted = tiny(False), tiny(True)
    missing, unexpected = prompted.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ["backbone.network.conv_stem.prompt_weight"] and not unexpected
    images, text = torch.rand(2, 3, 64, 64), torch.randn(3, 8)
    boxes = [torch.tensor([[8.0, 8.0, 40.0, 50.0]])] * 2
    prompts = BoxPrompts(boxes, [torch.tensor([0])] * 2, neighbors=[NEIGHBORS, NEIGHBORS])
    outputs = [
        model(images, text, prompts, learned_queries=False).box_prompts
        for model in (plain, prompted)
    ]
    torch.testing.assert_close(outputs[0].mask_logits, outputs[1].mask_logits)
    outputs[1].mask_logits.square().sum().backward()
    gradient = prompted.get_parameter("backbone.network.conv_stem.prompt_weight").grad
    assert gradient is not None and (gradient.abs().sum((0, 2, 3)) > 0).all()


def test_without_a_prompt_the_image_is_seen_as_ever() -> None:
    plain, prompted = tiny(False), tiny(True)
    prompted.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        prompted.get_parameter("backbone.network.conv_stem.prompt_weight").fill_(1.0)
        image, text = torch.rand(1, 3, 64, 64), torch.randn(3, 8)
        masks = [model(image, text).queries.mask_logits for model in (plain, prompted)]
    assert torch.equal(*masks)


@pytest.mark.parametrize("name", ["resnet18", "vitdet:test_vit", "swin_tiny_patch4_window7_224"])
def test_backbones_of_every_family_take_the_maps(name: str) -> None:
    maps = Backbone(name, prompt_maps=True)(torch.rand(1, 3, 64, 64), torch.rand(1, 4, 64, 64))
    sum(x.sum() for x in maps).backward()


def test_a_backbone_without_a_plain_first_convolution_is_refused() -> None:
    with pytest.raises(InputError, match="does not start with a plain convolution"):
        Backbone("tf_mobilenetv3_small_minimal_100", prompt_maps=True)


@pytest.mark.parametrize("missing", ["loss.max_box_prompts=1", "loss.matching=false"])
def test_maps_need_one_prompt_and_no_queries(missing: str) -> None:
    settings = ["model.prompt_maps=true", "loss.max_box_prompts=1", "loss.matching=false"]
    assert load_recipe("dataseg-mini", settings).model.prompt_maps
    with pytest.raises(InputError, match="one box prompt a crop"):
        load_recipe("dataseg-mini", [text for text in settings if text != missing])


def test_a_limit_of_prompts_that_are_not_trained_is_refused() -> None:
    with pytest.raises(InputError, match=r"max_box_prompts needs loss\.box_prompts"):
        load_recipe("dataseg-mini", ["loss.max_box_prompts=2", "loss.box_prompts=0"])
