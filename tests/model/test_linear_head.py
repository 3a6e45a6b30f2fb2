"""A linear class head as a text head: the same logits, and dependent classes are refused."""

import pytest
import torch

from segkit.errors import InputError
from segkit.model.linear_head import background_row, solve_text_head
from segkit.taxonomy import known_taxonomies, load_taxonomy
from segkit.text.embeddings import EmbeddingStore


@pytest.mark.parametrize(
    "vocabulary", [name for name in known_taxonomies() if "365" not in name and "459" not in name]
)
def test_the_logits_of_every_shipped_vocabulary_are_reproduced(vocabulary: str) -> None:
    taxonomy, generator = load_taxonomy(vocabulary), torch.Generator().manual_seed(0)
    text = torch.from_numpy(EmbeddingStore().embed(taxonomy))
    words = torch.from_numpy(EmbeddingStore().embed(load_taxonomy("objects365-v2")))
    weight = torch.randn(len(text) + 1, 256, generator=generator)
    bias = torch.randn(len(text) + 1, generator=generator)
    head = solve_text_head(text, weight, bias, taxonomy.names, words)
    queries = torch.randn(100, 256, generator=generator)
    projected = queries @ head.weight.T + head.bias
    logits = projected @ torch.cat((text, head.background[None])).T
    torch.testing.assert_close(logits, queries @ weight.T + bias, rtol=1e-4, atol=1e-4)
    assert head.background.norm() == pytest.approx(1)
    assert (words @ head.background).abs().max() < 1e-6


def test_background_is_orthogonal_to_the_classes_and_where_words_vary_least() -> None:
    text = torch.eye(4, dtype=torch.float64)[:2]
    words = torch.tensor([[0.0, 0.0, 1.0, 0.1], [1.0, 0.0, -2.0, 0.0]], dtype=torch.float64)
    row = background_row(text, words)
    assert (text @ row).abs().max() < 1e-12
    assert row[3].abs() > 0.9


def test_dependent_classes_are_named() -> None:
    text = torch.nn.functional.normalize(torch.randn(4, 16), dim=1)
    text[3] = text[1]
    with pytest.raises(InputError, match=r"linearly dependent .*most alike are 'cat' and 'kitten'"):
        solve_text_head(
            text, torch.zeros(5, 8), torch.zeros(5), ("dog", "cat", "car", "kitten"), text
        )


def test_more_classes_than_dimensions_are_refused() -> None:
    with pytest.raises(InputError, match="17 classes and background need text embeddings wider"):
        names = tuple(str(index) for index in range(17))
        solve_text_head(
            torch.randn(17, 16), torch.zeros(18, 8), torch.zeros(18), names, torch.randn(3, 16)
        )
