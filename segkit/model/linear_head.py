"""A linear class head over known classes, rewritten as a text head with the same logits."""

from typing import NamedTuple

import torch
from torch import Tensor

from segkit.errors import InputError

MAX_CONDITION = 1e4
"""Condition number of the class embeddings above which classes count as linearly dependent: float32
has 7 digits, and 4 of them would be lost."""


class TextHead(NamedTuple):
    """The weights of a `LinearTextClassifier`."""

    weight: Tensor
    """(D, H) of the projection P."""
    bias: Tensor
    """(D,) of the projection."""
    background: Tensor
    """(D,) the background row."""


def solve_text_head(
    text: Tensor, weight: Tensor, bias: Tensor, names: tuple[str, ...], words: Tensor
) -> TextHead:
    """The text head that gives a linear class head's logits.

    With T the class embeddings and b the background row, it solves [T; b] P = [weight | bias] by
    the pseudo-inverse, in float64; T has fewer rows than columns, so the solution is exact, and
    of all exact ones it has the smallest norm.

    Args:
        text: (K, D) class embeddings.
        weight: (K + 1, H) of the linear head, background last.
        bias: (K + 1,) likewise.
        names: of the K classes, for messages.
        words: (M, D) embeddings of other words, see `background_row`.

    Raises:
        InputError: linearly dependent embeddings, which no text head can tell apart.
    """
    text = text.double()
    classes, width = text.shape
    if classes >= width:
        message = f"{classes} classes and background need text embeddings wider than {width}"
        raise InputError(message, hint="import with a text encoder of wider embeddings")
    if (condition := float(torch.linalg.cond(text))) > MAX_CONDITION:
        raise InputError(
            f"the text embeddings of its {classes} classes are linearly dependent "
            f"(condition number {condition:.0e}); {_most_alike(text, names)}",
            hint="give the classes different names in id2label of config.json",
        )
    background = background_row(text, words.double())
    rows = torch.cat((text, background[None]))  # (K + 1, D)
    head = torch.cat((weight.double(), bias.double()[:, None]), dim=1)  # (K + 1, H + 1)
    projection = torch.linalg.pinv(rows) @ head  # (D, H + 1)
    return TextHead(
        projection[:, :-1].float().contiguous(),
        projection[:, -1].float().contiguous(),
        background.float(),
    )


def background_row(text: Tensor, words: Tensor) -> Tensor:
    """The unit direction, orthogonal to the K class embeddings, in which other words vary least.

    Background then has no share in the logits of new classes. The embeddings of all-MiniLM-L6-v2
    end with a layer norm, so that all of them are orthogonal to one direction; this is it.
    """
    rest = torch.linalg.svd(text).Vh[len(text) :]  # (D - K, D)
    row: Tensor = torch.linalg.svd(words @ rest.T).Vh[-1] @ rest
    return row


def _most_alike(text: Tensor, names: tuple[str, ...]) -> str:
    """The two classes whose embeddings are most alike, for a message."""
    unit = torch.nn.functional.normalize(text, dim=-1)
    cosine = (unit @ unit.T).fill_diagonal_(-1.0)
    first, second = divmod(int(cosine.argmax()), len(text))
    likeness = float(cosine[first, second])
    return f"most alike are {names[first]!r} and {names[second]!r} (cosine {likeness:.3f})"
