"""A hook of MkDocs: links to files outside docs/ become their names, since the site lacks them."""

import re
from pathlib import PurePosixPath
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)[^)]*\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace links that lead out of docs/; `page.file.src_uri` tells how deep the page is."""
    depth = len(PurePosixPath(page.file.src_uri).parts)

    def replace(match: re.Match[str]) -> str:
        text, target = match.groups()
        climbs = len(re.match(r"(?:\.\./)+", target)[0]) // 3  # type: ignore[index]
        return match[0] if climbs < depth else text

    return _OUTSIDE.sub(replace, markdown)
