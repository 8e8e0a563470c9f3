"""Metadata of many rows by column."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lookalike.stores.same_columns import by_columns


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 3) | st.none())))
def test_each_row_is_in_one_group(metadata: list[dict[str, Any]]) -> None:
    rows: dict[int, dict[str, Any]] = {}
    groups = by_columns(metadata)
    for group in groups:
        assert len(group.names) == len(group.values)
        for number, place in enumerate(group.places):
            assert place not in rows
            values = [column[number] for column in group.values]
            rows[place] = dict(zip(group.names, values, strict=True))
    assert [rows[place] for place in range(len(metadata))] == metadata
    assert len({group.names for group in groups}) == len(groups)


def test_columns_in_another_order_are_another_group() -> None:
    assert [group.names for group in by_columns([{"a": 1, "b": 2}, {"b": 1, "a": 2}])] == [
        ("a", "b"),
        ("b", "a"),
    ]
