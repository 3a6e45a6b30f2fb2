"""Where segkit keeps what it can make again: embeddings that a user encoded, files extracted for browsing."""

import os
from pathlib import Path


def cache_root() -> Path:
    """$SEGKIT_CACHE, by default ~/.cache/segkit; it need not exist."""
    return Path(os.environ.get("SEGKIT_CACHE", Path.home() / ".cache" / "segkit"))
