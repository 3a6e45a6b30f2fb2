import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segkit.sources.label_maps import read_colors, read_ids, read_indices
from segkit.sources.ledger import ImageError
from tests.images.test_png import png

from .builders import id_png


def chunked(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of these chunks, with their checksums."""
    sums = (struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + checksum
        for (kind, body), checksum in zip(chunks, sums, strict=True)
    )


def filtered(pixels: NDArray[np.uint8], kinds: list[int]) -> bytes:
    """Rows of (H, W, C) pixels under the five filters of the PNG specification, row by row."""
    height, width, channels = pixels.shape
    padded = np.zeros((height + 1, width + 1, channels), int)
    padded[1:, 1:] = pixels
    pixel, left, above, corner = padded[1:, 1:], padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    distances = np.abs(np.stack([above - corner, left - corner, left + above - 2 * corner]))
    paeth = np.choose(distances.argmin(0), [left, above, corner])  # ties: left, then above
    predicted = [np.zeros_like(pixel), left, above, (left + above) // 2, paeth]
    rows = [
        bytes([kind]) + (pixel - predicted[kind])[y].astype(np.uint8).tobytes()
        for y, kind in enumerate(kinds)
    ]
    return b"".join(rows)


def color_png(
    pixels: NDArray[np.uint8], rows: bytes, *extra: tuple[bytes, bytes], interlaced: bool = False
) -> bytes:
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 6, 0, 0, interlaced)
    return chunked((b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 12),
    st.sampled_from([3, 4]),
    st.data(),
)
@settings(max_examples=60)
def test_ids_under_every_filter_are_those_of_the_pixels(
    tmp_path_factory: Any, seed: int, height: int, width: int, channels: int, data: Any
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    kinds = data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    path = tmp_path_factory.mktemp("p") / "a.png"
    path.write_bytes(color_png(pixels, filtered(pixels, kinds)))
    assert (
        read_ids(path, (width, height), record="x") == pixels[..., :3].astype(int) @ [1, 256, 65536]
    ).all()


def test_chunks_for_display_and_interlacing_do_not_change_ids(tmp_path: Path) -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    parts = [pixels[y::down, x::across] for x, y, across, down in passes]
    rows = b"".join(filtered(part, [0] * len(part)) for part in parts if part.size)
    gamma, clear = struct.pack(">I", 100000), struct.pack(">HHH", *pixels[0, 0].tolist())
    data = color_png(
        pixels, rows, (b"gAMA", gamma), (b"sBIT", b"\5\5\5"), (b"tRNS", clear), interlaced=True
    )
    (tmp_path / "a.png").write_bytes(data)
    ids = read_ids(tmp_path / "a.png", None, record="x")
    assert (ids == pixels.astype(int) @ [1, 256, 65536]).all()


def test_pixels_that_break_off_within_an_intact_file_are_unreadable(tmp_path: Path) -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    rows = filtered(pixels, [2] * 11)
    for broken in (rows[:-1], rows[: len(rows) // 2], b"\5" + rows[1:], b""):
        (tmp_path / "a.png").write_bytes(color_png(pixels, broken))
        with pytest.raises(ImageError) as error:
            read_ids(tmp_path / "a.png", None, record="x")
        assert error.value.defect.code == "unreadable-mask"


def test_ids_of_24_bits_are_read_exactly(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 2**24, (13, 17))
    ids[0, :3] = 0, 2**24 - 1, 256
    assert (read_ids(id_png(tmp_path / "a.png", ids), (17, 13), record="x") == ids).all()


def test_alpha_does_not_change_ids(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = pixels[..., :3].astype(int) @ [1, 256, 65536]
    assert (read_ids(tmp_path / "a.png", None, record="x") == expected).all()


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 256), (np.uint16, 65536)])
def test_gray_indices_of_8_and_16_bits(tmp_path: Path, dtype: type, top: int) -> None:
    indices = np.random.default_rng(2).integers(0, top, (11, 9)).astype(dtype)
    cv2.imwrite(str(tmp_path / "a.png"), indices)
    assert (read_indices(tmp_path / "a.png", (9, 11), record="x") == indices).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_indices_are_read_and_not_their_colors(tmp_path: Path, bits: int) -> None:
    indices = np.random.default_rng(3).integers(0, 2**bits, (7, 10)).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(np.random.default_rng(4).integers(0, 256, 768).tolist())
    image.save(tmp_path / "a.png", bits=bits)
    assert (read_indices(tmp_path / "a.png", None, record="x") == indices).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_low_grays_are_indices_and_not_intensities(tmp_path: Path, bits: int) -> None:
    """Written by hand: packed rows of 1-, 2- or 4-bit grays."""
    indices = np.random.default_rng(5).integers(0, 2**bits, (6, 16)).astype(np.uint8)
    per_byte = 8 // bits
    shifts = np.arange(per_byte)[::-1] * bits
    packed = (indices.reshape(6, -1, per_byte) << shifts).sum(axis=2).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", 16, 6, bits, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        chunked((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )
    assert (read_indices(tmp_path / "a.png", None, record="x") == indices).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("clear", [None, 0, b"\0\x80"])
def test_colors_of_a_palette_are_those_that_pillow_shows(
    tmp_path: Path, bits: int, clear: int | bytes | None
) -> None:
    indices = np.random.default_rng(3).integers(0, 2**bits, (7, 10)).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(np.random.default_rng(4).integers(0, 256, 3 * 2**bits).tolist())
    image.save(tmp_path / "a.png", bits=bits, **({} if clear is None else {"transparency": clear}))
    colors = np.asarray(Image.open(tmp_path / "a.png").convert("RGBA"))[..., :3].astype(int)
    assert (read_colors(tmp_path / "a.png", record="x") == colors @ [1, 256, 65536]).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_colors_of_rgb_are_its_ids(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 6, channels), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = read_ids(tmp_path / "a.png", None, record="x")
    assert (read_colors(tmp_path / "a.png", record="x") == expected).all()


def test_an_index_beyond_the_palette_has_no_color(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0)
    rows = (b"IDAT", zlib.compress(b"\0\1\2"))
    colors = (b"PLTE", b"\1\2\3\4\5\6")
    (tmp_path / "a.png").write_bytes(chunked((b"IHDR", header), colors, rows, (b"IEND", b"")))
    with pytest.raises(ImageError, match="index 2 is not in its palette"):
        read_colors(tmp_path / "a.png", record="x")


SIXTEEN_BITS = chunked(
    (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)),
    (b"IDAT", zlib.compress(b"\0" * 7)),
    (b"IEND", b""),
)


@pytest.mark.parametrize(
    ("mode", "reader", "message", "hint"),
    [
        ("L", read_ids, "a gray PNG, not an 8-bit RGB one", "in an 8-bit RGB PNG"),
        ("P", read_ids, "a PNG with a palette, not an 8-bit RGB one", "in an 8-bit RGB PNG"),
        ("RGB16", read_ids, "an RGB PNG of 16 bits, not an 8-bit", "in an 8-bit RGB PNG"),
        ("RGB", read_indices, "an RGB PNG, neither gray nor", "gray or palette PNG, or give"),
        ("RGBA", read_indices, "an RGB PNG, neither gray nor", "`R G B name`"),
        ("LA", read_indices, "a gray PNG with an alpha channel:", "without its alpha channel"),
        ("L", read_colors, "a gray PNG, but the list of classes gives", "list the classes as `ind"),
        ("I;16", read_colors, "a gray PNG of 16 bits, but the list", "classes as `index name`"),
        ("LA", read_colors, "a gray PNG with an alpha channel, but", "and save the mask without"),
        ("RGB16", read_colors, "an RGB PNG of 16 bits, but", "with 8 bits for each of R, G and B"),
    ],
)
def test_a_png_of_another_type_is_named_and_not_called_damaged(
    tmp_path: Path, mode: str, reader: Any, message: str, hint: str
) -> None:
    path = tmp_path / "a.png"
    if mode == "RGB16":
        path.write_bytes(SIXTEEN_BITS)
    else:
        Image.new(mode, (4, 4)).save(path)
    with pytest.raises(ImageError, match=message) as error:
        reader(path, record="x") if reader is read_colors else reader(path, None, record="x")
    defect = error.value.defect
    assert defect.code == "unreadable-mask"
    assert hint in str(defect.hint) and "undamaged" not in str(defect.error())


@pytest.mark.parametrize("reader", [read_ids, read_indices])
def test_missing_damaged_and_wrongly_sized_masks(tmp_path: Path, reader: object) -> None:
    def code_of(path: Path, size: tuple[int, int] | None = None) -> str:
        with pytest.raises(ImageError) as error:
            reader(path, size, record="image 3")  # type: ignore[operator]
        assert error.value.defect.record == "image 3"
        return error.value.defect.code

    assert code_of(tmp_path / "none.png") == "missing-mask"
    assert code_of(tmp_path) == "unreadable-mask"
    path = id_png(tmp_path / "a.png", np.ones((30, 40), int))
    assert code_of(path, (40, 31)) == "size-mismatch"
    path.write_bytes(path.read_bytes()[:-30])
    assert code_of(path) == "unreadable-mask"
    path.write_bytes(b"not a png")
    assert code_of(path) == "unreadable-mask"
    path.write_bytes(png(50000, 50000))
    assert code_of(path) == "unreadable-mask"
