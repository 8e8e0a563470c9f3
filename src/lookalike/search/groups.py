"""Groups of rows in an order: those next to each other with the same value, year, month or day."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError, SettingError
from lookalike.filters.encoded import STEP, kind_of
from lookalike.search.ordering import (
    RowNumbers,
    SortKey,
    check_column,
    date_column,
    file_date,
    row_signatures,
    source_of,
)
from lookalike.stores.base import RowReader

PERIODS = {"year": 4, "month": 7, "day": 10}
"""Characters of a date in ISO 8601 that name a period."""

MAX_GROUPS = 10_000

_DATE = re.compile(r"\d{4}[-:/]\d\d([-:/]\d\d)?(?!\d)")

Value = str | bool | float | None


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are next to each other.

    Args:
        value: that they have in common; None if they have none.
        count: how many they are, at least 1.
    """

    value: Value
    count: int


def group_rows(
    store: RowReader, rows: RowNumbers, key: str = "date", by: str = "value"
) -> list[Group]:
    """Return the groups of rows in an order.

    In the order of the same key, each value has one group; in any other, as many as there are
    runs of it. A list counts as its first value.

    Args:
        store: a snapshot.
        rows: row numbers, ``(n,)``.
        key: ``source``, ``date``, or a column of the metadata, as in
            :func:`~lookalike.search.ordering.order_rows`.
        by: ``value``, or ``year``, ``month`` or ``day`` for texts that begin with a date, as in
            ISO 8601 or EXIF.

    Raises:
        InputError: the key is neither source, date nor a column, or there are more than 10,000
            groups.
        SettingError: ``by`` is none of these.
        CancelledError: the work was cancelled.
    """
    check_period(by)
    if not len(rows):
        return []
    codes, values = _codes(store, rows, SortKey.parse(key))
    names, numbers = _distinct(values, PERIODS.get(by))
    codes = np.append(numbers, _number_of(names, None))[codes]  # -1 is the last one
    starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))[: len(codes)]
    if len(starts) > MAX_GROUPS:
        raise InputError(
            f"{{key}}: {len(starts):,} groups by {by}, more than {MAX_GROUPS:,}; a coarser one may "
            "be year or month",
            key=key,
        )
    counts = np.diff(np.append(starts, len(codes)))
    every = list(names)
    return [
        Group(every[code][1], count)
        for code, count in zip(codes[starts].tolist(), counts.tolist(), strict=True)
    ]


def check_period(by: str) -> None:
    """Check what rows are grouped by.

    Raises:
        SettingError: it is neither ``value`` nor a period.
    """
    if by not in ("value", *PERIODS):
        raise SettingError("{by} must be value, year, month or day", by=by)


def _codes(
    store: RowReader, rows: RowNumbers, key: SortKey
) -> tuple[NDArray[np.integer[Any]], Sequence[Any]]:
    """Return the code of each row, ``(n,)``, and the values that the codes stand for."""
    columns = store.columns()
    name: str | None = key.name
    if not key.is_column:
        if name not in ("source", "date"):
            raise InputError("{key} must be source, date or a metadata column", key=key.name)
        name = date_column(columns) if name == "date" else None
    if name is not None:
        check_column(columns, name, "key")
        column = columns.encoded(name)
        return column.codes[rows], column.values
    if key.name == "source":
        parts: list[Any] = []
        for start in range(0, len(rows), STEP):
            check_cancelled()
            parts += map(source_of, store.ids_at(rows[start : start + STEP]))
    else:
        signatures = row_signatures(store)
        parts = [file_date(signatures[row]) for row in rows.tolist()]
    return np.arange(len(rows)), parts


def _distinct(
    values: Sequence[Any], length: int | None
) -> tuple[dict[tuple[str, Hashable], int], NDArray[np.int64]]:
    """Return the names of groups with their numbers, and the number of each value."""
    names: dict[tuple[str, Any], int] = {}
    name_of: Callable[[Any], Value] = _plain if length is None else _period(length)
    numbers = np.empty(len(values), np.int64)
    for place, value in enumerate(values):
        if place % STEP == 0:
            check_cancelled()
        numbers[place] = _number_of(names, name_of(value))
    return names, numbers


def _number_of(names: dict[tuple[str, Any], int], name: Value) -> int:
    """Return the number of a group, a new one if need be; 1 and True are apart."""
    return names.setdefault((kind_of(name), name), len(names))


def _plain(value: Any) -> Value:
    """Return what a value is grouped by."""
    if isinstance(value, list | tuple):
        value = next(iter(value), None)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | bool | int | float) else None


def _period(length: int) -> Callable[[Any], Value]:
    """Return a function from a value to the period of its date; others stay as they are."""

    def period_of(value: Any) -> Value:
        plain = _plain(value)
        if not isinstance(plain, str) or not _DATE.match(plain):
            return plain
        return re.sub("[:/]", "-", plain[:length])

    return period_of
