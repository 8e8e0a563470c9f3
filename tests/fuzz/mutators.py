"""Mutations of inputs: of bytes, of text by its tokens, and of JSON by its values."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

Mutator = Callable[[bytes, random.Random, Sequence[bytes]], bytes]
"""Returns another input; the last argument are inputs to splice from."""

_MAX_BYTES = 200_000
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")

_ODD_TEXTS = (
    *("", " ", "\0", "\n", "\r\n", "\x1b[31m", "\u202e", "\ufeff", "\u2028", "\ud800", "\udcff"),
    *("é", "e\u0301", "İ", "ß", "😀", "٣", "ﬁ", "..", "../x", "/etc/passwd", "C:\\x", "a/b", "\\"),
    *(
        "%s",
        "{0}",
        "{x}",
        "%",
        "_",
        "%_%_%_%",
        "'",
        '"',
        "`",
        ";",
        ",",
        "=1+1",
        "nan",
        "inf",
        "NaN",
    ),
    *("-0", "1e999", "-1e-999", "0x10", "1_000", "9" * 30, "9" * 400, "9" * 5_000, "1" * 19),
    *("null", "true", "None", "2020-01-01", "1970-13-45", "http://h/x", "http://[::1", "file:///x"),
    *(
        "x" * 300,
        "x" * 5_000,
        "a," * 500,
        "(" * 300,
        "[" * 2_000,
        "not " * 300,
        "id",
        "path",
        "url",
    ),
)
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, -1e308, 2**31, 2**53 + 1, 2**63, -(2**63)),
    *(2**64, 2**200, 10**400, [], {}, [[]], [None], {"": None}, [1] * 200, ["a"] * 200),
    *({"a": {"b": {"c": []}}}, [[[[[[]]]]]], {"and": []}, {"bytes": "eA=="}),
)
_RAW_VALUES = (
    *("NaN", "Infinity", "-Infinity", "1e999", "9" * 5_000, '"\\ud800"', '"\\u0000"', "[" * 3_000),
    *("[" * 70 + "]" * 70, '{"a":' * 30 + "1" + "}" * 30, '{"a":1,"a":2}', '"\xff"', "", "'a'"),
)
_HOLE = '"\\u0001hole\\u0001"'


def mutate_bytes(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Change, insert, delete, repeat or splice a few stretches of bytes."""
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        size = len(mutated)
        at = rng.randrange(size + 1)
        kind = rng.randrange(9)
        if kind == 0 and size:
            mutated[at % size] ^= 1 << rng.randrange(8)
        elif kind == 1 and size:
            mutated[at % size] = rng.randrange(256)
        elif kind == 2:
            order = rng.choice(("little", "big"))
            width = rng.choice((1, 2, 4))
            number = (rng.choice(_NUMBERS) + rng.choice((0, 0, 1, -1))) % (1 << 8 * width)
            mutated[at : at + width] = number.to_bytes(width, "big" if order == "big" else "little")
        elif kind == 3:
            del mutated[at : at + rng.choice((1, 2, 4, 16, 256))]
        elif kind == 4:
            stretch = mutated[at : at + rng.choice((1, 4, 16, 256))]
            mutated[at:at] = stretch * rng.choice((1, 2, 30))
        elif kind == 5:
            mutated[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))
        elif kind == 6:
            del mutated[at:]
        elif kind == 7:
            other = rng.choice(pool)
            start = rng.randrange(len(other) + 1)
            mutated[at : at + rng.choice((0, 8, 64))] = other[
                start : start + rng.choice((8, 64, 512))
            ]
        else:
            mutated[at : at + 4] = bytes((rng.choice((0, 0xFF)),)) * rng.choice((1, 4, 16))
    return bytes(mutated[:_MAX_BYTES])


def mutate_text(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Change tokens of a text: words, spaces and signs; now and then bytes."""
    if rng.random() < 0.1:
        return mutate_bytes(data, rng, pool)
    tokens = _TOKEN.findall(data.decode("utf-8", "replace")[:_MAX_BYTES])
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at = rng.randrange(len(tokens) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            tokens[at : at + 1] = [rng.choice(_ODD_TEXTS)]
        elif kind == 1:
            tokens.insert(at, rng.choice(_ODD_TEXTS))
        elif kind == 2:
            del tokens[at : at + rng.choice((1, 1, 3))]
        elif kind == 3:
            tokens[at:at] = tokens[at : at + rng.choice((1, 4, 12))] * rng.choice((1, 1, 20))
        elif kind == 4:
            other = _TOKEN.findall(rng.choice(pool).decode("utf-8", "replace")[:4_000])
            start = rng.randrange(len(other) + 1)
            tokens[at:at] = other[start : start + rng.choice((1, 3, 9))]
        elif tokens:
            tokens[at % len(tokens)] = rng.choice(tokens)
    encoding = "utf-8" if rng.random() < 0.97 else rng.choice(("utf-16", "latin-1", "utf-8-sig"))
    return "".join(tokens).encode(encoding, "surrogatepass" if "utf" in encoding else "replace")


def mutate_json(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Change values, keys and the structure of a JSON document; now and then its text."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_text(data, rng, pool)
    if rng.random() < 0.1:
        return mutate_text(data, rng, pool)
    holder = [document]
    raw = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        parent, key = rng.choice(_places(holder))
        raw += _change(parent, key, rng)
    text = json.dumps(holder[0])
    for each in raw:
        text = text.replace(_HOLE, each, 1)
    return text.encode("utf-8", "surrogatepass")[:_MAX_BYTES]


def _places(holder: list[Any]) -> list[tuple[Any, Any]]:
    """Return where the values of a document are, each as its parent and its key there."""
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [holder]
    while waiting and len(places) < 2_000:
        parent = waiting.pop()
        keys: Any = range(len(parent)) if isinstance(parent, list) else list(parent)
        for key in keys:
            places.append((parent, key))
            if isinstance(parent[key], list | dict):
                waiting.append(parent[key])
    return places or [(holder, 0)]


def _change(parent: Any, key: Any, rng: random.Random) -> list[str]:
    """Change a value in place; return JSON text to put into the holes that this makes."""
    present = key < len(parent) if isinstance(parent, list) else key in parent
    if not present:  # an earlier change took it away
        return []
    value = parent[key]
    kind = rng.randrange(7)
    if kind == 0:
        parent[key] = "\x01hole\x01"
        return [rng.choice(_RAW_VALUES)]
    if kind == 1:
        _change_structure(parent, key, rng)
    elif kind == 2:
        parent[key] = rng.choice(([value], {"": value}, [copy.deepcopy(value) for _ in range(100)]))
    elif kind == 3 and isinstance(value, int | float) and not isinstance(value, bool):
        parent[key] = rng.choice((value + 1, -value, value * 2**40, 0.5))
    elif kind in (3, 4, 5):
        parent[key] = copy.deepcopy(rng.choice(_ODD_VALUES))
    else:
        parent[key] = rng.choice(_ODD_TEXTS)
    return []


def _change_structure(parent: Any, key: Any, rng: random.Random) -> None:
    """Remove, rename or repeat an entry."""
    if isinstance(parent, dict):
        value = parent.pop(key)
        if rng.random() < 0.5:
            parent[rng.choice(_ODD_TEXTS)] = value
    elif len(parent) > 1 and rng.random() < 0.5:
        del parent[key]
    else:
        parent.extend(copy.deepcopy(parent[key]) for _ in range(rng.choice((1, 3, 50))))
