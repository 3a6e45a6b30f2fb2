from segkit import storage
from segkit.inference.input_files import image_files, sample_ids
from tests.shards.conftest import picture

NAMES = ("a/1.png", "a/2.png", "b.jpg", "b.png", "notes.txt")


def test_images_are_found_and_named_alike_on_disk_and_in_a_store(store, tmp_path):
    for number, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(number))
        storage.put(tmp_path / name, store / name)
    for place in (tmp_path, store):
        root, files = image_files(place)
        ids = sample_ids(files, root)
        assert [ids[file] for file in files] == ["a/1", "a/2", "b.jpg", "b.png"]
        assert [file.read_bytes() for file in files] == [picture(number) for number in range(4)]
        assert image_files(place / "a" / "2.png") == (place / "a", [place / "a" / "2.png"])
