import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.text.printable import printable

BIDI = ["LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"]


def is_control(letter: str) -> bool:
    """By Unicode's own tables: Cc, Cs, Zl, Zp, and what sets the order of others."""
    category = unicodedata.category(letter)
    return category in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(letter) in BIDI


def test_exactly_the_control_characters_are_escaped() -> None:
    for code in range(0x110000):
        letter = chr(code)
        assert (printable(letter) != letter) == is_control(letter), hex(code)


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_printed_can_be_encoded_and_stays_readable(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert not any(map(is_control, shown))
    assert "".join(filter(is_control, text)) or shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egpj.a", r"\u202egpj.a"),
        ("\udce9.jpg", r"\udce9.jpg"),
        ("[red] :car: \\n 划痕 🚗 é", "[red] :car: \\n 划痕 🚗 é"),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert printable(text) == shown
