"""Benchmark reading of sets in an object store against local files, in one run.

    python scripts/bench_storage.py [--images 200] [--latency 0.03] [--repeats 3] [--markdown FILE]

Generated scenes are written to this machine and, as the same set, to a local S3 server (moto, in a
process of its own) whose answers are delayed by `--latency` seconds, as those of a distant store.
The same images are then read: decoded in order; as training batches in random order; and by
`predict` with an untrained `dataseg-mini`. Rows: local files; the store with one request at a time;
the store with images read ahead; and the store with a filled cache (SEGKIT_CACHE_SIZE). They take
turns, and a figure is the best of `--repeats`. Answers of moto take milliseconds of a core, which a
real store does not: on few cores the table shows less than a store gives.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from bench_inference import scenes, time_of, untrained
from experiments import ROOT, markdown

from segkit.data.check_sets import NamedDataset
from segkit.data.mix import DataMix
from segkit.inference.outputs import predict_set
from segkit.recipes.schema import DataConfig
from segkit.runs.open_run import load_run
from segkit.shards import read_ahead
from segkit.shards.byte_cache import LIMIT
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.storage import location

COLUMNS = ("work", "set", "images/s", "of local files")
PLACES = ("local files", "store, one request at a time", "store, read ahead", "store, cached")
BUCKET = "s3://benchmark"
SERVER = """
import logging, sys, time
from moto.server import ThreadedMotoServer
from tests.store_proxy import StoreProxy
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
with StoreProxy(f"http://{host}:{port}", seconds=float(sys.argv[1])).running() as proxy:
    print(proxy.address, flush=True)
    sys.stdin.read()
server.stop()
"""
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200, help="number of generated scenes")
    parser.add_argument("--latency", type=float, default=0.03, help="seconds of each answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, store(options.latency):
        folder = Path(name)
        os.environ["SEGKIT_CACHE"] = str(folder / "cache")
        local = scenes(folder, options.images)
        run = load_run(untrained(local, folder), "auto")
        remote = copied(local)

        def decode(data: ShardSet) -> None:
            for sample in data.read_ahead(data.samples()):
                data.image(sample)

        def train(data: ShardSet) -> None:
            config = DataConfig(image_size=128, batch_size=BATCH, workers=0)
            mix = DataMix([NamedDataset("set", data, 1.0)], config, seed=0)
            for _ in mix.batches(0, len(data) // BATCH):
                pass

        def predict(data: ShardSet) -> None:
            predict_set(run, data, "panoptic", folder / "predicted")

        works = {"decode in order": decode, "training batches": train, "predict": predict}
        rows = [
            row
            for title, work in works.items()
            for row in compare(title, work, local, remote, options.repeats)
        ]
    text = markdown(COLUMNS, rows)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, "utf-8")


@contextmanager
def store(latency: float) -> Iterator[None]:
    """Run an S3 server in another process, which this one and its children then use."""
    command = [sys.executable, "-c", SERVER, str(latency)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin and server.stdout
        os.environ["AWS_ENDPOINT_URL"] = server.stdout.readline().strip()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            os.environ[name] = "benchmark"
        os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
        try:
            yield
        finally:
            server.stdin.close()


def copied(data: ShardSet) -> ShardSet:
    """The same samples and images in the store."""
    import fsspec

    fsspec.filesystem("s3", use_listings_cache=False).mkdir(BUCKET)
    header = Header.from_set(data, "benchmark")
    records = ((sample, data.image_bytes(sample)) for sample in data.samples())
    return write_set(location(f"{BUCKET}/boxes"), records, header)


def compare(
    title: str, work: Callable[[ShardSet], object], local: ShardSet, remote: ShardSet, repeats: int
) -> list[tuple[str, ...]]:
    """Rows of a kind of work: images a second from each place."""
    best = dict.fromkeys(PLACES, float("inf"))
    with place(PLACES[-1]):
        work(ShardSet.open(remote.path))  # fills the cache
    for _ in range(repeats):
        for name in PLACES:
            with place(name):
                data = ShardSet.open((local if name == PLACES[0] else remote).path)
                best[name] = min(best[name], time_of(partial(work, data)))
    return [
        (title, name, f"{len(local) / seconds:.3g}", f"{best[PLACES[0]] / seconds:.2f}")
        for name, seconds in best.items()
    ]


@contextmanager
def place(name: str) -> Iterator[None]:
    """Read as a row of the table does."""
    before = read_ahead.THREADS, read_ahead.AHEAD
    if name == PLACES[1]:
        read_ahead.THREADS, read_ahead.AHEAD = 1, 0
    if name == PLACES[3]:
        os.environ[LIMIT] = "1GB"
    try:
        yield
    finally:
        read_ahead.THREADS, read_ahead.AHEAD = before
        os.environ.pop(LIMIT, None)


if __name__ == "__main__":
    main()
