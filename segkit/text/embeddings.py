"""Text embeddings of class names, the frozen rows of the classifier.

Shipped encoding: all-MiniLM-L6-v2 (Apache-2.0), mean-pooled, with `TEMPLATE`; the mean over the
shipped vocabularies is subtracted and the rows are scaled to unit length. It was chosen by
`scripts/experiment_templates.py` on 1,041 words and 49 pairs of synonyms from different
vocabularies (sofa/couch, person/pedestrian, life buoy/lifebuoy, circle/disc ...):

    text                           mean cosine   synonyms   z     AUC    partner 1st or 2nd
    plain name                     0.22          0.65       4.6   0.968  61 %
    plain name, centered           0.00          0.54       5.5   0.980  61 %
    "a photo of a {}."             0.39          0.77       4.5   0.981  64 %
    "a photo of a {}.", centered   0.00          0.60       5.5   0.984  65 %
    mean of 7 templates, centered  0.00          0.59       5.6   0.985  65 %

z is the distance of synonyms from all pairs, in standard deviations; AUC the chance that a pair of
synonyms is closer than a random pair. Centering has the largest effect: unrelated classes become
orthogonal. 49 pairs cannot separate the templates, so the usual one is used. No template resolves a
word with two meanings: `disc` stays closer to compact discs than to `circle`.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from segkit.cache import cache_root, exclusive_lock
from segkit.errors import InputError, short_list
from segkit.taxonomy import Category, Taxonomy, known_taxonomies, load_taxonomy, normalize
from segkit.text.encoders import MINILM, MINILM_MODEL, TextEncoder, Vectors, load_encoder
from segkit.text.encoding import SHIPPED, Encoding
from segkit.text.table import EmbeddingTable, read_table, unit, write_table
from segkit.text.vocabulary import shipped_words


class EmbeddingStore:
    """The word embeddings of one encoding on this machine: shipped ones and those in the cache.

    Nothing is kept in memory: each call reads the cache file, which other processes may extend.

    Args:
        encoding: text encoder and templates.
    """

    def __init__(self, encoding: Encoding = SHIPPED) -> None:
        self.encoding = encoding

    def vectors(self) -> dict[str, Vectors]:
        """Every word with an embedding, and its (D,) unit vector."""
        vectors = dict(_shipped_table().rows) if self.encoding == SHIPPED else {}
        if self.cache_file.is_file():
            vectors.update(read_table(self.cache_file).rows)
        return vectors

    @property
    def cache_file(self) -> Path:
        """The file of the words that the user encoded.

        Its name depends on all that determines their vectors.
        """
        slug = re.sub(r"[^a-z0-9]+", "-", self.encoding.name.lower()).strip("-")[-60:]
        if self.encoding == SHIPPED:
            key = _digest(_shipped_table().mean.tobytes())
        else:
            parts = [self.encoding.encoder, *self.encoding.templates]
            key = _digest(json.dumps(parts).encode())
        return cache_root() / "embeddings" / f"{slug}-{key}.safetensors"

    @property
    def mean(self) -> Vectors | None:
        """(D,) mean that is subtracted from raw embeddings; None for all but the shipped encoding.

        It is fixed, so that new words change no known vector. CLIP's vectors are used uncentered,
        as by DaTaSeg and others.
        """
        return _shipped_table().mean if self.encoding == SHIPPED else None

    def dimension(self) -> int | None:
        """Width D of the embeddings; None while there are none."""
        return len(next(iter(self.vectors().values()), ())) or None

    def encoder_digest(self) -> str | None:
        """Digest of the weights that encoded the words; None while there are none."""
        if self.mean is not None:
            return _digest(self.mean.tobytes())
        return read_table(self.cache_file).encoder_digest if self.cache_file.is_file() else None

    def check_encoder(self, digest: str | None) -> None:
        """Raise InputError where other weights than a run's encoded the words.

        Args:
            digest: of the run's text encoder; None (not recorded) passes.
        """
        stored = self.encoder_digest()
        if digest is not None and stored is not None and stored != digest:
            message = (
                f"its words were encoded by other weights of {self.encoding.name} ({stored}) "
                f"than the run's ({digest})"
            )
            hint = "delete it, and encode the words by the weights that the run was trained with"
            raise InputError(message, file=self.cache_file, hint=hint)

    def embed(self, classes: Taxonomy | Sequence[Category]) -> Vectors:
        """One unit row per class: the mean of its words' embeddings, scaled to unit length.

        Args:
            classes: a taxonomy (rows in index order) or categories (rows in their order).

        Returns:
            (K, D) float32.

        Raises:
            InputError: words without an embedding; the message names their classes and the command
                that encodes them.
        """
        categories = classes.categories if isinstance(classes, Taxonomy) else tuple(classes)
        vectors = self.vectors()
        words = [words_of(category) for category in categories]
        missing = [
            (category.name, word)
            for category, texts in zip(categories, words, strict=True)
            for word in texts
            if normalize(word) not in vectors
        ]
        if missing:
            taxonomy = classes if isinstance(classes, Taxonomy) else None
            raise _missing_embedding(missing, taxonomy, self.encoding)
        if not categories:
            return np.zeros((0, self.dimension() or 0), np.float32)
        rows = [np.mean([vectors[normalize(word)] for word in texts], axis=0) for texts in words]
        return unit(np.stack(rows))

    def has_embeddings(self, taxonomy: Taxonomy) -> list[bool]:
        """For each class in index order, whether all of its words have an embedding."""
        vectors = self.vectors()
        return [
            all(normalize(word) in vectors for word in words_of(category))
            for category in taxonomy.categories
        ]

    def missing_words(self, categories: Sequence[Category]) -> list[str]:
        """The words of these classes that have no embedding."""
        vectors = self.vectors()
        return [
            word
            for category in categories
            for word in words_of(category)
            if normalize(word) not in vectors
        ]

    def add(self, words: Iterable[str]) -> tuple[str, ...]:
        """Encode the words without an embedding into the cache; returns the new words.

        Raises:
            InputError: the encoder is not installed, or its weights differ from those that encoded
                the words in the cache.
            SegkitError: its weights could not be fetched.
        """
        known = self.vectors()
        keys = dict.fromkeys(normalize(word) for word in words)
        new = tuple(key for key in keys if key and key not in known)
        if not new:
            return new
        encoder = load_encoder(self.encoding.encoder)
        vectors, digest = self._encode(new, encoder)
        rows = dict(zip(new, vectors, strict=True))
        unknown = [
            word for word, is_unknown in zip(new, encoder.unknown(new), strict=True) if is_unknown
        ]
        with exclusive_lock(self.cache_file.with_suffix(".lock")):
            self._merge_into_cache(rows, digest, frozenset(unknown))
        return new

    def unknown_words(self) -> frozenset[str]:
        """The words in the cache that mean nothing to the encoder: it knew none of their tokens."""
        return read_table(self.cache_file).unknown if self.cache_file.is_file() else frozenset()

    def encode(self, words: Sequence[str]) -> Vectors:
        """(N, D) unit rows of words, computed by the text encoder like the stored ones.

        Raises:
            InputError: the encoder is not installed.
        """
        return self._encode(words, load_encoder(self.encoding.encoder))[0]

    def encode_raw(self, words: Sequence[str]) -> Vectors:
        """(N, D) unit rows without centering.

        Each is the mean over the templates of unit rows, as CLIP ensembles them.
        """
        return self._encode_raw(words, load_encoder(self.encoding.encoder))

    def _merge_into_cache(
        self, rows: dict[str, Vectors], digest: str, unknown: frozenset[str]
    ) -> None:
        """Add rows to the cache file; the caller holds its lock."""
        if self.cache_file.is_file():
            cached = read_table(self.cache_file)
            if cached.encoder_digest not in (None, digest):
                message = (
                    f"{self.encoding.name} has other weights ({digest}) than when the words in the "
                    "cache were encoded"
                )
                hint = "give the original weights, or delete the file to encode all words again"
                raise InputError(message, file=self.cache_file, hint=hint)
            rows, unknown = {**cached.rows, **rows}, cached.unknown | unknown
        mean = (
            np.zeros(len(next(iter(rows.values()))), np.float32) if self.mean is None else self.mean
        )
        write_table(self.cache_file, EmbeddingTable(rows, mean, digest, unknown), self.encoding)

    def _encode(self, words: Sequence[str], encoder: TextEncoder) -> tuple[Vectors, str]:
        """Unit rows (N, D) and the digest that their table records."""
        raw = self._encode_raw(words, encoder)
        if self.mean is None:
            return raw, encoder.digest
        return unit(raw - self.mean), _digest(self.mean.tobytes())

    def _encode_raw(self, words: Sequence[str], encoder: TextEncoder) -> Vectors:
        """Raw unit rows (N, D)."""
        keys = [normalize(word) for word in words]
        total = sum(
            unit(encoder.encode([template.replace("{}", key) for key in keys]))
            for template in self.encoding.templates
        )
        return unit(np.asarray(total, np.float32))


@cache
def _shipped_table() -> EmbeddingTable:
    name = f"{MINILM_MODEL.lower()}.safetensors"
    with resources.as_file(resources.files("segkit.schemas") / "embeddings" / name) as file:
        return read_table(file)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def words_of(category: Category) -> tuple[str, ...]:
    """The words whose mean embedding stands for a class.

    A class without `text` whose name is a class name of a shipped taxonomy but no shipped word
    (`tree-merged`) has the words of that class. What the cache holds makes no difference.
    """
    key = normalize(category.name)
    if category.text or key in _shipped_table().rows:
        return category.words
    return shipped_words().get(key, category.words)


def _missing_embedding(
    missing: Sequence[tuple[str, str]], taxonomy: Taxonomy | None, encoding: Encoding
) -> InputError:
    """The error for words without an embedding, each with the name of its class."""
    classes = list(dict.fromkeys(repr(name) for name, _ in missing))
    words = list(dict.fromkeys(normalize(word) for _, word in missing))
    plural = "class" if len(classes) == 1 else "classes"
    encoder = "" if encoding.encoder == MINILM else f" by {encoding.name}"
    arguments = words
    if (
        taxonomy
        and taxonomy.name in known_taxonomies()
        and taxonomy == load_taxonomy(taxonomy.name)
    ):
        arguments = [taxonomy.name]
    end = ["--"] if any(str(word).startswith("-") for word in arguments) else []
    command = shlex.join(map(str, [*encoding.command_options(), *end, *arguments]))
    return InputError(
        f"no text embedding{encoder} for {plural} {short_list(classes)}",
        record=f"vocabulary {taxonomy.name}" if taxonomy else None,
        hint=f"run: segkit vocabulary encode {command}",
    )
