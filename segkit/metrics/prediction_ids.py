"""Which image of the ground truth each record of a file of predictions is for.

A file may name images in several ways, and a name in one of them may be that of another image in
the next. Each way gives a reading: for every record the id of an image, or None.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from segkit.shards.coco_image_ids import coco_ids_by_sample
from segkit.shards.label_columns import read_columns
from segkit.shards.reader import ShardSet

Reading = Sequence[str | None]


def results_images(ids: Sequence[str], ids_by_coco_id: Mapping[str, str]) -> list[str]:
    """The image of each of the different ids of COCO results.

    They are read as ids of a COCO export or as those of the samples, as more images are known by;
    as those of an export, which this version writes, if that is equal. An id that is not known so
    is read in the other way, and stays as it is if it is not known at all.
    """
    exported = [ids_by_coco_id.get(image) for image in ids]
    samples = _known(ids, ids_by_coco_id)
    return _first(ids, sorted((exported, samples), key=_count, reverse=True))


def panoptic_images(
    ids: Sequence[str],
    names: Sequence[str],
    ids_by_file: Mapping[str, str],
    ids_by_coco_id: Mapping[str, str],
) -> list[str]:
    """The image of each row of a COCO panoptic file.

    It is that of the PNG's name, else of the row's id in a COCO export, else of the row's id as
    that of a sample or, last, as the name of an image's file. A PNG may also have a sample's id as
    its name. That comes first only if all have, as exports number the names of images that share
    one (`1-2.png`).
    """
    paths = [_without_extension(name) for name in names]
    files = [ids_by_file.get(p) or ids_by_file.get(p.rpartition("/")[2]) for p in paths]
    named = _known(paths, ids_by_coco_id)
    exported = [ids_by_coco_id.get(image) for image in ids]
    complete = [reading for reading in (files, named) if _count(reading) == len(ids)]
    samples = _known(ids, ids_by_coco_id)
    stems = [ids_by_file.get(image) for image in ids]
    return _first(ids, [*complete, files, exported, samples, named, stems])


def images_of_set(predictions: ShardSet, truth: ShardSet) -> list[str]:
    """The image of each row of a prediction set.

    It is that of the row's id. An id that the ground truth lacks is the name of an image's file, as
    the name of a PNG in a folder is, unless folders of the names contradict each other or another
    row is for that image too. Else it stays as it is.
    """
    ids, known = list(predictions.image_ids()), set(truth.image_ids())
    if known.issuperset(ids):
        return ids
    by_name, paths = images_by_name(truth), {image: path for path, image in _files(truth)}

    def named(row_id: str) -> str | None:
        image = row_id if row_id in known else image_of_name(row_id, by_name)
        if image is None or any(_may_equal(row_id, name) for name in (image, paths[image])):
            return image
        return None

    images = [named(row_id) for row_id in ids]
    times = Counter(images)
    return [
        image if image is not None and (row_id in known or times[image] == 1) else row_id
        for row_id, image in zip(ids, images, strict=True)
    ]


def image_of_name(name: str, ids_by_name: Mapping[str, str]) -> str | None:
    """The image that a name without an extension names, with or without its folders."""
    return ids_by_name.get(name, ids_by_name.get(name.rpartition("/")[2]))


def images_by_name(truth: ShardSet) -> dict[str, str]:
    """Id of each image, by its id and by the stem of its file, unless that is ambiguous."""
    files = _files(truth)
    by_stem = _unambiguous([(path.rpartition("/")[2], image) for path, image in files])
    return by_stem | {image: image for _, image in files}


def images_by_file(truth: ShardSet) -> dict[str, str]:
    """Id of each image by the name of its file without the extension, with and without folders,
    unless that is ambiguous."""
    files = _files(truth)
    by_stem = _unambiguous([(path.rpartition("/")[2], image) for path, image in files])
    return by_stem | _unambiguous(files)


def images_by_coco_id(truth: ShardSet) -> dict[str, str]:
    """Id of each image by its id in a COCO export, as text."""
    return {str(coco_id): image for image, coco_id in coco_ids_by_sample(truth).items()}


def _files(truth: ShardSet) -> list[tuple[str, str]]:
    """File name without extension, and id of each image."""
    return [
        (_without_extension(file), image)
        for table in read_columns(truth, ["id", "file_name"])
        for image, file in zip(
            table.column("id").to_pylist(), table.column("file_name").to_pylist(), strict=True
        )
    ]


def _without_extension(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _may_equal(first: str, second: str) -> bool:
    """Whether two paths name one file, where one of them may lack folders."""
    return f"/{first}".endswith(f"/{second}") or f"/{second}".endswith(f"/{first}")


def _unambiguous(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    times = Counter(name for name, _ in pairs)
    return {name: image for name, image in pairs if times[name] == 1}


def _known(texts: Sequence[str], ids_by_coco_id: Mapping[str, str]) -> Reading:
    """Texts as ids of samples."""
    known = set(ids_by_coco_id.values())
    return [text if text in known else None for text in texts]


def _count(reading: Reading) -> int:
    return len({*reading} - {None})


def _first(ids: Sequence[str], readings: Sequence[Reading]) -> list[str]:
    """The image of each record in the first reading that knows it; its id if none does."""
    return [
        next((image for image in images if image is not None), given)
        for given, *images in zip(ids, *readings, strict=True)
    ]
