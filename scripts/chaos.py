"""Kill the command and the workers of a labeling at random; its bytes must be those of one process.

    python scripts/chaos.py [--engine local|ray|cluster ...] [--images 500] [--kills 20] [--seed 0]
        [--teacher NAME] [--folder DIR] [--markdown FILE]

Generated scenes with boxes are labeled by `segkit pseudolabel` with an untrained `dataseg-mini`, or
with a teacher such as `ellipse`, which needs no PyTorch: once by one process, then with each engine
by two workers, while SIGKILL hits the command (the driver) or one of its workers at random moments.
The command is given again whenever it has ended without a version, as a user does. Engines: `local`
(processes), `ray` (each command has a cluster of its own, which must end with it), `cluster` (two
Ray nodes that outlive the command). A version that is complete before the last kill counts, and the
next one is begun. Exit code 1 if a version is invalid or differs from that of one process, or if a
process is left. Linux only.
"""

import argparse
import ctypes
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench_inference import scenes, untrained
from experiments import markdown

ENGINES = ("local", "ray", "cluster")
COLUMNS = (
    "engine",
    "driver killed",
    "worker killed",
    "commands",
    "gave up",
    "versions",
    "as one process",
    "valid",
    "left processes",
    "seconds",
)
WORKERS = 2
MAX_PAUSE = 3.0
"""Seconds between the start of a command, or a number of new shards, and a kill."""
MAX_SHARDS = 3
"""New shards that a kill waits for."""
GRACE = 120.0
"""Seconds in which the processes of a dead command must end. Agents of Ray try for a minute to
report that their node was killed."""
PROGRAM = (
    "from segkit.shards import shard; shard.MIN_ROWS = {rows}; "
    "from segkit.commands.entry import main; main()"
)
"""The command line with smaller shards than the 32 images of a small set, so that many are left."""
PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--images", type=int, default=500, help="number of generated scenes")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=8, help="images of a shard")
    parser.add_argument("--teacher", help="instead of an untrained run")
    parser.add_argument("--folder", type=Path, help="keep all files there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table there")
    options = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        labeling = Labeling.prepare(folder, options.images, options.rows, options.teacher)
        outcomes = []
        for engine in options.engine:
            chaos = Chaos(labeling, engine, options.kills, random.Random(options.seed))
            outcomes.append(chaos.run())
            print(outcomes[-1], file=sys.stderr)
    text = markdown(COLUMNS, [outcome.row() for outcome in outcomes])
    print(text)
    if options.markdown:
        options.markdown.write_text(text, "utf-8")
    sys.exit(any(outcome.failed for outcome in outcomes))


@dataclass(frozen=True)
class Labeling:
    """A labeling that is repeated, and the version that one process writes."""

    folder: Path
    boxes: Path
    teacher: str
    rows: int
    expected: dict[str, bytes]
    """Content of the files of the version."""

    @classmethod
    def prepare(cls, folder: Path, images: int, rows: int, teacher: str | None) -> "Labeling":
        """Make the scenes and the run, and label them by one process."""
        boxes = scenes(folder, images)
        labeling = cls(folder, boxes.path, teacher or str(untrained(boxes, folder)), rows, {})
        out = folder / "one" / "masks"
        labeling.start(out).require_success()
        labeling.expected.update(contents(out / "v1"))
        return labeling

    def start(self, out: Path, *options: str) -> "Command":
        """Start the command that labels the set."""
        program = [sys.executable, "-c", PROGRAM.format(rows=self.rows), "pseudolabel"]
        inputs = ["--teacher", self.teacher, "--data", str(self.boxes), "--out", str(out)]
        command = [*program, *inputs, "--device", "auto", "--no-preview", *options]
        log = self.folder / "log"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with log.open("w") as file:
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=file, env=environment
            )
        return Command(process, log)


@dataclass(frozen=True)
class Command:
    """A running command."""

    process: "subprocess.Popen[bytes]"
    log: Path
    """Its standard error."""

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self.process.poll() is not None

    def require_success(self) -> None:
        """Wait for the end; SystemExit with the command's own message if it has failed."""
        if self.process.wait():
            raise SystemExit(self.log.read_text()[-2000:])


@dataclass
class Outcome:
    """The counts of an engine."""

    engine: str
    kills: dict[str, int] = field(default_factory=lambda: {"driver": 0, "worker": 0})
    commands: int = 0
    gave_up: int = 0
    """Commands that ended by themselves: workers died again and again, or Ray did not start."""
    versions: int = 0
    equal: int = 0
    valid: int = 0
    left: int = 0
    """Processes that outlived their command by more than the grace."""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether something differs from what one process does."""
        return not self.versions == self.equal == self.valid or self.left > 0

    def row(self) -> tuple[str, ...]:
        """Cells of the table."""
        counts = (*self.kills.values(), self.commands, self.gave_up, self.versions)
        checks = (self.equal, self.valid, self.left)
        return (self.engine, *map(str, (*counts, *checks)), f"{self.seconds:.0f}")


class Chaos:
    """Kills at random until a number of them is reached, then lets the labeling end."""

    def __init__(self, labeling: Labeling, engine: str, kills: int, chance: random.Random) -> None:
        self.labeling, self.engine, self.kills, self.chance = labeling, engine, kills, chance
        self.outcome = Outcome(engine)

    def run(self) -> Outcome:
        """Write versions until all kills are done and a version is complete."""
        started = time.monotonic()
        with ray_nodes() if self.engine == "cluster" else nullcontext() as address:
            where = ("--address", address) if address else ()
            engine = "local" if self.engine == "local" else "ray"
            arguments = ("--engine", engine, "--devices", str(WORKERS), *where)
            while sum(self.outcome.kills.values()) < self.kills or not self.outcome.versions:
                self.write_version(arguments)
        self.outcome.left += count_left(descendants)
        self.outcome.seconds = time.monotonic() - started
        return self.outcome

    def write_version(self, arguments: tuple[str, ...]) -> None:
        """Give the command again until a version is published; check it."""
        folder = self.labeling.folder / f"{self.engine}-{self.outcome.versions + 1}"
        out = folder / "masks"
        while not (out / "v1").exists():
            command = self.labeling.start(out, *arguments)
            self.outcome.commands += 1
            while not command.ended and sum(self.outcome.kills.values()) < self.kills:
                self.kill_one(command, out)
            code = command.process.wait()
            if code > 0:
                last = command.log.read_text().strip().splitlines()[-1:]
                print(f"{self.engine}: exit code {code}: {last}", file=sys.stderr)
                if code != 1 or "run it again" not in "".join(last):
                    raise SystemExit(command.log.read_text()[-4000:])
                self.outcome.gave_up += 1
            if self.engine != "cluster":  # the actors of a cluster are ended by the cluster, later
                self.outcome.left += count_left(workers)
        self.outcome.versions += 1
        actual = contents(out / "v1")
        self.outcome.equal += actual == self.labeling.expected
        for name in sorted({*actual, *self.labeling.expected}):
            if actual.get(name) != self.labeling.expected.get(name):
                print(f"{self.engine}: {out / 'v1' / name} differs", file=sys.stderr)
        program = [sys.executable, "-c", PROGRAM.format(rows=1), "validate", str(out)]
        self.outcome.valid += subprocess.run(program, stdout=2, check=False).returncode == 0

    def kill_one(self, command: Command, out: Path) -> None:
        """Kill the driver or a worker, after a random number of shards and a random pause."""
        victim = self.chance.choice(("driver", "worker"))
        target = shards(out) + self.chance.randint(0, MAX_SHARDS)
        pause = self.chance.uniform(0, MAX_PAUSE)
        rank = self.chance.randrange(WORKERS)
        while not command.ended and shards(out) < target:
            time.sleep(0.01)
        time.sleep(pause)
        while not command.ended and victim == "worker" and not workers():
            time.sleep(0.01)
        if command.ended:
            return
        pid = command.process.pid
        if victim == "worker":
            running = workers()
            if not running:
                return
            pid = running[rank % len(running)].pid
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.outcome.kills[victim] += 1
        if victim == "driver":
            command.process.wait()


# --- processes ---


@dataclass(frozen=True)
class Process:
    """A process below this one."""

    pid: int
    command: str


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent dies, so that none is overlooked."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise SystemExit("this system cannot adopt orphans; run it on Linux")


def descendants() -> list[Process]:
    """The live processes below this one, by number."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it has ended meanwhile
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(entry.name)] = int(parent)
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    found = []
    for pid in sorted(below - {os.getpid()}):
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            found.append(Process(pid, line))
    return found


def workers() -> list[Process]:
    """The worker processes and actors that run now."""
    marks = ("spawn_main", "ray::_DeviceActor")
    return [process for process in descendants() if any(m in process.command for m in marks)]


def count_left(running: Callable[[], list[Process]]) -> int:
    """Processes that still run after the grace; they are killed then."""
    deadline = time.monotonic() + GRACE
    while True:
        reap()
        left = running()
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for process in left:
        print(f"left: {process.pid} {process.command[:200]}", file=sys.stderr)
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    return len(left)


def reap() -> None:
    """Reap adopted orphans that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@contextmanager
def ray_nodes() -> Iterator[str]:
    """Yield the address of a cluster of two nodes on this machine, one worker each."""
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=size)
    try:
        nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
        yield nodes.address
    finally:
        nodes.shutdown()


# --- files ---


def shards(out: Path) -> int:
    """Finished shards of the version that is being written."""
    return len(list(out.glob(".v1.partial/labels-*.parquet")))


def contents(version: Path) -> dict[str, bytes]:
    """The bytes of the files of a version."""
    return {file.name: file.read_bytes() for file in sorted(version.iterdir())}


if __name__ == "__main__":
    main()
