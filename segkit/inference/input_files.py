"""The images of a folder: found, named, and looked at before any is predicted; nothing here needs
torch."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from segkit.errors import InputError
from segkit.images.check import IMAGE_EXTENSIONS
from segkit.inference.streams import THREADS, ahead
from segkit.sources.image_files import read_picture
from segkit.sources.ledger import Defect, ImageError, Tally


def image_files(place: Path) -> tuple[Path, Sequence[Path]]:
    """Image files under a folder, by path, or the one file that is given; and the folder that ids
    are made from.

    Raises:
        InputError: there are none.
    """
    if place.is_file():
        return place.parent, [place]
    files = sorted(
        file
        for file in place.rglob("*")
        if file.suffix.lower() in IMAGE_EXTENSIONS and file.is_file()
    )
    if not files:
        kinds = ", ".join(sorted(IMAGE_EXTENSIONS))
        raise InputError("no images found", file=place, hint=f"give a folder with {kinds}")
    return place, files


def sample_ids(files: Sequence[Path], root: Path) -> dict[Path, str]:
    """An id for each file: its path under `root`, with the extension only where two files differ in
    nothing else."""
    names = {file: PurePosixPath(file.relative_to(root).as_posix()) for file in files}
    bare = {file: name.with_suffix("") for file, name in names.items()}
    count = Counter(bare.values())
    return {
        file: str(bare[file] if count[bare[file]] == 1 else name) for file, name in names.items()
    }


def check_files(
    files: Sequence[Path], root: Path, on_image: Callable[[], None] = lambda: None
) -> tuple[list[Path], Tally]:
    """The files that are whole images, and the account of them all, by the rules of `segkit
    convert`."""
    ids, whole, tally = sample_ids(files, root), [], Tally()

    def look(file: Path) -> Defect | tuple[str, ...]:
        try:
            return read_picture(file, record=ids[file]).warnings
        except ImageError as error:
            return error.defect

    with warnings.catch_warnings():  # which the threads change under each other's feet
        for file, found in zip(files, ahead(look, files, waiting=2 * THREADS), strict=True):
            tally.images_in += 1
            if isinstance(found, Defect):
                tally.drop_image(found, ())
            else:
                tally.images_kept += 1
                tally.image_warnings.update(found)
                whole.append(file)
            on_image()
    return whole, tally
