"""Reads the image of a record: its file, or the image that its annotations embed."""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from segkit.file_names import is_unsafe
from segkit.images.orientation import turned_png, without_orientation
from segkit.shards.manifest import ImagesBy
from segkit.sources.image_files import Picture, check_picture, find_image, read_picture
from segkit.sources.ledger import Defect, ImageError
from segkit.sources.source import Record, Source

Exif = Literal["keep", "apply", "refuse"]
"""What to do with a photo whose EXIF orientation turns it: take the stored pixels, turn them, or
refuse the photo."""
_SIDEWAYS = 5
"""The orientations from this one on exchange width and height."""
_TURNED = "exif-turned"
_REPLACED = ("exif-orientation", "wrong-extension")
_TIFF = (b"II", b"MM")


def read_record_image(
    source: Source,
    record: Record,
    images_by: ImagesBy,
    embedded: bytes | None = None,
    exif: Exif = "keep",
) -> Picture | None:
    """Read and check the image of a record; None where images are not opened.

    Args:
        source: the source.
        record: one of its records.
        images_by: how the set refers to images.
        embedded: the image in the annotation file, which is used where no image file exists.
        exif: what to do with a photo whose EXIF orientation turns it.

    Raises:
        ImageError: there is no such image, it is damaged, its name leads out of the folder, or it
            is turned (`turned-image`) and those are refused.
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
        picture = check_picture(embedded, Path(error.defect.file), record=name)
    else:
        picture = read_picture(path, record=name)
    return picture if picture.orientation == 1 else _oriented(picture, exif, images_by, name)


def exif_hint(defect: Defect, picture: Picture | None) -> Defect:
    """The defect, with the right hint where the sizes differ since a photo is turned or not."""
    if picture is None or defect.code != "size-mismatch":
        return defect
    if picture.orientation != 1:
        hint = (
            f"EXIF orientation {picture.orientation} turns the photo: convert with --exif apply if "
            "the labels were drawn on the turned picture; --exif keep, the default, takes its "
            "pixels as stored"
        )
        return replace(defect, hint=hint)
    if _TURNED in picture.warnings:
        hint = "convert with --exif keep if the labels were drawn on the stored pixels"
        return replace(defect, hint=f"--exif apply has turned the photo: {hint}")
    return defect


def stored_name(file_name: str, picture: Picture) -> str:
    """The file name of an embedded image: that of its file, or of a PNG where it was turned."""
    if _TURNED not in picture.warnings:
        return file_name
    return PurePosixPath(file_name).with_suffix(".png").as_posix()


def _oriented(picture: Picture, exif: Exif, images_by: ImagesBy, record: str) -> Picture:
    """A turned photo as `exif` says: `apply` makes a PNG of the picture that viewers show."""
    number = picture.orientation
    if exif == "refuse":
        message = f"EXIF orientation {number} turns the photo"
        raise ImageError("turned-image", message, file=picture.path, record=record)
    if exif == "apply":
        width, height = picture.width, picture.height
        if number >= _SIDEWAYS:
            width, height = height, width
        others = tuple(code for code in picture.warnings if code not in _REPLACED)
        data = turned_png(picture.data, number)
        return Picture(picture.path, data, width, height, (*others, _TURNED))
    if not picture.data.startswith(_TIFF):
        return picture
    if images_by == "reference":
        message = f"EXIF orientation {number} turns the photo, and readers of TIFF turn it always"
        hint = "give --images-by embed, which can store its pixels without the tag"
        raise ImageError("turned-image", message, file=picture.path, record=record, hint=hint)
    return replace(picture, data=without_orientation(picture.data))


def _image_path(source: Source, record: Record, name: str) -> Path:
    if record.listed:
        return source.images / record.file_name
    try:
        if record.conflict:
            message = f"no image has this path, and {record.conflict}"
            path = source.images / record.candidates[0]
            raise ImageError("missing-image", message, file=path, record=name)
        return find_image(source.images, record.candidates, record=name)
    except ImageError as error:
        if record.known_missing and error.defect.code == "missing-image":
            message = "no archive of the dataset contains this image"
            file = error.defect.file
            raise ImageError("known-missing-image", message, file=file, record=name) from None
        raise
