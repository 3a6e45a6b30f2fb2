"""A FiftyOne without a database, and one that mistakes another port for it."""

import importlib.util
import os
import subprocess
import sys
from types import ModuleType

import pytest

from segkit.browse.connect import fiftyone
from segkit.errors import SegkitError


def test_a_missing_mongodb_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """FiftyOne can be imported without one, and fails at the first use of its database."""

    def fail() -> None:
        raise RuntimeError("MongoDB could not be installed on your system.\nDefine a uri")

    module = ModuleType("fiftyone")
    module.__spec__ = importlib.util.find_spec("fiftyone")
    if module.__spec__ is None:
        pytest.skip("FiftyOne is not installed")
    module.list_datasets = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    with pytest.raises(SegkitError, match="could not be installed on your system") as error:
        fiftyone()
    assert "FIFTYONE_DATABASE_URI" in str(error.value) and "\n" not in str(error.value)


PORT_OF_ANOTHER_SERVER = """
import os
import socketserver
import threading

import fiftyone.core.odm.database as database
import fiftyone.core.service as service

from segkit.browse.connect import fiftyone


class Babble(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"no MongoDB " * 8)


server = socketserver.ThreadingTCPServer(("localhost", 0), Babble)
threading.Thread(target=server.serve_forever, daemon=True).start()
right = service.DatabaseService.port.fget
ports = iter([server.server_address[1]])
service.DatabaseService.port = property(lambda self: next(ports, None) or right(self))
database._connection_kwargs["serverSelectionTimeoutMS"] = 500
fo = fiftyone()
assert next(ports, None) is None
print(fo.list_datasets(), os.environ["FIFTYONE_PRIVATE_DATABASE_PORT"])
"""


@pytest.mark.mongo
def test_the_port_of_another_server_is_not_mongodbs(fo: ModuleType) -> None:
    """In a process of its own, because FiftyOne connects once a process."""
    environment = dict(os.environ)
    port = environment.pop("FIFTYONE_PRIVATE_DATABASE_PORT")
    done = subprocess.run(
        [sys.executable, "-c", PORT_OF_ANOTHER_SERVER],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == port
