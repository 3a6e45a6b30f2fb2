"""Public models that cannot be fetched fail quickly, in one line that says what to do by hand."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segkit import hub
from segkit.errors import InputError, SegkitError
from segkit.hub import fetch_model, model_name

constants = pytest.importorskip("huggingface_hub.constants")
errors = pytest.importorskip("huggingface_hub.errors")


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def _message(source: str) -> str:
    with pytest.raises(SegkitError) as caught:
        fetch_model(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unreachable_endpoint_takes_less_than_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )
    started = time.monotonic()
    message = _message("hf:owner/name")
    assert time.monotonic() - started < 10
    assert "fetch config.json, model.safetensors, preprocessor_config.json from " in message
    assert "http://127.0.0.1:9/owner/name into a folder and give hf:FOLDER" in message


def test_an_endpoint_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_PATIENCE", 0.2)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: time.sleep(3))
    assert "could not be fetched (no answer within 0.2 s)" in _message("hf:owner/name")


def test_offline_mode_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "could not be fetched (HF_HUB_OFFLINE is set); fetch" in _message("hf:owner/name")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", "owner/name is gated: accept its terms at "),
        ("RepositoryNotFoundError", "owner/name is not a public model of "),
    ],
)
def test_gated_and_unknown_names_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, error: str, message: str
) -> None:
    httpx = pytest.importorskip("httpx")
    response = httpx.Response(401, request=httpx.Request("HEAD", "https://huggingface.co"))

    def fail(*_: Any, **__: Any) -> None:
        raise getattr(errors, error)("first line\nsecond line", response=response)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", fail)
    assert message in _message("hf:owner/name")


def test_what_the_cache_holds_needs_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", _never)
    folder = _cached_model(tmp_path)
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (folder / name).write_bytes(b"")
    assert fetch_model("hf:owner/name") == folder


def test_a_cached_model_gets_the_processor_of_its_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As `from_pretrained` of the model by itself leaves the cache."""
    folder = _cached_model(tmp_path)
    requests: list[tuple[str, str | None]] = []

    def download(_: str, name: str, *, revision: str | None, **__: Any) -> str:
        requests.append((name, revision))
        (folder / name).write_bytes(b"{}")
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert fetch_model("hf:owner/name") == folder
    assert requests == [("preprocessor_config.json", "abc")]
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", _never)
    assert fetch_model("hf:owner/name") == folder, "cached now"


def test_a_cached_model_without_a_processor_is_used_without_a_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", fail)
    folder = _cached_model(tmp_path)
    assert fetch_model("hf:owner/name") == folder


@pytest.mark.parametrize(
    "name", ["../m2f", "./m2f", "a/b-", "a--b/c", "a..b/c", "a/b.git", "é/b", f"a/{'b' * 97}"]
)
def test_what_no_public_name_can_be_is_a_missing_folder(name: str) -> None:
    with pytest.raises(InputError, match="no such folder"):
        model_name(f"hf:{name}")


@pytest.mark.parametrize("prefix", hub.KINDS)
def test_the_home_folder_is_expanded(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    for file in (hub.CONFIG, hub.WEIGHTS):
        (tmp_path / "model" / file).touch()
    assert fetch_model(f"{prefix}~/model") == tmp_path / "model"
    with pytest.raises(InputError, match="no such folder"):
        fetch_model(f"{prefix}~no-such-user/model")


@pytest.mark.parametrize("name", ["a/b", "fac_e/m.2-f", "Owner/mask2former-swin-tiny"])
def test_public_names_are_those_of_the_hub(name: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(name)
    assert model_name(f"hf:{name}") == name


def _cached_model(root: Path) -> Path:
    """The folder of a model in the hub's cache, without its processor."""
    repository = root / "hub" / "models--owner--name"
    folder = repository / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(b"")
    return folder


def _never(*_: Any, **__: Any) -> None:
    raise AssertionError("asked the network")


def test_the_files_of_a_model_are_downloaded_one_by_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", _downloads(tmp_path, without="preprocessor_config.json")
    )
    assert fetch_model("hf:owner/name") == tmp_path


def test_a_public_model_of_pickled_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", _downloads(tmp_path, without="model.safetensors")
    )
    message = _message("hf:owner/name")
    assert "owner/name: has no model.safetensors; pytorch_model.bin is never read" in message


def _downloads(folder: Path, without: str) -> Callable[..., str]:
    """A hub that has all files but one."""

    def download(_: str, name: str, **__: Any) -> str:
        if name == without:
            raise errors.EntryNotFoundError("404")
        return str(folder / name)

    return download


def test_a_folder_of_pickled_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="has no model"):
        fetch_model(f"hf:{tmp_path}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    message = _message(f"hf:{tmp_path}")
    assert "unpickling can run code" in message and "save_pretrained" in message
