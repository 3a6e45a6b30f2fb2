import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from segkit.model.text_classifier import (
    CLASS_HEADS,
    TextClassifier,
    build_classifier,
    class_probability,
)
from segkit.recipes.schema import ClassLoss, ModelConfig


@given(
    margins=st.lists(st.floats(-8, 8), min_size=1, max_size=6),
    shift=st.floats(-5, 5),
    more=st.floats(-8, 8),
)
def test_a_sigmoid_class_stands_by_itself(margins: list[float], shift: float, more: float) -> None:
    """Each class by itself is class or background: other names change nothing."""
    logits = torch.tensor([*margins, 0.0], dtype=torch.float64) + shift
    probability = class_probability(logits, "sigmoid")
    expected = torch.tensor(margins, dtype=torch.float64).sigmoid()
    torch.testing.assert_close(probability[:-1], expected)
    assert float(probability[-1]) == pytest.approx(1 - float(expected.max()))
    wider = torch.cat((logits[:-1], torch.tensor([more + shift], dtype=torch.float64), logits[-1:]))
    torch.testing.assert_close(class_probability(wider, "sigmoid")[:-2], probability[:-1])


def test_softmax_classes_exclude_each_other() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    exponents = logits.exp()
    expected = exponents / exponents.sum(1, keepdim=True)
    torch.testing.assert_close(class_probability(logits), expected)


@pytest.mark.parametrize("classes", ["softmax", "sigmoid"])
def test_without_classes_everything_is_background(classes: ClassLoss) -> None:
    logits = torch.zeros(3, 1)
    assert torch.equal(class_probability(logits, classes), torch.ones(3, 1))


@pytest.mark.parametrize("stored", [math.log(100.0), 4.7, 9.0])
def test_the_class_scale_reads_as_100_at_most(stored: float) -> None:
    classifier = TextClassifier(4, 4)
    torch.nn.init.constant_(classifier.log_scale, stored)
    queries, text = torch.randn(3, 4), torch.eye(4)
    rows = torch.cat((text, classifier.background[None]))
    cosine = torch.cosine_similarity(classifier.project(queries)[:, None], rows, dim=-1)
    torch.testing.assert_close(classifier(queries, text), 100 * cosine)


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_the_class_scale_has_a_gradient_up_to_its_limit(scale: float) -> None:
    """The derivative of a logit by the logarithm of its factor is the logit."""
    config = ModelConfig(class_scale=scale, hidden_dim=4, heads=1, text_dim=4)
    classifier = build_classifier(config)
    logits = classifier(torch.randn(1, 4), torch.eye(4))
    (gradient,) = torch.autograd.grad(logits[0, 0], classifier.log_scale)
    torch.testing.assert_close(gradient, logits[0, :1])


@pytest.mark.parametrize("head", CLASS_HEADS)
@pytest.mark.parametrize("scale", [3.0, 10.0, 30.0, 100.0])
@pytest.mark.parametrize("prior", [0.01, 0.004])
def test_sigmoid_classes_start_with_about_their_prior(
    head: str, scale: float, prior: float
) -> None:
    torch.manual_seed(0)
    scale = 10.0 if head == "linear" else scale
    config = ModelConfig.model_validate({"class_head": head, "class_scale": scale})
    classifier, text = build_classifier(config), F.normalize(torch.randn(500, 384), dim=1)
    queries = F.layer_norm(torch.randn(400, config.hidden_dim), (config.hidden_dim,))
    before = class_probability(classifier(queries, text), "sigmoid")[:, :-1].mean()
    classifier.set_class_prior(prior)
    mean = class_probability(classifier(queries, text), "sigmoid")[:, :-1].mean()
    assert before.item() > 0.3
    if scale == 3:  # background cannot be 3 ahead at a cosine of 0.9
        assert 0.05 < mean.item() < 0.1
    else:
        assert 0.6 * prior < mean.item() < 1.3 * prior
