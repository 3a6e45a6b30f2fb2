from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.taxonomy import Category, known_taxonomies, load_taxonomy
from segkit.text.embeddings import EmbeddingStore
from segkit.text.indistinct import SAME, indistinct, indistinct_notes


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))


def classes(names: Sequence[str]) -> list[Category]:
    return [Category(10 + index, name, "thing", (name,)) for index, name in enumerate(names)]


def notes(names: Sequence[str]) -> list[str]:
    store, categories = EmbeddingStore(), classes(names)
    store.add(store.missing_words(categories))
    return indistinct_notes(categories, store)


def test_groups_against_all_pairs() -> None:
    """Rows near a few directions, in any order, more than one block of them."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(1500, 32))
    owners = np.concatenate([np.arange(1500), rng.integers(0, 1500, 300)])
    rows = centers[owners] + 1e-4 * rng.normal(size=(1800, 32))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    expected: dict[int, list[int]] = {}
    for index, owner in enumerate(owners.tolist()):
        expected.setdefault(owner, []).append(index)
    groups = [group for group in expected.values() if len(group) > 1]
    assert sorted(indistinct(rows)) == sorted(groups)
    assert indistinct(np.eye(3, dtype=np.float32)) == []
    assert indistinct(np.zeros((0, 3), np.float32)) == []


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["Helmet", "dog", "helmet"], ["10 'Helmet', 12 'helmet'"]),
        (["hard hat", "Hard  hat", "dog"], ["10 'hard hat', 11 'Hard  hat'"]),
        (["café", "cafe"], ["10 'café', 11 'cafe'"]),
    ],
)
def test_names_of_one_embedding(names: list[str], named: list[str]) -> None:
    found = notes(names)
    rows = EmbeddingStore().embed(classes(names))
    count = sum(rows[i] @ rows[j] > SAME for i in range(len(rows)) for j in range(i))
    assert len(found) == count == len(named)
    for note, text in zip(found, named, strict=True):
        assert text in note and "one text embedding" in note and "segkit relabel" in note


@pytest.mark.parametrize("names", [["划痕", "裂纹"], ["😀", "😃"], ["划痕"], ["​"]])
def test_names_that_the_encoder_cannot_read(names: list[str]) -> None:
    (note,) = notes([*names, "dog"])
    assert all(f"{category.id} {category.name!r}" in note for category in classes(names))
    assert "cannot read" in note and "English names with `segkit relabel`" in note
    assert notes([*names, "dog"]) == [note]  # also once they are encoded


@pytest.mark.parametrize("name", known_taxonomies())
def test_shipped_vocabularies_are_distinct_or_say_so(name: str) -> None:
    taxonomy, store = load_taxonomy(name), EmbeddingStore()
    rows = store.embed(taxonomy)
    similar = np.triu(rows @ rows.T > SAME, k=1).any(axis=1)
    found = indistinct_notes(taxonomy.categories, store)
    assert bool(found) == bool(similar.any())


def test_classes_without_an_embedding_are_passed_over() -> None:
    assert indistinct_notes(classes(["zorp", "dog"]), EmbeddingStore()) == []


def test_encode_says_so() -> None:
    done = CliRunner().invoke(app, ["vocabulary", "encode", "划痕", "helmet", "Helmet"])
    assert done.exit_code == 0
    assert "cannot read 1 '划痕'" in done.stderr
    assert "classes 2 'helmet', 3 'Helmet' have one text embedding" in done.stderr
