"""Arguments that are none of their values are refused in one line; all others pass."""

import math
from typing import Literal

import numpy as np
import pytest

from segkit.arguments import check_choice, check_number, parse_size
from segkit.errors import InputError


def test_a_size_is_exact_and_has_at_most_64_bits() -> None:
    units = {"": 1, "k": 1000, "kB": 1000, "MiB": 1 << 20, "GB": 10**9, "tib": 1 << 40}
    for number in (1, 96, 2**53 + 1):
        for unit, factor in units.items():
            if number * factor < 2**63:
                assert parse_size(f"{number}{unit}", "--size") == number * factor
    assert parse_size("1.5GiB", "--size") == 3 << 29
    for text in ("9" * 400 + "GB", "9" * 5000, str(2**63), "8388608TiB", "nan", "inf", "1e400"):
        with pytest.raises(InputError, match=r"^invalid --size .*give bytes"):
            parse_size(text, "--size")


@pytest.mark.parametrize(
    "choices", [Literal["keep", "drop"], ("keep", "drop"), {"keep": 1, "drop": 2}]
)
def test_a_choice_is_one_of_its_values(choices: object) -> None:
    for value in ("keep", "drop"):
        check_choice(value, choices, "policy")
    for value in ("Keep", "keep ", "", None, 1, ["keep"]):
        with pytest.raises(InputError, match=r"^unknown policy .*give one of keep, drop$"):
            check_choice(value, choices, "policy")


def test_a_number_lies_within_its_limits() -> None:
    for value in (0, 0.5, 1, 1.0, np.int64(1), np.float32(0.5)):
        check_number(value, "share", 0, 1)
    for value in (-1, -1e-9, 1.1, math.nan, math.inf, "1", None, [1]):
        with pytest.raises(InputError, match=r"^invalid share .*give 0 to 1$"):
            check_number(value, "share", 0, 1)
    check_number(10**9, "steps", 1)
    with pytest.raises(InputError, match=r"^invalid steps 0; give 1 or more$"):
        check_number(0, "steps", 1)
