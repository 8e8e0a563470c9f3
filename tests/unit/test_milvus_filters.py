"""Metadata values as the keys that Milvus compares, and filters as expressions."""

from __future__ import annotations

import json
import math
import string
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lookalike.errors import InputError
from lookalike.filters import MetadataColumns, as_filter
from lookalike.stores.milvus.filters import (
    ColumnTypes,
    _column,
    _key,
    column_types_of,
    comparable_values,
    prefix_expression,
    texts_of,
    translate,
)
from lookalike.types import Metadata

EDGES = (
    *(0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**64 - 1, 2**64 - 2, 2**63),
    *(0.0, -0.0, 5e-324, -5e-324, 2.2e-308, 0.1, 1e16, 1.7e308, math.inf, -math.inf, 9.3e18),
)
NUMBERS = st.one_of(
    st.sampled_from(EDGES),
    st.integers(-(2**64) + 1, 2**64 - 1),
    st.integers(-(2**200), 2**200),
    st.sampled_from((10**19, 10**30 + 1, 10**30, 10**400, 10**400 + 1, -(10**400), 10**308)),
    st.integers(-3, 3),
    st.floats(allow_nan=False),
    st.floats(2.0**52, 2.0**64).map(lambda number: float(int(number))),
)
TEXTS = st.text(max_size=5)
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans())
TYPES = ColumnTypes({"a": {"text", "number", "boolean"}})


@given(NUMBERS, NUMBERS)
@example(2**63 - 1, float(2**63))
@example(2**64 - 1, float(2**64))
@example(2**53 + 1, float(2**53))
@example(-(2**63), -(2**63) + 1)
@example(0.0, -0.0)
@example(5e-324, 0)
def test_keys_of_numbers_sort_like_the_numbers(one: float, other: float) -> None:
    assert (_key(one) < _key(other)) is (one < other)
    assert (_key(one) == _key(other)) is (one == other)


@given(st.integers(2**53, 2**1_100), st.integers(1, 3), st.sampled_from((1, -1)))
def test_adjacent_integers_have_distinct_keys(low: int, more: int, sign: int) -> None:
    numbers = sorted((sign * low, sign * (low + more)))
    assert _key(numbers[0]) < _key(numbers[1])


@given(TEXTS, TEXTS)
@example("\uffee", "\U0001f600")
@example("", "\0")
def test_keys_of_texts_sort_by_code_point_as_bytes_too(one: str, other: str) -> None:
    keys = _key(one).encode(), _key(other).encode()
    assert (keys[0] < keys[1]) is (one < other)
    assert (keys[0] == keys[1]) is (one == other)


@given(SCALARS, SCALARS)
@example(True, 1)
@example("b1", True)
@example("k", "")
def test_keys_of_different_kinds_start_with_different_letters(one: Any, other: Any) -> None:
    same = isinstance(one, bool) is isinstance(other, bool)
    same = same and isinstance(one, str) is isinstance(other, str)
    assert (_key(one)[0] == _key(other)[0]) is same


@pytest.mark.parametrize("value", [None, [], ["x"], {"x": 1}, math.nan])
def test_values_that_cannot_be_compared_have_no_key(value: object) -> None:
    assert _key(value) == ""


NAMES = st.one_of(
    st.text(max_size=4),
    st.sampled_from(("", ".", "_", "__", "_a", "a", ".61", "61", "x.y", 'q"x', "a b", "ü", "~1")),
    st.text("ab_", min_size=98, max_size=103),
)  # fmt: skip


@given(NAMES, NAMES)
@example("a", "_a")
@example("61", ".61")
@example("x" * 100, "x" * 101)
def test_encoded_column_names_are_distinct_and_need_no_quoting(one: str, other: str) -> None:
    for name in (one, other):
        assert set(_column(name)) <= {*string.ascii_letters, *string.digits, ".", "_"}
        assert _column(name)[0] in "._"
    assert (_column(one) == _column(other)) is (one == other)


@given(st.dictionaries(NAMES, st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=4))))
def test_comparable_values_have_every_value_once(metadata: Metadata) -> None:
    fields = comparable_values(metadata)
    json.dumps(fields)
    names = set()
    for name, value in metadata.items():
        column = _column(name)
        keys = {_key(each) for each in (value if isinstance(value, list) else [value])} - {""}
        present = {f"{letter}{column}" for letter in ("s", "l")} & fields.keys()
        if value is None:
            assert not present
            continue
        names |= present
        if len(keys) < 2:
            assert present == {f"s{column}"}
            assert fields[f"s{column}"] == (keys.pop() if keys else "o")
            continue
        assert present == {f"l{column}"}
        assert fields[f"l{column}"] == sorted(keys)
        for letter in {key[0] for key in keys}:
            same = [key for key in keys if key[0] == letter]
            ends = {f"0{letter}{column}": min(same), f"1{letter}{column}": max(same)}
            assert ends.items() <= fields.items()
            names |= ends.keys()
    assert names == fields.keys()


@given(st.lists(SCALARS, max_size=4))
def test_texts_are_recovered_from_comparable_values(values: list[Any]) -> None:
    texts = {value for value in values if isinstance(value, str)}
    assert set(texts_of(comparable_values({"a": values, "b": "other"}), "a")) == texts
    assert list(texts_of(comparable_values({"b": "other"}), "a")) == []


@pytest.mark.parametrize(("value", "kinds"), [
    (True, {"boolean"}),
    (7, {"number"}),
    (0.5, {"number"}),
    ("x", {"text"}),
    ({"x": 1}, {"other"}),
    (None, {"none"}),
    ([], {"none"}),
    (["x", "x"], {"text"}),
    (["x", "y"], {"text", "list"}),
    ([1, 1.0, None], {"number", "other"}),
    ([1, True, "x"], {"number", "boolean", "text", "list"}),
    ([["x", "y"]], {"other"}),
    ([["x"], "y"], {"other", "text"}),
])  # fmt: skip
def test_column_types_of_a_row(value: object, kinds: set[str]) -> None:
    assert set(column_types_of({"a": value})) == {("a", kind) for kind in kinds}


ROWS: st.SearchStrategy[list[Metadata]] = st.lists(
    st.dictionaries(
        st.sampled_from(("a", "ü")),
        st.one_of(SCALARS, st.none(), st.lists(SCALARS | st.none(), max_size=2), st.just({})),
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip


@given(ROWS, st.sampled_from(("a", "ü", "b")), st.one_of(st.just("x"), st.just(1), st.just(True)))
@example([{"a": None}], "a", 1)
@example([{"a": []}], "a", 1)
@example([{"a": [None]}], "a", 1)
@example([{"a": []}, {"a": "x"}], "a", 1)
@example([{}], "a", 1)
def test_column_types_refuse_the_filters_that_rows_refuse(
    rows: list[Metadata], name: str, value: Any
) -> None:
    types = ColumnTypes()
    for row in rows:
        for pair in column_types_of(row):
            types.add(*pair)
    where = as_filter({name: value})
    messages = []
    for check in (lambda: where.mask(MetadataColumns(rows)), lambda: types.check(where)):
        try:
            check()
            messages.append("")
        except InputError as error:
            messages.append(str(error))
    assert messages[0] == messages[1]


def test_column_types_have_what_was_added() -> None:
    types = ColumnTypes()
    for pair in (("a", "text"), ("a", "list"), ("", "zero")):
        assert not types.has(*pair)
        types.add(*pair)
        assert types.has(*pair)
    assert not types.has("b", "text")
    assert types.kinds == {"a": {"text"}}


@given(st.text(min_size=1, max_size=3), st.text(max_size=4))
@example("a\U0010ffff", "b")
@example("\U0010ffff", "x")
@example("a\ud7ff", "\ue000")
def test_a_prefix_expression_matches_ids_with_the_prefix(prefix: str, row_id: str) -> None:
    bounds = prefix_expression(prefix).split(" and ")
    assume(" and " not in prefix)
    tests = [(part.split(" ", 2)[1], json.loads(part.split(" ", 2)[2])) for part in bounds]
    for candidate in (row_id, prefix + row_id, prefix):
        matches = [candidate >= text if sign == ">=" else candidate < text for sign, text in tests]
        assert all(matches) is candidate.startswith(prefix)
    prefix_expression(prefix).encode()


def test_user_input_is_quoted_in_expressions() -> None:
    hostile = 'x" or id != "'
    for where in (
        {"a": hostile},
        {"a": {"ne": hostile}},
        {"a": {"in": [hostile, "y"]}},
        {"a": {"like": f"{hostile}%"}},
        {"a": {"gte": hostile}},
    ):
        text = translate(as_filter(where), TYPES, lambda _: [hostile])
        assert text is not None
        assert json.dumps(hostile)[1:-1] in text
        assert hostile not in text
    odd = translate(as_filter({hostile: {"null": True}}), TYPES, lambda _: [])
    assert odd is not None
    assert "or id" not in odd


def test_a_pattern_that_matches_too_many_texts_is_refused() -> None:
    texts = [f"t{i}" for i in range(5_001)]
    with pytest.raises(InputError, match="'t%' matches 5,001 distinct texts of column 'a'"):
        translate(as_filter("a like 't%'"), TYPES, lambda _: texts)
    assert translate(as_filter("a like 't_'"), TYPES, lambda _: texts) is not None


def test_an_unknown_filter_has_no_expression() -> None:
    class Other:
        def mask(self, columns: object) -> None: ...

    assert translate(Other(), TYPES, lambda _: []) is None  # type: ignore[arg-type]
