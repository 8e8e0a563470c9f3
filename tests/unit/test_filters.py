"""Filters against a row-by-row oracle, and their error messages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.errors import InputError
from lookalike.filters import (
    OPERATORS,
    AllOf,
    AnyOf,
    Compare,
    Filter,
    In,
    IsNull,
    Like,
    MetadataColumns,
    Not,
    as_filter,
    from_structure,
    parse,
)

NUMERALS = ("0", "-1", "2", "2.0", "00", "0.1", "1e-300", str(2**53 + 1), str(10**400), "１")
HOSTILE = ("' or 1=1 --", 'a"b', "`x`", "", "ü✓", "a\nb", "%_", "null", "and", "\\", "''")
NAMES = st.sampled_from(("year", "tag", "not it", "a`b", "ü", "price", "and", "x.y-z", "1st"))
TEXTS = st.one_of(st.sampled_from((*HOSTILE, *NUMERALS)), st.text(max_size=4))
NUMBERS = st.one_of(
    st.integers(-5, 5),
    st.sampled_from(
        (2**53, 2**53 + 1, -(2**60), 2**63, 10**19 + 1, 10**400, 0.1, 1e-300, -1.5e300)
    ),
    st.floats(allow_nan=False, allow_infinity=False),
)
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans())
VALUES = st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=3))
ROWS = st.lists(st.dictionaries(NAMES, VALUES, max_size=5), min_size=1, max_size=8)
LEAVES: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Compare, NAMES, st.sampled_from(sorted(OPERATORS)), SCALARS),
    st.builds(In, NAMES, st.lists(SCALARS, min_size=1, max_size=3).map(tuple)),
    st.builds(Like, NAMES, st.text("ab%_'", max_size=4)),
    st.builds(IsNull, NAMES),
)


def groups(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(st.builds(Not, inner), st.builds(AllOf, several), st.builds(AnyOf, several))


FILTERS = st.recursive(LEAVES, groups, max_leaves=6)


def kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else type(value).__name__


def same_number(text: str, number: float) -> bool:
    """Tell whether a text is the one that a number is written as."""
    whole = number == number // 1
    return text == (str(int(number)) if whole else repr(number))


def holds(value: Any, wanted: Any, operator: str) -> bool:
    kinds = kind(value), kind(wanted)
    if operator in ("eq", "ne") and set(kinds) <= {"number", "str"}:
        if kinds[0] == kinds[1]:
            equal = value == wanted
        else:
            equal = same_number(*((value, wanted) if kinds[0] == "str" else (wanted, value)))
        return equal is (operator == "eq")
    if kinds[0] != kinds[1]:
        return False
    sign = {"eq": value == wanted, "ne": value != wanted}
    if operator in sign:
        return sign[operator]
    return {
        "lt": value < wanted,
        "lte": value <= wanted,
        "gt": value > wanted,
        "gte": value >= wanted,
    }[operator]


def oracle(where: Filter, row: Mapping[str, Any]) -> bool:
    if isinstance(where, Not):
        return not oracle(where.inner, row)
    if isinstance(where, AllOf):
        return all(oracle(part, row) for part in where.parts)
    if isinstance(where, AnyOf):
        return any(oracle(part, row) for part in where.parts)
    assert isinstance(where, Compare | In | Like | IsNull)
    value = row.get(where.column)
    if isinstance(where, IsNull):
        return value is None
    values = value if isinstance(value, list) else [] if value is None else [value]
    if isinstance(where, Compare):
        return any(holds(each, where.value, where.operator) for each in values)
    if isinstance(where, In):
        return any(holds(each, wanted, "eq") for each in values for wanted in where.values)
    pattern = re.escape(where.pattern.casefold()).replace("%", "(?s:.*)").replace("_", "(?s:.)")
    return any(
        isinstance(each, str) and re.fullmatch(pattern, each.casefold()) is not None
        for each in values
    )


def text_of(where: Filter) -> str:
    if isinstance(where, Not):
        return f"not ({text_of(where.inner)})"
    if isinstance(where, AllOf | AnyOf):
        word = " and " if isinstance(where, AllOf) else " OR "
        return word.join(f"({text_of(part)})" for part in where.parts)
    assert isinstance(where, Compare | In | Like | IsNull)
    column = "`" + where.column.replace("`", "``") + "`"
    if isinstance(where, IsNull):
        return f"{column} is null"
    if isinstance(where, Compare):
        return f"{column}{OPERATORS[where.operator]}{literal(where.value)}"
    if isinstance(where, In):
        return f"{column} IN ({', '.join(map(literal, where.values))})"
    return f"{column} like {literal(where.pattern)}"


def literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def structure_of(where: Filter) -> dict[str, Any]:
    if isinstance(where, Not):
        return {"not": structure_of(where.inner)}
    if isinstance(where, AllOf | AnyOf):
        return {"and" if isinstance(where, AllOf) else "or": [structure_of(p) for p in where.parts]}
    assert isinstance(where, Compare | In | Like | IsNull)
    if isinstance(where, IsNull):
        return {where.column: {"null": True}}
    if isinstance(where, Compare):
        return {where.column: {where.operator: where.value}}
    if isinstance(where, In):
        return {where.column: {"in": list(where.values)}}
    return {where.column: {"like": where.pattern}}


@settings(max_examples=1500, deadline=None)
@given(ROWS, FILTERS)
def test_filters_match_a_row_by_row_oracle(rows: list[dict[str, Any]], where: Filter) -> None:
    columns = MetadataColumns(rows)
    try:
        mask = where.mask(columns)
    except InputError as error:
        message = str(error)
    else:
        assert mask.tolist() == [oracle(where, row) for row in rows]
        return
    assert "no column" in message or "cannot be compared" in message


@pytest.mark.parametrize("text", ["caf\u00e9", "cafe\u0301"], ids=["NFC", "NFD"])
def test_accents_are_equal_however_they_are_stored(text: str) -> None:
    columns = MetadataColumns([{"a": "caf\u00e9"}, {"a": "cafe\u0301"}, {"a": "cafe"}])
    for where, expected in (
        (f"a = '{text}'", [True, True, False]),
        (f"a != '{text}'", [False, False, True]),
        (f"a in ('{text}', 'x')", [True, True, False]),
        (f"a like '{text.upper()}%'", [True, True, False]),
    ):
        assert parse(where).mask(columns).tolist() == expected


@settings(max_examples=700, deadline=None)
@given(FILTERS)
def test_text_and_structure_are_equivalent(where: Filter) -> None:
    assert parse(text_of(where)) == where
    assert from_structure(structure_of(where)) == where


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("label = '0'", [0, 1, 2, 5]),
        ("label = 0", [0, 1, 2, 5]),
        ("label != 0", [3, 4, 6]),
        ("label != '0'", [3, 4, 6]),
        ("label in (0, 'a')", [0, 1, 2, 3, 5]),
        ("label in ('0', 'a')", [0, 1, 2, 3, 5]),
        ("label not in ('0')", [3, 4, 6, 7]),
        ("label = '00'", [4]),
        ("label = '0.0'", []),
        ("code = 12345678901234567891", [0, 1]),
        ("code = '12345678901234567891'", [0, 1]),
        ("code = 12345678901234567890", []),
        ("code > 12345678901234567890", [0]),
    ],
)
def test_a_number_and_its_text_are_equal(where: str, expected: list[int]) -> None:
    labels: list[Any] = [0, "0", 0.0, "a", "00", ["0", 1], [5, "x"], None]
    codes: list[Any] = [12345678901234567891, "12345678901234567891", 5]
    rows: list[dict[str, Any]] = [{"label": label} for label in labels]
    for row, code in zip(rows, codes, strict=False):
        row["code"] = code
    expected = [*expected, *([5] if where in ("label != 0", "label != '0'") else [])]
    assert np.flatnonzero(as_filter(where).mask(MetadataColumns(rows))).tolist() == sorted(expected)


def test_an_endless_integer_is_refused() -> None:
    for where in (f"year = {'9' * 5_000}", {"year": 10**1_000}):
        with pytest.raises(InputError, match="over 1,000 digits"):
            as_filter(where)


ROWS_OF_PHOTOS = [
    {"year": 2019, "tag": "a", "sold": True},
    {"year": 2021.5, "tag": ["a", "b"], "sold": False},
    {"tag": "it's", "price": 3},
    {"year": 2024, "label": "Cat"},
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year >= 2020", [1, 3]),
        ("year >= 2020 and tag in ('a','b')", [1]),
        ("tag = 'a'", [0, 1]),
        ("tag = 'it''s' or tag = \"it's\"", [2]),
        ("year != 2019", [1, 3]),
        ("not (year = 2019)", [1, 2, 3]),
        ("year is null", [2]),
        ("year is not null and not sold = true", [1, 3]),
        ("sold = true", [0]),
        ("label LIKE 'c%'", [3]),
        ("label not like 'c%'", [0, 1, 2]),
        ("tag not in ('a')", [2, 3]),
        ("year = 2019 or year = 2024 and tag = 'a'", [0]),
        ("(year = 2019 or year = 2024) and label = 'Cat'", [3]),
        (" year\n<\t-1e3 ", []),
    ],
)
def test_filters_as_text(text: str, expected: list[int]) -> None:
    mask = as_filter(text).mask(MetadataColumns(ROWS_OF_PHOTOS))
    assert np.flatnonzero(mask).tolist() == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"tag": "a"}, [0, 1]),
        ({"year": {"gte": 2019, "lt": 2022}, "tag": "a"}, [0, 1]),
        ({"or": [{"price": {"gt": 2}}, {"label": {"like": "%t"}}]}, [2, 3]),
        ({"year": {"null": False}}, [0, 1, 3]),
        ({"not": {"tag": {"in": ["a"]}}}, [2, 3]),
    ],
)
def test_filters_as_structures(where: dict[str, Any], expected: list[int]) -> None:
    mask = as_filter(where).mask(MetadataColumns(ROWS_OF_PHOTOS))
    assert np.flatnonzero(mask).tolist() == expected
    assert as_filter(f" {json.dumps(where)}") == as_filter(where)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("yeer = 3", "no column 'yeer': did you mean 'year'?"),
        ("year = 'x'", "column 'year' has numbers, it cannot be compared with texts"),
        ("year != 'x'", "column 'year' has numbers, it cannot be compared with texts"),
        ("sold > 1", "column 'sold' has booleans, it cannot be compared with numbers"),
        ("year > ", "character 7: expected a text in quotes, a number, true or false, at the end"),
        ("tag = abc", "put the text in quotes: 'abc'"),
        ("tag = 'abc", "character 7: unexpected character, at: 'abc"),
        ("tag in 'a'", "character 8: expected '('"),
        ("tag in ('a' 'b')", "character 13: expected ')'"),
        ("(year = 1", "character 10: expected ')'"),
        ("year = 1 2", "character 10: expected 'and', 'or' or the end"),
        ("year = 1; drop table x", "character 9: unexpected character"),
        ("= 3", "character 1: expected the name of a column"),
        ("year is 3", "expected 'null'"),
        ("year not = 3", "expected 'in' or 'like'"),
        ("tag like 3", "expected a text in quotes"),
        ("year 3", "expected = != < <= > >=, in, like or is null"),
        ("not " * 60 + "year = 1", "nested more than 50 levels deep"),
        ("year = 12abc", "unexpected character"),
        ("year < 1e999", "character 8: too large a number"),
        ({}, "it is empty"),
        ("{}", "it is empty"),
        ('{"year": 1', "filter: cannot be read (not valid JSON: "),
        ('{"year": 1, "year": 2}', "key 'year' twice in an object"),
        ('{"a\ud800": 1}', "not UTF-8"),
        ('{"not":' * 70 + "1" + "}" * 70, "more than 60 levels deep"),
        ({"year": {"above": 3}}, "no operator 'above'; operators: eq, ne"),
        ({"year": {}}, "column 'year' has no conditions"),
        ({"year": {"in": 3}}, "'in' takes a list"),
        ({"year": {"in": []}}, "'in' takes a list"),
        ({"year": {"like": 3}}, "'like' takes a text"),
        ({"year": {"null": 3}}, "'null' takes true or false"),
        ({"year": None}, "compared with None"),
        ({"year": float("nan")}, "compared with nan"),
        ({"and": []}, "'and' has no conditions"),
        ({"or": ["year = 3"]}, "takes a list of structures"),
    ],
)
def test_errors_show_the_position(where: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        as_filter(where).mask(MetadataColumns(ROWS_OF_PHOTOS))


def test_in_ignores_objects_and_nested_lists() -> None:
    columns = MetadataColumns([{"x": {"a": 1}}, {"x": [["a"], "b"]}, {"x": "b"}, {"x": None}])
    assert as_filter("x in ('a', 'b')").mask(columns).tolist() == [False, True, True, False]
