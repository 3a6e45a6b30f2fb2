"""Text embeddings of class names: the frozen rows of the classifier.

Encoder: all-MiniLM-L6-v2 (Apache-2.0), mean-pooled, reading `TEMPLATE`; the mean over the shipped
vocabularies is subtracted and the rows are scaled to unit length. Why so, measured by
scripts/experiment_templates.py on 1,041 words and 49 pairs of synonyms across vocabularies
(sofa/couch, person/pedestrian, life buoy/lifebuoy, circle/disc ...):

    text                          mean cosine   synonyms   z     AUC    partner nearest or second
    plain name                    0.22          0.65       4.6   0.968  61 %
    plain name, centerd           0.00          0.54       5.5   0.980  61 %
    "a photo of a {}."            0.39          0.77       4.5   0.981  64 %
    "a photo of a {}.", centerd   0.00          0.60       5.5   0.984  65 %
    mean of 7 templates, centerd  0.00          0.59       5.6   0.985  65 %

z is the distance of synonyms from all pairs in standard deviations; AUC the chance that a synonym
pair is closer than a random pair. Centring is what matters (unrelated classes become orthogonal);
the templates differ by less than 49 pairs can tell, so it is the field's usual one. What no
template mends is a word with two meanings: `disc` stays closer to compact discs than to `circle`.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from segkit.errors import InputError
from segkit.sample import Kind
from segkit.storage import cache_root
from segkit.taxonomy import Category, Taxonomy, known_taxonomies, load_taxonomy
from segkit.text.encoders import MINILM, MINILM_MODEL, Vectors, load_encoder
from segkit.text.encoding import SHIPPED, Encoding, command_options
from segkit.text.table import Table, read_table, unit, write_table


def normalize(word: str) -> str:
    """The key of a word: lower case (the encoder reads no capitals), underscores and runs of blanks
    as one blank."""
    return re.sub(r"[\s_]+", " ", word).strip().lower()


def named_taxonomy(names: Sequence[str]) -> Taxonomy:
    """Plain names as classes 1, 2, ...; stuff is what a shipped taxonomy knows as stuff, the rest
    are things.

    Raises:
        InputError: no name, or one that comes twice.
    """
    keys = [normalize(name) for name in names]
    if not keys or len(set(keys)) != len(keys):
        twice = next(
            (name for name, key in zip(names, keys, strict=True) if keys.count(key) > 1), None
        )
        message = "no class names" if twice is None else f"the class name {twice!r} comes twice"
        raise InputError(message, hint="give different names")
    kinds = _kinds()
    rows = [
        Category(i, name.strip(), kinds.get(key, "thing"))
        for i, (name, key) in enumerate(zip(names, keys, strict=True), 1)
    ]
    return Taxonomy("own", tuple(rows))


def open_vocabulary(spec: str) -> Taxonomy:
    """A shipped taxonomy by name, one from a JSON file, or the names of a text file, one a line."""
    if spec in known_taxonomies() or not (Path(spec).is_file() and Path(spec).suffix != ".json"):
        return load_taxonomy(spec)
    lines = Path(spec).read_text("utf-8").splitlines()
    return named_taxonomy([line for line in lines if line.strip()])


def embed(classes: Taxonomy | Sequence[Category], encoding: Encoding = SHIPPED) -> Vectors:
    """One unit row per class: the mean over its words' embeddings, scaled to unit length again.

    A class whose name has no embedding, but is a name in a shipped taxonomy (`tree-merged`), takes
    that one's words.

    Args:
        classes: a taxonomy (rows in index order) or categories (rows in the given order).
        encoding: how the words were encoded.

    Returns:
        (K, D) float32.

    Raises:
        InputError: where words lack an embedding; names the classes and the command that encodes
            them.
    """
    categories = classes.categories if isinstance(classes, Taxonomy) else tuple(classes)
    table = stored(encoding)
    words = [_words(category, table) for category in categories]
    missing = [
        (category.name, word)
        for category, known in zip(categories, words, strict=True)
        for word in known
        if normalize(word) not in table
    ]
    if missing:
        raise _no_embedding(
            missing, classes.name if isinstance(classes, Taxonomy) else None, encoding
        )
    rows = [np.mean([table[normalize(word)] for word in known], axis=0) for known in words]
    return unit(np.stack(rows)) if rows else np.zeros((0, dimension(encoding) or 0), np.float32)


def has_embedding(taxonomy: Taxonomy) -> list[bool]:
    """For each class in index order, whether `embed` has a row for it in the shipped encoding."""
    table = stored()
    return [all(normalize(word) in table for word in _words(c, table)) for c in taxonomy.categories]


def missing_words(categories: Sequence[Category], encoding: Encoding = SHIPPED) -> list[str]:
    """The words without which `embed` refuses these classes."""
    table = stored(encoding)
    return [w for c in categories for w in _words(c, table) if normalize(w) not in table]


def stored(encoding: Encoding = SHIPPED) -> dict[str, Vectors]:
    """Every word with an embedding, those of the cache included, and its (D,) unit vector."""
    table = dict(_shipped().rows) if encoding == SHIPPED else {}
    if cache_file(encoding).is_file():
        table.update(read_table(cache_file(encoding)).rows)
    return table


def dimension(encoding: Encoding = SHIPPED) -> int | None:
    """Width D of the stored embeddings; None where there are none yet."""
    return len(next(iter(stored(encoding).values()), ())) or None


def refuse_other_weights(encoding: Encoding, by: str | None) -> None:
    """Raise InputError where the stored words were encoded by other weights than `by` (None: not
    known)."""
    here = weights(encoding)
    if by is not None and here is not None and here != by:
        message = f"its words were encoded by other weights of {encoding.name} ({here}) than the run's ({by})"
        hint = "delete it, and encode the words by the weights that the run was trained with"
        raise InputError(message, file=cache_file(encoding), hint=hint)


def weights(encoding: Encoding = SHIPPED) -> str | None:
    """Digest of the weights by which the stored words were encoded; None where there are none
    yet."""
    if encoding == SHIPPED:
        return _digest(_shipped().mean)
    return read_table(cache_file(encoding)).weights if cache_file(encoding).is_file() else None


def encode(words: Sequence[str], encoding: Encoding = SHIPPED) -> Vectors:
    """(N, D) unit rows of `words` from the text encoder, the same as the stored ones.

    Raises:
        InputError: where the encoder is not installed.
    """
    return _encode(words, encoding)[0]


def encode_raw(words: Sequence[str], encoding: Encoding = SHIPPED) -> Vectors:
    """(N, D) unit rows before any mean is subtracted: means over the templates of unit rows, as
    CLIP ensembles them."""
    return _encode_raw(words, encoding)[0]


def learn(words: Iterable[str], encoding: Encoding = SHIPPED) -> tuple[str, ...]:
    """Encode what has no embedding yet and keep it in the cache; returns the words that were new.

    Raises:
        InputError: the encoder is not installed, or has other weights than those of the words in
            the cache.
        SegkitError: its weights could not be fetched.
    """
    known = stored(encoding)
    new = tuple(dict.fromkeys(word for word in map(normalize, words) if word and word not in known))
    if not new:
        return new
    made, by = _encode(new, encoding)
    rows, file = dict(zip(new, made, strict=True)), cache_file(encoding)
    if file.is_file():
        kept = read_table(file)
        if kept.weights not in (None, by):
            message = f"{encoding.name} has other weights ({by}) than when the words in the cache were encoded"
            raise InputError(
                message,
                file=file,
                hint="give the weights of then, or delete the file to encode anew",
            )
        rows = {**kept.rows, **rows}
    write_table(file, rows, mean(encoding), encoding, by)
    return new


def _encode(words: Sequence[str], encoding: Encoding) -> tuple[Vectors, str]:
    raw, by = _encode_raw(words, encoding)
    center = mean(encoding)
    return (raw if center is None else unit(raw - center)), (
        _digest(center) if center is not None else by
    )


def _encode_raw(words: Sequence[str], encoding: Encoding) -> tuple[Vectors, str]:
    encoder = load_encoder(encoding.encoder)
    total = sum(
        unit(encoder.encode([template.replace("{}", normalize(word)) for word in words]))
        for template in encoding.templates
    )
    return unit(np.asarray(total, np.float32)), encoder.weights


def mean(encoding: Encoding = SHIPPED) -> Vectors | None:
    """(D,) mean that is subtracted from raw embeddings; fixed, so that adding words changes no
    known vector.

    Only the shipped encoding has one. CLIP's vectors are used as they are, as by DaTaSeg and
    others.
    """
    return _shipped().mean if encoding == SHIPPED else None


def cache_file(encoding: Encoding = SHIPPED) -> Path:
    """Where words that the user encoded are kept; the name follows what decides their vectors."""
    slug = re.sub(r"[^a-z0-9]+", "-", encoding.name.lower()).strip("-")[-60:]
    key = (
        _digest(_shipped().mean)
        if encoding == SHIPPED
        else _key([encoding.encoder, *encoding.templates])
    )
    return cache_root() / "embeddings" / f"{slug}-{key}.safetensors"


@cache
def _shipped() -> Table:
    name = f"{MINILM_MODEL.lower()}.safetensors"
    with resources.as_file(resources.files("segkit.schemas") / "embeddings" / name) as path:
        return read_table(path)


def _digest(vector: Vectors) -> str:
    return hashlib.sha256(vector.tobytes()).hexdigest()[:8]


def _key(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:8]


@cache
def _aliases() -> dict[str, tuple[str, ...]]:
    """Names in shipped taxonomies -> the words by which those know the class."""
    found: dict[str, tuple[str, ...]] = {}
    for name in known_taxonomies():
        for category in load_taxonomy(name).categories:
            for spelling in filter(None, (category.name, category.source_name)):
                found.setdefault(normalize(spelling), category.words)
    return found


@cache
def _kinds() -> dict[str, Kind]:
    """Words in shipped taxonomies -> thing or stuff, as the first of these has it."""
    found: dict[str, Kind] = {}
    for name in known_taxonomies():
        for category in load_taxonomy(name).categories:
            for word in (category.name, *category.words):
                found.setdefault(normalize(word), category.kind)
    return found


def _words(category: Category, table: dict[str, Any]) -> tuple[str, ...]:
    if category.text or normalize(category.name) in table:
        return category.words
    return _aliases().get(normalize(category.name), category.words)


def _no_embedding(
    missing: list[tuple[str, str]], taxonomy: str | None, encoding: Encoding
) -> InputError:
    classes = list(dict.fromkeys(repr(name) for name, _ in missing))
    words = list(dict.fromkeys(normalize(word) for _, word in missing))
    shown = ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")
    plural = "class" if len(classes) == 1 else "classes"
    record = f"vocabulary {taxonomy}" if taxonomy else None
    by = "" if encoding.encoder == MINILM else f" by {encoding.name}"
    options = command_options(encoding)
    given = [*options, taxonomy] if taxonomy in known_taxonomies() else [*options, *words]
    hint = f"run: segkit vocabulary encode {shlex.join(map(str, given))}"
    return InputError(f"no text embedding{by} for {plural} {shown}", record=record, hint=hint)
