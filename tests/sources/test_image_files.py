import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segkit.errors import InputError
from segkit.file_names import is_unsafe
from segkit.sources.class_info import read_class_info
from segkit.sources.image_files import find_image, read_picture, resolve_inside, visible_files
from segkit.sources.json_stream import members
from segkit.sources.labels_file import read_labels
from segkit.sources.ledger import ImageError
from tests.images.test_png import png

from .builders import picture


def code(error: pytest.ExceptionInfo[ImageError]) -> str:
    return error.value.defect.code


def test_reads_bytes_size_and_digest(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", 33, 21)
    read = read_picture(path, record="image 1")
    assert (read.width, read.height, read.warnings) == (33, 21, ())
    assert read.data == path.read_bytes()
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.bmp", "a.avif", "a.gif", "a.jp2"]
)
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_found(tmp_path: Path, name: str, part: float) -> None:
    path = picture(tmp_path / name, 64, 48)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageError) as error:
        read_picture(path, record="image 1")
    assert code(error) == "unreadable-image"
    assert error.value.defect.file == str(path)
    assert "\n" not in str(error.value.defect.error())


@pytest.mark.parametrize("save", [{"progressive": True}, {"quality": 30}, {"subsampling": 0}])
def test_every_kind_of_jpeg_is_read_and_its_truncation_found(
    tmp_path: Path, save: dict[str, object]
) -> None:
    path = picture(tmp_path / "a.jpg", 200, 100, **save)
    assert read_picture(path, record="x").width == 200
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError):
        read_picture(path, record="x")


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "I;16", "RGBA", "1"])
def test_other_pixel_formats_are_images_too(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (9, 5)).save(path)
    read = read_picture(path, record="x")
    assert (read.width, read.height) == (9, 5)


def test_exif_orientation_is_a_warning_and_the_stored_size_counts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    read = read_picture(picture(tmp_path / "a.jpg", 30, 20, exif=exif), record="x")
    assert read.warnings == ("exif-orientation",)
    assert (read.width, read.height) == (30, 20)


def test_a_png_named_jpg_is_read_and_noted(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert read_picture(path, record="x").warnings == ("wrong-extension",)


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (0, 5), (60000, 60000)])
def test_a_header_that_claims_too_much_is_refused_before_decoding(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size))
    with pytest.raises(ImageError, match="claims"):
        read_picture(path, record="x")


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "/etc/passwd",
        "b/../../a.jpg",
        "",
        "C:\\a.jpg",
        "C:a.jpg",
        "\\a",
        "a\\..\\..\\b",
        "a\0",
    ],
)
def test_names_that_leave_their_folder_are_refused(tmp_path: Path, name: str) -> None:
    assert is_unsafe(name)
    with pytest.raises(ImageError) as error:
        resolve_inside(tmp_path, name, record="image 1")
    assert code(error) == "unsafe-path"


@given(st.text(alphabet="./\\:aC\0", max_size=8).filter(lambda name: "://" not in name))
@settings(max_examples=300)
def test_unsafe_names_are_those_of_pathlib_on_both_systems(name: str) -> None:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    leads_out = (
        posix.is_absolute() or ".." in posix.parts or ".." in windows.parts or bool(windows.anchor)
    )
    assert is_unsafe(name) == (leads_out or not name or "\0" in name)


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_not(tmp_path: Path) -> None:
    root, outer = tmp_path / "root", picture(tmp_path / "outer" / "a.jpg")
    picture(root / "b.jpg")
    (root / "file.jpg").symlink_to(outer)
    (root / "folder").symlink_to(outer.parent)
    (root / "good.jpg").symlink_to(root / "b.jpg")
    (root / "loop").symlink_to(root / "loop")
    for name in ("file.jpg", "folder/a.jpg", "loop", "loop/a.jpg"):
        with pytest.raises(ImageError) as error:
            find_image(root, (name,), record="image 1")
        assert code(error) == "unsafe-path"
    assert find_image(root, ("good.jpg",), record="x") == root / "good.jpg"


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    (other / "deep" / "b.jpg").touch()
    (folder / ".hidden").mkdir(parents=True)
    (folder / ".hidden" / "c.jpg").touch()
    (folder / "a.jpg").touch()
    (folder / "more").symlink_to(other)
    (folder / "again").symlink_to(other)
    (other / "up").symlink_to(other)
    (other / "deep" / "self").symlink_to(other / "deep")
    assert sorted(visible_files(folder)) == ["a.jpg", "again/deep/b.jpg", "more/deep/b.jpg"]


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # a chmod would not keep root out
    with pytest.raises(InputError, match=r"locked: the folder is not readable \(Permission denied"):
        list(visible_files(tmp_path))
    assert list(visible_files(tmp_path / "nowhere")) == []


def test_a_root_that_is_a_link_itself_is_fine(tmp_path: Path) -> None:
    picture(tmp_path / "real" / "a.jpg")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert find_image(tmp_path / "root", ("a.jpg",), record="x").is_file()


def test_a_name_too_long_for_the_file_system_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        find_image(tmp_path, ("x" * 5000,), record="x")


def test_the_first_candidate_that_exists_is_taken(tmp_path: Path) -> None:
    picture(tmp_path / "patch1" / "a.jpg")
    picture(tmp_path / "a.jpg")
    assert (
        find_image(tmp_path, ("v1/patch1/a.jpg", "patch1/a.jpg", "a.jpg"), record="x").parent.name
        == "patch1"
    )
    with pytest.raises(ImageError, match=r"tried x/b\.jpg, b\.jpg"):
        find_image(tmp_path, ("x/b.jpg", "b.jpg"), record="x")


@pytest.mark.parametrize("progressive", [False, True])
def test_reduced_decoding_stops_where_full_decoding_stops(
    tmp_path: Path, progressive: bool
) -> None:
    path = picture(tmp_path / "a.jpg", 96, 64, quality=60, progressive=progressive)
    data = path.read_bytes()
    agreed = []
    for length in range(len(data) // 4, len(data) + 1, 97):
        path.write_bytes(data[:length])
        agreed.append(
            (stops(lambda: Image.open(path).load()), stops(lambda: read_picture(path, record="x")))
        )
    assert all(full == reduced for full, reduced in agreed)
    assert any(full for full, _ in agreed)


def stops(decode: Callable[[], object]) -> bool:
    try:
        decode()
    except (OSError, ImageError):
        return True
    return False


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("a.jpg", "zero.jpg", "folder.jpg"):
        with pytest.raises(ImageError) as error:
            read_picture(tmp_path / name, record="x")
        assert code(error) == "unreadable-image"
    for read in (read_labels, read_class_info, lambda path: list(members(path, ()))):
        for name in ("a.jpg", "zero.jpg"):
            with pytest.raises(InputError, match="not a file") as refusal:
                read(tmp_path / name)
            assert "\n" not in str(refusal.value)
