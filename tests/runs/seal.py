"""Make the manifest of a run fit its files again, after a test has changed one."""

import json
from pathlib import Path

from segkit.runs.run_manifest import RunManifest, file_digests
from segkit.shards.publish import MANIFEST


def seal(version: Path) -> None:
    manifest = json.loads((version / MANIFEST).read_text())
    files = file_digests(version)
    manifest |= {"files": files, "digest": RunManifest.content_digest(files)}
    (version / MANIFEST).write_text(json.dumps(manifest))
