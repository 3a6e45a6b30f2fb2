"""Failures of a command, with their exit codes, warnings for users, and parts of their texts."""

from collections.abc import Sequence

MAX_PART = 600
"""Characters of a file, record or message in an error: data may hold names of any length."""


def short(value: object, limit: int = 120) -> str:
    """The text of a value, without its middle where it has more than `limit` characters."""
    text = str(value)
    if len(text) <= limit:
        return text
    end = limit // 4
    return f"{text[: limit - end]} ... {text[-end:]}"


def short_list(items: Sequence[str], limit: int = 5) -> str:
    """The items, separated by commas, and the number of those beyond `limit`."""
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")


def plural(number: int, singular: str, many: str | None = None) -> str:
    """A count with its noun, such as `1 image` or `2 images`; `many` is an irregular plural."""
    return f"{number} {singular if number == 1 else many or f'{singular}s'}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class SegkitError(Exception):
    """The work itself failed (exit code 1)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        text = short(message, 4 * MAX_PART)
        super().__init__(f"{text}; {short(hint, 4 * MAX_PART)}" if hint else text)
        self.message, self.hint = message, hint


class BusyError(SegkitError):
    """Another process is writing to the same place."""


class InputError(SegkitError):
    """The user's input cannot be used (exit code 2): one line with file, record, message, hint."""

    exit_code = 2

    def __init__(
        self, message: str, *, file: object = None, record: object = None, hint: str | None = None
    ) -> None:
        parts = (file, record, message)
        text = ": ".join(short(part, MAX_PART) for part in parts if part is not None)
        super().__init__(text, hint=hint)
        self.message, self.file, self.record = message, file, record

    def in_file(self, file: object) -> "InputError":
        """The same error, which names a file."""
        return InputError(self.message, file=file, record=self.record, hint=self.hint)


class Notice(UserWarning):
    """A warning for the user, which commands print as a note."""


class UnchangedWarning(Notice):
    """Equal content was published before, so no new version was."""
