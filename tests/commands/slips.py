"""Slips that a command refuses before it imports torch, which takes seconds."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from segkit.recipes.load import load_recipe, to_toml
from segkit.runs.run_manifest import RECIPE, RunManifest
from segkit.shards.manifest_file import manifest_text


def hollow_run(folder: Path, overrides: Sequence[str] = ()) -> str:
    """A run as far as it is read before torch is imported: a manifest and a recipe, no model."""
    version = folder / "v1"
    version.mkdir(parents=True)
    manifest = RunManifest(
        segkit_version="0",
        name="hollow",
        command="train",
        parents=(),
        rates={},
        steps=1,
        parameters=1,
        encoder="minilm",
        files={},
        digest=RunManifest.content_digest({}),
    )
    (version / "manifest.json").write_text(manifest_text(manifest))
    (version / RECIPE).write_text(to_toml(load_recipe("dataseg-mini", overrides)))
    return str(folder)


def assert_refused_before_torch(command: Sequence[str], slips: Sequence[Sequence[str]]) -> None:
    """Each slip after `segkit COMMAND` ends with exit code 2 and one line.

    All run in one process, which must not import torch.
    """
    calls = [["segkit", *command, *slip] for slip in slips]
    code = f"""
import sys
from segkit.commands.app import main
for sys.argv in {calls!r}:
    try:
        main()
    except SystemExit as stop:
        print(stop.code, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.stdout.splitlines() == ["2 False"] * len(slips), done.stderr
    assert len(done.stderr.splitlines()) == len(slips)
