"""Check training and inference on a GPU (`make cuda`): at most 8 minutes on an H100.

    python scripts/check_cuda.py --out cuda-out
    python scripts/check_cuda.py --out tiny-out --device cpu --tiny     # sizes for a CPU

Compares losses, gradients, precisions, compiled, parallel and resumed training with plain runs, and
measures speed and memory beside Hugging Face's Mask2Former. Everything runs on generated scenes;
nothing is downloaded. Writes `--out`/cuda.json and cuda.md; the exit code is 1 where a check fails.
A check that raises is one failed row, and the others still run. After `--limit` seconds no further
check starts, and the last one, `peer`, is stopped; what is skipped or stopped counts as failed.
"""

import argparse
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import cuda_checks
import cuda_speed
import torch
from cuda_bench import FULL, TINY, Bench, Row
from experiments import markdown, run_script
from rich.console import Console
from rich.table import Table

from segkit import __version__
from segkit.distributed import choose_device
from segkit.errors import InputError

CHECKS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "losses": cuda_checks.losses_and_gradients,
    "precision": cuda_checks.precisions,
    "compile": cuda_checks.compiled,
    "parallel": cuda_checks.parallel,
    "resume": cuda_checks.resumed,
    "inference": cuda_speed.inference,
    "attention": cuda_speed.deformable_attention,
    "loader": cuda_speed.loader,
    "long": cuda_speed.long_run,
    "peer": cuda_speed.against_mask2former,
}
SECONDS = "seconds of the check"
COLUMNS = ("check", "quantity", "value", "at most", "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("cuda-out"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU, or a dry run")
    parser.add_argument("--limit", type=float, default=480, metavar="SECONDS")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    options = parser.parse_args()
    device = choose_device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif not options.tiny:
        message = "the full sizes take hours on a CPU"
        raise InputError(message, record="--device", hint="give --tiny, or use a GPU")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(device, TINY if options.tiny else FULL, options.out, options.limit)
    rows: list[Row] = []
    beginning = time.perf_counter()
    for name in options.only:
        if time.perf_counter() - beginning < options.limit:
            rows += run_check(name, bench)
        else:
            rows.append(Row(name, f"skipped: {options.limit:g} s are over", None))
        write(options.out, bench, rows)
    show(bench, rows)
    sys.exit(not all(row.passed for row in rows))


def run_check(name: str, bench: Bench) -> Iterator[Row]:
    """The rows of a check, one in place of those that an error prevents, and its duration."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    started = time.perf_counter()
    try:
        yield from CHECKS[name](bench)
    except Exception:
        traceback.print_exc()
        yield Row(name, "failed: see the traceback", None)
    yield Row(name, SECONDS, round(time.perf_counter() - started, 1))


def write(out: Path, bench: Bench, rows: list[Row]) -> None:
    """Write the rows so far as JSON and Markdown."""
    result = {
        "segkit_version": __version__,
        "torch": torch.__version__,
        "device": device_name(bench.device),
        "sizes": asdict(bench.sizes),
        "rows": [{**asdict(row), "value": finite(row), "passed": row.passed} for row in rows],
        "seconds": {row.check: row.value for row in rows if row.quantity == SECONDS},
    }
    text = json.dumps(result, indent=1, allow_nan=False)
    (out / "cuda.json").write_text(text, "utf-8")
    (out / "cuda.md").write_text(markdown(COLUMNS, [cells(row) for row in rows]), "utf-8")


def finite(row: Row) -> float | None:
    """The value of a row; None in place of NaN and infinity, which JSON lacks."""
    return row.value if row.value is not None and math.isfinite(row.value) else None


def show(bench: Bench, rows: list[Row]) -> None:
    """Print the table."""
    table = Table(*COLUMNS, title=f"torch {torch.__version__}, {device_name(bench.device)}")
    for row in rows:
        table.add_row(*cells(row))
    Console(width=110).print(table)


def cells(row: Row) -> tuple[str, ...]:
    limit = "" if row.limit is None else f"{row.limit:g}"
    value = "-" if row.value is None else f"{row.value:.3g}"
    return row.check, row.quantity, value, limit, "" if row.passed else "FAILED"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    run_script(main)
