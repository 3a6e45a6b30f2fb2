from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segkit.sources.labelmaps import read_ids, read_indices
from segkit.sources.ledger import Defective

from .builders import id_png
from .test_images import png


def test_ids_of_24_bits_are_read_exactly(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 2**24, (13, 17))
    ids[0, :3] = 0, 2**24 - 1, 256
    assert (read_ids(id_png(tmp_path / "a.png", ids), (17, 13), record="x") == ids).all()


def test_alpha_does_not_change_ids(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    wanted = pixels[..., :3].astype(int) @ [1, 256, 65536]
    assert (read_ids(tmp_path / "a.png", None, record="x") == wanted).all()


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 256), (np.uint16, 65536)])
def test_grey_indices_of_8_and_16_bits(tmp_path: Path, dtype: type, top: int) -> None:
    indices = np.random.default_rng(2).integers(0, top, (11, 9)).astype(dtype)
    cv2.imwrite(str(tmp_path / "a.png"), indices)
    assert (read_indices(tmp_path / "a.png", (9, 11), record="x") == indices).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_indices_are_read_and_not_their_colours(tmp_path: Path, bits: int) -> None:
    indices = np.random.default_rng(3).integers(0, 2**bits, (7, 10)).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(np.random.default_rng(4).integers(0, 256, 768).tolist())
    image.save(tmp_path / "a.png", bits=bits)
    assert (read_indices(tmp_path / "a.png", None, record="x") == indices).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_low_greys_are_indices_and_not_intensities(tmp_path: Path, bits: int) -> None:
    """Written by hand: packed rows of 1-, 2- or 4-bit greys."""
    import struct
    import zlib

    indices = np.random.default_rng(5).integers(0, 2**bits, (6, 16)).astype(np.uint8)
    per_byte = 8 // bits
    shifts = np.arange(per_byte)[::-1] * bits
    packed = (indices.reshape(6, -1, per_byte) << shifts).sum(axis=2).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 6, bits, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    assert (read_indices(tmp_path / "a.png", None, record="x") == indices).all()


@pytest.mark.parametrize(("mode", "reader"), [("L", read_ids), ("P", read_ids), ("RGB", read_indices)])
def test_a_png_of_the_other_kind_is_refused(tmp_path: Path, mode: str, reader: object) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(Defective) as error:
        reader(tmp_path / "a.png", None, record="x")  # type: ignore[operator]
    assert error.value.defect.code == "unreadable-mask"


@pytest.mark.parametrize("reader", [read_ids, read_indices])
def test_missing_damaged_and_wrongly_sized_masks(tmp_path: Path, reader: object) -> None:
    def code_of(path: Path, size: tuple[int, int] | None = None) -> str:
        with pytest.raises(Defective) as error:
            reader(path, size, record="image 3")  # type: ignore[operator]
        assert error.value.defect.record == "image 3"
        return error.value.defect.code

    assert code_of(tmp_path / "none.png") == "missing-mask"
    assert code_of(tmp_path) == "unreadable-mask"
    whole = id_png(tmp_path / "a.png", np.ones((30, 40), int))
    assert code_of(whole, (40, 31)) == "size-mismatch"
    whole.write_bytes(whole.read_bytes()[:-30])
    assert code_of(whole) == "unreadable-mask"
    whole.write_bytes(b"not a png")
    assert code_of(whole) == "unreadable-mask"
    whole.write_bytes(png(50000, 50000))
    assert code_of(whole) == "unreadable-mask"
