"""What can be stored as metadata: one rule for everything that writes, and reading never fails."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.errors import InputError
from lookalike.metadata import (
    ESCAPED,
    LEFT_OUT,
    MAX_BYTES,
    MAX_COLUMNS,
    MAX_DIGITS,
    MAX_LEVELS,
    SHORTENED,
    check_metadata,
    parse_metadata,
    parse_metadata_rows,
    storable_metadata,
)


def nested(levels: int) -> Any:
    """Return lists in each other."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "deep": ({"a": nested(MAX_LEVELS + 1)}, "nested over 20 levels"),
    "very deep": ({"a": nested(5_000)}, "nested over 20 levels"),
    "digits": ({"a": 10**MAX_DIGITS}, "over 1,000 digits"),
    "more digits than Python prints": ({"a": {"b": 10**4_300}}, "over 1,000 digits"),
    "nan": ({"a": math.nan}, "NaN"),
    "infinite": ({"a": [math.inf]}, "infinite"),
    "surrogate": ({"a": "\ud800"}, "cannot be stored"),
    "surrogate inside a name": ({"a": {"\udcff": 1}}, "cannot be stored"),
    "surrogate in a column": ({"\udcff": 1}, "cannot be stored"),
    "nul": ({"a": "x\0y"}, "cannot be stored"),
    "bytes": ({"a": b"x"}, "no JSON value but bytes"),
    "large": ({"b": 1, "a": "x" * MAX_BYTES}, "limit is 100,000"),
    "columns": ({f"c{i}": i for i in range(MAX_COLUMNS + 1)}, "1,001 columns"),
}

STORED: dict[str, dict[str, Any]] = {
    "deep": {"a": nested(MAX_LEVELS)},
    "digits": {"a": 10**MAX_DIGITS - 1, "b": -(10**MAX_DIGITS) + 1},
    "texts": {"ä 日本 😀": "\x1b[31m\n\t", "": ""},
    "kinds": {"a": None, "b": True, "c": 1.5, "d": [1, "x", None], "e": {"f": {}}},
    "large": {"a": "x" * (MAX_BYTES - 20)},
    "columns": {f"c{i}": i for i in range(MAX_COLUMNS)},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_stored_is_refused_with_its_column(case: str) -> None:
    metadata, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        check_metadata(metadata, what="api:x")
    assert str(caught.value).startswith("api:x: ")
    str(caught.value).encode()


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_stored_is_made_storable(case: str) -> None:
    cleaned, notes = storable_metadata(REFUSED[case][0])
    assert check_metadata(cleaned, what="x") == cleaned
    assert storable_metadata(cleaned) == (cleaned, ())
    expected = {"nan": (), "infinite": (), "large": (SHORTENED,)}.get(case)
    if "surrogate" in case or case == "nul":
        expected = (ESCAPED,)
    assert notes == ((LEFT_OUT,) if expected is None else expected)


@pytest.mark.parametrize("case", STORED)
def test_what_can_be_stored_is_unchanged_and_read_as_it_was(case: str) -> None:
    metadata = STORED[case]
    assert check_metadata(metadata, what="x") == metadata
    missing = {name: value for name, value in metadata.items() if value is not None}
    assert storable_metadata(metadata) == (missing, ())
    assert parse_metadata(json.dumps(metadata)) == metadata
    assert parse_metadata(json.dumps(metadata, ensure_ascii=False)) == metadata


def test_values_of_tables_become_json() -> None:
    """A time is text, a duration seconds, a decimal a number; nothing is left out."""
    metadata = {
        "at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "took": timedelta(minutes=1),
        "whole": Decimal("12.00"),
        "part": Decimal("1.5"),
        "none": Decimal("NaN"),
    }
    assert storable_metadata(metadata) == (
        {
            "at": "2026-01-02T03:04:00+00:00",
            "day": "2026-01-02",
            "took": 60.0,
            "whole": 12,
            "part": 1.5,
        },
        (),
    )
    assert storable_metadata({"a": Decimal("1e999999999")}) == ({}, (LEFT_OUT,))


def test_the_largest_columns_are_shortened_and_small_ones_stay() -> None:
    cleaned, notes = storable_metadata(
        {"label": "cat", "text": "x" * MAX_BYTES, "list": list(range(50_000))}
    )
    assert cleaned == {"label": "cat", "text": "x" * 4_000 + "…"}
    assert notes == (SHORTENED,)
    many = {f"{i:04}" + "n" * 500: "v" for i in range(1_000)}
    assert check_metadata(storable_metadata(many)[0], what="x")


STORED_BY_OTHERS = {
    "NaN": ('{"a": NaN, "b": Infinity, "c": 1}', {"a": None, "b": None, "c": 1}),
    "too large a float": ('{"a": 1e999, "c": 1}', {"a": None, "c": 1}),
    "a long one": ('{"a": %se99, "c": 1}' % ("1" * 250), {"a": None, "c": 1}),
    "digits": ('{"a": %s, "c": 1}' % ("1" * 5_000), {"a": "1" * 5_000, "c": 1}),
    "surrogate": ('{"a": "\\ud800", "c": 1}', {"a": "\\ud800", "c": 1}),
    "nul": ('{"a": "\\u0000", "c": 1}', {"a": "\\x00", "c": 1}),
    "no object": ("[1]", {}),
    "no JSON": ("{", {}),
    "empty": ("", {}),
    "deep list": ('{"c": %s}' % ("[" * 100_000), {}),
}


@pytest.mark.parametrize("case", STORED_BY_OTHERS)
def test_reading_what_others_stored_never_fails(case: str) -> None:
    text, expected = STORED_BY_OTHERS[case]
    assert parse_metadata(text) == expected


def test_rows_are_read_together_as_one_by_one() -> None:
    texts = [json.dumps(metadata) for metadata in STORED.values()]
    assert parse_metadata_rows(texts) == list(map(parse_metadata, texts))
    assert parse_metadata_rows(()) == []
    for text, expected in STORED_BY_OTHERS.values():
        assert parse_metadata_rows([*texts[:2], text, '{"d": [{}]}', "{} {}"]) == [
            *map(parse_metadata, texts[:2]),
            *(expected, {"d": [{}]}, {}),
        ]


def test_what_was_stored_too_deep_is_cut_on_reading() -> None:
    for levels in (MAX_LEVELS + 1, 300):
        read = parse_metadata(json.dumps({"a": nested(levels), "c": 1}))
        assert check_metadata(read, what="x")["c"] == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(st.characters()), json_values))
def test_anything_becomes_storable(metadata: dict[str, Any]) -> None:
    cleaned, _ = storable_metadata(metadata)
    assert check_metadata(cleaned, what="x") == cleaned
    assert parse_metadata(json.dumps(cleaned)) == cleaned


@settings(max_examples=40, deadline=None)
@given(st.text() | st.dictionaries(st.text(), json_values).map(json.dumps))
def test_any_text_is_read(text: str) -> None:
    read = parse_metadata(text)
    stored = json.dumps(read, allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(stored) == read
