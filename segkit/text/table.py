"""Word embeddings in a safetensors file."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.atomic import new_file
from segkit.errors import InputError
from segkit.tensor_file import read_tensors_and_metadata, write_tensors
from segkit.text.encoders import Vectors
from segkit.text.encoding import Encoding


@dataclass(frozen=True)
class EmbeddingTable:
    """The content of one file."""

    rows: dict[str, Vectors]
    """Word -> (D,) unit vector."""
    mean: Vectors
    """(D,) mean that was subtracted before scaling to unit length; zeros if none was."""
    encoder_digest: str | None
    """Digest of the text encoder's weights; None where the file does not record it."""
    unknown: frozenset[str] = frozenset()
    """Words of which the encoder knew no token; empty in files of early versions."""


def read_table(file: Path) -> EmbeddingTable:
    """Read a file of `write_table`; InputError if it is not one."""
    problem = "not a table of embeddings"
    hint = "delete it and run `segkit vocabulary encode` again"
    names = ("embeddings", "mean")
    tensors, metadata = read_tensors_and_metadata(file, names, problem=problem, hint=hint)
    try:
        words = json.loads(metadata["words"])
        vectors = unit(tensors["embeddings"].astype(np.float32))  # (N, D)
        rows = dict(zip(words, vectors, strict=True))
        unknown = frozenset(json.loads(metadata.get("unknown", "[]")))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{problem} ({error})", file=file, hint=hint) from error
    return EmbeddingTable(rows, tensors["mean"], metadata.get("weights"), unknown)


def write_table(file: Path, table: EmbeddingTable, encoding: Encoding) -> None:
    """Write a table with float16 vectors, visible to readers only when complete."""
    words = sorted(table.rows)
    vectors = np.stack([table.rows[word] for word in words])  # (N, D)
    metadata = {
        "encoder": encoding.name,
        "template": "\n".join(encoding.templates),
        "words": json.dumps(words, ensure_ascii=False),
    }
    if table.unknown:
        metadata["unknown"] = json.dumps(sorted(table.unknown), ensure_ascii=False)
    if table.encoder_digest:
        metadata["weights"] = table.encoder_digest
    with new_file(file) as draft:
        tensors = {"embeddings": vectors.astype(np.float16), "mean": table.mean}
        write_tensors(draft, tensors, metadata)


def unit(rows: Vectors) -> Vectors:
    """Rows scaled to unit length; a zero row stays zero."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)
