"""The code that the documents show, so that tests run it as it stands there."""

import re
from pathlib import Path


def snippet(document: str, language: str, word: str) -> str:
    """The one code block of docs/`document` in a language that has a word in it."""
    text = (Path(__file__).parents[1] / "docs" / document).read_text("utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if word in block)
    return found
