from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit import storage
from segkit.errors import InputError
from segkit.inference.input_files import image_files, sample_ids
from tests.shards.conftest import picture

NAMES = ("a/1.png", "a/2.png", "b.jpg", "b.png", "notes.txt")


def test_images_are_found_and_named_alike_on_disk_and_in_a_store(store, tmp_path):
    for number, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(number))
        storage.put(tmp_path / name, store / name)
    for place in (tmp_path, store):
        root, files, passed_over = image_files(place)
        assert passed_over == {".txt": 1}
        ids = sample_ids(files, root)
        assert [ids[file] for file in files] == ["a/1", "a/2", "b.jpg", "b.png"]
        assert [file.read_bytes() for file in files] == [picture(number) for number in range(4)]
        assert image_files(place / "a" / "2.png")[:2] == (
            place / "a",
            [place / "a" / "2.png"],
        )


@given(st.lists(st.sampled_from(["a", "b", ".jpg", ".png"]), max_size=4), st.data())
def test_ids_are_unique_whatever_the_names(parts: list[str], data: st.DataObject) -> None:
    stems = st.lists(st.sampled_from(["a", ".jpg", ".png", "/b"]), min_size=1, max_size=4)
    names = data.draw(st.sets(stems.map(lambda end: "a" + "".join(end) + ".png"), max_size=8))
    names |= {"a" + "".join(parts) + ".jpg"}
    files = [Path("root") / name for name in sorted(names)]
    ids = sample_ids(files, Path("root"))
    assert len(set(ids.values())) == len(files)
    for file, sample_id in ids.items():
        assert file.as_posix().startswith(f"root/{sample_id}")


def test_a_name_without_its_extension_is_not_that_of_another_file() -> None:
    files = [Path("a.jpg"), Path("a.jpg.png"), Path("a.png"), Path("b.png")]
    ids = sample_ids(files, Path())
    assert [ids[file] for file in files] == ["a.jpg", "a.jpg.png", "a.png", "b"]


def test_hidden_files_are_skipped_and_other_formats_counted(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", ".thumbs/b.png", "c.HEIC", "d.heic", "e.tga", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(1))
    _, files, passed_over = image_files(tmp_path)
    assert files == [tmp_path / "a.png"]
    assert passed_over == {".heic": 2, ".tga": 1, "(no extension)": 1}
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"no images found \(but .*\.heic 2"):
        image_files(tmp_path)
