"""Box prompts as maps beside the image: the backbone sees the box and the boxes of other objects.

Interactive segmentation feeds its clicks in this way (RITM, Sofiiuk et al. 2021, section 3.1). An
image has one prompt then: its features belong to that prompt.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segkit.errors import InputError
from segkit.model.box_prompt_encoder import BoxPrompts, box_coordinates

MAPS = 4
"""Maps beside the image: inside and depth of the prompt's box, and of the other boxes."""


def draw_prompt_maps(prompts: BoxPrompts, size: Sequence[int]) -> Tensor:
    """Draw the prompt of each image and the boxes of the other objects.

    The depth of a pixel in a box is 1 at the center and 0 at the sides. Outside the prompt's box it
    falls to -1; outside all other boxes it is 0, and where several overlap the deepest counts.

    Args:
        prompts: at most one box for each image; `neighbors` may hold any number.
        size: height and width of the images, pixels.

    Returns:
        (B, MAPS, height, width) on the device of the boxes; zeros for an image without a prompt.

    Raises:
        ValueError: an image with several prompts.
    """
    if any(len(boxes) > 1 for boxes in prompts.boxes):
        raise ValueError("prompt maps take one box prompt for each image")
    neighbors = prompts.neighbors or [boxes[:0] for boxes in prompts.boxes]
    maps = [
        _draw(boxes, neighbor_boxes, (size[0], size[1]))
        for boxes, neighbor_boxes in zip(prompts.boxes, neighbors, strict=True)
    ]
    return torch.stack(maps)


def _draw(boxes: Tensor, neighbors: Tensor, size: tuple[int, int]) -> Tensor:
    """The maps (MAPS, height, width) of an image."""
    if not len(boxes):
        return boxes.new_zeros((MAPS, *size))
    depth = _depth(boxes, size)[0]  # (height, width)
    maps = [(depth >= 0).to(depth.dtype), depth.clamp(min=-1.0)]
    if len(neighbors):
        deepest = _depth(neighbors, size).amax(0)
        maps += [(deepest >= 0).to(depth.dtype), deepest.clamp(min=0.0)]
    else:
        maps += [torch.zeros_like(depth)] * 2
    return torch.stack(maps)


def _depth(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """1 - max(|u|, |v|) at each pixel, in coordinates of -1..1 across each box: (M, h, w)."""
    u, v = box_coordinates(boxes[None], size, 1)
    return 1 - torch.maximum(u.abs(), v.abs())[0]


class PromptedConv2d(nn.Conv2d):
    """A network's first convolution with further input channels for the prompt's maps.

    Without maps it is the convolution that it replaces, whose parameter names it keeps. The weights
    of the maps start at zero.
    """

    def __init__(self, replaced: nn.Conv2d) -> None:
        super().__init__(
            replaced.in_channels,
            replaced.out_channels,
            replaced.kernel_size,  # type: ignore[arg-type]
            replaced.stride,  # type: ignore[arg-type]
            replaced.padding,  # type: ignore[arg-type]
            bias=replaced.bias is not None,
        )
        self.weight, self.bias = replaced.weight, replaced.bias
        shape = (replaced.out_channels, MAPS, *replaced.kernel_size)
        self.prompt_weight = nn.Parameter(torch.zeros(shape))

    def added_parameters(self) -> set[str]:
        """Parameters that are trained even if the backbone is frozen."""
        return {"prompt_weight"}

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, 3, H, W) or, with the maps, (B, 3 + MAPS, H, W)."""
        if x.shape[1] == self.in_channels:
            return super().forward(x)
        weight = torch.cat((self.weight, self.prompt_weight), dim=1)
        convolved: Tensor = self._conv_forward(x, weight, self.bias)
        return convolved


def add_prompt_maps(network: nn.Module, name: str) -> None:
    """Replace a network's first convolution by a `PromptedConv2d`.

    Raises:
        InputError: the network does not start with a plain convolution of RGB.
    """
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            parent, _, attribute = path.rpartition(".")
            if type(module) is not nn.Conv2d or module.in_channels != 3 or module.groups != 1:
                break
            setattr(network.get_submodule(parent), attribute, PromptedConv2d(module))
            return
    message = f"backbone {name} does not start with a plain convolution"
    raise InputError(message, hint="model.prompt_maps needs one, such as mobilenetv2_100's")
