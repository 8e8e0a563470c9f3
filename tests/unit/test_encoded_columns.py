"""Encoded columns: tests of many values at a time against those of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.filters import Compare, EncodedColumn, Filter, In, Like, MetadataColumns
from lookalike.filters.encoded import Values, code_type
from lookalike.filters.facets import facets
from lookalike.filters.wildcards import Wildcards
from tests.unit.test_filters import NUMERALS, SCALARS, VALUES
from tests.unit.test_filters import oracle as matches

COLUMN: st.SearchStrategy[list[Any]] = st.one_of(
    st.lists(VALUES.filter(lambda value: value is not None), max_size=12),
    st.lists(st.floats(allow_nan=False), max_size=12),
    st.lists(st.sampled_from(("a", "B", "ab", "é", "1", "2.0")), max_size=12),
    st.lists(st.integers(-(2**54), 2**54), max_size=12),
)
CONDITIONS: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Compare, st.just("x"), st.sampled_from(("ne", "lt", "lte", "gt", "gte")), SCALARS),
    st.builds(In, st.just("x"), st.lists(SCALARS, min_size=1, max_size=6).map(tuple)),
    st.builds(Like, st.just("x"), st.text("aB%_1", max_size=4)),
)


class OneColumn:
    """Rows of one column, x."""

    names = ("x",)

    def __init__(self, column: EncodedColumn) -> None:
        self.column = column

    @classmethod
    def of(cls, values: Values) -> OneColumn:
        """Return a row for each value, in order, and then one without a value."""
        codes = np.arange(len(values) + 1).astype(code_type(len(values)))
        codes[-1] = -1
        return cls(EncodedColumn(codes, values))

    def __len__(self) -> int:
        return len(self.column.codes)

    def encoded(self, name: str) -> EncodedColumn:
        assert name == "x"
        return self.column


@settings(max_examples=250, deadline=None)
@given(COLUMN, st.integers(0, 12), CONDITIONS)
def test_values_in_parts_match_like_single_ones(
    values: list[Any], first: int, where: Filter
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lookalike.filters.encoded._PART", 3)
        columns = OneColumn.of(Values(values[:first]).extended(values[first:]))
        assert [*columns.column.values] == values == columns.column.values[:]
        kinds = MetadataColumns([{"x": value} for value in values]).encoded("x").kinds
        assert columns.column.kinds == columns.column.values.kinds == kinds
        # A text and a number among the values are comparable with every operand.
        extra = [*values, "text", 0.25, True]
        columns = OneColumn.of(Values(extra))
        expected = [matches(where, {"x": value}) for value in extra]
        assert where.mask(columns).tolist() == [*expected, False]


@pytest.mark.parametrize(("count", "size"), [(5, 1), (128, 1), (129, 2), (40_000, 4)])
@pytest.mark.parametrize("density", [0, 0.001, 0.02, 0.5, 0.98, 1])
def test_rows_are_looked_up_by_code(count: int, size: int, density: float) -> None:
    rng = np.random.default_rng(count)
    codes = rng.integers(-1, count, 150_000).astype(code_type(count))
    assert codes.itemsize == size
    numbers = np.arange(count)
    chosen = rng.random(count) < density
    for table in (chosen, numbers < count * density, numbers % 7 < 3):
        values = Values([bool(each) for each in table])
        column = EncodedColumn(codes, values)
        mask = In("x", (True,)).mask(OneColumn(column))
        np.testing.assert_array_equal(mask, np.append(table, False)[codes])
        np.testing.assert_array_equal(column.counts, np.bincount(codes[codes >= 0], None, count))


def test_later_values_are_of_no_row() -> None:
    """A snapshot's codes are fewer than the values that are shared with later ones."""
    columns = OneColumn(
        EncodedColumn(np.array([0, -1, 1, 0], np.int8), Values([*"ab", *range(300)]))
    )
    assert Compare("x", "ne", 7).mask(columns).tolist() == [True, False, True, True]
    assert In("x", ("b", *range(250))).mask(columns).tolist() == [False, False, True, False]
    assert Compare("x", "gte", "b").mask(columns).tolist() == [False, False, True, False]
    assert columns.column.kinds == {"text"}
    [facet] = facets(columns)
    assert (facet.kind, facet.rows, facet.distinct) == ("text", 3, 2)
    assert dict(facet.values or {}) == {"a": 2, "b": 1}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.text("aB\n_é\u0301", max_size=5), st.sampled_from(NUMERALS)), max_size=9),
    st.text("aB%_\né", max_size=5),
)
def test_a_pattern_matches_several_texts_like_single_ones(texts: list[str], pattern: str) -> None:
    wildcards = Wildcards(pattern)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lookalike.filters.wildcards._TOGETHER", 3)
        assert wildcards.matching(texts) == [*map(wildcards.matches, texts)]
