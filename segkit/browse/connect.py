"""Importing FiftyOne: quietly, without reports to its makers, and with one line where it cannot
run."""

import os
from types import ModuleType

from segkit.errors import InputError, SegkitError

SETTINGS = {
    "FIFTYONE_DO_NOT_TRACK": "1",
    "FIFTYONE_SHOW_PROGRESS_BARS": "0",  # they would go to stdout
    "FIFTYONE_LOGGING_LEVEL": "ERROR",  # so would the log
}


def fiftyone() -> ModuleType:
    """The module `fiftyone`, connected to its database (the import starts MongoDB).

    Settings that the user's environment gives are left as they are, except that nothing is ever
    reported home.

    Raises:
        InputError: FiftyOne is not installed.
        SegkitError: its MongoDB does not start.
    """
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "1"
    try:
        import fiftyone as fo
    except ImportError as error:
        raise InputError(
            f"FiftyOne is not installed ({error})", hint="run: pip install 'segkit[browse]'"
        ) from error
    except Exception as error:  # FiftyOne raises its own, MongoDB's and plain RuntimeErrors when no database starts
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SegkitError(
            f"FiftyOne's MongoDB does not start ({reason}); set FIFTYONE_DATABASE_URI to a running one, "
            "or install fiftyone-db for this system"
        ) from error
    return fo  # type: ignore[no-any-return]
