import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segkit.model.text_classifier import class_probability
from segkit.recipes.schema import ClassLoss


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
