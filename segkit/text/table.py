"""Tables of word embeddings as safetensors files."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.text.encoders import Vectors
from segkit.text.encoding import Encoding


@dataclass(frozen=True)
class Table:
    """The content of a table of embeddings."""

    rows: dict[str, Vectors]
    """Word -> (D,) unit vector."""
    mean: Vectors
    """(D,) mean that was subtracted; zeros where there was none."""
    weights: str | None
    """Digest of the encoder's weights, where the table knows it."""


def read_table(path: Path) -> Table:
    """The table of a file that `write_table` wrote."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            told = file.metadata()
            rows = unit(file.get_tensor("embeddings").astype(np.float32))
            words = json.loads(told["words"])
            return Table(
                dict(zip(words, rows, strict=True)), file.get_tensor("mean"), told.get("weights")
            )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        hint = "delete it and run `segkit vocabulary encode` again"
        raise InputError(f"not a table of embeddings ({error})", file=path, hint=hint) from error


def write_table(
    path: Path,
    rows: dict[str, Vectors],
    mean: Vectors | None,
    encoding: Encoding,
    weights: str | None = None,
) -> None:
    """Write words and vectors (float16) as one safetensors file, by rename, so that no reader sees
    half of it."""
    from safetensors.numpy import save_file

    words = sorted(rows)
    stack = np.stack([rows[word] for word in words])
    tensors: dict[str, NDArray[Any]] = {
        "embeddings": stack.astype(np.float16),
        "mean": np.zeros(stack.shape[1], np.float32) if mean is None else mean,
    }
    metadata = {"encoder": encoding.name, "template": "\n".join(encoding.templates)}
    metadata |= {"words": json.dumps(words, ensure_ascii=False)} | (
        {"weights": weights} if weights else {}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(tensors, partial, metadata)
    partial.chmod(0o644)  # safetensors writes 0600, which a wheel would carry along
    partial.replace(path)


def unit(rows: Vectors) -> Vectors:
    """Rows scaled to unit length; a zero row stays zero."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)
