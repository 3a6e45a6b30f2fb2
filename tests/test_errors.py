import pytest

from segkit.errors import BusyError, InputError, SegkitError, first_line, plural, short, short_list


@pytest.mark.parametrize(
    ("count", "nouns", "expected"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (2, ("class", "classes"), "2 classes"),
    ],
)
def test_counts_agree_with_their_nouns(count: int, nouns: tuple[str, ...], expected: str) -> None:
    assert plural(count, *nouns) == expected


@pytest.mark.parametrize("length", [0, 119, 120, 121, 10_000])
def test_long_texts_keep_their_ends(length: int) -> None:
    text = "".join(chr(0x100 + n % 500) for n in range(length))
    shortened = short(text)
    assert len(shortened) <= 125 and (shortened == text) == (length <= 120)
    assert (text[:80] + text[-30:]).startswith(shortened[:80]) and text.endswith(shortened[-30:])


def test_long_lists_count_what_they_leave_out() -> None:
    names = [f"name{n}" for n in range(40)]
    listed = short_list(names)
    shown = [name for name in names if name in listed.replace(",", " ").split()]
    assert shown == names[: len(shown)] and f"{40 - len(shown)} more" in listed
    assert short_list(names[:1]) == "name0"


def test_failures_have_the_exit_codes_of_their_kinds() -> None:
    assert SegkitError("x").exit_code == BusyError("x").exit_code == 1
    error = InputError("is empty", record="image 3", hint="give another").in_file("a.json")
    assert (error.exit_code, str(error)) == (2, "a.json: image 3: is empty; give another")


def test_the_first_line_of_an_error_says_something() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
