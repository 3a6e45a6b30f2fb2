import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.shards.reader import ShardSet
from segkit.taxonomy import Taxonomy, known_taxonomies, load_taxonomy
from segkit.text.embeddings import EmbeddingStore
from tests.training.toy import write_toy_set


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_encode_reads_names_from_files(tmp_path: Path) -> None:
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


def test_encode_notes_a_misspelt_vocabulary_but_no_class_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(EmbeddingStore, "add", lambda self, words: tuple(words))
    names = ["coco-panoptic-13", "Voc20", "solder joint"]
    outcome = CliRunner().invoke(app, ["vocabulary", "encode", *names, "--json"])
    assert outcome.exit_code == 0 and json.loads(outcome.stdout)["encoded"] == names
    tail = "taken as a class name"
    assert outcome.stderr.splitlines() == [
        f"note: coco-panoptic-13: no such vocabulary; did you mean coco-panoptic-133? {tail}",
        f"note: Voc20: no such vocabulary; did you mean voc-20? {tail}",
    ]
    shipped_words = {
        word
        for name in known_taxonomies()
        for c in load_taxonomy(name).categories
        for word in (c.name, *c.words)
    }
    outcome = CliRunner().invoke(app, ["vocabulary", "encode", *sorted(shipped_words), "--json"])
    assert outcome.exit_code == 0 and "no such vocabulary" not in outcome.stderr


def test_encode_takes_no_file_for_a_class_name(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n")
    for name, message in (
        (str(tmp_path / "names.txt"), "is a file; give a text file of names by --file"),
        ("./nowhere", "no such set"),
    ):
        result = CliRunner().invoke(app, ["vocabulary", "encode", name])
        assert isinstance(result.exception, InputError)
        assert message in str(result.exception)


@pytest.mark.parametrize(
    ("new", "line"),
    [
        (("zorp", "blib"), "2 words encoded by all-MiniLM-L6-v2: "),
        (("zorp",), "1 word encoded by all-MiniLM-L6-v2, 1 had an embedding: "),
        ((), "0 words encoded by all-MiniLM-L6-v2, 2 had an embedding: "),
    ],
)
def test_encode_counts_new_and_existing_words(
    new: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmbeddingStore, "add", lambda self, words: new)
    printed = CliRunner().invoke(app, ["vocabulary", "encode", "zorp", "blib"]).stdout
    assert printed.startswith(line) and printed.count("\n") == 1


def test_list_and_show_print_the_shipped_vocabularies() -> None:
    listed = json.loads(CliRunner().invoke(app, ["vocabulary", "list", "--json"]).stdout)[
        "vocabularies"
    ]
    assert {"name": "coco-panoptic-133", "classes": 133, "things": 80, "stuff": 53} in listed
    printed = json.loads(CliRunner().invoke(app, ["vocabulary", "show", "voc-20", "--json"]).stdout)
    assert printed["embedded"] == [True] * 20
    assert Taxonomy.from_json(printed) == load_taxonomy("voc-20")


def test_encode_takes_the_names_of_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddingStore, "add", lambda self, words: tuple(words))
    toy = write_toy_set(tmp_path / "toy")
    words = [word for category in toy.taxonomy.categories for word in category.words]
    for spec in (tmp_path / "toy", f"{tmp_path}/toy@v1", toy.path):
        outcome = CliRunner().invoke(app, ["vocabulary", "encode", str(spec), "--json"])
        assert json.loads(outcome.stdout)["encoded"] == words
    outcome = CliRunner().invoke(app, ["vocabulary", "encode", "toy", "x" * 5000, "--json"])
    assert json.loads(outcome.stdout)["encoded"] == ["toy", "x" * 5000]


def test_show_takes_what_predict_takes(toy: ShardSet, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\nsky\n")
    lists = ((toy.path.parent, list(toy.taxonomy.names)), ("names.txt", ["cat", "sky"]))
    for name, expected in lists:
        outcome = CliRunner().invoke(app, ["vocabulary", "show", str(tmp_path / name), "--json"])
        assert [c["name"] for c in json.loads(outcome.stdout)["categories"]] == expected
