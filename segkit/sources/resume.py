"""Decides which finished shards of an interrupted conversion are used, and says so in one line."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from segkit.file_states import FileStates
from segkit.shards.sidecar import DamagedShardError, read_shard
from segkit.sources.ledger import Tally
from segkit.sources.provenance import Provenance

DISCARDED = (
    "the finished shards of an interrupted run were made anew: "
    "they are of another command or version of segkit, or damaged"
)
_DAMAGED = "damaged"
_CHANGED = "changed"


@dataclass(frozen=True)
class ShardOutcome:
    """What became of a shard."""

    tally: Tally
    resumed: bool = False
    """Whether the shard is one that an interrupted run had finished."""
    reason: str | None = None
    """Why such a shard was converted again."""
    file: str | None = None
    """The first file that is damaged or was changed."""

    def with_tally(self, tally: Tally) -> "ShardOutcome":
        """Return the outcome of a shard that was converted."""
        return replace(self, tally=tally)


def finished_shard(
    directory: Path, index: int, current: Provenance, states: FileStates
) -> ShardOutcome:
    """Look for a finished shard that would be the same if it were converted again.

    Args:
        directory: staging directory.
        index: of the shard.
        current: settings and records of this conversion.
        states: the states of files.

    Returns:
        An outcome with `resumed` if there is one; else with the reason if there is another one.
    """
    try:
        shard = read_shard(directory, index)
    except DamagedShardError as error:
        return ShardOutcome(Tally(), reason=_DAMAGED, file=str(error.file))
    if shard is None:
        return ShardOutcome(Tally())
    earlier = Provenance.from_json(shard.notes["provenance"])
    if reason := earlier.disagreement(current):
        return ShardOutcome(Tally(), reason=reason)
    if file := earlier.changed_file(states):
        return ShardOutcome(Tally(), reason=_CHANGED, file=file)
    return ShardOutcome(Tally.from_json(shard.notes["tally"]), resumed=True)


def resume_note(outcomes: Iterable[ShardOutcome]) -> str | None:
    """Return one line on the shards that were finished and made anew; None without any."""
    outcomes = list(outcomes)
    again = [outcome for outcome in outcomes if outcome.reason]
    if not again:
        return None
    resumed = sum(outcome.resumed for outcome in outcomes)
    reasons = dict.fromkeys(str(outcome.reason) for outcome in again)
    return (
        f"of the {resumed + len(again)} finished shards of an interrupted run, {resumed} were used "
        f"and {len(again)} made anew: {'; '.join(_explain(reason, again) for reason in reasons)}"
    )


def _explain(reason: str, outcomes: Iterable[ShardOutcome]) -> str:
    matching = [outcome for outcome in outcomes if outcome.reason == reason]
    number, file = len(matching), matching[0].file
    return f"{number} of {reason}" if file is None else f"{number} of {reason} files ({file} ...)"
