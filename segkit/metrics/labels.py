"""How people read the figures of metrics.json: on the screen and in reports."""

import re

_SPELLED = {"miou": "mIoU", "fwiou": "fwIoU"}
_INITIALS = re.compile(r"(ap|ar|pq|sq|rq)\d*")


def label(key: str) -> str:
    """The name of a figure by its key: `ap_small` is AP small, `boundary pq` boundary PQ, `ar100`
    AR100."""
    words = key.replace("_", " ").split()
    return " ".join(
        word.upper() if _INITIALS.fullmatch(word) else _SPELLED.get(word, word) for word in words
    )
