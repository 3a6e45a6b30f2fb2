import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segkit.file_names import (
    LinkError,
    UnsafeNameError,
    is_digest,
    is_unsafe,
    known_form,
    relative_name,
    resolve_inside,
    safe_name,
    safe_path,
)

TEXTS = st.text(st.one_of(st.sampled_from("./\\~: -_a\0\n"), st.characters()), max_size=300)


@given(TEXTS)
@example("../../escaped")
@example("/abs")
@example("~" + "0" * 16)
def test_a_safe_path_names_one_file_inside_its_folder(text: str) -> None:
    root = Path("/folder")
    for safe in (safe_path, safe_name):
        name = f"{safe(text)}.jpg"
        path = root / name
        assert Path(os.path.normpath(path)).is_relative_to(root) and path.name not in (".", "..")
        assert not is_unsafe(name) and "\n" not in name and "\\" not in name
        assert all(0 < len(os.fsencode(part)) <= 255 for part in name.split("/"))
        assert safe(safe(text)) != safe(text) or safe(text) == text
    assert "/" not in safe_name(text)


@given(st.lists(TEXTS, unique=True, max_size=20))
def test_different_texts_have_different_names(texts: list[str]) -> None:
    for safe in (safe_path, safe_name):
        assert len({safe(text) for text in texts}) == len(texts)
        assert len({safe(text) for text in [*texts, *map(safe, texts)]}) >= len(texts)


@pytest.mark.parametrize("text", ["000001", "city/frame_1", "a b-c.d", "划痕/é", "v1.2"])
def test_plain_names_stay(text: str) -> None:
    assert safe_path(text) == text
    assert (safe_name(text) == text) == ("/" not in text)


def test_absolute_names_inside_the_folder_become_relative(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    (tmp_path / "link").symlink_to(root)
    for folder in (root, tmp_path / "link"):
        assert relative_name(folder, f"{root}/a/b.jpg") == "a/b.jpg"
    assert relative_name(root, "a\\b.jpg") == "a/b.jpg"
    for name in ("/etc/passwd", f"{root}2/a.jpg", f"{tmp_path}/a.jpg", "../a.jpg", str(root)):
        assert is_unsafe(relative_name(root, name))
    assert is_unsafe(relative_name(root, f"{root}/../../a.jpg"))
    assert relative_name(Path("/"), "/etc/a.jpg") == "etc/a.jpg"


def test_names_are_resolved_or_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "lost").symlink_to(tmp_path / "nowhere")
    with pytest.raises(LinkError, match=r"is a link to .*/nowhere, which does not exist"):
        resolve_inside(root, "lost")
    assert resolve_inside(root, "a/b.jpg") == root / "a/b.jpg"
    for name in ("", "../a", "/a", "out/a", "out", "a\0", "C:a", "s3://a/b", "\ud800"):
        with pytest.raises(UnsafeNameError, match="leads out of") as error:
            resolve_inside(root, name)
        is_link = f"{root / 'out'} is a link to {tmp_path}" in str(error.value)
        assert is_link == name.startswith("out") == isinstance(error.value, LinkError)


def test_names_are_known_in_each_unicode_form() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert known_form("cafe", {"cafe"}) == "cafe"
    for name, different in ((composed, decomposed), (decomposed, composed)):
        assert known_form(name, {different}) == different
        assert known_form(name, {composed, decomposed}) == name
    assert known_form(composed, {"cafe"}) is None


def test_digests_are_64_digits_of_lower_case_hex() -> None:
    digest = hashlib.sha256(b"").hexdigest()
    assert is_digest(digest)
    others = "", digest[1:], f"{digest}0", digest.upper(), f"../{digest}", f"{digest}\n"
    for value in (None, *others):
        assert not is_digest(value)
