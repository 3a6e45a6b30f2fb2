"""The losses against brute force and their properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from segkit.zeroshot.feature_losses import (
    alignment,
    class_means,
    median_distance,
    mmd,
    normal_divergence,
    related_loss,
)

BANDWIDTHS = (0.5, 1.0, 2.0)
UNIT = torch.ones(())


def features(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(1, 7))
def test_mmd_equals_its_definition_for_unequal_sizes(seed: int, n: int, m: int) -> None:
    real, generated = features(seed, n, 5), features(seed + 1, m, 5) + 0.5
    scale = 1.7

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        distance = float(((a - b) ** 2).sum())
        return sum(math.exp(-distance / (2 * (scale * width) ** 2)) for width in BANDWIDTHS)

    def mean(first: torch.Tensor, second: torch.Tensor) -> float:
        return sum(kernel(a, b) for a in first for b in second) / (len(first) * len(second))

    square = mean(real, real) + mean(generated, generated) - 2 * mean(real, generated)
    value = mmd(real, generated, BANDWIDTHS, torch.tensor(scale, dtype=torch.float64))
    assert float(value) == pytest.approx(math.sqrt(max(square, 0) + 1e-6) - 1e-3, abs=1e-8)


def test_mmd_of_equal_sets_is_zero_with_a_finite_gradient_also_in_float32() -> None:
    for scale in (1e-3, 1.0, 1e3):
        real = torch.randn(40, 16) * 30 + 100  # far from the origin: squares lose digits
        generated = real.clone().requires_grad_()
        value = mmd(real, generated, BANDWIDTHS, torch.tensor(scale))
        assert 0 <= value.item() < 2e-3
        value.backward()
        assert generated.grad is not None and torch.isfinite(generated.grad).all()
    same = torch.zeros(3, 4)
    assert float(mmd(same, same, BANDWIDTHS, UNIT)) == 0.0


@given(st.integers(0, 2**31))
def test_mmd_is_symmetric_ignores_order_and_grows_with_a_shift(seed: int) -> None:
    real, generated = features(seed, 12, 4), features(seed + 1, 9, 4)
    value = mmd(real, generated, BANDWIDTHS, UNIT)
    torch.testing.assert_close(mmd(generated, real, BANDWIDTHS, UNIT), value)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(mmd(real, generated[order], BANDWIDTHS, UNIT), value)
    shifts = [float(mmd(real, real + shift, BANDWIDTHS, UNIT)) for shift in (0.0, 0.2, 0.5, 1.0)]
    assert shifts == sorted(shifts) and shifts[0] < shifts[-1]


def test_mmd_of_several_pairs_at_once_is_that_of_each_pair() -> None:
    real, generated = features(0, 3, 6, 4), features(1, 3, 5, 4)
    values = mmd(real, generated, BANDWIDTHS, UNIT)
    pairs = zip(real, generated, strict=True)
    torch.testing.assert_close(values, torch.stack([mmd(*p, BANDWIDTHS, UNIT) for p in pairs]))


def test_the_median_distance_is_that_of_all_pairs() -> None:
    points = features(0, 8, 3)
    pairs = [(points[i] - points[j]).norm() for i in range(8) for j in range(i)]
    expected = sorted(map(float, pairs))[(len(pairs) - 1) // 2]  # torch takes the lower median
    assert float(median_distance(points)) == pytest.approx(expected)
    assert float(median_distance(points[:1])) == 1.0
    assert float(median_distance(torch.zeros(4, 2))) > 0


def test_the_divergence_is_that_of_torch_distributions() -> None:
    mean, log_variance = features(0, 6, 3), features(1, 6, 3)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    standard = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    expected = torch.distributions.kl_divergence(normal, standard).mean()
    torch.testing.assert_close(normal_divergence(mean, log_variance), expected)
    assert float(normal_divergence(torch.zeros(2, 2), torch.zeros(2, 2))) == 0.0


def test_the_related_loss_is_small_where_parts_point_at_their_class() -> None:
    text = F.normalize(features(0, 4, 6), dim=-1)
    labels = torch.tensor([2, 0, 3])
    right = float(related_loss(5 * text[labels], text, labels, 0.05))
    wrong = float(related_loss(5 * text[labels], text, labels.flip(0), 0.05))
    assert right < 0.1 < wrong


def brute_force_alignment(rows, columns, text_rows, text_columns, temperature, same):
    total = 0.0
    for i in range(len(rows)):
        columns_of_row = [j for j in range(len(columns)) if not (same and i == j)]

        def relation(a, b, i=i, columns_of_row=columns_of_row):
            cosines = [float(F.cosine_similarity(a[i], b[j], dim=0)) for j in columns_of_row]
            weights = [math.exp(value / temperature) for value in cosines]
            return [weight / sum(weights) for weight in weights]

        p, q = relation(text_rows, text_columns), relation(rows, columns)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(rows)


@pytest.mark.parametrize("same", [True, False])
def test_alignment_equals_its_definition_and_is_zero_for_equal_relations(same: bool) -> None:
    rows, text_rows = features(0, 5, 7), features(1, 5, 6)
    columns = rows if same else features(2, 4, 7)
    text_columns = text_rows if same else features(3, 4, 6)
    arguments = (rows, columns, text_rows, text_columns, 0.3)
    expected = brute_force_alignment(*arguments, same)
    assert float(alignment(*arguments)) == pytest.approx(expected)
    scaled = 3 * text_rows
    equal = (scaled, scaled if same else 2 * text_columns, text_rows, text_columns, 0.3)
    assert float(alignment(*equal)) == pytest.approx(0.0, abs=1e-12)


def test_alignment_without_other_classes_is_zero() -> None:
    single = features(0, 1, 4)
    two = features(1, 2, 4)
    assert float(alignment(single, single, single, single, 0.1)) == 0.0
    assert float(alignment(two, two, two, two, 0.1)) == 0.0
    assert float(alignment(two, single, two, single, 0.1)) == 0.0


def test_class_means() -> None:
    values = torch.tensor([[1.0], [3.0], [5.0]])
    means = class_means(values, torch.tensor([0, 0, 2]), 3)
    assert means.tolist() == [[2.0], [0.0], [5.0]]
