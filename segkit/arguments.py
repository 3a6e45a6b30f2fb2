"""Check the values of arguments: choices, numbers and sizes, of functions and of options."""

import math
import re
from decimal import Decimal
from numbers import Real
from typing import Any, cast, get_args

from segkit.errors import InputError
from segkit.parse import MAX_INT

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def check_choice(value: object, choices: Any, name: str, *, record: object = None) -> None:
    """Raise InputError where an argument of a function is not one of its values.

    Args:
        value: the argument.
        choices: a Literal type, or the values.
        name: of the argument.
        record: that the error names, such as a class.
    """
    allowed = get_args(choices) or tuple(choices)
    if value not in allowed:
        hint = f"give one of {', '.join(allowed)}"
        raise InputError(f"unknown {name} {value!r}", record=record, hint=hint)


def check_number(value: object, name: str, least: float, most: float = math.inf) -> None:
    """Raise InputError where an argument of a function is not a number from `least` to `most`."""
    if not isinstance(value, Real) or not least <= cast(float, value) <= most:
        limits = f"{least:g} or more" if most == math.inf else f"{least:g} to {most:g}"
        raise InputError(f"invalid {name} {value!r}", hint=f"give {limits}")


def parse_size(text: str, option: str) -> int:
    """Return the bytes of a size such as 96MiB or 100MB; InputError for another value."""
    match = _SIZE.fullmatch(text.strip())
    size = Decimal(0)
    if match:
        number, unit, binary = match.groups()
        exponent = " kmgt".index(unit.lower() or " ")
        size = Decimal(number) * (1024 if binary else 1000) ** exponent
    if not 1 <= size <= MAX_INT:
        hint = "give bytes, or a size such as 96MiB or 100MB"
        raise InputError(f"invalid {option} {text!r}", hint=hint)
    return int(size)
