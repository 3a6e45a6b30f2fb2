"""Code blocks of the documentation, so that tests run what the pages show."""

import re
from pathlib import Path


def snippet(document: str, language: str, word: str) -> str:
    """Return the only code block of docs/`document` in a language that contains a word."""
    text = (Path(__file__).parents[1] / "docs" / document).read_text("utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if word in block)
    return block
