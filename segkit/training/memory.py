"""Estimate the memory and the operations of a training step without taking one.

The model runs once on fake tensors, which have sizes and types but no content, at the recipe's crop
size, batch size and precision. Counted are the tensors that autograd keeps for the backward pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from segkit.criterion.box_prompts import MAX_BOXES
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import DataSeg, Outputs
from segkit.recipes.schema import Recipe
from segkit.training.optimizer import freeze_backbone
from segkit.training.setup import require_batch_statistics

LOSS_FACTOR = 4
"""Memory of matching and losses over that of the float32 mask logits of all layers. Measured at the
peak of a step on a CPU: 3.1 with losses at all pixels, 4.1 with 12,544 points."""
CUDA_BYTES = 1 << 30
"""CUDA's context, and the workspace of its libraries."""
_FLOAT = 4


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the device of one process."""

    parameters: int
    """Number of parameters of the model, not bytes."""
    weights: int
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    average: int
    """EMA of the weights."""
    activations: int
    """What autograd keeps of one batch for the backward pass."""
    losses: int
    cuda: int
    """0 on a CPU."""
    forward_flops: int
    """Floating-point operations of the model on one batch, not bytes: products and sums of matrix
    products, convolutions and attention."""

    @property
    def total(self) -> int:
        """Their sum: the expected peak, during the losses of a batch."""
        states = self.weights + self.gradients + self.optimizer + self.average
        return states + self.activations + self.losses + self.cuda


def estimate_memory(
    recipe: Recipe, *, classes: int, boxes: int, processes: int = 1, cuda: bool = True
) -> Memory:
    """Estimate the memory of a training step in each process.

    Args:
        recipe: weights named in it are not read: the model has random ones.
        classes: of the largest taxonomy.
        boxes: of an image; of those, a crop gets `loss.max_box_prompts` or MAX_BOXES as prompts
            and MAX_BOXES as denoising queries, if the recipe trains them.
        processes: over which FSDP shards weights, gradients, moments and average.
        cuda: whether it runs on a GPU.

    Raises:
        InputError: a batch of one pixel for batch norms.
    """
    config = recipe.model.model_copy(update={"backbone_weights": None, "init_from": None})
    with torch.random.fork_rng(devices=[]):
        model = DataSeg(config).train()
    require_batch_statistics(model, recipe.data)
    if recipe.training.activation_checkpointing:
        model.recompute_activations()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    freeze_backbone(model, recipe.optimizer)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    shards = processes if recipe.training.parallel == "fsdp" else 1
    weights = _FLOAT * parameters // shards
    gradients = _FLOAT * sum(parameter.numel() for parameter in trained) // shards
    activations, flops, outputs = _run(model, recipe, classes, min(boxes, MAX_BOXES))
    parts = (outputs.queries, outputs.box_prompts, outputs.denoising)
    masks = [part.mask_logits.numel() for part in parts if part is not None]
    return Memory(
        parameters=parameters,
        weights=weights,
        gradients=gradients,
        optimizer=2 * gradients,
        average=weights,
        activations=activations,
        losses=LOSS_FACTOR * _FLOAT * sum(masks),
        cuda=CUDA_BYTES if cuda else 0,
        forward_flops=flops,
    )


def _run(model: DataSeg, recipe: Recipe, classes: int, count: int) -> tuple[int, int, Outputs]:
    """Bytes that autograd keeps of a forward pass, its operations, and the outputs."""
    size, batch, config = recipe.data.image_size, recipe.data.batch_size, recipe.loss
    kept: dict[int, Tensor] = {}
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        state: dict[str, Tensor] = {
            name: fake.from_tensor(tensor)
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
        }
        state_storages = {_storage(tensor) for tensor in state.values()}

        def keep(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in state_storages:
                kept[_storage(tensor)] = tensor
            return tensor

        asked = min(count, config.max_box_prompts or count)
        prompts, noised = (
            BoxPrompts.without_labels([_boxes(boxes, size) for _ in range(batch)])
            for boxes in (asked, count)
        )
        images = torch.zeros(batch, 3, size, size)
        text = torch.zeros(classes, recipe.model.text_dim)
        inputs = (images, text, prompts if config.box_prompts > 0 and asked else None)
        counter = FlopCounterMode(display=False)
        with saved_tensors_hooks(keep, lambda tensor: tensor), _autocast(recipe), counter:
            outputs: Outputs = torch.func.functional_call(
                model,
                state,
                inputs,
                {
                    "learned_queries": config.matching,
                    "things": torch.arange(classes),
                    "noised": noised if config.denoising > 0 and count else None,
                    "dense": config.dense > 0,
                },
            )
        sizes = [tensor.untyped_storage().nbytes() for tensor in kept.values()]
    return sum(sizes) + images.nbytes, counter.get_total_flops(), outputs


def _boxes(count: int, size: int) -> Tensor:
    return torch.tensor([[0.0, 0.0, float(size), float(size)]]).expand(count, -1).clone()


def _storage(tensor: Tensor) -> int:
    """Identifies a tensor's storage for as long as the tensor exists."""
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def _autocast(recipe: Recipe) -> Iterator[None]:
    """Autocast as on a CPU, where fp16 is as wide as bf16."""
    half = recipe.training.precision != "fp32"
    context: Any = torch.autocast("cpu", torch.bfloat16) if half else nullcontext()
    with context:
        yield
