"""`segkit vocabulary`: the class lists that ship, and text embeddings for one's own class names."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import typer

from segkit.errors import InputError
from segkit.taxonomy import known_taxonomies, load_taxonomy

from .common import JSON_OPTION, counted, emit, note, table

app = typer.Typer(
    no_args_is_help=True,
    help="Class lists that ship, and text embeddings for your own class names.",
)

_CLOSE = 0.8
"""Likeness (difflib, 0-1) from which a word is taken for a misspelt vocabulary: one wrong sign in
six."""


@app.command("list")
def list_(as_json: bool = JSON_OPTION) -> None:
    """List the vocabularies that ship with the package.

    Example: segkit vocabulary list
    """
    taxonomies = [load_taxonomy(name) for name in known_taxonomies()]
    rows = [
        (t.name, len(t.categories), sum(c.kind == "thing" for c in t.categories))
        for t in taxonomies
    ]
    keys = ("name", "classes", "things", "stuff")
    full = [(*row, row[1] - row[2]) for row in rows]
    result = {"vocabularies": [dict(zip(keys, row, strict=True)) for row in full]}
    emit(
        result,
        schema="segkit.vocabularies/1",
        as_json=as_json,
        tables=[table("Vocabularies", keys, full)],
    )


@app.command()
def show(
    name: str = typer.Argument(help="A vocabulary that ships, or a taxonomy JSON file."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Show the classes of a vocabulary: id, name, kind, the words of its embedding, and whether it
    has one.

    Example: segkit vocabulary show coco-panoptic-133
    """
    from segkit.text.vocabulary import has_embedding

    taxonomy = load_taxonomy(name)
    embedded = has_embedding(taxonomy)
    rows = [
        (c.id, c.name, c.kind, ", ".join(c.words), "yes" if known else "no")
        for c, known in zip(taxonomy.categories, embedded, strict=True)
    ]
    shown = table(taxonomy.name, ("id", "name", "kind", "words", "embedding"), rows)
    result = {**taxonomy.to_json(), "embedded": embedded}
    emit(result, schema="segkit.vocabulary/1", as_json=as_json, tables=[shown])


@app.command()
def encode(
    names: list[str] = typer.Argument(None, help="Class names, or vocabularies that ship."),
    file: Path = typer.Option(
        None, "--file", help="A text file with one name a line, or a taxonomy JSON file."
    ),
    encoder: str = typer.Option(
        "minilm", "--encoder", help="minilm, clip:ARCH/WEIGHTS or hf:FOLDER_OR_NAME."
    ),
    templates: str = typer.Option(
        "photo",
        "--templates",
        help="Texts around a name: photo, none, imagenet (CLIP's 80), or a file of them.",
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Encode class names by a text encoder (extras minilm, clip, hf) and keep the result for all
    later runs.

    The vectors go to $SEGKIT_CACHE (~/.cache/segkit); names that already have one are left as they
    are. A run is trained in the space of one encoder (--set text.encoder=..., text.templates=...)
    and keeps to it.

    Example: segkit vocabulary encode "fish bone" 'solder joint'

    Example: segkit vocabulary encode coco-panoptic-133 --encoder clip:ViT-L-14/openai --templates
    imagenet
    """
    from segkit.text.encoding import Encoding
    from segkit.text.vocabulary import cache_file, dimension, learn, open_vocabulary

    known = known_taxonomies()
    words = [name for name in names or () if name not in known]
    _note_misspelt(words, known)
    opened = [
        open_vocabulary(name)
        for name in [*(n for n in names or () if n in known), *([str(file)] if file else [])]
    ]
    words += [
        word for taxonomy in opened for category in taxonomy.categories for word in category.words
    ]
    if not words:
        raise InputError("no names to encode", hint="give names, or --file FILE")
    encoding = Encoding.of(encoder, templates)
    new = learn(words, encoding)
    result = {
        "encoder": encoding.name,
        "templates": list(encoding.templates),
        "dimension": dimension(encoding),
        "encoded": list(new),
        "words": len(words),
        "cache": str(cache_file(encoding)),
    }
    line = f"{counted(len(new), 'word')} encoded by {encoding.name}"
    if others := len(words) - len(new):
        line += f", {others} had an embedding"
    emit(result, schema="segkit.encode/1", as_json=as_json, tables=[f"{line}: {result['cache']}"])


def _note_misspelt(words: Sequence[str], known: Sequence[str]) -> None:
    """A vocabulary's name with a typo in it would be encoded as one class, and the vocabulary
    missed much later."""
    for word in words:
        for close in get_close_matches(word.lower(), known, n=1, cutoff=_CLOSE):
            note(f"{word}: no such vocabulary; did you mean {close}? taken as a class name")
