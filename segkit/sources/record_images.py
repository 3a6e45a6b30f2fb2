"""Reads the image of a record: its file, or the image that its annotations embed."""

from pathlib import Path

from segkit.file_names import is_unsafe
from segkit.shards.manifest import ImagesBy
from segkit.sources.image_files import Picture, check_picture, find_image, read_picture
from segkit.sources.ledger import ImageError
from segkit.sources.source import Record, Source


def read_record_image(
    source: Source, record: Record, images_by: ImagesBy, embedded: bytes | None = None
) -> Picture | None:
    """Read and check the image of a record; None where images are not opened.

    Args:
        source: the source.
        record: one of its records.
        images_by: how the set refers to images.
        embedded: the image in the annotation file, which is used where no image file exists.

    Raises:
        ImageError: there is no such image, it is damaged, or its name leads out of the folder.
    """
    name = f"image {record.id}"
    if images_by == "none":
        if is_unsafe(record.file_name):
            message = f"the path {record.file_name!r} leads out of the image folder"
            raise ImageError("unsafe-path", message, file=source.annotations, record=name)
        return None
    try:
        path = _image_path(source, record, name)
    except ImageError as error:
        missing = error.defect.code == "missing-image"
        if embedded is None or not missing or images_by == "reference":
            raise
        return check_picture(embedded, Path(error.defect.file), record=name)
    return read_picture(path, record=name)


def _image_path(source: Source, record: Record, name: str) -> Path:
    if record.listed:
        return source.images / record.file_name
    try:
        return find_image(source.images, record.candidates, record=name)
    except ImageError as error:
        if record.known_missing and error.defect.code == "missing-image":
            message = "no archive of the dataset contains this image"
            file = error.defect.file
            raise ImageError("known-missing-image", message, file=file, record=name) from None
        raise
