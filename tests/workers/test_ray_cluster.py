"""The Ray engine writes the same bytes as the local one, even if a worker is killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import InputError, SegkitError
from segkit.extras import install_command
from segkit.shards import shard
from segkit.sources import coco_json
from segkit.sources.coco_panoptic import CocoPanoptic
from segkit.sources.engine import convert
from segkit.workers import ray_cluster
from segkit.workers.devices import Workers

from ..commands.test_convert import segkit
from ..inference.labelers import labeled, open_killing, open_plainly, write_bare_set
from ..snippets import snippet
from ..sources.builders import coco_panoptic
from ..sources.test_engine import SMALL, contents, opened

pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = pytest.mark.timeout(900)  # the processes of a cluster start slowly on a busy machine


SLOW = "timed out during startup"
"""Ray's message if its processes do not start within its limits of 15 and 30 seconds."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes on this machine, one worker each; this process connects only once."""
    import ray
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80 << 20}
    bare = {
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
    }  # quicker to start
    try:
        nodes = Cluster(initialize_head=True, head_node_args={**size, **bare})
        nodes.add_node(**size)
    except Exception as error:
        if SLOW in str(error):
            pytest.skip(f"this machine is too busy for a Ray cluster ({error})")
        raise
    ray.init(nodes.address, logging_level="ERROR", log_to_driver=False)
    yield nodes.address
    ray.shutdown()
    nodes.shutdown()


@dataclass(frozen=True)
class Killing(CocoPanoptic):
    """A source that kills its worker in the middle, a number of times."""

    deaths: Path = Path()
    times: int = 1

    def sample(self, record: Any, *arguments: Any) -> Any:
        if record.id == "5" and len(list(self.deaths.iterdir())) < self.times:
            (self.deaths / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(record, *arguments)


def killing(root: Path, times: int) -> Killing:
    (root / "deaths").mkdir()
    file = coco_json.read_coco(root / "panoptic.json", "panoptic")
    return Killing(file, root / "images", root / "panoptic", deaths=root / "deaths", times=times)


def test_a_worker_killed_in_the_middle_changes_no_byte(
    tmp_path: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths mean the same to the tasks
    root = Path()
    coco_panoptic(root, 12)
    local = convert(opened(root), root / "local", SMALL, arguments={})
    options = replace(SMALL, workers=None, engine="ray", address=address)
    report = convert(killing(root, 1), root / "ray", options, arguments={})
    assert len(list((root / "deaths").iterdir())) == 1
    assert local.published and report.published
    assert len(report.published.manifest.parts) > 3
    assert contents(report.published.path) == contents(local.published.path)
    assert capsys.readouterr().out == ""


def test_actors_label_the_bytes_of_one_process_though_one_is_killed(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "MIN_ROWS", 4)
    data = write_bare_set(tmp_path / "data").path.parent
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    local, counts = labeled(data, tmp_path / "local", open_plainly)
    workers = Workers("ray", None, address=address)
    open_label = partial(open_killing, deaths, 1)
    layer, counts_of_actors = labeled(data, tmp_path / "ray", open_label, workers=workers)
    assert len(list(deaths.iterdir())) == 1
    assert len(layer.manifest.parts) == 6
    assert counts_of_actors == counts
    assert contents(layer.path) == contents(local.path)
    too_many = replace(workers, count=9)
    with pytest.raises(InputError, match="9 devices, the cluster has 2 CPUs"):
        labeled(data, tmp_path / "many", open_label, workers=too_many)


def test_a_worker_that_dies_again_and_again_is_reported_in_one_line(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "_RETRIES", 0)
    coco_panoptic(tmp_path, 12)
    options = replace(SMALL, engine="ray", address=address)
    with pytest.raises(
        SegkitError,
        match=r"^a worker of the Ray cluster was lost .*; run it again: finished shards",
    ):
        convert(killing(tmp_path, 99), tmp_path / "out", options, arguments={})
    assert not list(tmp_path.glob("out/v*"))


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def faulty(*_: Any) -> None:
    raise KeyError("first line\nsecond line")


def double(number: int) -> int:
    return 2 * number


def test_tasks_give_results_and_raise_what_they_raised(tmp_path: Path, address: str) -> None:
    with ray_cluster.ray_cluster(double, address, None, [tmp_path]) as (submit, size):
        assert size == 2
        assert [future.result() for future in [submit(1), submit(2), submit(3)]] == [2, 4, 6]
    for work, error in ((full, OSError), (faulty, SegkitError)):
        with (
            pytest.raises(
                error,
                match=r"No space left|"
                r"a task failed on the Ray cluster \('first line.*second line'\)",
            ),
            ray_cluster.ray_cluster(work, address, None, []) as (submit, _),
        ):
            submit(0).result()


def on_device(device: str) -> Callable[[], str]:
    return lambda: device


def test_work_without_a_model_uses_the_cpus_of_a_cluster_with_gpus(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    workers = Workers("ray", None, "cpu", address)
    assert (workers.kind, Workers("ray", None, "auto", address).kind) == ("cpu", "cuda")
    assert [*workers.run(on_device, [()] * 3, [])] == ["cpu"] * 3
    with ray_cluster.ray_devices(on_device, address, None, [], on_cpu=True) as (_, size):
        assert size == 2


def test_an_actor_takes_its_device_and_nothing_else() -> None:
    """A node with fewer CPUs than GPUs starts an actor on each GPU."""
    assert ray_cluster._demand("GPU") == {"num_cpus": 0, "num_gpus": 1}
    assert ray_cluster._demand("CPU") == {"num_cpus": 1, "num_gpus": 0}


def test_a_folder_that_nodes_do_not_share_is_reported_in_one_line(
    tmp_path: Path, address: str
) -> None:
    with (
        pytest.raises(
            SegkitError, match=r"own-disk: does not exist on node .*folders that all nodes share"
        ),
        ray_cluster.ray_cluster(double, address, None, [tmp_path, tmp_path / "own-disk"]) as (
            submit,
            _,
        ),
    ):
        submit(1).result()


def test_the_command_gives_the_same_digest_on_a_new_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    coco_panoptic(tmp_path, 5)
    files = ("--images", tmp_path / "images", "--panoptic", tmp_path / "panoptic.json")
    options = ("coco", *files, "--name", "toy", "--shard-size", "2KB", "--workers", 2)
    options = (*options, "--json", "--out")
    local = segkit("convert", *options, tmp_path / "local")
    program = [sys.executable, "-c", "from segkit.commands.app import main; main()", "convert"]
    command = [*program, *map(str, options), str(tmp_path / "ray"), "--engine", "ray"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if SLOW in done.stderr:
        assert "no Ray cluster at local" in done.stderr
        pytest.skip("this machine is too busy for a Ray cluster")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["digest"] == json.loads(local.stdout)["digest"]
    assert contents(tmp_path / "ray" / "v1") == contents(tmp_path / "local" / "v1")
    assert (
        "give --engine ray"
        in segkit("convert", *options, tmp_path / "x", "--address", "auto").stderr
    )


def test_the_labels_open_in_ray_data_as_the_document_shows(tmp_path: Path, address: str) -> None:
    coco_panoptic(tmp_path, 5)
    published = convert(
        opened(tmp_path), tmp_path / "work" / "coco-train", SMALL, arguments={}
    ).published
    assert published and len(published.manifest.parts) > 1
    names: dict[str, Any] = {}
    exec(snippet("shards.md", "python", "ray.data").replace("/nfs", str(tmp_path)), names)
    rows = [
        (row["class_id"], row["mask"].encode(), row["box"]["x"])
        for row in names["segments"].take_all()
    ]
    segments = [segment for sample in published.samples() for segment in sample.segments]
    assert sorted(rows) == sorted(
        (segment.class_id, segment.mask, segment.box[0]) for segment in segments
    )


def test_a_missing_cluster_is_reported_at_once_in_one_line() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "ray://127.0.0.1:10001", "nonsense"):
        with (
            pytest.raises(
                InputError, match=rf"^no Ray cluster at {address} \(.*\); check --address"
            ),
            ray_cluster.ray_cluster(double, address, None, []),
        ):
            pass


def test_without_ray_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(InputError, match=re.escape(install_command("ray"))),
        ray_cluster.ray_cluster(double, None, None, []),
    ):
        pass
