"""The text classifier: frozen text embeddings as class weights, one learned background row.

Its logits are read as probabilities by softmax or sigmoid.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.recipes.schema import ClassLoss, ModelConfig
from segkit.taxonomy import Taxonomy


class TextClassifier(nn.Module):
    """Query features -> class logits over any vocabulary (DaTaSeg, "Text classifier").

    The logits are cosine similarities of projected query and class embeddings, times one learned
    scale. The class embeddings are an argument of the call, so that no weight depends on the
    vocabulary; all datasets share the background row. Runs in the precision of the weights at small
    cost: half precision would give similar classes equal logits.

    Training clips `log_scale` after each step (`segkit.training.optimizer`), as CLIP does: beyond
    its limit it would have no gradient, and stay there.
    """

    # CLIP's limit, beyond which the softmax saturates; rounded to float32, as the weight is, so
    # that a scale at the limit is not above it
    MAX_LOG_SCALE = torch.tensor(100.0).log().item()

    def __init__(self, hidden_dim: int, text_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden_dim, text_dim)
        self.background = nn.Parameter(torch.randn(text_dim) / math.sqrt(text_dim))
        self.log_scale = nn.Parameter(torch.tensor([math.log(10.0)]))  # FSDP shards no scalars

    def forward(self, queries: Tensor, text: Tensor) -> Tensor:
        """Compute class logits.

        Args:
            queries: (..., N, hidden_dim).
            text: (K, text_dim), one unit row per class.

        Returns:
            (..., N, K + 1); the last column is background.
        """
        with torch.autocast(queries.device.type, enabled=False):
            rows = torch.cat((text, F.normalize(self.background, dim=0)[None]))  # (K + 1, D_T)
            # at the limit, `clamp` would have no gradient
            is_above = self.log_scale > self.MAX_LOG_SCALE
            scale = torch.where(is_above, self.MAX_LOG_SCALE, self.log_scale).exp()
            return scale * F.normalize(self.project(queries.to(text.dtype)), dim=-1) @ rows.T

    def query_weights(self, text: Tensor) -> Tensor:
        """Class weights in the space of queries, up to norms and bias: (K, hidden_dim)."""
        return text @ self.project.weight

    @torch.no_grad()
    def set_class_prior(self, prior: float) -> None:
        """Let each class against background start with a probability of about `prior`.

        Otherwise the first focal loss of the many negatives drowns all else (focal loss, section
        3.3). The projections get a common part along the background row, for queries of unit
        variance and names in random directions.
        """
        scale, width = self.log_scale.exp().item(), len(self.background)
        margin = _background_margin(prior, 2 * scale**2 / width)
        cosine = min(margin / scale, 0.9)  # a small scale cannot reach every prior
        length = self.project.weight.norm() * cosine / math.sqrt(1 - cosine**2)
        self.project.bias.add_(length * F.normalize(self.background, dim=0))


class LinearTextClassifier(nn.Module):
    """Query features -> class logits as plain inner products with the class embeddings.

    Neither side is normalized, so the head can hold any linear class head over known classes: see
    `segkit.model.linear_head`. Always in float32, as `TextClassifier`.
    """

    def __init__(self, hidden_dim: int, text_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden_dim, text_dim)
        self.background = nn.Parameter(torch.randn(text_dim) / math.sqrt(text_dim))

    def forward(self, queries: Tensor, text: Tensor) -> Tensor:
        """Class logits; arguments and result as in `TextClassifier.forward`."""
        with torch.autocast(queries.device.type, enabled=False):
            rows = torch.cat((text, self.background[None]))  # (K + 1, text_dim)
            projected: Tensor = self.project(queries.to(text.dtype))
            return projected @ rows.T

    def query_weights(self, text: Tensor) -> Tensor:
        """Class weights in the space of queries, up to a bias: (K, hidden_dim)."""
        return text @ self.project.weight

    @torch.no_grad()
    def set_class_prior(self, prior: float) -> None:
        """Let each class start with a probability of about `prior`, as in `TextClassifier`."""
        variance = 2 * self.project.weight.square().sum().item() / len(self.background)
        margin = _background_margin(prior, variance)
        self.project.bias.add_(margin * self.background / self.background.square().sum())


class TextResidualClassifier(TextClassifier):
    """The text classifier plus a linear residual, which is zero at first.

    The residual of a class is an inner product with its embedding, so that it holds for any
    vocabulary; that of background is one more linear map.
    """

    def __init__(self, hidden_dim: int, text_dim: int) -> None:
        super().__init__(hidden_dim, text_dim)
        self.residual = nn.Linear(hidden_dim, text_dim + 1)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)

    def forward(self, queries: Tensor, text: Tensor) -> Tensor:
        """Class logits; arguments and result as in `TextClassifier.forward`."""
        with torch.autocast(queries.device.type, enabled=False):
            residual = self.residual(queries.to(text.dtype))  # (..., N, D_T + 1)
            classes = residual[..., :-1] @ text.T  # (..., N, K)
            added = torch.cat((classes, residual[..., -1:]), dim=-1)  # (..., N, K + 1)
            return super().forward(queries, text) + added


def _background_margin(prior: float, variance: float) -> float:
    """What background's logit exceeds those of classes by, on average, so that the sigmoid of
    normally distributed margins has the mean `prior`, below 0.5."""
    quantiles = torch.special.ndtri(torch.linspace(0, 1, 2002)[1:-1]) * math.sqrt(variance)
    # a sigmoid is less than the exponential, whose mean is known
    low, high = 0.0, math.log((1 - prior) / prior) + variance / 2
    while high - low > 1e-3:
        middle = (low + high) / 2
        is_likely = (quantiles - middle).sigmoid().mean().item() > prior
        low, high = (middle, high) if is_likely else (low, middle)
    return high


CLASS_HEADS: dict[str, type[TextClassifier | LinearTextClassifier]] = {
    "cosine": TextClassifier,
    "linear": LinearTextClassifier,
    "text_residual": TextResidualClassifier,
}
"""Class heads by their name in `model.class_head`."""


def build_classifier(config: ModelConfig) -> TextClassifier | LinearTextClassifier:
    """The class head of `model.class_head`."""
    classifier = CLASS_HEADS[config.class_head](config.hidden_dim, config.text_dim)
    if isinstance(classifier, TextClassifier):
        nn.init.constant_(classifier.log_scale, math.log(config.class_scale))
    return classifier


@dataclass(frozen=True)
class ClassEmbeddings:
    """Class weights of the text classifier, in the index order of a taxonomy."""

    text: Tensor
    """(K, D_T) float32, unit rows."""
    is_thing: Tensor
    """(K,) bool."""
    is_unseen: Tensor | None = None
    """(K,) bool: classes that training did not see; None for none."""

    @cached_property
    def things(self) -> Tensor:
        """(T,) int64: the rows of things; computed once, since it waits for the device."""
        return torch.nonzero(self.is_thing)[:, 0]

    @classmethod
    def from_taxonomy(cls, taxonomy: Taxonomy, text: Tensor) -> "ClassEmbeddings":
        """The class embeddings of a taxonomy with text embeddings (K, D_T) in index order."""
        is_thing = [category.kind == "thing" for category in taxonomy.categories]
        return cls(text.float(), torch.tensor(is_thing))

    def mark_unseen(self, taxonomy: Taxonomy, unseen: Collection[str]) -> "ClassEmbeddings":
        """The same class embeddings with `is_unseen` for those names that the taxonomy has."""
        flags = [name in unseen for name in taxonomy.names]
        is_unseen = torch.tensor(flags, device=self.text.device) if any(flags) else None
        return replace(self, is_unseen=is_unseen)

    def to(self, device: torch.device | str) -> "ClassEmbeddings":
        """The same class embeddings on another device."""
        is_unseen = None if self.is_unseen is None else self.is_unseen.to(device)
        return ClassEmbeddings(self.text.to(device), self.is_thing.to(device), is_unseen)


def class_margins(class_logits: Tensor) -> Tensor:
    """Logits of each class against background: (..., K + 1), background last, -> (..., K)."""
    return class_logits[..., :-1] - class_logits[..., -1:]


def class_probability(class_logits: Tensor, classes: ClassLoss = "softmax") -> Tensor:
    """Probability of each class, and of background.

    Args:
        class_logits: (..., K + 1), background last.
        classes: softmax: classes and background exclude each other. sigmoid: each class by itself
            is a class or background (OpenSeeD, Deformable DETR), so that the probability does not
            depend on how many other names there are; what the best class lacks to 1 is background.

    Returns:
        (..., K + 1). With sigmoid, they may sum to more than 1.
    """
    if classes == "softmax":
        return class_logits.softmax(-1)
    probability = class_margins(class_logits).sigmoid()  # (..., K)
    if not probability.shape[-1]:
        return torch.ones_like(class_logits)
    return torch.cat((probability, 1 - probability.amax(-1, keepdim=True)), dim=-1)


def best_class(class_logits: Tensor, classes: ClassLoss = "softmax") -> tuple[Tensor, Tensor]:
    """Probability and index (...) of the best class of each proposal; arguments as above.

    With softmax it may be background, K. With sigmoid it is not: a threshold alone decides which
    proposals count, since 1 less the best probability is above it for all that are below 0.5.
    """
    probability = class_probability(class_logits, classes)
    if classes == "sigmoid" and probability.shape[-1] > 1:
        probability = probability[..., :-1]
    best = probability.max(-1)
    return best.values, best.indices
