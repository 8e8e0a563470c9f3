"""Facets: the columns of metadata, described once for all who read them."""

from __future__ import annotations

import pytest

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import CancelledError
from lookalike.filters import EncodedColumn, MetadataColumns
from lookalike.filters.facets import MAX_COLUMNS, facets


class CountedColumns(MetadataColumns):
    """Columns that count how often one is encoded; it can cancel the work at the n-th."""

    encodings = 0
    cancel_at = 0
    cancellation = Cancellation()

    def _encode(self, name: str) -> EncodedColumn:
        self.encodings += 1
        if self.encodings == self.cancel_at:
            self.cancellation.cancel()
        return super()._encode(name)


def test_columns_are_described_once() -> None:
    columns = CountedColumns([{"a": 1, "b": "x", "c": [True, False]}, {"a": 2.5}, {"d": {}}])
    described = facets(columns)
    assert [(each.column, each.kind, each.rows, each.distinct) for each in described] == [
        ("a", "number", 2, 2),
        ("b", "text", 1, 1),
        ("c", "boolean", 1, 2),
    ]
    assert (described[0].low, described[0].high) == (1, 2.5)
    assert facets(columns) == described
    assert columns.encodings == 4


def test_a_cancelled_description_goes_on_where_it_ended() -> None:
    columns = CountedColumns([{f"c{i:02}": i for i in range(20)}])
    columns.cancel_at = 11
    with cancellable(columns.cancellation), pytest.raises(CancelledError):
        facets(columns)
    assert len(facets(columns)) == 20
    assert columns.encodings <= 21


def test_the_number_of_described_columns_is_bounded() -> None:
    columns = CountedColumns([{f"c{i:05}": i for i in range(MAX_COLUMNS + 500)}])
    described = facets(columns)
    assert [each.column for each in described] == [f"c{i:05}" for i in range(MAX_COLUMNS)]
    assert columns.encodings == MAX_COLUMNS
