import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.criterion.merge_proposals import group_proposals, kept_rows
from segkit.criterion.set_criterion import SetCriterion
from segkit.model.dataseg import DataSeg, Outputs, Proposals
from segkit.model.text_classifier import class_probability
from segkit.recipes.schema import ClassLoss, LossConfig, ModelConfig
from tests.criterion.scenes import make_batch, rectangles

IS_THING = torch.tensor([True, True, False])
CELLS = 16


def class_loss(logits: Tensor, masks: Tensor, labels: tuple[int, ...]) -> float:
    boxes = ((4, 8, 32, 40), (36, 0, 64, 20))[: len(labels)]
    batch = make_batch(rectangles(*boxes, labels=labels))
    criterion = SetCriterion(LossConfig(classes="sigmoid"), {"set": IS_THING})
    return float(criterion(Outputs(Proposals(logits, masks), None), batch, None, step=0)["class"])


@pytest.mark.parametrize("labels", [(), (1,), (1, 0)])
def test_equal_layers_have_the_loss_of_one(labels: tuple[int, ...]) -> None:
    """Where nothing is matched as well: the loss is a mean over layers."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 5, 4, generator=generator) - torch.tensor([5.0, 5.0, 5.0, 0.0])
    masks = torch.randn(1, 1, 5, CELLS, CELLS, generator=generator)
    one = class_loss(logits, masks, labels)
    for layers in (2, 7):
        several = class_loss(
            logits.expand(-1, layers, -1, -1), masks.expand(-1, layers, *[-1] * 3), labels
        )
        assert several == pytest.approx(one, rel=1e-5) and one > 0


@pytest.mark.parametrize("classes", ["softmax", "sigmoid"])
@pytest.mark.parametrize("scale", [10.0, 30.0])
def test_an_untrained_model_merges_next_to_nothing(classes: ClassLoss, scale: float) -> None:
    """Otherwise many proposals would have one target before they have learned to differ."""
    torch.manual_seed(0)
    text = F.normalize(torch.randn(60, 384), dim=1)
    config = ModelConfig(
        backbone="resnet18", backbone_weights=None, hidden_dim=32, class_scale=scale
    )
    model = DataSeg(config).eval()
    if classes == "sigmoid":
        model.text_classifier.set_class_prior(0.01)
    with torch.no_grad():
        logits = model(torch.rand(2, 3, 64, 64), text, aux_outputs=True).queries.class_logits
    groups = group_proposals(logits, torch.ones(60, dtype=torch.bool), 0.5, 0, classes)
    assert float(kept_rows(groups).float().mean()) > 0.95
    if classes == "sigmoid":
        assert 0.003 < float(class_probability(logits, classes)[..., :-1].mean()) < 0.03
