"""Facets: the columns of metadata and their values, for filters."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError
from lookalike.filters.conditions import Columns, check_column, float_of
from lookalike.filters.encoded import STEP, kind_of
from lookalike.filters.rows import SelectedColumns

MAX_LISTED = 50
"""Values of a column with more distinct ones are not listed."""

MAX_COLUMNS = 1_000
"""Columns that are described, the first by name; filters accept any."""


@dataclass(frozen=True, slots=True)
class Facet:
    """One column of metadata.

    Args:
        column: its name.
        kind: ``boolean``, ``number``, ``text`` or ``mixed``.
        rows: rows that have a value.
        distinct: distinct values.
        values: rows by value, most frequent first, then by value, if few are distinct.
        low: the smallest number.
        high: the largest number.
    """

    column: str
    kind: str
    rows: int
    distinct: int
    values: Mapping[str | float | bool, int] | None = None
    low: float | None = None
    high: float | None = None


_described: WeakKeyDictionary[Columns, dict[str, Facet | None]] = WeakKeyDictionary()
_adding = threading.Lock()


def facets(
    columns: Columns,
    names: Sequence[str] | None = None,
    described: dict[str, Facet | None] | None = None,
) -> list[Facet]:
    """Describe columns of booleans, numbers or texts, or lists of these.

    Each column is described once for all callers. If that is cancelled, the next call goes on.

    Args:
        columns: the metadata.
        names: of the columns to describe; by default all, the first 1,000 by name.
        described: facets by column, to which new ones are added; by default those of ``columns``.

    Returns:
        Descriptions in the order of ``names``; columns without such values are left out.

    Raises:
        InputError: no row has one of the columns.
        CancelledError: the work was cancelled, or took too long.
    """
    if described is None:
        with _adding:
            described = _described.setdefault(columns, {})
    chosen = checked_names(names, columns.names) if len(columns) else ()
    for name in chosen:
        if name not in described:
            counter = FacetCounter(name)
            counter.add(columns)
            described[name] = counter.facet()
    return [facet for name in chosen if (facet := described[name]) is not None]


def facets_of_rows(
    columns: Columns,
    rows: NDArray[np.int64],
    names: Sequence[str] | None = None,
    most_frequent: int = MAX_LISTED,
) -> list[Facet]:
    """Describe columns as :func:`facets` does, but of some rows, with their most frequent values.

    Args:
        columns: the metadata of all rows.
        rows: numbers of rows.
        names: of the columns to describe; by default all, the first 1,000 by name.
        most_frequent: values of a column that are listed, of however many.

    Raises:
        InputError: no row has one of the columns.
        CancelledError: the work was cancelled, or took too long.
    """
    selected = SelectedColumns(columns, rows)
    described: list[Facet] = []
    for name in checked_names(names, columns.names) if len(columns) else ():
        check_cancelled()
        counter = FacetCounter(name)
        counter.add(selected)
        facet = counter.facet(most_frequent)
        described += [] if facet is None else [facet]
    return described


def checked_names(names: Sequence[str] | None, existing: Sequence[str]) -> Sequence[str]:
    """Return the columns to describe, without repetition: ``names``, or the first that exist.

    Raises:
        InputError: one does not exist.
    """
    if names is None:
        return existing[:MAX_COLUMNS]
    if isinstance(names, str):
        raise InputError(f"columns: a list of names is expected, not the text {names!r}")
    for name in names:
        check_column(name, existing, what="columns")
    return tuple(dict.fromkeys(names))


class FacetCounter:
    """Counts the values of a column; rows may be added in parts."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rows = 0
        self._counts: dict[str, dict[Any, int]] = {"boolean": {}, "number": {}, "text": {}}
        self._counts_by_type: dict[type, dict[Any, int]] = {
            kind: self._counts[kind_of(kind())] for kind in (bool, int, float, str)
        }

    def add(self, columns: Columns) -> None:
        """Count the values of some rows."""
        column = columns.encoded(self._name)
        counts = column.counts.tolist()
        self._rows += sum(counts)
        counts_by_type = self._counts_by_type
        for place, (value, count) in enumerate(zip(column.values, counts, strict=True)):
            if place % STEP == 0:
                check_cancelled()
            if not count:
                continue
            of_type = counts_by_type.get(type(value))
            if of_type is not None:
                of_type[value] = of_type.get(value, 0) + count
            elif isinstance(value, list | tuple):
                check_cancelled()  # it may be long
                for inner in value:
                    self._count(inner, count)
            else:
                self._count(value, count)

    def _count(self, value: Any, count: int) -> None:
        kind = kind_of(value)
        if kind != "other":
            counts = self._counts[kind]
            counts[value] = counts.get(value, 0) + count

    def facet(self, most_frequent: int | None = None) -> Facet | None:
        """Return what was counted; None if there are no booleans, numbers or texts.

        Args:
            most_frequent: list as many values, of however many; by default all, if they are few.
        """
        counts = {kind: counts for kind, counts in self._counts.items() if counts}
        if not counts:
            return None
        kind = next(iter(counts)) if len(counts) == 1 else "mixed"
        distinct = sum(map(len, counts.values()))
        values = None
        if (distinct <= MAX_LISTED or most_frequent is not None) and kind != "mixed":
            ordered = sorted(counts[kind].items(), key=lambda pair: (-pair[1], pair[0]))
            values = {_listed(value): count for value, count in ordered[:most_frequent]}
        numbers = counts["number"] if kind == "number" else {}
        return Facet(
            self._name,
            kind,
            self._rows,
            distinct,
            values,
            _in_range(min(numbers, default=None)),
            _in_range(max(numbers, default=None)),
        )


def _listed(value: Any) -> Any:
    """Return a value; an integer beyond all float64 as text, which filters take for it too."""
    beyond = isinstance(value, int) and abs(value) > sys.float_info.max
    return str(value) if beyond else value


def _in_range(number: float | None) -> float | None:
    """Return a number, or the nearest float64 to an integer that is beyond all of them."""
    if number is None or abs(number) <= sys.float_info.max:
        return number
    return float_of(number)
