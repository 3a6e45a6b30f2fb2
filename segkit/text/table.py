"""Word embeddings in a safetensors file."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.atomic import new_file
from segkit.errors import InputError
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
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata()
            words = json.loads(metadata["words"])
            vectors = unit(opened.get_tensor("embeddings").astype(np.float32))  # (N, D)
            rows = dict(zip(words, vectors, strict=True))
            unknown = frozenset(json.loads(metadata.get("unknown", "[]")))
            mean, weights = opened.get_tensor("mean"), metadata.get("weights")
            return EmbeddingTable(rows, mean, weights, unknown)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        hint = "delete it and run `segkit vocabulary encode` again"
        raise InputError(f"not a table of embeddings ({error})", file=file, hint=hint) from error


def write_table(file: Path, table: EmbeddingTable, encoding: Encoding) -> None:
    """Write a table with float16 vectors, visible to readers only when complete."""
    from safetensors.numpy import save_file

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
        save_file({"embeddings": vectors.astype(np.float16), "mean": table.mean}, draft, metadata)
        draft.chmod(0o644)  # safetensors writes 0600, which a wheel would keep


def unit(rows: Vectors) -> Vectors:
    """Rows scaled to unit length; a zero row stays zero."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)
