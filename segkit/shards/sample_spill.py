"""Samples of a set in a temporary file, to be read in another order than that of the set."""

import pickle
import tempfile
from array import array
from collections.abc import Iterable

from segkit.atomic import temporary_file_error
from segkit.sample import Sample


class SampleSpill:
    """Samples in any order, each read in the same short time.

    A set stores row groups of a hundred images and more, which `ShardSet.sample` reads for one of
    them. The file is in the system's temporary folder (TMPDIR), about as large as the labels
    uncompressed, and has no name, so a killed process leaves nothing behind.

    Args:
        samples: those of a set, in its order.

    Raises:
        SegkitError: the temporary folder cannot be written to.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._starts = array("q")
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
            position = 0
            for sample in samples:
                self._starts.append(position)
                position += self._file.write(pickle.dumps(sample, pickle.HIGHEST_PROTOCOL))
            self._file.flush()
        except OSError as error:
            raise temporary_file_error(error) from error

    def __getitem__(self, index: int) -> Sample:
        """The sample at a 0-based index of the set."""
        self._file.seek(self._starts[index])
        sample: Sample = pickle.load(self._file)
        return sample
