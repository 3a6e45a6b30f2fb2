import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from segkit.shards.reader import ShardSet
from segkit.storage import location
from tests.store_proxy import StoreProxy
from tests.training.toy import write_recipe, write_sparse_set, write_toy_set

settings.register_profile("shared-cores", deadline=None)  # a busy neighbor must not fail a test
settings.load_profile("shared-cores")


@pytest.fixture(scope="session", autouse=True)
def single_threaded_torch() -> None:
    """Beside a busy neighbor, two threads can be 50 times slower than one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither use nor fill the cache of the user who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; tests that need it are skipped without it."""
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("SEGKIT_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set SEGKIT_REAL_DATA)")
    return folder.resolve()


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[str]:
    """The address of a local S3 server."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request otherwise
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(_s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty bucket on a local S3 server, s3://name; child processes can use it too."""
    import fsspec

    keys = {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in {
        **keys,
        "AWS_ENDPOINT_URL": _s3_server,
        "SEGKIT_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(bucket)
    return location(f"s3://{bucket}")


@pytest.fixture
def s3_proxy(s3: Path, _s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreProxy]:
    """A proxy through which the bucket of `s3` is reached, from child processes too."""
    import s3fs

    with StoreProxy(_s3_server).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        s3fs.S3FileSystem.clear_instance_cache()  # they keep the address of the server
        yield proxy
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder behind a URL, for two protocols of fsspec."""
    if request.param == "s3":
        return request.getfixturevalue("s3") / "folder"
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    return location(f"memory://{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def toy_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_toy_set(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="session")
def box_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_toy_set(tmp_path_factory.mktemp("data") / "boxes", boxes_only=True, name="boxes")


@pytest.fixture(scope="session")
def sparse_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_sparse_set(tmp_path_factory.mktemp("data") / "sparse")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.toml")
