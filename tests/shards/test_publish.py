import json
import shutil
import subprocess
import sys

import pytest

from segkit.errors import InputError, SegkitError
from segkit.shards.publish import interrupted, staging
from segkit.shards.versions import parse_spec, resolve, versions


def publish(destination, text="{}"):
    with staging(destination, {"text": text}, inputs=(), resume=False) as stage:
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


def test_a_version_is_found_from_within(tmp_path, monkeypatch):
    monkeypatch.chdir(publish(tmp_path / "set"))
    publish(tmp_path / "set")
    assert resolve(".") == tmp_path / "set" / "v1"
    assert resolve("..").resolve() == tmp_path / "set" / "v2"


def test_the_name_of_a_version_is_no_destination(tmp_path):
    with pytest.raises(InputError, match=r"set@v2: names a version, not a directory"):
        publish(f"{tmp_path}/set@v2")
    assert not list(tmp_path.iterdir())
    assert publish(tmp_path / "set@v0").name == "v1"  # v0 is no version


@pytest.mark.parametrize("spec", ["nowhere", "empty", "set@v9"])
def test_an_unpublished_version_is_one_clear_line(tmp_path, spec):
    publish(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="version"):
        resolve(tmp_path / spec)


def test_an_unpublished_version_is_invisible_and_resumed_only_with_the_same_fingerprint(tmp_path):
    with staging(tmp_path, {"a": 1}, inputs=(), resume=True) as stage:
        assert not stage.resumed
        (stage.path / "kept").write_text("x")
    with pytest.raises(InputError):
        resolve(tmp_path)
    with staging(tmp_path, {"a": 1}, inputs=(), resume=True) as stage:
        assert stage.resumed
        assert (stage.path / "kept").read_text() == "x"
    with staging(tmp_path, {"a": 2}, inputs=(), resume=True) as stage:
        assert not stage.resumed
        assert not (stage.path / "kept").exists()
    with staging(tmp_path, {"a": 2}, inputs=(), resume=False) as stage:
        assert not stage.resumed
        (stage.path / "manifest.json").write_text("{}")
        published = stage.publish()
    assert sorted(path.name for path in published.iterdir()) == ["manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "v1"]


def test_a_live_writer_excludes_others_but_a_dead_one_does_not(tmp_path):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom segkit.shards.publish import staging\n"
        f"with staging(Path({str(tmp_path)!r}), {{}}, inputs=(), resume=True):\n"
        "    print('in', flush=True)\n    time.sleep(60)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "in\n"
    with (
        pytest.raises(SegkitError, match="another process"),
        staging(tmp_path, {}, inputs=(), resume=True),
    ):
        pass
    writer.kill()
    writer.wait()
    with staging(tmp_path, {}, inputs=(), resume=True) as stage:
        assert stage.resumed


def test_a_destination_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="cannot be written"),
        staging(tmp_path / "file", {}, inputs=(), resume=False),
    ):
        pass


def test_a_damaged_version_does_not_block_the_next(tmp_path):
    with staging(tmp_path, {}, inputs=(), resume=False) as stage:
        (stage.path / "manifest.json").write_text('{"type"')
        stage.publish()
    with staging(tmp_path, {}, inputs=(), resume=False) as stage:
        assert stage.version == 2


def test_a_set_and_a_run_cannot_share_a_directory(tmp_path):
    for content, other_content in (("run", "shards"), ("shards", "run")):
        folder = tmp_path / content
        with staging(folder, {}, inputs=(), resume=False, content=content) as stage:
            (stage.path / "manifest.json").write_text(json.dumps({"type": content}))
            stage.publish()
        wrong = staging(folder, {}, inputs=(), resume=False, content=other_content)
        with pytest.raises(InputError, match=r"holds a .*; choose another directory"), wrong:
            pass
        assert sorted(entry.name for entry in folder.iterdir()) == [".lock", "v1"]
        with staging(folder, {}, inputs=(), resume=False, content=content) as stage:
            assert stage.version == 2


def make_file(path):
    path.write_text("of the user")


def make_folder(path):
    path.mkdir()
    (path / "notes.txt").write_text("of the user")


def make_link(path):
    (path.parent / "elsewhere").mkdir()
    (path.parent / "elsewhere" / "notes.txt").write_text("of the user")
    path.symlink_to("elsewhere")


def make_dead_link(path):
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [make_file, make_folder, make_link, make_dead_link])
@pytest.mark.parametrize("name", ["v2", ".v2.partial", ".v7.partial"])
@pytest.mark.parametrize("content", ["shards", "run"])
def test_what_is_not_ours_is_left_alone_with_a_hint(tmp_path, name, make, content):
    publish(tmp_path)
    make(tmp_path / name)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with (
        pytest.raises(InputError, match=rf"/{name}: .*has the name of .*; move it away") as error,
        staging(tmp_path, {}, inputs=(), resume=True, content=content),
    ):
        pass
    assert "\n" not in str(error.value)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_version_that_appears_meanwhile_is_not_overwritten(tmp_path):
    with (
        pytest.raises(InputError, match="v1: has the name of the next version"),
        staging(tmp_path, {}, inputs=(), resume=True) as stage,
    ):
        (stage.path / "manifest.json").write_text("{}")
        (tmp_path / "v1").mkdir()  # an empty folder would be replaced by a rename
        stage.publish()
    assert list((tmp_path / "v1").iterdir()) == []


def test_an_empty_or_published_unfinished_version_is_ours(tmp_path):
    """A process can be killed before it writes the fingerprint, or after it has deleted it."""
    for files in ([], ["manifest.json", "labels-00000.parquet"]):
        (tmp_path / ".v1.partial").mkdir()
        for name in files:
            (tmp_path / ".v1.partial" / name).write_text("")
        with staging(tmp_path, {}, inputs=(), resume=True) as stage:
            assert not stage.resumed
            names = sorted(path.name for path in stage.path.iterdir())
            assert names == ["fingerprint.json", "writer.json"]
            stage.discard()


@pytest.mark.parametrize("text", ["", '{"a": ', "\ufeff", "[" * 5000, "[1]", '{"a": 2}'])
def test_a_damaged_fingerprint_is_that_of_another_run(tmp_path, text):
    with (
        pytest.raises(KeyboardInterrupt),
        staging(tmp_path, {"a": 1}, inputs=(), resume=True) as stage,
    ):
        (stage.path / "fingerprint.json").write_text(text)
        raise KeyboardInterrupt
    assert interrupted(tmp_path) in (None, {"a": 2})
    with staging(tmp_path, {"a": 1}, inputs=(), resume=True) as stage:
        assert not stage.resumed
    assert interrupted(tmp_path) == {"a": 1}


def test_a_lock_that_is_a_link_is_refused_and_its_target_kept(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "notes.txt").write_text("of the user")
    (tmp_path / "set" / ".lock").symlink_to(tmp_path / "notes.txt")
    with (
        pytest.raises(InputError, match="cannot be"),
        staging(tmp_path / "set", {}, inputs=(), resume=True),
    ):
        pass
    assert (tmp_path / "notes.txt").read_text() == "of the user"


@pytest.mark.parametrize("recreate", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_that_is_deleted_meanwhile_is_refused(tmp_path, recreate, resume):
    """A second process that makes it again has its own files, which the first must not take."""
    with (
        pytest.raises(SegkitError, match=r"v1\.partial: was deleted or replaced .*; run it again"),
        staging(tmp_path / "set", {}, inputs=(), resume=resume) as stage,
    ):
        (stage.path / "manifest.json").write_text("{}")
        shutil.rmtree(tmp_path / "set")
        if recreate:
            stage.path.mkdir(parents=True)
            (stage.path / "manifest.json").write_text("of another process")
        stage.publish()
    assert versions(tmp_path / "set") == {}
    assert (stage.path / "manifest.json").exists() == recreate


def test_errors_that_follow_from_a_deletion_name_the_deletion(tmp_path):
    with (
        pytest.raises(SegkitError, match="was deleted or replaced"),
        staging(tmp_path / "set", {}, inputs=(), resume=True) as stage,
    ):
        shutil.rmtree(tmp_path / "set")
        (stage.path / "labels-00000.parquet").write_text("")


def test_only_the_files_of_the_version_are_published(tmp_path):
    with staging(tmp_path, {}, inputs=(), resume=True) as stage:
        for name in ("manifest.json", "labels", "draft.partial"):
            (stage.path / name).write_text("")
        (stage.path / "folder").mkdir()
        (stage.path / "folder" / "file").write_text("")
        published = stage.publish({"manifest.json", "labels", "absent"})
    assert sorted(path.name for path in published.iterdir()) == ["labels", "manifest.json"]


def test_a_failure_removes_only_folders_that_it_made(tmp_path):
    def fail(folder, resume=False):
        with pytest.raises(InputError, match="no"), staging(folder, {}, inputs=(), resume=resume):
            raise InputError("no")

    fail(tmp_path / "a" / "b" / "set")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    fail(tmp_path / "mine" / "set")
    fail(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [".lock"]
    fail(tmp_path / "resumed", resume=True)
    assert (tmp_path / "resumed" / ".v1.partial").is_dir()
    publish(tmp_path / "set")
    fail(tmp_path / "set")
    assert resolve(tmp_path / "set").name == "v1"
