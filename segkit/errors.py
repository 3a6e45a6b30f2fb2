"""The two ways in which a command fails, each with its exit code."""


class SegkitError(Exception):
    """The work itself failed (exit code 1)."""

    exit_code = 1


class InputError(SegkitError):
    """What the user gave cannot be used (exit code 2): one line that names the file, the record and the mend."""

    exit_code = 2

    def __init__(self, problem: str, *, file: object = None, record: object = None, mend: str | None = None) -> None:
        where = ": ".join(str(part) for part in (file, record) if part is not None)
        line = f"{where}: {problem}" if where else problem
        super().__init__(f"{line}; {mend}" if mend else line)
        self.file, self.record, self.mend = file, record, mend
