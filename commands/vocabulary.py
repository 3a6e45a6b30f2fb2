"""`segkit vocabulary`: the class lists that ship, and text embeddings for one's own class names."""

from pathlib import Path

import typer

from segkit.errors import InputError
from segkit.taxonomy import Taxonomy, known_taxonomies, load_taxonomy

from .common import JSON_OPTION, emit, table

app = typer.Typer(no_args_is_help=True, help="Class lists that ship, and text embeddings for your own class names.")


@app.command("list")
def list_(as_json: bool = JSON_OPTION) -> None:
    """List the vocabularies that ship with the package.

    Example: segkit vocabulary list
    """
    taxonomies = [load_taxonomy(name) for name in known_taxonomies()]
    rows = [(t.name, len(t.categories), sum(c.kind == "thing" for c in t.categories)) for t in taxonomies]
    keys = ("name", "classes", "things", "stuff")
    full = [(*row, row[1] - row[2]) for row in rows]
    result = {"vocabularies": [dict(zip(keys, row, strict=True)) for row in full]}
    emit(result, schema="segkit.vocabularies/1", as_json=as_json, tables=[table("Vocabularies", keys, full)])


@app.command()
def show(
    name: str = typer.Argument(help="A vocabulary that ships, or a taxonomy JSON file."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Show the classes of a vocabulary: id, name, kind, the words of its embedding, and whether it has one.

    Example: segkit vocabulary show coco-panoptic-133
    """
    from segkit.vocabulary import has_embedding

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
    names: list[str] = typer.Argument(None, help="Class names."),
    file: Path = typer.Option(None, "--file", help="A text file with one name a line, or a taxonomy JSON file."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Encode class names by the text encoder (extra `minilm`) and keep the result for all later runs.

    The vectors go to $SEGKIT_CACHE (~/.cache/segkit); names that already have one are left as they are.

    Example: segkit vocabulary encode "fish bone" 'solder joint'
    """
    from segkit.vocabulary import ENCODER, cache_file, learn

    words = [*(names or ()), *(_words_of(file) if file else ())]
    if not words:
        raise InputError("no names to encode", mend="give names, or --file FILE")
    new = learn(words)
    result = {"encoder": ENCODER, "encoded": list(new), "words": len(words), "cache": str(cache_file())}
    line = f"{len(new)} of {len(words)} words encoded by {ENCODER}, the others had an embedding: {cache_file()}"
    emit(result, schema="segkit.encode/1", as_json=as_json, tables=[line])


def _words_of(file: Path) -> list[str]:
    if not file.is_file():
        raise InputError(
            "no such file", file=file, mend="give a text file with one name a line, or a taxonomy JSON file"
        )
    if file.suffix == ".json":
        taxonomy: Taxonomy = load_taxonomy(str(file))
        return [word for category in taxonomy.categories for word in category.words]
    return [line for line in file.read_text("utf-8").splitlines() if line.strip()]
