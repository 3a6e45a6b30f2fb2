"""AVIF, GIF and JPEG 2000: what is read, as Pillow reads it, and what is refused, in words."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segkit.data.check_sets import NamedDataset
from segkit.data.mix import DataMix
from segkit.errors import InputError
from segkit.export.coco import export_instances
from segkit.images.check import check_image
from segkit.images.decode import decode_rgb
from segkit.inference.input_files import check_files, image_files
from segkit.recipes.schema import DataConfig
from segkit.shards.validate import validate
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.engine import convert

KINDS = {"AVIF": ".avif", "GIF": ".gif", "JPEG2000": ".jp2"}
HEIGHT, WIDTH = 40, 56


def scene() -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns * 4, rows * 6, columns + rows], -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def by_segkit(data: bytes) -> NDArray[np.uint8]:
    return decode_rgb(data, file="x", hint="")


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, mode) for kind in KINDS for mode in ("L", "RGB", "RGBA")),
        *(("AVIF", "P"), ("GIF", "P")),  # Pillow writes no palette as JPEG 2000
    ],
)
def test_pixels_are_those_of_pillow(kind: str, mode: str) -> None:
    data = encoded(Image.fromarray(scene()).convert(mode), kind)
    info = check_image(data, KINDS[kind])
    assert (info.width, info.height, info.warnings) == (WIDTH, HEIGHT, ())
    np.testing.assert_array_equal(by_segkit(data), by_pillow(data))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("AVIF", {"quality": 30}),
        ("AVIF", {"subsampling": "4:4:4"}),
        ("GIF", {"interlace": 0}),
        ("GIF", {"interlace": 1}),
        ("JPEG2000", {"irreversible": True, "quality_layers": [20]}),
        ("JPEG2000", {"tile_size": (16, 16)}),
    ],
)
def test_options_of_the_encoder_make_no_difference(kind: str, options: dict[str, Any]) -> None:
    data = encoded(Image.fromarray(scene()), kind, **options)
    check_image(data, KINDS[kind])
    np.testing.assert_array_equal(by_segkit(data), by_pillow(data))


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_extension_is_said(kind: str) -> None:
    data = encoded(Image.fromarray(scene()), kind)
    assert check_image(data, ".jpg").warnings == ("wrong-extension",)


@pytest.mark.parametrize(("depth", "extension"), [(16, ".jp2"), (10, ".avif"), (12, ".avif")])
def test_deep_colors_become_8_bits(depth: int, extension: str) -> None:
    deep = (scene().astype(np.uint16) << 8) >> (16 - depth)
    options = [cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 100]
    bgr = np.ascontiguousarray(deep[..., ::-1])
    data = cv2.imencode(extension, bgr, options if extension == ".avif" else [])[1].tobytes()
    assert check_image(data, extension).warnings == ()
    difference = np.abs(by_segkit(data).astype(int) - scene())
    assert difference.max() <= (1 if extension == ".jp2" else 8)  # an AVIF loses some of it
    assert difference.mean() < 1.5


def test_low_values_of_a_16_bit_jp2_are_said() -> None:
    data = cv2.imencode(".jp2", np.full((HEIGHT, WIDTH, 3), 4095, np.uint16))[1].tobytes()
    assert "dark-16-bit" in check_image(data, ".jp2").warnings


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "WEBP"])
def test_an_animation_is_refused(kind: str) -> None:
    frame = Image.fromarray(scene())
    other = Image.fromarray(scene()[::-1].copy())
    check_image(encoded(frame, kind, save_all=True), f".{kind.lower()}")
    with pytest.raises(ValueError, match="an animation; save the frame that the labels fit"):
        data = encoded(frame, kind, save_all=True, append_images=[other])
        check_image(data, f".{kind.lower()}")


def test_claimed_sizes_are_checked_before_decoding() -> None:
    gif = bytearray(encoded(Image.fromarray(scene()), "GIF"))
    gif[6:10] = struct.pack("<HH", 60000, 60000)
    jp2 = bytearray(encoded(Image.fromarray(scene()), "JPEG2000"))
    for name, behind in ((b"ihdr", 4), (b"\xff\x51", 6)):
        struct.pack_into(">II", jp2, jp2.index(name) + behind, 60000, 60000)
    avif = bytearray(encoded(Image.fromarray(scene()), "AVIF"))
    place = avif.index(b"ispe") + 8
    avif[place : place + 8] = struct.pack(">II", 60000, 60000)
    for data in (gif, jp2, avif):
        with pytest.raises(ValueError, match=r"claims|exceeds limit|not an image"):
            check_image(bytes(data), ".x")


def test_what_opencv_lacks_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a build of OpenCV without these decoders: `imdecode` returns None."""
    data = encoded(Image.fromarray(scene()), "GIF")
    monkeypatch.setattr("cv2.imdecode", lambda *arguments: None)
    with pytest.raises(ValueError, match="OpenCV cannot decode such pixels of GIF; save them as a"):
        check_image(data, ".gif")


def test_two_channels_of_a_jp2_are_refused() -> None:
    data = encoded(Image.fromarray(scene()).convert("LA"), "JPEG2000")
    with pytest.raises(ValueError, match="such pixels of JPEG2000; save them as a PNG"):
        check_image(data, ".jp2")


def test_photos_of_these_formats_convert_validate_export_and_train(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, (kind, extension) in enumerate(KINDS.items(), 1):
        data = encoded(Image.fromarray(scene()), kind)
        (tmp_path / "images" / f"{number}{extension}").write_bytes(data)
    names = [f"{number}{extension}" for number, extension in enumerate(KINDS.values(), 1)]
    content = {
        "images": [
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for number, name in enumerate(names, 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [4, 4, 20, 16],
                "segmentation": [[4, 4, 24, 4, 24, 20, 4, 20]],
                "area": 320,
                "iscrowd": 0,
            }
            for number in (1, 2, 3)
        ],
        "categories": [{"id": 1, "name": "box"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    source = open_coco_instances(tmp_path / "instances.json", tmp_path / "images")
    shards = convert(source, tmp_path / "set").published
    assert shards and not list(validate(shards.path))
    for name, sample in zip(names, shards.samples(), strict=True):
        stored = (tmp_path / "images" / name).read_bytes()
        assert shards.image_bytes(sample) == stored
        np.testing.assert_array_equal(shards.image(sample), by_pillow(stored))
    export_instances(shards, tmp_path / "out", images=True)
    assert sorted(file.name for file in (tmp_path / "out" / "images").iterdir()) == names
    config = DataConfig(image_size=32, batch_size=3)
    assert len(DataMix([NamedDataset("photos", shards, 1.0)], config, seed=0).batch(0).images) == 3
    root, files, passed_over = image_files(tmp_path / "images")
    assert [file.name for file in files] == names and not passed_over
    assert check_files(files, root)[1].images_kept == 3


def test_a_single_file_is_judged_by_its_content(tmp_path: Path) -> None:
    """As a file that an annotation names: a JPEG called .heic is read, HEIC bytes are not."""
    photo, heic = tmp_path / "photo.heic", tmp_path / "real.heic"
    photo.write_bytes(encoded(Image.fromarray(scene()), "JPEG"))
    heic.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    root, files, _ = image_files(photo)
    _, tally = check_files(files, root)
    assert (tally.images_kept, tally.image_warnings) == (1, {"wrong-extension": 1})
    _, tally = check_files(image_files(heic)[1], tmp_path)
    assert tally.images_kept == 0
    assert "not an image in a format that is read" in tally.defects[0].message
    with pytest.raises(InputError, match="no images found"):
        image_files(tmp_path)
