"""Photos that their EXIF orientation turns, from conversion to every place that reads them.

The photo has one red quarter, which the label outlines either as viewers show the photo or as its
pixels are stored. Wherever image and label meet afterwards, the label covers the red pixels.
"""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segkit.browse.media import image_file
from segkit.data.check_sets import NamedDataset
from segkit.data.mix import DataMix
from segkit.errors import InputError
from segkit.export.coco import export_instances
from segkit.masks import rle
from segkit.recipes.schema import DataConfig
from segkit.sample import Sample
from segkit.shards.manifest import ImagesBy
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.record_images import Exif
from segkit.sources.semantic_masks import open_semantic
from tests.images.test_orientation import photo

ORIENTATIONS = range(1, 9)
HEIGHT, WIDTH = 64, 96


def stored() -> NDArray[np.uint8]:
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image[: HEIGHT // 2, : WIDTH // 2] = (230, 20, 20)
    return image


def red(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (image[..., 0].astype(int) - image[..., 1] > 70) & (image[..., 2] < 90)


def as_drawn(data: bytes, displayed: bool) -> NDArray[np.bool_]:
    """The red pixels where the labels are drawn on the displayed picture, or on the stored one."""
    image = Image.open(io.BytesIO(data))
    shown = ImageOps.exif_transpose(image) if displayed else image
    return red(np.asarray(shown.convert("RGB")))


def write(root: Path, number: int, displayed: bool, form: str = "JPEG") -> Path:
    """A COCO dataset of one photo."""
    (root / "images").mkdir(parents=True)
    data = photo(number, form, stored())
    name = f"a.{form.lower()}"
    (root / "images" / name).write_bytes(data)
    source = data if form != "TIFF" or displayed else photo(1, form, stored())  # Pillow turns TIFF
    quarter = as_drawn(source, displayed)
    rows, columns = np.nonzero(quarter)
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    polygon = [int(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": [polygon],
        "bbox": [int(x0), int(y0), int(x1 - x0), int(y1 - y0)],
        "area": int(quarter.sum()),
        "iscrowd": 0,
    }
    height, width = quarter.shape
    content = {
        "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "red"}],
    }
    (root / "instances.json").write_text(json.dumps(content))
    return root


def converted(root: Path, exif: Exif, images_by: ImagesBy = "embed") -> ShardSet:
    source = open_coco_instances(root / "instances.json", root / "images")
    report = convert(source, root / "set", ConvertOptions(exif=exif, images_by=images_by))
    assert report.published
    return report.published


def fits(image: NDArray[np.uint8], sample: Sample) -> bool:
    """Whether the label covers the red quarter, but for the edge that a JPEG blurs."""
    (segment,) = sample.segments
    assert segment.mask
    mask = rle.decode(segment.mask, sample.height, sample.width)
    assert image.shape[:2] == mask.shape
    both, either = (mask & red(image)).sum(), (mask | red(image)).sum()
    return bool(both / either > 0.97)


def shown(file: Path) -> NDArray[np.uint8]:
    """A file as programs read it, whether or not they apply an EXIF orientation."""
    applying = cv2.imread(str(file), cv2.IMREAD_COLOR)
    ignoring = cv2.imread(str(file), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    np.testing.assert_array_equal(applying, ignoring)
    assert applying is not None
    return cv2.cvtColor(applying, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("exif", ["apply", "keep"])
@pytest.mark.parametrize("number", ORIENTATIONS)
def test_labels_fit_the_image_wherever_they_meet(
    number: int, exif: Exif, form: str, tmp_path: Path
) -> None:
    shards = converted(write(tmp_path / "in", number, exif == "apply", form), exif)
    (sample,) = shards.samples()
    assert fits(shards.image(sample), sample)  # training, prediction, pictures, reports
    assert not list(validate(shards.path))
    report = export_instances(shards, tmp_path / "out", images=True)
    assert report.annotations == 1
    (file,) = (tmp_path / "out" / "images").iterdir()
    assert fits(shown(file), sample)
    (name,) = (tmp_path / "out").glob("*.json")
    (image,) = json.loads(name.read_text())["images"]
    assert (image["file_name"], image["width"], image["height"]) == (
        file.name,
        sample.width,
        sample.height,
    )
    assert fits(shown(image_file(shards, sample, tmp_path / "cache")), sample)
    again = open_coco_instances(name, tmp_path / "out" / "images")
    published = convert(again, tmp_path / "again").published
    assert published
    (row,) = published.samples()
    assert row.segments[0].mask == sample.segments[0].mask


@pytest.mark.parametrize("number", ORIENTATIONS)
def test_referenced_photos_are_shown_as_stored(number: int, tmp_path: Path) -> None:
    shards = converted(write(tmp_path / "in", number, displayed=False), "keep", "reference")
    (sample,) = shards.samples()
    assert fits(shards.image(sample), sample)
    file = image_file(shards, sample, tmp_path / "cache")
    assert fits(shown(file), sample)
    assert (file.parent == tmp_path / "in" / "images") == (number == 1)


@pytest.mark.parametrize("number", [2, 6])
def test_training_crops_and_labels_fit(number: int, tmp_path: Path) -> None:
    shards = converted(write(tmp_path / "in", number, displayed=True), "apply")
    config = DataConfig(image_size=64, batch_size=4, color_jitter=0.0, flip=True)
    batch = DataMix([NamedDataset("photos", shards, 1.0)], config, seed=0).batch(0)
    for image, targets in zip(batch.images, batch.targets, strict=True):
        pixels = image.permute(1, 2, 0).numpy()
        mask = targets.masks.dense().numpy().any(axis=0)
        quarter = cv2.resize(red(pixels).astype(np.uint8), mask.shape[::-1]) > 0
        union = (mask | quarter).sum()
        assert union == 0 or (mask & quarter).sum() / union > 0.8


@pytest.mark.parametrize(
    ("displayed", "exif", "hint"),
    [
        (True, "keep", r"size-mismatch.*EXIF orientation 6 turns the photo.*--exif apply.*--exif"),
        (False, "apply", "size-mismatch.*--exif apply has turned the photo.*--exif keep"),
        (True, "refuse", "EXIF orientation 6 turns the photo.*--exif apply.*--exif keep"),
    ],
)
def test_the_error_names_the_options(
    displayed: bool, exif: Exif, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=hint):
        converted(write(tmp_path, 6, displayed), exif)


@pytest.mark.parametrize("displayed", [True, False])
def test_semantic_masks_drawn_on_either_picture(displayed: bool, tmp_path: Path) -> None:
    write(tmp_path, 6, displayed)
    mask = as_drawn(photo(6, "JPEG", stored()), displayed).astype(np.uint8)
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    (tmp_path / "labels.txt").write_text("rest\nred\n")
    paths = tmp_path / "images", tmp_path / "masks", tmp_path / "labels.txt"
    right, wrong = ("apply", "keep") if displayed else ("keep", "apply")
    published = convert(
        open_semantic(*paths), tmp_path / "set", ConvertOptions(exif=right)
    ).published
    assert published
    (sample,) = published.samples()
    quarter = next(segment for segment in sample.segments if segment.class_id == 1)
    assert quarter.mask
    decoded = rle.decode(quarter.mask, sample.height, sample.width)
    np.testing.assert_array_equal(decoded, mask.astype(bool))
    with pytest.raises(InputError, match=f"--exif {right}"):
        convert(open_semantic(*paths), tmp_path / "other", ConvertOptions(exif=wrong))


def test_a_turned_tiff_that_is_referenced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"readers of TIFF turn it always.*--images-by embed"):
        converted(write(tmp_path, 3, displayed=False, form="TIFF"), "keep", "reference")


def test_turned_photos_are_counted(tmp_path: Path) -> None:
    report = convert(
        open_coco_instances(write(tmp_path, 6, True) / "instances.json", tmp_path / "images"),
        tmp_path / "set",
        ConvertOptions(exif="apply"),
    )
    assert report.ledger.images.warnings == {"exif-turned": 1}
    assert report.published
    (sample,) = report.published.samples()
    assert sample.file_name == "a.png"
