"""The two kinds of failure of a command, each with its exit code, and warnings for users."""


class SegkitError(Exception):
    """The work itself failed (exit code 1)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message, self.hint = message, hint


class InputError(SegkitError):
    """The user's input cannot be used (exit code 2): one line with file, record, message, hint."""

    exit_code = 2

    def __init__(
        self, message: str, *, file: object = None, record: object = None, hint: str | None = None
    ) -> None:
        place = ": ".join(str(part) for part in (file, record) if part is not None)
        super().__init__(f"{place}: {message}" if place else message, hint=hint)
        self.message, self.file, self.record = message, file, record

    def in_file(self, file: object) -> "InputError":
        """The same error, which names a file."""
        return InputError(self.message, file=file, record=self.record, hint=self.hint)


class Notice(UserWarning):
    """A warning for the user, which commands print as a note."""


class UnchangedWarning(Notice):
    """Equal content was published before, so no new version was."""
