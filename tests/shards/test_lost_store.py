"""A store that is lost at any request, and stays lost, is one line with its URL and a hint."""

import itertools
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from segkit import storage
from segkit.errors import SegkitError
from segkit.shards.header import Header
from segkit.shards.publish import check_staging, staging
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate
from segkit.shards.versions import resolve, versions
from segkit.shards.writer import write_layer
from tests.shards.test_upload import publish, stop_before, write

REQUESTS = ("ls", "info", "find", "cat_file", "pipe_file", "put_file", "rm_file", "_open")
TEXTS = {"a": "1111", "manifest.json": "{}"}


class LostError(Exception):
    """As of a package whose errors are not those of the system."""


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    return storage.location(f"memory://{uuid.uuid4().hex}")


def lose_at(context: pytest.MonkeyPatch, request: int, error: type[Exception]) -> None:
    """Let this request and all later ones fail."""
    numbers = itertools.count(1)

    def counted(method: Callable[..., object]) -> Callable[..., object]:
        def answer(*arguments: object, **options: object) -> object:
            if next(numbers) >= request:
                raise error("connection lost")
            return method(*arguments, **options)

        return answer

    for name in REQUESTS:
        context.setattr(MemoryFileSystem, name, counted(getattr(MemoryFileSystem, name)))


def discard(store: Path) -> None:
    with staging(store / "set", {"text": 1}, inputs=(), resume=True) as stage:
        stage.discard()


def abandon(store: Path) -> None:
    with staging(store / "set", {"text": 2}, inputs=(), resume=False):
        pass


def merge(store: Path) -> None:
    data = ShardSet.open(store / "set")
    write_layer(store / uuid.uuid4().hex, data, data.samples(), Header.from_set(data, "merge"))


ACTIONS: dict[str, Callable[[Path], object]] = {
    "versions": lambda store: versions(store / "set"),
    "resolve": lambda store: resolve(f"{store}/set@v1"),
    "resolve-version": lambda store: resolve(f"{store}/set/v1"),
    "open": lambda store: ShardSet.open(f"{store}/set"),
    "merge": merge,
    "validate": lambda store: list(validate(store / "set" / "v1")),
    "check-staging": lambda store: check_staging(store / "set", "shards"),
    "publish": lambda store: publish(store, TEXTS),
    "abandon": abandon,
    "discard": discard,
}


@pytest.mark.parametrize("error", [LostError, ConnectionError, TimeoutError])
@pytest.mark.parametrize("action", ACTIONS)
def test_a_lost_store_is_one_line(
    memory: Path, monkeypatch: pytest.MonkeyPatch, action: str, error: type[Exception]
) -> None:
    write(memory / "set")
    for request in range(1, 100):
        if action in ("abandon", "discard"):  # of an upload that stopped
            stop_before(monkeypatch, "manifest.json", lambda: publish(memory, TEXTS))
        with monkeypatch.context() as context:
            lose_at(context, request, error)
            try:
                ACTIONS[action](memory)
            except SegkitError as lost:
                text = str(lost)
                assert text.startswith(f"{memory}/"), text
                assert "connection lost" in text and "run it again" in text, text
            else:
                break
    assert 1 < request < 99
