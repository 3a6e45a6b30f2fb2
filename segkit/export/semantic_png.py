"""Exports index PNGs: one map of class ids for each image."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from segkit.atomic import new_directory
from segkit.errors import InputError
from segkit.export.destination import (
    ExportReport,
    counted_samples,
    new_file_path,
    paint_masks,
    require_kind,
    unlabeled_pixels,
    write_class_list,
    write_images,
)
from segkit.export.image_names import plan_names
from segkit.sample import Sample
from segkit.shards.reader import ShardSet
from segkit.taxonomy import Taxonomy

_DEFAULT_VOID = 255
_MAX_INDICES = 2**16
_FREE_INDICES = (_DEFAULT_VOID, 0, _MAX_INDICES - 1)
"""Indices that are usual for pixels without a class, the most usual first."""


def export_semantic(
    data: ShardSet,
    out: str | Path,
    *,
    images: bool = False,
    void: int | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Write `masks/` (index PNGs), `labels.txt` (index and name) and `taxonomy.json`.

    The PNGs have 8 bits, or 16 where ids need them. Instances of a class become one region.
    Segments without a mask are left out and counted. Pixels without a label that are not void have
    the source's index of background, as 0 in VOC. If it gives none, or a class has it, they are
    void, and the image counts as altered (`unlabeled`).

    Args:
        data: a set of kind semantic or panoptic.
        out: directory to create.
        images: also write the image files, under `images/`.
        void: index of void pixels; by default the source's own, or else 255.
        on_image: called for each image, and for each image file that is written.

    Raises:
        InputError: a class id or `void` does not fit in a PNG, or they are equal; or masks of two
            images would be one file.
        SegkitError: masks of different classes share pixels.
    """
    require_kind(data, ("semantic", "panoptic"), "semantic PNGs", "its masks may overlap")
    index = void_index(data) if void is None else void
    _check_indices(data, index)
    background = _background_index(data, index)

    def layout(name: PurePosixPath) -> list[PurePosixPath]:
        mask = "masks" / name.with_suffix(".png")
        return [mask, "images" / name] if images else [mask]

    report = ExportReport(images=len(data), files=["masks/", "labels.txt", "taxonomy.json"])
    names = plan_names(data, layout, rename=images, listed=images)
    report.add_names(names)
    sixteen_bits = max((index, background or 0, *data.taxonomy.by_id)) > 255
    with new_directory(out) as folder:
        (folder / "masks").mkdir()
        for sample in counted_samples(data, report, keeps_void=True, on_image=on_image):
            path = new_file_path(folder / "masks", names.path(sample).with_suffix(".png"))
            _write_png(path, _paint_indices(sample, index, background, report), sixteen_bits)
        write_class_list(folder, data.taxonomy)
        if images:
            write_images(data, folder / "images", names, on_image)
            report.files.append("images/")
    return report


def void_index(data: ShardSet) -> int:
    """Return the index that the source gives to pixels without a label, or else 255.

    The source's index is the first of `ignore` in its header.
    """
    ignored = data.manifest.source_header.get("ignore")
    return int(ignored[0]) if ignored else _DEFAULT_VOID


def _background_index(data: ShardSet, void: int) -> int | None:
    """The index that the source gives to pixels that are of no class and not void, if it is free.

    It is `background` in the source's header.
    """
    index: int | None = data.manifest.source_header.get("background")
    is_free = index != void and index not in data.taxonomy.by_id
    return index if index is not None and 0 <= index < _MAX_INDICES and is_free else None


def _check_indices(data: ShardSet, void: int) -> None:
    if void in data.taxonomy.by_id:
        name = data.taxonomy.by_id[void].name
        message = f"index {void} of pixels without a label is also class {name}"
        raise InputError(message, file=data.path, hint="give another index with --void")
    if not 0 <= void < _MAX_INDICES:
        message = f"index {void} of pixels without a label does not fit in a PNG"
        hint = f"give --void an index from 0 to {_MAX_INDICES - 1} that no class has"
        raise InputError(message, file=data.path, hint=hint)
    _require_indices(data.taxonomy, data.path)


def free_index(taxonomy: Taxonomy, file: object = None) -> int:
    """An index for the pixels without a class in PNGs of class ids.

    Raises:
        InputError: a class id does not fit in a PNG, or each index is a class; names the file.
    """
    _require_indices(taxonomy, file)
    indices = chain(_FREE_INDICES, range(_MAX_INDICES))
    free = next((index for index in indices if index not in taxonomy.by_id), None)
    if free is None:
        message = f"its classes have all {_MAX_INDICES} indices of a PNG"
        hint = "leave one for pixels without a class"
        raise InputError(message, file=file, hint=hint)
    return free


def _require_indices(taxonomy: Taxonomy, file: object) -> None:
    for category in taxonomy.categories:
        if not 0 <= category.id < _MAX_INDICES:
            message = f"the id {category.id} of class {category.name!r} does not fit in a PNG"
            hint = f"give the class an id from 0 to {_MAX_INDICES - 1} with `segkit relabel`"
            raise InputError(message, file=file, hint=hint)


def _paint_indices(
    sample: Sample, void: int, background: int | None, report: ExportReport
) -> NDArray[np.int32]:
    """The (H, W) indices of a sample."""
    masks = [
        (segment.class_id + 1, segment.mask)
        for segment in sample.segments
        if segment.mask is not None
    ]
    report.leave_out("box-only", len(sample.segments) - len(masks))
    report.annotations += len(masks)
    numbers = paint_masks(masks, sample, "an index PNG")  # (H, W): class id + 1, 0 has no label
    indices = np.where(numbers > 0, numbers - 1, void)
    unlabeled = unlabeled_pixels(numbers, sample)
    if background is not None:
        indices[unlabeled] = background
    else:
        report.count_unlabeled(unlabeled)
    return indices


def _write_png(path: Path, indices: NDArray[np.int32], sixteen_bits: bool) -> None:
    import cv2

    pixels = indices.astype(np.uint16 if sixteen_bits else np.uint8)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
