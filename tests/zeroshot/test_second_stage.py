"""The generator and the class head on features whose classes are known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segkit.errors import InputError
from segkit.taxonomy import Category, Taxonomy
from segkit.zeroshot.bank import FeatureBank
from segkit.zeroshot.class_heads import LinearHead, fold_scale
from segkit.zeroshot.generator import MlpGenerator, PrimitiveGenerator
from segkit.zeroshot.second_stage import Scale, SecondStage
from segkit.zeroshot.settings import ZeroShotSettings

WIDTH, TEXT = 8, 6
SMALL = {"primitives": 4, "layers": 1, "samples": 8, "batch_size": 64}


def categories(*ids: int) -> tuple[Category, ...]:
    return tuple(Category(number, f"class {number}", "thing") for number in ids)


def make_bank(
    seed: int = 0, rows: int = 60, ids: tuple[int, ...] = (1, 3, 4, 7, 8)
) -> tuple[FeatureBank, torch.Tensor, torch.Tensor]:
    """A bank whose features are a linear map of the class embeddings plus noise.

    Returns the bank, the embeddings of all its classes, and the map.
    """
    rng = np.random.default_rng(seed)
    known, hidden = Taxonomy("t", categories(*ids)), Taxonomy("t", categories(2, 5, 6))
    text = torch.nn.functional.normalize(
        torch.from_numpy(rng.normal(size=(len(ids) + 3, TEXT))).float()
    )
    weights = torch.from_numpy(rng.normal(size=(TEXT, WIDTH))).float() * 2
    empty = FeatureBank(
        np.zeros((0, WIDTH), np.float32),
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        ("0",),
        known,
        hidden,
    )
    labels = rng.integers(0, len(ids) + 1, rows)
    centers = torch.cat((text @ weights, torch.zeros(1, WIDTH)))[empty.class_index()]
    features = centers.numpy()[labels] + 0.1 * rng.normal(size=(rows, WIDTH))
    bank = replace(
        empty,
        features=features.astype(np.float32),
        labels=labels,
        images=np.zeros(rows, np.int64),
    )
    return bank, text, weights


@given(st.permutations(range(12)), st.integers(1, 11))
def test_class_indices_round_trip_for_any_order_of_ids(ids: list[int], count: int) -> None:
    known, hidden = Taxonomy("t", categories(*ids[:count])), Taxonomy("t", categories(*ids[count:]))
    none = np.zeros(0, np.int64)
    bank = FeatureBank(np.zeros((0, 2), np.float32), none, none, (), known, hidden)
    names = bank.classes.names
    assert [names[k] for k in bank.class_index()[:-1]] == list(known.names)
    assert [names[k] for k in bank.unseen_index()] == list(hidden.names)
    assert bank.class_index()[-1] == len(names) == 12
    every = [*bank.class_index()[:-1], *bank.unseen_index()]
    assert sorted(every) == list(range(12))


@pytest.mark.parametrize("kind", ["primitives", "mlp"])
def test_a_generator_is_random_with_noise_and_fixed_without(kind: str) -> None:
    generator: Any = (
        PrimitiveGenerator(TEXT, WIDTH, 5, 2) if kind == "primitives" else
        MlpGenerator(TEXT, WIDTH, 2)
    )  # fmt: skip
    text = torch.randn(3, TEXT)[[0, 0, 1]]
    calm = generator(text, None)
    assert torch.equal(calm, generator(text, None)) and torch.allclose(calm[0], calm[1])
    assert not torch.allclose(calm[0], calm[2])
    noisy = generator(text, generator.noise(3))
    assert noisy.shape == (3, WIDTH) and not torch.allclose(noisy[0], noisy[1])
    for layer in range(2):  # noise of every layer has an effect
        noise = torch.zeros_like(generator.noise(3))
        noise[layer] = 1.0
        assert not torch.allclose(generator(text, noise), calm)


@pytest.mark.parametrize("kind", ["primitives", "mlp"])
def test_every_loss_reaches_the_generator_and_can_be_switched_off(kind: str) -> None:
    bank, text, _ = make_bank()
    names = ("mmd", "related", "unrelated", "reconstruction")
    names += ("align_seen", "align_unseen", "align_cross")
    torch.manual_seed(0)
    stage = SecondStage(bank, text, ZeroShotSettings(generator=kind, **SMALL))
    assert tuple(stage.generator_losses()) == names
    for name in names:
        weights = dict.fromkeys(names, 0.0) | {name: 1.0}
        if name == "align_seen":  # it needs parts that it can train
            weights["related"] = 1.0
        torch.manual_seed(0)
        stage = SecondStage(bank, text, ZeroShotSettings(generator=kind, **SMALL, **weights))
        losses = stage.generator_losses()
        assert {*losses} == {key for key, weight in weights.items() if weight}
        losses[name].backward()
        gradients = [p.grad for p in stage.generator.parameters() if p.grad is not None]
        reached = any(bool(gradient.abs().sum() > 0) for gradient in gradients)
        assert reached == (name != "align_seen")  # that one compares real features only
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_the_head_step_leaves_the_generator_alone() -> None:
    bank, text, _ = make_bank()
    torch.manual_seed(0)
    stage = SecondStage(bank, text, ZeroShotSettings(**SMALL))
    before = [parameter.clone() for parameter in stage.generator.parameters()]
    head = LinearHead(WIDTH, 8)
    optimizer = torch.optim.SGD([*head.parameters(), *stage.generator.parameters()], 0.1)
    features, _ = stage.head_batch()
    assert not features.requires_grad
    stage.head_step(head, optimizer)
    pairs = zip(before, stage.generator.parameters(), strict=True)
    assert all(torch.equal(a, b) and b.grad is None for a, b in pairs)


def test_the_head_batch_has_the_right_labels_and_weights() -> None:
    bank, text, _ = make_bank(rows=400)
    torch.manual_seed(0)
    stage = SecondStage(bank, text, ZeroShotSettings(**SMALL))
    _, labels = stage.head_batch()
    assert {*labels.tolist()} == {*range(9)}  # 8 classes and no-object
    head = LinearHead(WIDTH, 8)
    torch.manual_seed(1)
    features, labels = stage.head_batch()
    weight = torch.tensor(
        [1.0, 5.0, 1.0, 1.0, 5.0, 5.0, 1.0, 1.0, 0.1]
    )  # ids 2, 5 and 6 are unseen
    logs = head(features).log_softmax(-1)
    rows = torch.arange(len(labels))
    expected = -(weight[labels] * logs[rows, labels]).sum() / weight[labels].sum()
    torch.manual_seed(1)
    loss = stage.head_step(head, torch.optim.SGD(head.parameters(), 0.0))["class"]
    torch.testing.assert_close(loss, expected.detach())


def test_a_trained_generator_recognizes_unseen_classes_and_a_permuted_one_does_not() -> None:
    bank, text, weights = make_bank(rows=300, ids=(1, 3, 4, *range(7, 14)))
    text[1] = torch.nn.functional.normalize(text[0] + text[2], dim=0)  # near seen classes
    text[4] = torch.nn.functional.normalize(text[8] + text[9], dim=0)
    rng = torch.Generator().manual_seed(5)
    real = (text @ weights)[[1, 4]].repeat_interleave(50, 0)  # ids 2 and 5
    real = real + 0.1 * torch.randn(real.shape, generator=rng)
    labels = torch.tensor([1, 4]).repeat_interleave(50)
    rest = ("related", "unrelated", "reconstruction", "align_seen", "align_unseen", "align_cross")

    def accuracy(inputs: torch.Tensor) -> float:
        torch.manual_seed(0)
        settings = ZeroShotSettings(
            **SMALL,
            **dict.fromkeys(rest, 0.0),
            generator="mlp",
            generator_steps=150,
            generator_lr=1e-2,
            head_steps=80,
            head_lr=1e-2,
        )
        stage, head = SecondStage(bank, inputs, settings), LinearHead(WIDTH, len(text))
        stage.train(head)
        logits = head(stage.scale.standardize(real))[:, [1, 4]]
        return float((logits.argmax(-1) == (labels == 4).long()).float().mean())

    swapped = text.clone()
    swapped[[1, 4]] = text[[4, 1]]
    assert accuracy(text) > 0.9
    assert accuracy(swapped) < 0.1


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("sequential", "generator generator generator head head"),
        ("alternate", "generator head generator head generator"),
    ],
)
def test_the_schedule_orders_the_steps(
    schedule: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit.zeroshot.second_stage.LOG_EVERY", 1)
    bank, text, _ = make_bank()
    steps: list[str] = []
    settings = ZeroShotSettings(**SMALL, schedule=schedule, generator_steps=3, head_steps=2)
    stage = SecondStage(bank, text, settings)
    stage.train(LinearHead(WIDTH, 8), lambda part, step, losses: steps.append(part))
    assert " ".join(steps) == expected


def test_training_is_a_function_of_the_seed() -> None:
    bank, text, _ = make_bank()

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        head = LinearHead(WIDTH, 8)
        settings = ZeroShotSettings(**SMALL, generator_steps=3, head_steps=3)
        SecondStage(bank, text, settings).train(head)
        return head.linear.weight.detach()

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))


def test_a_folded_head_gives_the_same_logits_for_features_as_they_are() -> None:
    features = torch.randn(20, WIDTH) * 3 + 7
    scale, head = Scale.from_features(features), LinearHead(WIDTH, 4)
    weight, bias = fold_scale(head.linear, scale)
    expected = head(scale.standardize(features))
    torch.testing.assert_close(features @ weight.T + bias, expected, rtol=1e-4, atol=1e-4)


def test_a_bank_without_features_is_refused() -> None:
    bank, text, _ = make_bank()
    bare = replace(bank, labels=np.full_like(bank.labels, 5))
    with pytest.raises(InputError, match="no seen class has two"):
        SecondStage(bare, text, ZeroShotSettings(**SMALL))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["generater=mlp"], "invalid setting 'generater=mlp'"),
        (["mmd"], "invalid setting"),
        (["mmd=-1"], "greater than or equal to 0"),
        (["generator=gan"], "primitives"),
        (["generator=mlp", "primitives=3"], "primitives does nothing here"),
        (["mmd=0", "bandwidths=[1]"], "bandwidths does nothing here"),
        (["generator_steps=0", "align_seen=2"], "align_seen does nothing here"),
        (["generator_steps=0", "schedule=alternate"], "schedule does nothing here"),
        (["bandwidths=[]"], "bandwidths must be positive"),
        ([f"{name}=0" for name in ("mmd", "related", "unrelated", "reconstruction",
           "align_seen", "align_unseen", "align_cross")], "every loss of the generator"),
        (["related=0", "unrelated=0", "reconstruction=0"], "set align_seen=0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ZeroShotSettings.from_overrides(overrides)


def test_settings_from_overrides() -> None:
    settings = ZeroShotSettings.from_overrides(["head=text_residual", "bandwidths=[1, 2.5]"])
    assert settings.head == "text_residual" and settings.bandwidths == (1.0, 2.5)
    assert ZeroShotSettings.from_overrides([]) == ZeroShotSettings()
