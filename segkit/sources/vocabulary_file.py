"""Opens the vocabulary that a user names: a shipped taxonomy, or a JSON or text file of classes."""

from dataclasses import replace
from pathlib import Path

from segkit import parse
from segkit.errors import InputError
from segkit.sources.labels_file import LabelList, read_labels
from segkit.taxonomy import Taxonomy, known_taxonomies, load_taxonomy
from segkit.text.vocabulary import require_classes, taxonomy_from_names


def open_vocabulary(name_or_file: str) -> Taxonomy:
    """Open a shipped taxonomy by name, a taxonomy JSON file, or a text file with a class a line.

    A text file is read as conversion reads one (`segkit.sources.labels_file`). Classes keep the
    indices that it gives them, so that the labels.txt of an export names the classes of its set;
    others are numbered from 1.

    Raises:
        InputError: neither; a file that cannot be read; no class in it, or two of one name or
            index.
    """
    is_file = parse.exists(name_or_file)
    if name_or_file in known_taxonomies() or (is_file and Path(name_or_file).suffix == ".json"):
        return require_classes(load_taxonomy(name_or_file), name_or_file)
    if not is_file:
        known = ", ".join(known_taxonomies())
        hint = f"give a JSON file, a text file with a class a line, or one of: {known}"
        raise InputError(f"unknown vocabulary {name_or_file!r}", hint=hint)
    labels = read_labels(Path(name_or_file))
    try:
        return _taxonomy(labels)
    except InputError as error:
        raise error.in_file(name_or_file) from error


def _taxonomy(labels: LabelList) -> Taxonomy:
    """The classes of a text file."""
    taxonomy = taxonomy_from_names([native.name for native in labels.categories])
    if not labels.has_indices:
        return taxonomy
    pairs = zip(taxonomy.categories, labels.categories, strict=True)
    categories = tuple(replace(category, id=native.id) for category, native in pairs)
    return Taxonomy(taxonomy.name, categories)
