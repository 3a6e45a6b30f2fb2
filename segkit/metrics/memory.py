"""How the process keeps memory between uses."""

import numpy as np

_KEPT = 31 << 20
"""Just under 32 MiB, beyond which glibc always returns what is freed."""


def raise_malloc_threshold() -> None:
    """Let the C library use freed memory again instead of returning it to the system after every
    array.

    glibc begins by giving blocks of 128 KiB and more back at once, and raises that limit to the
    size of whatever block it gives back. Loops over arrays of some 100 KiB then spend up to half of
    their time on page faults. Freeing one large block that nobody touched raises the limit for
    good; elsewhere than on glibc nothing happens.
    """
    np.empty(_KEPT, np.uint8)
