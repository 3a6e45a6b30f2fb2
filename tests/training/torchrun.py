"""Start processes as torchrun does, for tests of what they do together."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.preloaded import preloaded


def run_two_processes(main: Callable[..., None], *arguments: object, logs: Path) -> str:
    """Run a function in two processes of torchrun's agent; return what they wrote on stderr.

    `torchrun --standalone --nproc-per-node 2` starts them in the same way, but imports torch anew
    in each.

    Args:
        main: of a module; fails the test if it raises.
        arguments: of `main`, as text.
        logs: folder of what the processes print.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="two-processes",
        max_restarts=0,
        start_method=preloaded().get_start_method(),
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ERR),
    )
    with _handlers_kept():
        elastic_launch(config, main)(*map(str, arguments))
    return "".join(file.read_text() for file in logs.rglob("stderr.log"))


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restore the handlers of stop signals, which the agent replaces."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
