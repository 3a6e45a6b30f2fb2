import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.errors import InputError
from segkit.sources import json_stream

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def walk(path: Path) -> dict[str, Any]:
    """What `members` tells of a file, put together again from values and from texts."""
    values: dict[str, Any] = {}
    for key, value, text in json_stream.members(path, ("many",)):
        if key != "many":
            values[key] = value
        elif not text:
            values[key] = []
        else:
            values[key].append(value)
        if text:
            assert json.loads(text) == value
    return values


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 10_000])
@given(
    many=st.lists(VALUES, max_size=6),
    rest=st.dictionaries(st.text(max_size=4).filter("many".__ne__), VALUES, max_size=3),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
@settings(max_examples=25)
def test_any_object_is_read_as_json_reads_it_in_chunks_of_any_size(
    tmp_path_factory: Any,
    chunk: int,
    many: list[Any],
    rest: dict[str, Any],
    indent: int | None,
    ascii_only: bool,
) -> None:
    path = tmp_path_factory.mktemp("j") / "a.json"
    path.write_text(
        json.dumps({**rest, "many": many}, indent=indent, ensure_ascii=ascii_only), "utf-8"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        assert walk(path) == {**rest, "many": many}


@given(st.data())
@settings(max_examples=150)
def test_text_that_json_refuses_is_refused(tmp_path_factory: Any, data: Any) -> None:
    text = json.dumps(
        {"a": 1, "many": [{"x": [1, 2.5, "t\u00e9"]}, "s", None, -3], "z": {"q": "\\u00ff"}}
    ).encode()
    start = data.draw(st.integers(0, len(text)))
    mangled = (
        text[:start]
        + data.draw(st.binary(max_size=2))
        + text[start + data.draw(st.integers(0, 4)) :]
    )
    path = tmp_path_factory.mktemp("j") / "a.json"
    path.write_bytes(mangled)
    try:
        expected = json.loads(mangled.decode("utf-8"))
    except ValueError:
        expected = None
    try:
        actual = walk(path)
    except InputError as error:
        assert "\n" not in str(error)
        actual = None
    if (
        isinstance(expected, dict)
        and isinstance(expected.get("many", []), list)
        and len(expected) == 3
    ):
        assert actual == expected
    else:
        assert expected is None or actual is None or len(expected) < 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"many": [1, 2', "ends too early, after 14 characters"),
        ("", "ends too early, after 0 characters"),
        ('{"a": tru}', "a value is missing, character 6"),
        ('{"many": [1 2]}', "',' or ']' is missing, character 12"),
        ('{"many": {"a": 1}}', "'many' is not a list"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ('{"a": 1} x', "text after the object"),
        ("[1]", "'{' is missing, character 0"),
        ('{"many": [' + "[" * 100_000, "cannot be read|is not a JSON"),
    ],
)
def test_the_place_of_an_error_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"bad.json.*({says})"):
        walk(path)


TEXT = json.dumps(
    {
        "a": -1.5e-7,
        "many": [{"x": [1, 2.5], "t\u00e9": True, "n": None}, "\ud83d\ude00", -3],
        "z": {"q": "a b\n"},
    }
)


@pytest.mark.parametrize("chunk", [1, 9, 64, 10_000])
def test_a_truncated_file_is_reported_with_its_length(tmp_path: Path, chunk: int) -> None:
    path = tmp_path / "cut.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        for length in range(len(TEXT)):
            path.write_text(TEXT[:length])
            with pytest.raises(InputError) as error:
                walk(path)
            assert f"cut.json: ends too early, after {length} characters: " in str(error.value), (
                TEXT[:length]
            )


def test_a_file_truncated_within_a_character_ends_too_early(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_bytes('{"a": "\u00e9'.encode()[:-1])
    with pytest.raises(InputError, match="ends too early, within a character"):
        walk(path)


@pytest.mark.parametrize("chunk", [1, 20, 10_000])
def test_an_error_near_the_end_of_a_file_is_named_at_its_place(tmp_path: Path, chunk: int) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"many": [{"x": 1}, ' + "0, " * 30 + "tru]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        with pytest.raises(InputError, match="a value is missing, character 110"):
            walk(path)


def test_an_error_early_in_a_large_file_is_found_without_reading_on(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    path.write_text('{"many": [{"a" 1}, ' + "0, " * 100_000 + "0]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", 100)
        with pytest.raises(InputError, match="character 15"):
            walk(path)


@given(
    many=st.lists(
        st.dictionaries(st.sampled_from(["id", "a},{b", "s"]), VALUES, max_size=3), max_size=12
    ),
    separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")]),
    chunk=st.integers(20, 200),
    odd=st.sampled_from([None, float("nan"), 1e308, 2**70, "},", "\ud800"]),
)
@settings(max_examples=150)
def test_objects_are_read_alike_whether_many_at_once_or_one_by_one(
    tmp_path_factory: Any, many: list[Any], separators: tuple[str, str], chunk: int, odd: Any
) -> None:
    text = json.dumps({"many": [*many, {"odd": odd}, *many], "z": [{}, {}]}, separators=separators)
    path = tmp_path_factory.mktemp("j") / "a.json"
    path.write_text(text.replace("1e+308", "1e+999"), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        elements = [
            (repr(value), json.loads(raw))
            for _, value, raw in json_stream.members(path, ("many",))
            if raw
        ]
    values = json.loads(path.read_text("utf-8"))
    assert [value for value, _ in elements] == [
        repr(value) for value in [*values["many"], values["z"]]
    ]
    assert all(repr(again) == value for value, again in elements)


def test_a_list_without_objects_is_read_in_time_proportional_to_its_length(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    path.write_text(json.dumps({"many": list(range(400_000))}))
    started = time.process_time()
    assert (
        sum(value for _, value, text in json_stream.members(path, ("many",)) if text)
        == 400_000 * 399_999 // 2
    )
    assert time.process_time() - started < 20
