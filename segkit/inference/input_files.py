"""Find, name and check the image files of a folder before prediction; imports no torch."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from segkit.errors import InputError
from segkit.file_states import FileStates
from segkit.images.check import IMAGE_EXTENSIONS
from segkit.inference.streams import THREADS, prefetch
from segkit.sample import Sample
from segkit.sources.image_files import read_picture, visible_files
from segkit.sources.ledger import Defect, ImageError, Tally


def image_files(place: Path) -> tuple[Path, Sequence[Path], Counter[str]]:
    """Find the images of a folder; hidden files (`._x.jpg` of macOS) are skipped.

    Args:
        place: a folder, searched with its subfolders, or one file.

    Returns:
        The folder that sample ids are made from, the image files under it, sorted by path, and the
        number of other files by extension.

    Raises:
        InputError: the folder holds no images.
    """
    if place.is_file():
        return place.parent, [place], Counter()
    files: list[Path] = []
    passed_over: Counter[str] = Counter()
    for name in visible_files(place):
        extension = PurePosixPath(name).suffix.lower()
        if extension in IMAGE_EXTENSIONS:
            files.append(place / name)
        else:
            passed_over[extension or "(no extension)"] += 1
    if not files:
        listed = ", ".join(f"{extension} {number}" for extension, number in passed_over.items())
        message = f"no images found{f' (but {listed})' if listed else ''}"
        extensions = ", ".join(sorted(IMAGE_EXTENSIONS))
        hint = f"give a folder with {extensions}" if place.exists() else "no such file or folder"
        raise InputError(message, file=place, hint=hint)
    return place, sorted(files), passed_over


def sample_ids(files: Sequence[Path], root: Path) -> dict[Path, str]:
    """The sample id of each file: its path under `root`.

    The extension is left out where the path is unique without it, among the paths of the other
    files with and without theirs.
    """
    names = {file: PurePosixPath(file.relative_to(root).as_posix()) for file in files}
    stems = {file: name.with_suffix("") for file, name in names.items()}
    count = Counter([*stems.values(), *names.values()])
    return {
        file: str(stems[file] if count[stems[file]] == 1 else name) for file, name in names.items()
    }


@dataclass(frozen=True)
class FileItems:
    """Image files under a folder, each with its sample id; a set names them by path."""

    folder: Path
    files: tuple[tuple[Path, str], ...]

    @classmethod
    def from_files(cls, files: Sequence[Path], root: Path) -> "FileItems":
        """The files with their ids, see `sample_ids`."""
        return cls(root, tuple(sample_ids(files, root).items()))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> tuple[Path, str]:
        return self.files[index]

    def records(
        self, samples: Iterable[Sample], image_roots: dict[str, str]
    ) -> Iterator[tuple[Sample, None]]:
        """The samples as they are; they name no tar."""
        return ((sample, None) for sample in samples)

    def state(self) -> str:
        """A digest of the names and states of the files, which differs once one has changed."""
        states, digest = FileStates(), hashlib.sha256()
        for file, sample_id in self.files:
            digest.update(f"{file}\0{sample_id}\0{states(file)}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()


def check_files(
    files: Sequence[Path], root: Path, on_image: Callable[[], None] = lambda: None
) -> tuple[list[Path], Tally]:
    """Decode each file as `segkit convert` does.

    Returns:
        The intact files, and the tally of all of them.
    """
    ids = sample_ids(files, root)
    intact: list[Path] = []
    tally = Tally()

    def check(file: Path) -> Defect | tuple[str, ...]:
        try:
            return read_picture(file, record=ids[file]).warnings
        except ImageError as error:
            return error.defect

    with warnings.catch_warnings():  # the threads would change each other's filters
        checks = prefetch(check, files, ahead=2 * THREADS)
        for file, outcome in zip(files, checks, strict=True):
            tally.images_in += 1
            if isinstance(outcome, Defect):
                tally.drop_image(outcome, ())
            else:
                tally.images_kept += 1
                tally.image_warnings.update(outcome)
                intact.append(file)
            on_image()
    return intact, tally
