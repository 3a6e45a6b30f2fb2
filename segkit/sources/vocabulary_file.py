"""Opens the vocabulary that a user names: a shipped taxonomy, a file of classes, or a set's."""

from dataclasses import replace
from pathlib import Path

from segkit import parse
from segkit.errors import InputError
from segkit.shards.reader import ShardSet
from segkit.shards.versions import MANIFEST, parse_spec, versions
from segkit.sources.labels_file import LabelList, read_labels
from segkit.storage import is_remote
from segkit.taxonomy import Taxonomy, known_taxonomies, load_taxonomy, normalize
from segkit.text.vocabulary import require_classes, taxonomy_from_names


def open_vocabulary(name: str, kinds_of: Taxonomy | None = None) -> Taxonomy:
    """Open a shipped taxonomy, a taxonomy JSON file, a text file with a class a line, or a set's.

    A text file is read as conversion reads one (`segkit.sources.labels_file`). Classes keep the
    indices that it gives them, so that the labels.txt of an export names the classes of its set;
    others are numbered from 1.

    Args:
        name: of a shipped taxonomy, a file or a shard set.
        kinds_of: classes that tell whether those of a text file are things or stuff: each is as the
            one of its name, or as all of them; None to go by the shipped taxonomies.

    Raises:
        InputError: none of these; a file that cannot be read; no class in it, or two of one name or
            index.
    """
    if name in known_taxonomies():
        return load_taxonomy(name)
    if not parse.exists(name):
        if (shards := set_named(name)) is not None:
            return require_classes(shards.taxonomy, name)
        known = ", ".join(known_taxonomies())
        hint = f"give a JSON file, a text file with a class a line, a shard set, or one of: {known}"
        raise InputError(f"unknown vocabulary {name!r}", hint=hint)
    if name.endswith(".json") or _is_json(parse.read_text(Path(name))):
        return require_classes(load_taxonomy(name), name)
    labels = read_labels(Path(name))
    try:
        taxonomy = _taxonomy(labels)
    except InputError as error:
        raise error.in_file(name) from error
    return taxonomy if kinds_of is None else _with_kinds_of(taxonomy, kinds_of)


def _is_json(text: str) -> bool:
    """Whether a text is a JSON object rather than names, of which the first may begin with `{`."""
    return text.lstrip().startswith("{") and '"categories"' in text


def set_named(name: str) -> ShardSet | None:
    """The shard set that a text names; None where the text is something else."""
    try:
        directory, _ = parse_spec(name)
        is_local = name.strip() and (versions(directory) or (directory / MANIFEST).is_file())
        is_set = is_remote(directory) or bool(is_local)
    except (InputError, OSError, ValueError):  # a name that no folder can have
        return None
    return ShardSet.open(name) if is_set else None


def _taxonomy(labels: LabelList) -> Taxonomy:
    """The classes of a text file."""
    taxonomy = taxonomy_from_names([native.name for native in labels.categories])
    if not labels.has_indices:
        return taxonomy
    pairs = zip(taxonomy.categories, labels.categories, strict=True)
    categories = tuple(replace(category, id=native.id) for category, native in pairs)
    return Taxonomy(taxonomy.name, categories)


def _with_kinds_of(taxonomy: Taxonomy, kinds_of: Taxonomy) -> Taxonomy:
    kinds = {normalize(category.name): category.kind for category in kinds_of.categories}
    common = set(kinds.values())
    default = common.pop() if len(common) == 1 else None
    categories = (
        replace(c, kind=kinds.get(normalize(c.name)) or default or c.kind)
        for c in taxonomy.categories
    )
    return Taxonomy(taxonomy.name, tuple(categories))
