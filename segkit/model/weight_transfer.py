"""Weight transfer of Mask^X R-CNN: the mask weights of a class, predicted from its class weights.

Hu et al., "Learning to Segment Every Thing" (CVPR 2018), section 3.2. The mask head of a class is
w_seg = T(w_det). Here masks are dot products of mask embeddings m_q and the per-pixel map F, so the
mask logit of query q for class c is <m_q + T(w_c), F>: T adds to the mask embedding.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from segkit.model.text_classifier import LinearTextClassifier, TextClassifier
from segkit.recipes.schema import ModelConfig

HIDDEN_DIM = 256
"""Hidden width of T (table 1b)."""
NEGATIVE_SLOPE = 0.1
"""Of LeakyReLU (section 3.2)."""
RANDOM_FREQUENCY = 1e3
"""Standard deviation of the frequencies of random class weights, for unit text embeddings."""


class WeightTransfer(nn.Module):
    """T: class weights w_c -> an addition to mask embeddings, one MLP for all classes.

    The last layer starts at zero, so that the model starts as the one without weight transfer.
    `config.weight_transfer.input` names the class weights:

    - cls: the row of the text classifier, in the space of queries
    - box: the label's embedding in the box prompt encoder
    - cls+box: both
    - text: the text embedding itself (the paper's GloVe)
    - random: a random vector of each class, the control that knows nothing of it
    """

    frequencies: Tensor
    """(text_dim, HIDDEN_DIM), of random class weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config.weight_transfer
        widths = {
            "cls": config.hidden_dim,
            "box": config.hidden_dim,
            "cls+box": 2 * config.hidden_dim,
            "text": config.text_dim,
            "random": HIDDEN_DIM,
        }
        hidden = [HIDDEN_DIM] * (self.config.layers - 1)
        self.mlp = nn.Sequential()
        for before, after in pairwise((widths[self.config.input], *hidden, config.mask_dim)):
            if len(self.mlp):
                self.mlp.append(self._activation())
            self.mlp.append(nn.Linear(before, after))
        nn.init.zeros_(self.mlp[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.mlp[-1].bias)  # type: ignore[arg-type]
        if self.config.input == "random":
            frequencies = torch.randn(config.text_dim, HIDDEN_DIM) * RANDOM_FREQUENCY
            self.register_buffer("frequencies", frequencies)

    def forward(
        self,
        text: Tensor,
        text_classifier: TextClassifier | LinearTextClassifier,
        label_encoder: nn.Linear,
    ) -> Tensor:
        """Predict the additions of all classes; no gradient reaches the class weights.

        With `stop_gradient = false` it does, which the paper found to hurt (table 1d).

        Args:
            text: (K, text_dim).
            text_classifier: its rows are the weights `cls`.
            label_encoder: its output is the weights `box`.

        Returns:
            (K, mask_dim).
        """
        weights = self.class_weights(text, text_classifier, label_encoder)
        additions: Tensor = self.mlp(weights.detach() if self.config.stop_gradient else weights)
        return additions

    def class_weights(
        self,
        text: Tensor,
        text_classifier: TextClassifier | LinearTextClassifier,
        label_encoder: nn.Linear,
    ) -> Tensor:
        """w_c of all classes, (K, width); arguments as of `forward`."""
        if self.config.input == "text":
            return text
        if self.config.input == "random":
            # Sines of such high frequencies have unrelated values for any two classes, and the same
            # for a class whatever the vocabulary.
            angles = text.double() @ self.frequencies.double()
            return angles.sin().to(text.dtype)
        rows = []
        if "cls" in self.config.input:
            rows.append(text_classifier.query_weights(text))  # (K, hidden_dim)
        if "box" in self.config.input:
            rows.append(label_encoder(text))  # (K, hidden_dim)
        return torch.cat(rows, dim=-1)

    def _activation(self) -> nn.Module:
        return nn.ReLU() if self.config.activation == "relu" else nn.LeakyReLU(NEGATIVE_SLOPE)


def expected_addition(class_logits: Tensor, additions: Tensor) -> Tensor:
    """Expectation of T(w_c) over the classes of learned queries.

    Mask R-CNN takes the mask of the true class in training and of the predicted one in inference.
    The softening is ours: a query of this model has no class before it is matched, and so gets the
    mean of T(w_c) by class probability, in training as in inference. Background takes no part, and
    no gradient reaches the class logits.

    Args:
        class_logits: (..., N, K + 1), background last.
        additions: (K, mask_dim).

    Returns:
        (..., N, mask_dim).
    """
    probability = class_logits[..., :-1].detach().softmax(-1)  # (..., N, K)
    return probability.to(additions.dtype) @ additions


def labels_addition(labels: Tensor, additions: Tensor) -> Tensor:
    """T(w_c) of box prompts' labels, and 0 where a label is withheld.

    Args:
        labels: (...) int64, -1 for an unknown class.
        additions: (K, mask_dim).

    Returns:
        (..., mask_dim).
    """
    rows = torch.cat((additions, additions.new_zeros(1, additions.shape[1])))  # label -1: the last
    return rows[labels]
