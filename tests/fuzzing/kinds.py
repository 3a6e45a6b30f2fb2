"""What a kind of file is: a sound one, its mutants, and what reads it."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from .commands import Outcome, call, run
from .mutate import Mutants

Reader = Sequence[object] | Callable[[], Any]
"""The arguments of a command, or a function of the library."""
MAX_READERS = 6
OUT = "out"
"""Folder for what commands write, under the folder of a kind; empty before each mutant."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file that commands read."""

    name: str
    write: Callable[[Path], Path]
    """Writes sound inputs into a folder; returns the file to mutate."""
    mutants: Mutants
    readers: Callable[[Path], Sequence[Reader]]
    """What reads the file, given the folder."""
    seal: Callable[[Path], None] | None = None
    """Makes digests fit a mutant, given the file."""

    def outcomes(self, folder: Path, random: Random | None = None) -> Iterator[Outcome]:
        """Run the readers; a command that only reports violations may be followed by others.

        Args:
            folder: the folder of the inputs.
            random: chooses some of the readers where there are many; None runs all.
        """
        out = folder / OUT
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        readers = list(self.readers(folder))
        if random is not None and len(readers) > MAX_READERS:
            readers = random.sample(readers, MAX_READERS)
        for reader in readers:
            outcome = call(reader) if callable(reader) else run(*reader)
            yield outcome
            if outcome.code and not outcome.command.startswith(_CHECKS):
                return


_CHECKS = ("validate", "inspect", "leakage")
"""Commands that only look for violations, of which exit code 1 reports one: others may follow."""


def faults(kind: FileKind, folder: Path, random: Random, limit: int | None) -> Iterator[str]:
    """Fuzz a kind of file.

    Args:
        kind: the kind.
        folder: an empty folder.
        random: makes the mutants.
        limit: number of mutants; None for no limit.

    Yields:
        A line for each fault: the command, what is wrong, and the mutant's file, which is kept
        beside the sound one.
    """
    file = kind.write(folder)
    sound = file.read_bytes()
    for outcome in kind.outcomes(folder):
        if outcome.code and not outcome.command.startswith("leakage"):
            yield f"the sound file: {outcome}"
    kept = folder / "faults"
    kept.mkdir()
    for number, mutant in enumerate(islice(kind.mutants(sound, random), limit)):
        file.write_bytes(mutant)
        if kind.seal is not None:
            kind.seal(file)
        for outcome in kind.outcomes(folder, random):
            if fault := outcome.fault(may_fail=outcome.command.startswith(_CHECKS)):
                copy = kept / f"{number}-{file.name}"
                copy.write_bytes(mutant)
                last = outcome.errors.strip().splitlines()[-1:] or [""]
                line = f"{kind.name}: {outcome.command}: {fault}: {last[0][:400]}"
                yield f"{line.replace(str(folder), '')} ({copy})"
        yield ""
