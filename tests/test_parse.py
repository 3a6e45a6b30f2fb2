import json
import math
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from segkit import parse
from segkit.errors import InputError

scalars = st.none() | st.booleans() | st.text() | st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-parse.MAX_INT, parse.MAX_INT)
values = st.recursive(
    scalars | integers,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values, st.booleans())
def test_json_is_read_as_the_standard_library_writes_it(value: object, mark: bool) -> None:
    text = json.dumps(value, ensure_ascii=False)
    data = text.encode("utf-8-sig" if mark else "utf-8")
    assert parse.parse_json(data, file="x") == value
    assert parse.parse_json(text, file="x") == value


def test_json_with_odd_numbers_can_be_written_again() -> None:
    text = '{"a": [NaN, -Infinity, 1e999, -1e999, 1e-999, -0.0, %s, %s, %s, 2.5, true]}'
    value = parse.parse_loosely((text % ("9" * 999, "-" + "9" * 1000, "9" * 5000)).encode())
    expected = ["NaN", "-Infinity", "1e999", "-1e999", 0.0, -0.0, int("9" * 999), "-" + "9" * 1000]
    assert value == {"a": [*expected, "9" * 5000, 2.5, True]}
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@given(values)
def test_kinds_of_values_are_those_of_their_text(value: object) -> None:
    text = json.dumps(value)
    number = re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?", text)
    assert parse.is_number(value) == (number is not None)
    assert parse.is_integer(value) == (number is not None and number[1] is number[2] is None)
    assert parse.is_id(value) == (parse.is_integer(value) or text.startswith('"'))


@given(values | st.floats() | integers.map(float))
def test_only_whole_floats_become_integers(value: object) -> None:
    integer = parse.without_fraction(value)
    if isinstance(value, float) and math.isfinite(value) and math.modf(value)[0] == 0:
        assert type(integer) is int and integer == value
    else:
        assert integer is value


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ('{"a": 1', "not JSON"),
        ('{"a": 1} x', "not JSON"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' twice"),
        ("[NaN]", "a number that is not finite"),
        ("[-Infinity]", "a number that is not finite"),
        ("1e999", "a number that is not finite"),
        (str(2**63), "an integer beyond 64 bits"),
        (f'{{"a": {2**70}}}', "an integer beyond 64 bits"),
        ("9" * 5000, "an integer beyond 64 bits"),
        (r'["\ud800"]', "text that is not Unicode"),
        (r'{"\udfff": 1}', "text that is not Unicode"),
        (nested(parse.MAX_DEPTH + 2), "nested more than 100"),
        (nested(300), "nested more than 100"),
        (nested(100_000), "nested more than 100"),
        ("[" * 100_000, "nested more than 100"),
    ],
)
def test_other_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(
        InputError, match=rf"^some file: record 3: .*{message}.*; the hint$"
    ) as error:
        parse.parse_json(text.encode(), file="some file", record="record 3", hint="the hint")
    assert len(str(error.value)) < 300


def test_json_may_be_nested_up_to_the_limit() -> None:
    depth = parse.MAX_DEPTH
    assert parse.parse_json(nested(depth), file="x") == json.loads(nested(depth))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\na = 2", "not TOML"),
        ("a = nan", "a number that is not finite"),
        (f"a = {2**70}", "an integer beyond 64 bits"),
        (f"a = {'9' * 5000}", "an integer beyond 64 bits"),
        (f"a = {nested(300)}", "nested more than 100"),
        (f"a = {nested(100_000)}", "nested more than 100"),
    ],
)
def test_other_toml_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"^some file: .*{message}"):
        parse.parse_toml(text, file="some file")


def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes("cat\ncafé\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"names\.txt: line 2: is not UTF-8 text"):
        parse.read_text(file)


def test_lines_end_at_line_feeds_only_and_lose_their_blanks(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes(b"\xef\xbb\xbf cat \r\n\r\nd\xe2\x80\xa8og\rox\x0ben\n")
    assert parse.read_lines(file) == [(1, "cat"), (3, "d\u2028og"), (4, "ox\x0ben")]
    file.write_bytes(b"cat\nd\0g\n")
    with pytest.raises(InputError, match="line 2: is not text"):
        parse.read_lines(file)


def test_csv_rows_come_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "map.csv"
    file.write_bytes(b'\xef\xbb\xbfto, from ,note\r\n\r\n"a\nb",c,x\r\nd,e\r\n')
    rows = parse.read_csv(file, ("from", "to"))
    assert rows == [(4, {"from": "c", "to": "a\nb"}), (5, {"from": "e", "to": "d"})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column from"),
        ("from\n", "lacks the column to"),
        ("from,to,from\n", "has two columns from"),
        ("from,to\na\n", "line 2: lacks a value"),
        ('from,to\n"a,b\n', "not CSV"),
        (f"from,to\n{'a' * 200_000},b\n", "not CSV"),
    ],
)
def test_other_csv_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "map.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        parse.read_csv(file, ("from", "to"))


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", parse.MAX_BYTES + 1)
    for path, message in (
        (tmp_path / "pipe", "a FIFO, a device or a socket"),
        (Path("/dev/zero"), "a FIFO, a device or a socket"),
        (tmp_path / "huge", "more than the limit"),
        (tmp_path, "Is a directory"),
        (tmp_path / "none", "No such file"),
        (tmp_path / ("a" * 300), "File name too long"),
        (tmp_path / "a\0b", "null"),
        (tmp_path / "\ud800", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            parse.read_bytes(path)
    assert parse.exists(tmp_path / "pipe") and not parse.exists(tmp_path)
    assert not parse.exists(tmp_path / "a\0b") and not parse.exists("\ud800")


class Model(BaseModel):
    name: str
    counts: tuple[int, ...] = ()


def test_models_take_only_values_of_their_types() -> None:
    def read(text: str) -> Model:
        return parse.checked(Model, text.encode(), file="x", noun="a model")

    assert read('{"name": "a", "counts": [1, 2]}') == Model(name="a", counts=(1, 2))
    for text, message in (
        ('{"name": "a", "counts": [1, "2"]}', r"x: counts\.1: not a model"),
        ('{"name": 1}', "x: name: not a model"),
        ("[]", "x: not a model"),
        ('{"name": "a", "name": "b"}', "the key 'name' twice"),
    ):
        with pytest.raises(InputError, match=message):
            read(text)


def test_converted_values_take_only_values_of_their_types() -> None:
    assert parse.convert([1, 2], tuple[int, ...], file="x", noun="numbers") == (1, 2)
    with pytest.raises(InputError, match=r"^x: row 3: \[1\]: not numbers \(Expected `int`"):
        parse.convert([1, "2"], tuple[int, ...], file="x", noun="numbers", record="row 3")
