"""`segkit vocabulary`: shipped class lists, and text embeddings for the user's class names."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import typer

from segkit import parse
from segkit.errors import InputError, plural
from segkit.taxonomy import Category, known_taxonomies, load_taxonomy, normalize

from .common import emit, note, table

app = typer.Typer(
    no_args_is_help=True,
    help="List the shipped vocabularies, and encode your own class names as text embeddings.\n\n"
    "Example: segkit vocabulary encode cat sofa floor",
)

_MIN_SIMILARITY = 0.8
"""Similarity (difflib, 0-1) at which a word may be a misspelled vocabulary: one wrong character in
six."""


@app.command("list")
def list_() -> None:
    """List the shipped vocabularies.

    Example: segkit vocabulary list
    """
    taxonomies = [load_taxonomy(name) for name in known_taxonomies()]
    keys = ("name", "classes", "things", "stuff")
    rows = []
    for taxonomy in taxonomies:
        classes = len(taxonomy.categories)
        things = sum(category.kind == "thing" for category in taxonomy.categories)
        rows.append((taxonomy.name, classes, things, classes - things))
    result = {"vocabularies": [dict(zip(keys, row, strict=True)) for row in rows]}
    emit(result, schema="segkit.vocabularies/1", tables=[table("Vocabularies", keys, rows)])


@app.command()
def show(
    name: str = typer.Argument(
        metavar="NAME|FILE|SET", help="A shipped vocabulary, a file of classes, or a shard set."
    ),
) -> None:
    """Show the classes of a vocabulary: id, name, kind, words, and whether an embedding exists.

    Example: segkit vocabulary show coco-panoptic-133
    """
    from segkit.sources.vocabulary_file import open_vocabulary
    from segkit.text.embeddings import EmbeddingStore

    taxonomy = open_vocabulary(name)
    embedded = EmbeddingStore().has_embeddings(taxonomy)
    rows = [
        (c.id, c.name, c.kind, ", ".join(c.words), "yes" if known else "no")
        for c, known in zip(taxonomy.categories, embedded, strict=True)
    ]
    columns = ("id", "name", "kind", "words", "embedding")
    result = {**taxonomy.to_json(), "embedded": embedded}
    emit(result, schema="segkit.vocabulary/1", tables=[table(taxonomy.name, columns, rows)])


@app.command()
def encode(
    names: list[str] | None = typer.Argument(
        None, help="Class names, shipped vocabularies, or shard sets."
    ),
    file: Path | None = typer.Option(
        None, "--file", help="A text file with one name per line, or a taxonomy JSON file."
    ),
    encoder: str = typer.Option(
        "minilm", "--encoder", help="minilm, clip:ARCH/WEIGHTS or hf:FOLDER_OR_NAME."
    ),
    templates: str = typer.Option(
        "photo",
        "--templates",
        help="Sentences around a name: photo, none, imagenet (CLIP's 80), or a text file.",
    ),
) -> None:
    """Encode class names with a text encoder (extras minilm, clip, hf), and keep their embeddings.

    The embeddings go to $SEGKIT_CACHE (~/.cache/segkit); names that have one keep it. A run uses
    the encoder and templates that it was trained with (--set text.encoder=...,
    text.templates=...).

    Example: segkit vocabulary encode "fish bone" 'solder joint'

    Example: segkit vocabulary encode work/parts

    Example: segkit vocabulary encode coco-panoptic-133 --encoder clip:ViT-L-14/openai --templates
    imagenet
    """
    from segkit.sources.vocabulary_file import open_vocabulary, set_named
    from segkit.text.embeddings import EmbeddingStore, words_of
    from segkit.text.encoding import Encoding
    from segkit.text.indistinct import indistinct_notes

    known = known_taxonomies()
    sets = {name: shards for name in names or () if (shards := set_named(name)) is not None}
    words = [name for name in names or () if name not in known and name not in sets]
    _note_misspelled(words, known)
    for word in words:
        if parse.exists(word) or word.startswith(("./", "../", "/")):
            message = "is a file" if parse.exists(word) else "no such set"
            raise InputError(message, file=word, hint="give a text file of names by --file")
    unique = dict.fromkeys(words)
    named = tuple(Category(i, word, "thing", (word,)) for i, word in enumerate(unique, 1))
    lists = [named, *(shards.taxonomy.categories for shards in sets.values())]
    vocabularies = [name for name in names or () if name in known]
    if file:
        vocabularies.append(str(file))
    lists += [open_vocabulary(name).categories for name in vocabularies]
    words = [word for categories in lists for category in categories for word in words_of(category)]
    if not words:
        raise InputError("no names to encode", hint="give names, or --file FILE")
    if not all(word.strip() for word in words):
        raise InputError("a name is empty", hint="give each class a name")
    encoding = Encoding.from_names(encoder, templates)
    store = EmbeddingStore(encoding)
    new = store.add(words)
    for categories in lists:
        for text in indistinct_notes(categories, store):
            note(text)
    result = {
        "encoder": encoding.name,
        "templates": list(encoding.templates),
        "dimension": store.dimension(),
        "encoded": list(new),
        "words": len(words),
        "cache": str(store.cache_file),
    }
    line = f"{plural(len(new), 'word')} encoded by {encoding.name}"
    if existing := len({normalize(word) for word in words}) - len(new):
        line += f", {existing} had an embedding"
    emit(result, schema="segkit.encode/1", tables=[f"{line}: {store.cache_file}"])


def _note_misspelled(words: Sequence[str], known: Sequence[str]) -> None:
    """Print a note for each class name that is nearly the name of a vocabulary."""
    for word in words:
        for close in get_close_matches(word.lower(), known, n=1, cutoff=_MIN_SIMILARITY):
            note(f"{word}: no such vocabulary; did you mean {close}? taken as a class name")
