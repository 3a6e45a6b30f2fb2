"""Copies of sound files with faults: wrong values, missing and repeated parts, damaged bytes."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

Mutants = Callable[[bytes, Random], Iterator[bytes]]
"""Yields any number of faulty copies of a sound file."""


class Raw(str):
    """JSON text, also what no JSON writer produces."""


BAD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 2**31, 2**32, 2**53, 2**62, 2**63, 2**70, -(2**63)),
    *(1e-320, 1e308, -1e308, 0.1, 1e18, 300, 65536, 16_777_216),
    *map(Raw, ("9" * 25, "9" * 5000, "-" + "9" * 5000, "NaN", "Infinity", "-Infinity", "1e999")),
    *(Raw("9" * 400), "9" * 400),  # no float holds it
    *(Raw('"\\ud800"'), Raw('"\\udfff\\ud800"'), Raw('"\\u0000"'), Raw("01"), Raw("1.")),
    *("", " ", "a", "1", "-1", "1.0", "Thing", "NaN", "é", "划痕", "😀", "\u2028", "\u202e"),
    *("\0", "\n", "a\nerror: b", "\x1b]0;title\x07", "\x1b[31m", "\x9b", "[red]", "{}", "%s"),
    *("..", "/", ".", "../../../etc/passwd", "/etc/passwd", "/dev/zero", "a/b", "a\\b", "C:\\a"),
    *("s3://bucket/key", "http://127.0.0.1:1/x", "file:///etc/passwd", "~", "-", "--help", "*"),
    *("a" * 300, "a" * 50_000, "9" * 5000, "o" * 13 + "0", "P" * 5, "0" * 1000),
    *([], {}, [[]], [{}], [None], ["a"], [1], {"a": 1}, {"": None}, [0] * 1000, [[0.0] * 6]),
    *([1e308] * 6, [2**62] * 4, [-1] * 4, [None] * 4, ["1"] * 4, [2**70] * 2),
    *(Raw("[" * 300 + "]" * 300), Raw('{"a":' * 300 + "1" + "}" * 300)),
    *(Raw("[" * 100_000 + "]" * 100_000), Raw("[" * 100_000)),
)
BAD_BYTES = (
    *(b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\x1b[31m"),
    *(b"\n", b"\r", b'"', b"'", b",", b";", b"{", b"[", b"\\", b"-1", b"0" * 5000, b"a" * 70_000),
    *(b"9" * 400, b"1" + b"0" * 400),
    *(b"9" * 5000, b"1e999", b"nan", b"inf", b"../../etc/passwd", "é".encode("latin-1"), b"{}"),
)


def json_mutants(data: bytes, random: Random) -> Iterator[bytes]:
    """Copies of a JSON file: mostly wrong values in it, now and then damaged text."""
    value = json.loads(data)
    while True:
        if random.random() < 0.15:
            yield damage(data, random)
            continue
        mutant = copy.deepcopy(value)
        for _ in range(random.choice((1, 1, 1, 2, 4))):
            mutant = change(mutant, random)
        yield dump(mutant)


def binary_mutants(data: bytes, random: Random) -> Iterator[bytes]:
    """Copies of any file with damaged bytes."""
    while True:
        yield damage(data, random)


def text_mutants(data: bytes, random: Random) -> Iterator[bytes]:
    """Copies of a text file: lines and words deleted, repeated, exchanged, damaged bytes."""
    while True:
        mutant = data
        for _ in range(random.choice((1, 1, 2, 3))):
            mutant = _edit(mutant, random)
        yield mutant


def both(*families: Mutants) -> Mutants:
    """Mutants of several families in turn."""

    def mutants(data: bytes, random: Random) -> Iterator[bytes]:
        iterators = [family(data, random) for family in families]
        while iterators:
            for iterator in tuple(iterators):
                try:
                    yield next(iterator)
                except StopIteration:
                    iterators.remove(iterator)

    return mutants


class _Delete:
    pass


DELETE = _Delete()


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in nested JSON values, itself included."""
    yield path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from paths(inner, (*path, key))


def replaced(value: Any, path: Sequence[Any], new: Any) -> Any:
    """JSON values with another value at a path, or without the value there."""
    if not path:
        return new
    result = copy.copy(value)
    inner = replaced(result[path[0]], path[1:], new)
    if inner is DELETE:
        del result[path[0]]
    else:
        result[path[0]] = inner
    return result


def at(value: Any, path: Sequence[Any]) -> Any:
    """The value at a path."""
    for key in path:
        value = value[key]
    return value


def change(value: Any, random: Random) -> Any:
    """JSON values with one fault."""
    places = list(paths(value))
    path = random.choice(places)
    action = random.choice(("replace", "replace", "delete", "repeat", "move", "wrap", "key"))
    if action == "delete" and path:
        return replaced(value, path, DELETE)
    if action == "repeat" and path and isinstance(path[-1], int):
        siblings = list(at(value, path[:-1]))
        return replaced(value, path[:-1], [*siblings, siblings[path[-1]]])
    if action == "move":
        return replaced(value, path, copy.deepcopy(at(value, random.choice(places))))
    if action == "wrap":
        inner = at(value, path)
        return replaced(value, path, random.choice(([inner], {"a": inner}, str(inner)[:99])))
    if action == "key" and path and isinstance(path[-1], str):
        siblings = dict(at(value, path[:-1]))
        name = random.choice((path[-1].upper(), "", "a", "é", "\x1b[31m", "a" * 300, "schema"))
        siblings[name] = siblings.pop(path[-1])
        return replaced(value, path[:-1], siblings)
    return replaced(value, path, random.choice(BAD_VALUES))


def dump(value: Any) -> bytes:
    """JSON text; Raw values as they are."""
    texts: list[str] = []

    def mark(entry: Any) -> Any:
        if isinstance(entry, Raw):
            texts.append(entry)
            return f"\x02{len(texts) - 1}\x02"
        if isinstance(entry, dict):
            return {key: mark(inner) for key, inner in entry.items()}
        return [mark(inner) for inner in entry] if isinstance(entry, list) else entry

    text = json.dumps(mark(value))
    for number, raw in enumerate(texts):
        text = text.replace(f'"\\u0002{number}\\u0002"', raw)
    return text.encode("utf-8", "surrogatepass")


def damage(data: bytes, random: Random) -> bytes:
    """Any file with damaged bytes."""
    place = random.randrange(len(data) + 1)
    match random.randrange(8):
        case 0:
            return data[:place]
        case 1 if data:
            flipped = bytearray(data)
            for _ in range(random.choice((1, 1, 4, 32))):
                flipped[random.randrange(len(data))] ^= 1 << random.randrange(8)
            return bytes(flipped)
        case 2:
            return data[:place] + data[place + random.randrange(1, 64) :]
        case 3:
            return data[:place] + random.choice(BAD_BYTES) + data[place:]
        case 4:
            return data + random.choice((b" ", b"\0", b"x", data))
        case 5:
            return random.choice((b"", b"\xef\xbb\xbf" + data, data.replace(b"\n", b"\r\n")))
        case 6:
            text = data.decode("utf-8", "replace")
            return text.encode(random.choice(("utf-16", "utf-32", "latin-1")), "replace")
        case _:
            end = min(len(data), place + random.randrange(1, 16))
            return data[:place] + random.randbytes(end - place) + data[end:]


def _edit(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    place = random.randrange(len(lines))
    words = lines[place].replace(b"=", b" = ").split(b" ")
    word = random.randrange(len(words))
    match random.randrange(8):
        case 0:
            lines.insert(place, random.choice(lines))
        case 1 if len(lines) > 1:
            del lines[place]
        case 2:
            lines[place] = random.choice(BAD_BYTES)
        case 3:
            bad = random.choice(BAD_VALUES)
            text = bad if isinstance(bad, str) else json.dumps(bad)
            words[word] = text.encode("utf-8", "surrogatepass")
            lines[place] = b" ".join(words)
        case 4:
            words[word] = random.choice(lines[random.randrange(len(lines))].split(b" "))
            lines[place] = b" ".join(words)
        case 5:
            lines[place] = lines[place] + random.choice((b",", b" ", b"\t", b"#", b'"', b"]"))
        case _:
            return damage(data, random)
    return b"\n".join(lines)
