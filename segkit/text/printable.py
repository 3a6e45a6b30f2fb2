"""Text from data in a form that may be shown: its control characters are escaped.

Class names, file names and ids come from anyone. Printed as they are, they could move the cursor,
retitle or query a terminal (ESC, CSI, OSC), forge further lines of a log (line breaks) or show
their characters in another order (bidirectional controls).
"""

import io
import re
import sys
import traceback
from typing import Any

_UNPRINTABLE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u2028\u2029"  # line and paragraph separators
    "\u202a-\u202e\u2066-\u2069"  # bidirectional embeddings, overrides and isolates
    "\ud800-\udfff"  # surrogates without a partner: bytes of a file name that are not UTF-8
    "]"
)


def printable(value: object) -> str:
    r"""Return a value as text, with control characters as `\n`, `\x1b` or `\u202e`.

    Line breaks are control characters too: the text is one line.
    """
    return _UNPRINTABLE.sub(_escape, str(value))


def escape_streams() -> None:
    """Let both streams escape what their encoding lacks, and tracebacks control characters."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def show(*failure: Any) -> None:
        for line in "".join(traceback.format_exception(*failure)).rstrip("\n").split("\n"):
            print(printable(line), file=sys.stderr)

    sys.excepthook = show


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
