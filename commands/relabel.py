"""`segkit relabel`: map a shard set to another taxonomy."""

from dataclasses import replace
from pathlib import Path

import typer

from segkit import parse
from segkit.errors import InputError
from segkit.storage import writable
from segkit.taxonomy import Taxonomy, known_taxonomies, load_taxonomy, normalize

from .common import (
    FORCE_OPTION,
    IMAGES_ROOT_OPTION,
    JSON_OPTION,
    SET_HELP,
    VERIFY_OPTION,
    emit,
    table,
)
from .progress import progress_bar


def relabel(
    spec: str = typer.Argument(metavar="SET", help=SET_HELP),
    taxonomy: str = typer.Option(
        ...,
        metavar="NAME|FILE|SET",
        help="The new classes: a known vocabulary, a taxonomy JSON file, a text file with one name "
        "a line, or a shard set, whose classes are taken.",
    ),
    mapping: Path = typer.Option(
        ...,
        "--map",
        metavar="FILE",
        help="CSV with columns from and to (names or ids); a blank to drops the class.",
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="SET", parser=writable, help="Shard set to write a version of."
    ),
    verify_images: bool = VERIFY_OPTION,
    force: bool = FORCE_OPTION,
    images_root: list[str] = IMAGES_ROOT_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Map the classes of a shard set to another taxonomy by a table; no image is copied.

    The table needs a line for every class of the set. If labels cover whole images, the pixels of
    dropped classes become void. A class of a text file is a thing or stuff as in the set, or as all
    classes of the set are.

    Example: segkit relabel work/ade --taxonomy coco-panoptic-133 --map map.csv --out work/ade-coco
    """
    from segkit.shards.reader import ShardSet
    from segkit.shards.relabel import read_table
    from segkit.shards.relabel import relabel as write_relabeled

    data = ShardSet.open(spec)
    new = _open_taxonomy(taxonomy, data.taxonomy)
    class_map = read_table(mapping, data.taxonomy, new)
    arguments = {"set": spec, "taxonomy": taxonomy, "map": str(mapping), "out": str(out)}
    options = {"verify_images": verify_images, "force": force}
    with progress_bar(f"relabel {data.path.parent.name}", len(data)) as advance:
        relabeled = write_relabeled(
            data, out, new, class_map, arguments, on_image=advance, **options
        )
    ledger = relabeled.manifest.ledger
    result = {
        "path": str(relabeled.path),
        "version": relabeled.version,
        "ledger": ledger.annotations.model_dump(),
        "per_class": {name: count.model_dump() for name, count in ledger.per_class.items()},
        "images": ledger.images.model_dump(),
        "digest": relabeled.manifest.digest,
    }
    rows = [
        (name, count.input, count.kept, count.input - count.kept)
        for name, count in ledger.per_class.items()
    ]
    columns = ("class before", "segments", "kept", "dropped")
    summary = table(str(relabeled.path), columns, rows)
    emit(result, schema="segkit.relabel/1", as_json=as_json, tables=[summary])


def _open_taxonomy(name: str, before: Taxonomy) -> Taxonomy:
    """The classes that `--taxonomy` names; `before` are those of the set.

    Raises:
        InputError: neither a vocabulary nor a file or set of classes.
    """
    from segkit.shards.publish import parse_spec
    from segkit.shards.reader import ShardSet
    from segkit.sources.vocabulary_file import open_vocabulary

    if name in known_taxonomies():
        return load_taxonomy(name)
    if not parse.exists(name):
        if parse_spec(name)[0].is_dir():
            return ShardSet.open(name).taxonomy
        known = ", ".join(known_taxonomies())
        hint = f"give a JSON file, a text file with a class a line, a shard set, or one of: {known}"
        raise InputError(f"unknown vocabulary {name!r}", hint=hint)
    if parse.read_text(Path(name)).lstrip().startswith("{"):
        return load_taxonomy(name)
    return _with_kinds_of(before, open_vocabulary(name))


def _with_kinds_of(before: Taxonomy, names: Taxonomy) -> Taxonomy:
    """Classes of a list of names, each a thing or stuff as in a set, or as all of its classes."""
    kinds = {normalize(category.name): category.kind for category in before.categories}
    common = set(kinds.values())
    default = common.pop() if len(common) == 1 else None
    categories = (
        replace(c, kind=kinds.get(normalize(c.name)) or default or c.kind) for c in names.categories
    )
    return Taxonomy(names.name, tuple(categories))
