"""On the meta device no number can be read: what runs there would not wait for a GPU, nor mix the
two devices."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.criterion import set_criterion as criterion
from segkit.criterion.forward import training_forward
from segkit.criterion.matcher import SentCosts
from segkit.data.batch import Batch
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import LossConfig, ModelConfig
from tests.criterion.test_set_criterion import IS_THING, batch, targets

MASKED = targets((4, 4, 30, 30), (20, 20, 60, 60), labels=(0, 2))
BOXED = targets((4, 4, 30, 30), (10, 10, 50, 40), masked=False)
CASES = {
    "masks beside nothing": batch(MASKED, targets()),
    "boxes": batch(BOXED, targets(), task="instance"),
    "both": batch(MASKED, BOXED),
    "parts": batch(replace(MASKED, is_part=torch.tensor([False, True])), task="semantic"),
    "partly looked for": batch(replace(MASKED, annotated=torch.tensor([True, False, True])), BOXED),
    "padding": batch(replace(MASKED, padding=torch.zeros(64, 64, dtype=torch.bool))),
}


class MatchingReached(Exception):  # noqa: N818
    """Costs have been sent, and nothing has waited for them yet."""


@pytest.mark.parametrize("points", [0, 32])
@pytest.mark.parametrize("given", CASES.values(), ids=CASES)
@pytest.mark.parametrize("pixel_decoder", ["fpn", "deformable"])
def test_nothing_waits_for_the_device_before_the_matching(
    given: Batch, points: int, pixel_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {
        "text_dim": 16,
        "hidden_dim": 32,
        "mask_dim": 16,
        "queries": 6,
        "rounds": 1,
        "heads": 2,
    }
    model = (
        DataSeg(ModelConfig(**shape, encoder_layers=1, pixel_decoder=pixel_decoder))
        .train()
        .to("meta")
    )  # type: ignore[arg-type]
    table = ClassEmbeddings(F.normalize(torch.randn(3, 16), dim=1), IS_THING).to("meta")

    def reached(sent: SentCosts) -> None:
        assert sent.values.is_meta
        raise MatchingReached

    def random_points(maps: int, count: int, size: tuple[int, int], _: torch.Generator) -> Tensor:
        return torch.empty(maps, count, dtype=torch.int64, device="meta")

    monkeypatch.setattr(criterion, "match", reached)
    monkeypatch.setattr(
        torch, "autocast", lambda device, **_: nullcontext()
    )  # meta has neither it nor generators
    monkeypatch.setattr(criterion, "random_points", random_points)
    monkeypatch.setattr(criterion, "on_device", lambda generator, device: generator)
    noise = torch.Generator().manual_seed(0)
    with pytest.raises(MatchingReached):
        training_forward(
            model, given.to("meta"), table, LossConfig(points=points), step=0, generator=noise
        )
