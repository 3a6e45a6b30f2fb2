"""The second stage: train a generator on a feature bank, and a class head on its features."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import InputError
from segkit.zeroshot.bank import FeatureBank
from segkit.zeroshot.feature_losses import (
    alignment,
    class_means,
    median_distance,
    mmd,
    normal_divergence,
    related_loss,
)
from segkit.zeroshot.generator import Disentangler, MlpGenerator, PrimitiveGenerator
from segkit.zeroshot.settings import ZeroShotSettings

LOG_EVERY = 50
Log = Callable[[str, int, dict[str, float]], None]
"""Called with `generator` or `head`, the step and the losses."""


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the labeled features, by which all are standardized."""

    mean: Tensor
    """(H,)."""
    deviation: Tensor
    """(H,)."""

    @classmethod
    def from_features(cls, features: Tensor) -> "Scale":
        """The scale of features (M, H)."""
        return cls(features.mean(0), features.std(0, correction=0).clamp(min=1e-3))

    def standardize(self, features: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        return (features - self.mean) / self.deviation


class SecondStage:
    """Trains a generator of features and a class head.

    Args:
        bank: real features of seen classes.
        text: (K, D) embeddings of `bank.classes`, what the generator reads.
        settings: losses, sizes and schedule.
        real_unseen: features (M, H) and their labels (M,), indices in `bank.classes`: for the
            oracle, real features of unseen classes in place of generated ones.

    Raises:
        InputError: a bank with fewer than two features of every seen class.
    """

    def __init__(
        self,
        bank: FeatureBank,
        text: Tensor,
        settings: ZeroShotSettings,
        real_unseen: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.bank, self.text, self.settings = bank, text.float(), settings
        self.real_unseen = real_unseen
        features, labels = torch.from_numpy(bank.features), torch.from_numpy(bank.labels)
        self.labels = torch.from_numpy(bank.class_index())[labels]  # (M,) in bank.classes
        is_object = labels < bank.no_object
        self.unseen_index = torch.from_numpy(bank.unseen_index())  # (U,)
        counts = torch.bincount(self.labels[is_object], minlength=len(text))
        self.seen_index = torch.nonzero(counts >= 2)[:, 0]  # (S,)
        if not len(self.seen_index):
            message = "no seen class has two query embeddings"
            raise InputError(message, hint="collect the bank from more images")
        self.scale = Scale.from_features(features[is_object])
        self.features = self.scale.standardize(features)  # (M, H)
        self.rows = [torch.nonzero(self.labels == k)[:, 0] for k in self.seen_index.tolist()]
        width, dim = text.shape[1], features.shape[1]
        self.generator = _build_generator(settings, width, dim)
        self.disentangler = Disentangler(width, dim) if settings.disentangles else None
        self.distance = median_distance(self._sample_objects(512))
        modules = [m for m in (self.generator, self.disentangler) if m is not None]
        parameters = [p for module in modules for p in module.parameters()]
        self.optimizer = torch.optim.Adam(parameters, settings.generator_lr)

    def train(self, head: nn.Module, log: Log = lambda part, step, losses: None) -> None:
        """Train the generator and a class head by the schedule of the settings.

        Args:
            head: standardized features (M, H) -> logits (M, K + 1); its weights are trained.
            log: called with the losses every `LOG_EVERY` steps.
        """
        settings = self.settings
        optimizer = torch.optim.AdamW(
            head.parameters(), settings.head_lr, weight_decay=settings.weight_decay
        )

        def generator_step(step: int) -> None:
            if step < settings.generator_steps:
                _log(log, "generator", step, self.generator_step())

        def head_step(step: int) -> None:
            if step < settings.head_steps:
                _log(log, "head", step, self.head_step(head, optimizer))

        steps = range(max(settings.generator_steps, settings.head_steps))
        if settings.schedule == "alternate":
            for step in steps:
                generator_step(step)
                head_step(step)
            return
        for part in (generator_step, head_step):
            for step in steps:
                part(step)

    def generator_step(self) -> dict[str, Tensor]:
        """One step of the generator; returns its weighted losses by name."""
        losses = self.generator_losses()
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def generator_losses(self) -> dict[str, Tensor]:
        """The weighted losses of the generator for a sample of C seen and all unseen classes."""
        settings, count = self.settings, self.settings.samples
        drawn = _draw(torch.arange(len(self.seen_index)), settings.classes)  # (C,)
        classes = self.seen_index[drawn]  # (C,)
        rows = [_draw(self.rows[place], count) for place in drawn.tolist()]
        real = [self.features[chosen] for chosen in rows]  # C of (<= count, H)
        of_seen = self.generate(classes, count)  # (C * count, H)
        of_unseen = self.generate(self.unseen_index, count)  # (U * count, H)
        losses: dict[str, Tensor] = {}
        if settings.mmd:
            groups = [*zip(real, torch.split(of_seen, count), strict=True)]
            if min(map(len, real)) == count:  # all classes at once
                groups = [(torch.stack(real), of_seen.reshape(-1, count, of_seen.shape[1]))]
            terms = [mmd(a, b, settings.bandwidths, self.distance) for a, b in groups]
            losses["mmd"] = settings.mmd * torch.stack(terms).mean()
        sizes = torch.tensor([len(chosen) for chosen in rows])
        places = torch.arange(len(classes)).repeat_interleave(sizes)  # of the real features
        features = torch.cat((*real, of_seen, of_unseen))
        parts = None if self.disentangler is None else self.disentangler(features)
        if parts is not None:
            labels = torch.cat(
                (
                    classes[places],
                    classes.repeat_interleave(count),
                    self.unseen_index.repeat_interleave(count),
                )
            )
            if settings.related:
                related = related_loss(parts.related, self.text, labels, settings.temperature)
                losses["related"] = settings.related * related
            if settings.unrelated:
                divergence = normal_divergence(parts.mean, parts.log_variance)
                losses["unrelated"] = settings.unrelated * divergence
            if settings.reconstruction:
                error = F.mse_loss(parts.rebuilt, features)
                losses["reconstruction"] = settings.reconstruction * error
        aligned = features if parts is None else parts.related
        losses |= self._alignments(aligned, classes, places)
        return losses

    def _alignments(self, features: Tensor, classes: Tensor, places: Tensor) -> dict[str, Tensor]:
        """Alignment of seen classes (real features) and unseen ones (generated features).

        Args:
            features: (M, H) or their related parts: real, then generated seen and unseen ones.
            classes: (C,) the seen classes.
            places: (R,) place in `classes` of each real feature.
        """
        settings, reals, count = self.settings, len(places), self.settings.samples
        seen_means = class_means(features[:reals], places, len(classes))  # (C, H)
        generated = features[reals + len(classes) * count :]  # (U * count, H)
        labels = torch.arange(len(self.unseen_index)).repeat_interleave(count)
        unseen_means = class_means(generated, labels, len(self.unseen_index))  # (U, H)
        text_seen, text_unseen = self.text[classes], self.text[self.unseen_index]
        pairs = {
            "align_seen": (seen_means, seen_means, text_seen, text_seen),
            "align_unseen": (unseen_means, unseen_means, text_unseen, text_unseen),
            "align_cross": (unseen_means, seen_means, text_unseen, text_seen),
        }
        weights = {name: getattr(settings, name) for name in pairs}
        return {
            name: weights[name] * alignment(*pairs[name], settings.temperature)
            for name in pairs
            if weights[name]
        }

    def head_step(self, head: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """One step of the class head on real seen and generated unseen features."""
        features, labels = self.head_batch()
        weight = features.new_ones(len(self.text) + 1)
        weight[self.unseen_index] = self.settings.unseen_weight
        weight[-1] = self.settings.no_object_weight
        loss = F.cross_entropy(head(features), labels, weight=weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return {"class": loss.detach()}

    def head_batch(self) -> tuple[Tensor, Tensor]:
        """Features (M, H) and labels (M,) of a step of the head; the generator gets no gradient.

        Each unseen class has as many generated features as a seen one has real ones, on average.
        """
        rows = torch.randint(len(self.features), (self.settings.batch_size,))
        objects = int((self.labels[rows] < len(self.text)).sum())
        count = max(1, round(objects / len(self.seen_index)))
        if self.real_unseen is None:
            unseen = self.generate(self.unseen_index, count).detach()  # (U * count, H)
            labels = self.unseen_index.repeat_interleave(count)
        else:
            chosen = torch.randint(len(self.real_unseen[1]), (count * len(self.unseen_index),))
            unseen = self.scale.standardize(self.real_unseen[0][chosen])
            labels = self.real_unseen[1][chosen]
        return torch.cat((self.features[rows], unseen)), torch.cat((self.labels[rows], labels))

    def generate(self, classes: Tensor, count: int) -> Tensor:
        """`count` features for each of some classes (C,): (C * count, H), class after class."""
        text = self.text[classes].repeat_interleave(count, dim=0)
        generated: Tensor = self.generator(text, self.generator.noise(len(text)))
        return generated

    def _sample_objects(self, count: int) -> Tensor:
        objects = torch.nonzero(self.labels < len(self.text))[:, 0]
        return self.features[_draw(objects, count)]


def _build_generator(
    settings: ZeroShotSettings, text_dim: int, feature_dim: int
) -> PrimitiveGenerator | MlpGenerator:
    if settings.generator == "mlp":
        return MlpGenerator(text_dim, feature_dim, settings.layers)
    return PrimitiveGenerator(text_dim, feature_dim, settings.primitives, settings.layers)


def _draw(rows: Tensor, count: int) -> Tensor:
    """At most `count` of some rows, at random, none twice."""
    return rows[torch.randperm(len(rows))[:count]]


def _log(log: Log, part: str, step: int, losses: dict[str, Tensor]) -> None:
    if step % LOG_EVERY == 0:
        log(part, step, {name: float(loss) for name, loss in losses.items()})
