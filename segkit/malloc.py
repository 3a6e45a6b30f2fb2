"""The threshold from which the C library returns freed memory to the system at once.

glibc begins with blocks of 128 KiB. A loop over large arrays or tensors then gets new pages for
each of them, which the kernel fills with zeros: up to half of the time of an evaluation, a fifth of
the CPU time of training `box-labeler-mini`. With another C library nothing happens.
"""

import ctypes
import os
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
_MAX_INT = (1 << 31) - 1
_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Of the environment: they set the threshold as well."""


class _Malloc:
    """The C library's allocator; remembers its threshold, which cannot be read."""

    def __init__(self) -> None:
        self.threshold = 0
        self._mallopt: Any = None
        if sys.platform == "linux" and not any(name in os.environ for name in _VARIABLES):
            self._mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none

    def raise_threshold(self, threshold: int) -> None:
        if self._mallopt is None or threshold <= self.threshold:
            return
        self.threshold = threshold
        self._mallopt(_M_MMAP_THRESHOLD, threshold)
        self._mallopt(_M_TRIM_THRESHOLD, min(2 * threshold, _MAX_INT))


_MALLOC = _Malloc()


def raise_malloc_threshold(threshold: int) -> None:
    """Reuse freed blocks of up to `threshold` bytes in this process from now on; never lowers it.

    Up to twice as much free memory stays at the end of the heap, as glibc's own rule has it. A
    threshold that the environment sets stays.
    """
    _MALLOC.raise_threshold(threshold)
