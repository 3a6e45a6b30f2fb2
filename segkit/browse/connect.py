"""Import FiftyOne without output and telemetry, and turn its failures into one-line errors."""

import os
import signal
from types import ModuleType

from segkit.errors import InputError, SegkitError, first_line
from segkit.extras import install_command, require_extra
from segkit.stopping import signals_blocked

SETTINGS = {
    "FIFTYONE_DO_NOT_TRACK": "1",
    "FIFTYONE_SHOW_PROGRESS_BARS": "0",  # FiftyOne prints them on stdout
    "FIFTYONE_LOGGING_LEVEL": "ERROR",  # its log goes to stdout too
}


def fiftyone() -> ModuleType:
    """Return the module `fiftyone`, connected to its database; the import starts MongoDB.

    Settings from the user's environment win, except that telemetry is always off.

    Raises:
        InputError: FiftyOne is not installed or cannot be imported.
        SegkitError: its MongoDB does not start.
    """
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "1"
    require_extra("browse", "the App")
    try:
        with signals_blocked(signal.SIGINT):  # its processes end with this one
            import fiftyone as fo

            _connect(fo)  # where no MongoDB is installed, the import does not notice
    except ImportError as error:
        hint = f"run: {install_command('browse')}"
        raise InputError(f"FiftyOne cannot be imported ({error})", hint=hint) from error
    except Exception as error:
        # Without a database FiftyOne raises its own errors, MongoDB's, and plain RuntimeErrors.
        reason = first_line(error)
        raise SegkitError(
            f"FiftyOne's MongoDB does not start ({reason}); set FIFTYONE_DATABASE_URI to a running"
            " one, or install fiftyone-db for this system"
        ) from error
    return fo  # type: ignore[no-any-return]


def _connect(fo: ModuleType) -> None:
    """Connect to the database; once more where FiftyOne took another port for MongoDB's.

    FiftyOne asks for the first port that a child of its database service listens on. A child that
    has been forked but does not run MongoDB yet still holds the socket of the service itself.

    Raises:
        ConnectionError: no MongoDB answers.
    """
    try:
        fo.list_datasets()
    except ConnectionError:
        database = fo.core.odm.database
        if database._db_service is None:  # the user's own MongoDB
            raise
        port = database._db_service.port  # MongoDB's by now
        if port == database._connection_kwargs["port"]:
            raise
        os.environ["FIFTYONE_PRIVATE_DATABASE_PORT"] = str(port)
        database._connection_kwargs["port"], database._client = port, None
        fo.list_datasets()
