from segkit.shards.relative_names import join, relative
from segkit.storage import location


def test_names_lead_from_a_folder_to_a_file_and_back(s3, tmp_path):
    folder = s3 / "sets" / "layer" / "v1"
    for path, name in (
        (s3 / "sets" / "parent" / "v3" / "a.tar", "../../parent/v3/a.tar"),
        (s3 / "sets" / "layer" / "v1", "."),
        (location("memory://other/a.tar"), "memory://other/a.tar"),
        (tmp_path / "a.tar", str(tmp_path / "a.tar")),
    ):
        assert relative(path, folder) == name
        assert join(folder, name) == path
    assert relative(s3 / "a.tar", tmp_path) == f"{s3}a.tar"
    assert join(tmp_path, f"{s3}a.tar") == s3 / "a.tar"
