import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from segkit.errors import InputError, SegkitError
from segkit.model.backbone import STRIDES, Backbone
from segkit.model.vitdet import MapBlock, ViTDet

FAMILIES = [
    "resnet18",
    "resnet50",
    "swin_tiny_patch4_window7_224",
    "convnext_atto",
    "vitdet:test_vit",
]


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_timm_model_has_maps_at_four_strides(name: str) -> None:
    backbone = Backbone(name).eval()
    for height, width in ((64, 96), (160, 32)):
        maps = backbone(torch.rand(1, 3, height, width))
        expected = [
            (1, c, height // s, width // s) for c, s in zip(backbone.channels, STRIDES, strict=True)
        ]
        assert [tuple(x.shape) for x in maps] == expected


def vitdet(window: int = 3) -> ViTDet:
    torch.manual_seed(0)
    return ViTDet(timm.create_model("test_vit", num_classes=0), window=window).eval()


@torch.no_grad()
def test_window_attention_is_attention_within_each_window() -> None:
    block = vitdet().blocks[0].block
    x = torch.randn(2, 5, 7, 64)
    expected = torch.empty_like(x)
    normalized = torch.zeros(2, 6, 9, 64)  # zeros beyond the map, as published
    normalized[:, :5, :7] = block.norm1(x)
    for image in range(2):
        for top in (0, 3):
            for left in (0, 3, 6):
                inside = normalized[image, top : top + 3, left : left + 3]
                attended = block.attn(inside.reshape(1, 9, 64)).reshape(3, 3, 64)
                visible = attended[: 5 - top, : 7 - left]
                expected[image, top : top + 3, left : left + 3] = (
                    x[image, top : top + 3, left : left + 3] + visible
                )
    expected = expected + block.mlp(block.norm2(expected))
    torch.testing.assert_close(MapBlock(block, 3)(x), expected)
    full = block(x.flatten(1, 2)).view_as(x)
    torch.testing.assert_close(MapBlock(block, None)(x), full)


def test_global_blocks_attend_to_the_full_map_and_others_to_their_window() -> None:
    network = vitdet()
    assert network.global_blocks == (0, 2, 3, 5)
    for number, block in enumerate(network.blocks):
        x = torch.randn(1, 6, 6, 64, requires_grad=True)
        block(x)[0, 0, 0].sum().backward()
        assert x.grad is not None
        reached = x.grad[0].abs().sum(-1) > 0
        window = torch.zeros(6, 6, dtype=torch.bool)
        window[:3, :3] = True
        assert torch.equal(
            reached, torch.ones_like(window) if number in network.global_blocks else window
        ), number


@pytest.mark.parametrize(
    ("name", "expected"), [("vit_base", (2, 5, 8, 11)), ("vit_large", (5, 11, 17, 23))]
)
def test_the_global_blocks_match_the_paper(name: str, expected: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert (
            ViTDet(timm.create_model(f"{name}_patch16_224", num_classes=0)).global_blocks
            == expected
        )


@torch.no_grad()
def test_at_the_size_of_its_weights_the_first_block_has_timms_input() -> None:
    vit = timm.create_model("test_vit", num_classes=0).eval()
    reached: list[Tensor] = []
    vit.blocks[0].register_forward_pre_hook(lambda _, arguments: reached.append(arguments[0]))
    image = torch.rand(1, 3, 160, 160)
    vit(image)
    network = ViTDet(vit, window=100).eval()
    inputs: list[Tensor] = []
    network.blocks[0].block.norm1.register_forward_pre_hook(
        lambda _, arguments: inputs.append(arguments[0])
    )
    network(image)
    # timm's first token is the class token.
    torch.testing.assert_close(inputs[0].flatten(1, 2), reached[0][:, 1:])


@torch.no_grad()
def test_positions_are_resized_to_the_image() -> None:
    network = vitdet()
    inputs: list[Tensor] = []
    network.blocks[0].block.norm1.register_forward_pre_hook(
        lambda _, arguments: inputs.append(arguments[0])
    )
    network.patch_embed.weight.zero_()
    network.patch_embed.bias.zero_()
    # Rises from left to right over the 10 x 10 positions of the weights.
    ramp = torch.arange(10.0).repeat(10, 1)
    network.pos_embed.copy_(ramp.flatten()[None, :, None].expand(1, 100, 64))
    network(torch.zeros(1, 3, 64, 320))
    assert inputs[0].shape == (1, 4, 20, 64)
    torch.testing.assert_close(
        inputs[0][0, :, 2:-2, 0],
        (torch.arange(20.0)[2:-2] / 2 - 0.25).expand(4, -1),
        atol=0.1,
        rtol=0,
    )


def test_vit_weights_load_under_timms_names(tmp_path: pytest.TempPathFactory) -> None:
    source = timm.create_model("test_vit")  # its classifier is ignored
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    network = Backbone("vitdet:test_vit", weights=str(tmp_path / "vit.safetensors")).network
    assert torch.equal(network.pos_embed, source.pos_embed[:, 1:])
    assert torch.equal(network.patch_embed.weight, source.patch_embed.proj.weight)
    for name, value in source.blocks.state_dict().items():
        number, _, rest = name.partition(".")
        assert torch.equal(network.blocks.state_dict()[f"{number}.block.{rest}"], value), name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vit", "write vitdet:NAME"),
        ("vitdet:resnet18", "takes a plain ViT"),
        ("vitdet:vit_small_patch32_224", "patches of 32 pixels"),
        ("vitdet:nothing", "unknown backbone 'vitdet:nothing'"),
    ],
)
def test_other_networks_than_plain_vits_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Backbone(name)


def test_unreachable_weights_fail_with_the_alternative(monkeypatch):
    def offline(name, pretrained, **_):
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(
        SegkitError,
        match=r"could not be fetched \(no network\); offline, give a safetensors",
    ):
        Backbone("mobilenetv2_100", weights="timm")


def test_drop_path_rises_from_block_to_block_and_is_off_in_evaluation() -> None:
    images = torch.rand(2, 3, 64, 64)
    torch.manual_seed(0)
    plain = Backbone("vitdet:test_vit")
    torch.manual_seed(0)
    dropped = Backbone("vitdet:test_vit", drop_path=0.4)
    rates = [getattr(b.block.drop_path1, "drop_prob", 0.0) for b in dropped.network.blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.4, len(rates)).tolist())
    for one, other in zip(plain.eval()(images), dropped.eval()(images), strict=True):
        assert torch.equal(one, other), "no weight depends on it"
    dropped.train()
    results = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(seed)
        results.append(dropped(images)[-1])
    assert torch.equal(results[0], results[1]), "a function of torch's seed"
    assert not all(torch.equal(results[0], result) for result in results[2:])


def test_drop_path_is_refused_by_a_network_without_it() -> None:
    with pytest.raises(InputError, match="no stochastic depth"):
        Backbone("vgg11", drop_path=0.1)
    swin = Backbone("swin_tiny_patch4_window7_224")
    rates = [m.drop_prob for m in swin.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.1), "unset, timm's own"
