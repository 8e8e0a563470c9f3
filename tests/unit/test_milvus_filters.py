"""Values of metadata as the texts that Milvus compares, in place of the values themselves."""

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
    KnownColumns,
    _column,
    _key,
    expression,
    facts_of,
    pick,
    values_of,
    within_source,
)
from lookalike.types import Metadata

EDGES = (
    *(0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**64 - 1, 2**64 - 2, 2**63),
    *(0.0, -0.0, 5e-324, -5e-324, 2.2e-308, 0.1, 1e16, 1.7e308, math.inf, -math.inf, 9.3e18),
)
NUMBERS = st.one_of(
    st.sampled_from(EDGES),
    st.integers(-(2**64) + 1, 2**64 - 1),
    st.integers(-3, 3),
    st.floats(allow_nan=False),
    st.floats(2.0**52, 2.0**64).map(lambda number: float(int(number))),
)
TEXTS = st.text(max_size=5)
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans())
KNOWN = KnownColumns({"a": {"text", "number", "truth"}})


@given(NUMBERS, NUMBERS)
@example(2**63 - 1, float(2**63))
@example(2**64 - 1, float(2**64))
@example(2**53 + 1, float(2**53))
@example(-(2**63), -(2**63) + 1)
@example(0.0, -0.0)
@example(5e-324, 0)
def test_keys_of_numbers_are_in_the_order_of_the_numbers(one: float, other: float) -> None:
    assert (_key(one) < _key(other)) is (one < other)
    assert (_key(one) == _key(other)) is (one == other)


@given(st.integers(2**53, 2**64 - 4), st.integers(1, 3), st.sampled_from((1, -1)))
def test_neighbors_among_whole_numbers_of_64_bits_differ(low: int, more: int, sign: int) -> None:
    numbers = sorted((sign * low, sign * (low + more)))
    assert _key(numbers[0]) < _key(numbers[1])


@given(TEXTS, TEXTS)
@example("\uffee", "\U0001f600")
@example("", "\0")
def test_keys_of_texts_are_in_the_order_of_code_points_as_bytes_too(one: str, other: str) -> None:
    keys = _key(one).encode(), _key(other).encode()
    assert (keys[0] < keys[1]) is (one < other)
    assert (keys[0] == keys[1]) is (one == other)


@given(SCALARS, SCALARS)
@example(True, 1)
@example("b1", True)
@example("k", "")
def test_values_of_different_kinds_have_different_first_letters(one: Any, other: Any) -> None:
    same = isinstance(one, bool) is isinstance(other, bool)
    same = same and isinstance(one, str) is isinstance(other, str)
    assert (_key(one)[0] == _key(other)[0]) is same


@pytest.mark.parametrize("value", [None, [], ["x"], {"x": 1}, math.nan])
def test_what_compares_with_nothing_has_no_key(value: object) -> None:
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
def test_names_of_columns_stay_apart_and_need_no_quoting(one: str, other: str) -> None:
    for name in (one, other):
        assert set(_column(name)) <= {*string.ascii_letters, *string.digits, ".", "_"}
        assert _column(name)[0] in "._"
    assert (_column(one) == _column(other)) is (one == other)


@given(st.dictionaries(NAMES, st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=4))))
def test_the_values_of_a_row_hold_every_value_once(metadata: Metadata) -> None:
    found = values_of(metadata)
    json.dumps(found)
    names = set()
    for name, value in metadata.items():
        column = _column(name)
        keys = {_key(each) for each in (value if isinstance(value, list) else [value])} - {""}
        at = {f"{letter}{column}" for letter in ("s", "l")} & found.keys()
        if value is None:
            assert not at
            continue
        names |= at
        if len(keys) < 2:
            assert at == {f"s{column}"}
            assert found[f"s{column}"] == (keys.pop() if keys else "o")
            continue
        assert at == {f"l{column}"}
        assert found[f"l{column}"] == sorted(keys)
        for letter in {key[0] for key in keys}:
            same = [key for key in keys if key[0] == letter]
            ends = {f"0{letter}{column}": min(same), f"1{letter}{column}": max(same)}
            assert ends.items() <= found.items()
            names |= ends.keys()
    assert names == found.keys()


@given(st.lists(SCALARS, max_size=4))
def test_the_texts_of_a_row_come_back(values: list[Any]) -> None:
    texts = {value for value in values if isinstance(value, str)}
    assert set(pick(values_of({"a": values, "b": "other"}), "a")) == texts
    assert list(pick(values_of({"b": "other"}), "a")) == []


@pytest.mark.parametrize(("value", "facts"), [
    (True, {"truth"}),
    (7, {"number"}),
    (0.5, {"number"}),
    ("x", {"text"}),
    ({"x": 1}, {"other"}),
    (None, {"none"}),
    ([], {"none"}),
    (["x", "x"], {"text"}),
    (["x", "y"], {"text", "list"}),
    ([1, 1.0, None], {"number", "other"}),
    ([1, True, "x"], {"number", "truth", "text", "list"}),
    ([["x", "y"]], {"other"}),
    ([["x"], "y"], {"other", "text"}),
])  # fmt: skip
def test_the_facts_of_a_row_are_the_kinds_of_its_values(value: object, facts: set[str]) -> None:
    assert set(facts_of({"a": value})) == {("a", fact) for fact in facts}


ROWS = st.lists(
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
def test_what_is_known_of_columns_refuses_what_the_rows_refuse(
    rows: list[Metadata], name: str, value: Any
) -> None:
    known = KnownColumns()
    for row in rows:
        for fact in facts_of(row):
            known.add(*fact)
    where = as_filter({name: value})
    said = []
    for refuse in (lambda: where.mask(MetadataColumns(rows)), lambda: known.refuse(where)):
        try:
            refuse()
            said.append("")
        except InputError as error:
            said.append(str(error))
    assert said[0] == said[1]


def test_known_columns_have_what_was_added() -> None:
    known = KnownColumns()
    for fact in (("a", "text"), ("a", "list"), ("", "zero")):
        assert not known.has(*fact)
        known.add(*fact)
        assert known.has(*fact)
    assert not known.has("b", "text")
    assert known.kinds == {"a": {"text"}}


@given(st.text(min_size=1, max_size=3), st.text(max_size=4))
@example("a\U0010ffff", "b")
@example("\U0010ffff", "x")
@example("a\ud7ff", "\ue000")
def test_rows_by_prefix_are_those_that_begin_so(prefix: str, row_id: str) -> None:
    bounds = within_source(prefix).split(" and ")
    assume(" and " not in prefix)
    tests = [(part.split(" ", 2)[1], json.loads(part.split(" ", 2)[2])) for part in bounds]
    for candidate in (row_id, prefix + row_id, prefix):
        found = all(candidate >= text if sign == ">=" else candidate < text for sign, text in tests)
        assert found is candidate.startswith(prefix)
    within_source(prefix).encode()


def test_a_users_words_reach_an_expression_as_quoted_texts_only() -> None:
    hostile = 'x" or id != "'
    for where in (
        {"a": hostile},
        {"a": {"ne": hostile}},
        {"a": {"in": [hostile, "y"]}},
        {"a": {"like": f"{hostile}%"}},
        {"a": {"gte": hostile}},
    ):
        text = expression(as_filter(where), KNOWN, lambda _: [hostile])
        assert text is not None
        assert json.dumps(hostile)[1:-1] in text
        assert hostile not in text
    odd = expression(as_filter({hostile: {"null": True}}), KNOWN, lambda _: [])
    assert odd is not None
    assert "or id" not in odd


def test_a_pattern_like_too_many_texts_is_refused() -> None:
    texts = [f"t{i}" for i in range(5_001)]
    with pytest.raises(InputError, match="'t%' is like 5,001 different texts of column 'a'"):
        expression(as_filter("a like 't%'"), KNOWN, lambda _: texts)
    assert expression(as_filter("a like 't_'"), KNOWN, lambda _: texts) is not None


def test_a_filter_of_another_kind_has_no_expression() -> None:
    class Other:
        def mask(self, columns: object) -> None: ...

    assert expression(Other(), KNOWN, lambda _: []) is None  # type: ignore[arg-type]
