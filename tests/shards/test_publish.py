import json
import subprocess
import sys

import pytest

from segkit.errors import InputError, SegkitError
from segkit.shards.publish import parse_spec, resolve, staging, versions


def publish(destination, text="{}"):
    with staging(destination, {"text": text}, resume=False) as stage:
        (stage.path / "manifest.json").write_text(text)
        return stage.publish()


def test_a_spec_is_a_directory_with_an_optional_version(tmp_path):
    assert parse_spec("a/b@v12") == (tmp_path.__class__("a/b"), 12)
    assert parse_spec("a@v0") == (tmp_path.__class__("a@v0"), None)
    assert parse_spec("user@host") == (tmp_path.__class__("user@host"), None)


def test_versions_count_up_and_the_newest_is_the_default(tmp_path):
    for number in range(1, 11):
        assert publish(tmp_path / "set") == tmp_path / "set" / f"v{number}"
    assert resolve(tmp_path / "set").name == "v10"
    assert resolve(f"{tmp_path}/set@v2").name == "v2"
    assert resolve(tmp_path / "set" / "v3").name == "v3"
    assert list(versions(tmp_path / "set")) == list(range(1, 11))


@pytest.mark.parametrize("spec", ["nowhere", "empty", "set@v9"])
def test_an_unpublished_version_is_one_clear_line(tmp_path, spec):
    publish(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="version"):
        resolve(tmp_path / spec)


def test_an_unpublished_version_is_invisible_and_resumed_only_with_the_same_fingerprint(tmp_path):
    with staging(tmp_path, {"a": 1}, resume=True) as stage:
        assert not stage.resumed
        (stage.path / "kept").write_text("x")
    with pytest.raises(InputError):
        resolve(tmp_path)
    with staging(tmp_path, {"a": 1}, resume=True) as stage:
        assert stage.resumed
        assert (stage.path / "kept").read_text() == "x"
    with staging(tmp_path, {"a": 2}, resume=True) as stage:
        assert not stage.resumed
        assert not (stage.path / "kept").exists()
    with staging(tmp_path, {"a": 2}, resume=False) as stage:
        assert not stage.resumed
        (stage.path / "manifest.json").write_text("{}")
        published = stage.publish()
    assert sorted(path.name for path in published.iterdir()) == ["manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "v1"]


def test_a_live_writer_excludes_others_but_a_dead_one_does_not(tmp_path):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom segkit.shards.publish import staging\n"
        f"with staging(Path({str(tmp_path)!r}), {{}}, resume=True):\n"
        "    print('in', flush=True)\n    time.sleep(60)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "in\n"
    with pytest.raises(SegkitError, match="another process"), staging(tmp_path, {}, resume=True):
        pass
    writer.kill()
    writer.wait()
    with staging(tmp_path, {}, resume=True) as stage:
        assert stage.resumed


def test_a_destination_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="cannot be written"),
        staging(tmp_path / "file", {}, resume=False),
    ):
        pass


def test_a_damaged_version_does_not_block_the_next(tmp_path):
    with staging(tmp_path, {}, resume=False) as stage:
        (stage.path / "manifest.json").write_text('{"type"')
        stage.publish()
    with staging(tmp_path, {}, resume=False) as stage:
        assert stage.version == 2


def test_a_set_and_a_run_cannot_share_a_directory(tmp_path):
    for content, other_content in (("run", "shards"), ("shards", "run")):
        folder = tmp_path / content
        with staging(folder, {}, resume=False, content=content) as stage:
            (stage.path / "manifest.json").write_text(json.dumps({"type": content}))
            stage.publish()
        wrong = staging(folder, {}, resume=False, content=other_content)
        with pytest.raises(InputError, match=r"holds a .*; choose another directory"), wrong:
            pass
        assert sorted(entry.name for entry in folder.iterdir()) == [".lock", "v1"]
        with staging(folder, {}, resume=False, content=content) as stage:
            assert stage.version == 2
