"""In the forward pass and the losses of a step, the host waits for the GPU once: to match."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkit.criterion.box_prompts import sample_box_prompts
from segkit.criterion.denoising import sample_denoising
from segkit.criterion.query_groups import runs_learned_queries
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch
from segkit.data.check_sets import NamedDataset
from segkit.data.mix import DataMix
from segkit.model.dataseg import DataSeg
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import Recipe
from segkit.shards.reader import ShardSet
from segkit.training.optimizer import ModelEma
from tests.pretend_gpu import GPU, Event, GpuTensor, WaitError, pretend_gpu

SMALL = [
    "data.image_size=64",
    "data.batch_size=2",
    "data.workers=0",
    "model.backbone=test_efficientnet",
]
OPENSEED = ["loss.denoising=1", "loss.classes=sigmoid", "data.mixing=one"]
DEFORMABLE = ["model.pixel_decoder=deformable", "model.encoder_layers=1"]
CASES = [
    ("dataseg-mini", []),
    ("dataseg-mini", ["loss.points=50", *DEFORMABLE]),
    ("openseed-mini", OPENSEED),
    ("box-labeler-mini", []),
    ("maskx-mini", ["data.mask_policy={}"]),
]
ToDevice = Callable[[Tensor], Tensor]


def open_recipe(name: str, overrides: Sequence[str]) -> Recipe:
    recipe = load_recipe(name, [*SMALL, *overrides])
    model = recipe.model.model_copy(update={"backbone_weights": None})
    return recipe.model_copy(update={"model": model})


def take_losses(
    recipe: Recipe, data: ShardSet, batch: Batch, device: torch.device, to_device: ToDevice
) -> dict[str, Tensor]:
    """The losses of a batch, as `Trainer.train_step` computes them."""
    torch.manual_seed(0)
    model = DataSeg(recipe.model).train()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: to_device(value.detach()) for name, value in tensors.items()}
    is_thing = torch.tensor([c.kind == "thing" for c in data.taxonomy.categories])
    text = to_device(torch.randn(len(is_thing), recipe.model.text_dim))
    criterion = SetCriterion(recipe.loss, {batch.dataset: to_device(is_thing)})
    things = to_device(torch.nonzero(is_thing)[:, 0])
    batch = batch.to(device, non_blocking=True)
    prompts = sample_box_prompts(batch, recipe.loss, torch.default_generator)
    groups: dict[str, Any] = {"learned_queries": recipe.loss.matching}
    noised = None
    if recipe.model.foreground:
        noised = sample_denoising(batch, recipe.loss, torch.default_generator)
        learned = runs_learned_queries(batch.task)
        groups = {"learned_queries": learned, "things": things, "noised": noised}
        groups["padding"] = batch.padding()
    groups["dense"] = recipe.loss.dense > 0
    outputs = torch.func.functional_call(model, state, (batch.images, text, prompts), groups)
    losses: dict[str, Tensor] = criterion(outputs, batch, prompts, 0, None, noised)
    return losses


@pytest.mark.parametrize("masks", ["true", "trusted in part", "none"])
@pytest.mark.parametrize(("name", "overrides"), CASES)
def test_losses_wait_once(
    name: str, overrides: list[str], masks: str, toy_set: ShardSet, box_set: ShardSet
) -> None:
    recipe, data = open_recipe(name, overrides), box_set if masks == "none" else toy_set
    batch = DataMix([NamedDataset("set", data, 1.0)], recipe.data, seed=0).batch(0)
    if masks == "trusted in part":
        doubtful = (replace(t, trust=0.6 * t.has_mask.float()) for t in batch.targets)
        batch = replace(batch, targets=tuple(doubtful))
    with torch.no_grad():
        expected = take_losses(recipe, data, batch, torch.device("cpu"), lambda tensor: tensor)
    with pretend_gpu() as to_gpu:
        losses = take_losses(recipe, data, batch, GPU, to_gpu)
        assert Event.waits == recipe.loss.matching
    assert losses.keys() == expected.keys()
    if not recipe.loss.points:  # a generator of the GPU draws other points
        for key, loss in losses.items():
            assert isinstance(loss, GpuTensor)
            torch.testing.assert_close(loss.values, expected[key], rtol=1e-5, atol=1e-6)


def test_the_average_does_not_wait() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = ModelEma(model, 0.9)
    with pretend_gpu() as to_gpu:
        for module in (model, ema.module):
            for part in module.modules():
                weights, buffers = part._parameters, part._buffers
                for name, value in weights.items():
                    assert value is not None
                    weights[name] = nn.Parameter(to_gpu(value.detach()), requires_grad=False)
                for name, value in buffers.items():
                    assert value is not None
                    buffers[name] = to_gpu(value)
        for _ in range(3):
            ema.update_parameters(model)
    assert int(ema.n_averaged) == 3


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x[x > 0],
        lambda x: bool((x > 0).any()),
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3).to(GPU),
        lambda x: torch.nonzero(x),
        lambda x: x[torch.tensor([0])],
        lambda x: x.tolist(),
        lambda x: torch.allclose(x, x),
        lambda x: x * torch.tensor(2.0, device=GPU),
        lambda x: x.__setitem__(0, 2.0),
        lambda x: x.__setitem__(x.long(), 2.0),
    ],
)
def test_what_waits_is_noticed(act: Callable[[Tensor], object]) -> None:
    with pretend_gpu() as to_gpu:
        x = to_gpu(torch.ones(3))
        assert (x + 1).sum().device == GPU
        with pytest.raises(WaitError):
            act(x)


def test_a_number_may_fill_a_view() -> None:
    with pretend_gpu() as to_gpu:
        x = to_gpu(torch.ones(2, 3))
        x[0] = x[:, 1:] = 2.0
        assert isinstance(x, GpuTensor)
        assert x.values.tolist() == [[2, 2, 2], [1, 2, 2]]
