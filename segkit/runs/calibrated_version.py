"""Publish a calibrated run: a new version with the same model and a calibration."""

import shutil
from pathlib import Path

from segkit import __version__
from segkit.runs.calibration import Calibration
from segkit.runs.run import Run, check_readable
from segkit.runs.run_manifest import CALIBRATION, CONTENT, RunManifest, file_digests
from segkit.shards.manifest_file import manifest_text
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.versions import MANIFEST
from segkit.storage import file_sha256


def publish_calibrated(
    run: Run, calibration: Calibration, data: ShardSet, out: str | Path | None = None
) -> Path:
    """Write a run with a calibration as a new version; returns its path.

    Weights, recipe and vocabulary are copied byte by byte, so that the masks stay. Parents are the
    run and the set; the training data are the run's parents.

    Args:
        run: the run that was calibrated.
        calibration: its calibration, which replaces an earlier one.
        data: the set that it was calibrated with.
        out: directory of the new version; by default the run's own.

    Raises:
        InputError: `out` cannot be written to, holds something else than runs, or holds an
            interrupted training.
        SegkitError: another process is writing there, the disk is full, or a file of the run was
            damaged meanwhile.
    """
    destination = run.path.parent if out is None else out
    parents = (run.as_parent(destination), data.as_parent(destination))
    inputs = [parent.digest for parent in parents]
    with staging(
        destination, {"command": "calibrate"}, inputs=inputs, resume=False, content="run"
    ) as stage:
        for name in CONTENT:
            shutil.copyfile(run.path / name, stage.path / name)
        text = calibration.model_dump_json(by_alias=True, indent=1)
        (stage.path / CALIBRATION).write_text(text + "\n", "utf-8")
        files = file_digests(stage.path)
        files[CALIBRATION] = file_sha256(stage.path / CALIBRATION)
        manifest = run.manifest.model_copy(
            update={
                "schema_name": "segkit.run/1",
                "segkit_version": __version__,
                "command": "calibrate",
                "arguments": {
                    "checkpoint": str(run.path),
                    "data": str(data.path),
                    "seed": calibration.seed,
                    **({"tta": True} if calibration.tta else {}),
                },
                "parents": parents,
                "files": files,
                "digest": RunManifest.content_digest(files),
                "logs": {},
            }
        )
        (stage.path / MANIFEST).write_text(manifest_text(manifest), "utf-8")
        check_readable(stage.path)
        return stage.publish()
