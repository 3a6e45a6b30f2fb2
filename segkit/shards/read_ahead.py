"""Fetch the images of coming samples from a store in threads, while earlier ones are in use."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from segkit.sample import Sample

THREADS = 16
"""Requests at a time. An answer takes tens of milliseconds, in which a core decodes ten images."""
AHEAD = 32
"""Images that are fetched before their turn."""
MAX_BYTES = 64 << 20
"""Bytes of fetched images at which no further one is begun."""
_MAX_PENDING = 4 * AHEAD
"""Fetched images that nobody has read, of which the oldest is dropped."""
Key = tuple[str | None, int]
"""Tar or path of an image, and its offset."""


class ReadAhead:
    """Images on their way from a store.

    Args:
        fetch: reads the bytes of a sample's image; called in threads.
    """

    def __init__(self, fetch: Callable[[Sample], bytes]) -> None:
        self.pool = ThreadPoolExecutor(THREADS, "read-ahead")
        self._fetch = fetch
        self._pending: OrderedDict[Key, tuple[Future[bytes], int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def samples(
        self, samples: Iterable[Sample], needed: Callable[[Sample], bool]
    ) -> Iterator[Sample]:
        """Yield samples whose images are then read, in this order; fetch those of the next ones."""
        coming: deque[Sample] = deque()
        for sample in samples:
            if needed(sample):
                self._start(sample)
            coming.append(sample)
            while len(coming) > AHEAD or (coming and self._bytes > MAX_BYTES):
                yield coming.popleft()
        yield from coming

    def take(self, sample: Sample) -> bytes | None:
        """The bytes of a sample's image, waiting for them if they are on their way; else None.

        Raises what `fetch` has raised.
        """
        with self._lock:
            future = self._remove(_key(sample))
        return None if future is None else future.result()

    def _start(self, sample: Sample) -> None:
        key = _key(sample)
        with self._lock:
            if key in self._pending:
                return
            self._pending[key] = self.pool.submit(self._fetch, sample), sample.image.length
            self._bytes += sample.image.length
            while len(self._pending) > _MAX_PENDING:
                dropped = self._remove(next(iter(self._pending)))
                if dropped is not None:
                    dropped.cancel()

    def _remove(self, key: Key) -> "Future[bytes] | None":
        future, length = self._pending.pop(key, (None, 0))
        self._bytes -= length
        return future


def _key(sample: Sample) -> Key:
    return sample.image.tar or sample.image.path, sample.image.offset
