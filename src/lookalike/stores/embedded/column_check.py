"""Comparing the columns of the metadata with the rows that they are derived from."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from lookalike.filters.conditions import shown
from lookalike.stores.embedded.column_tables import (
    DamagedColumnError,
    place_of,
    read_block,
    read_values,
)
from lookalike.stores.embedded.column_writer import value_key
from lookalike.stores.embedded.columns import BLOCK, rows_by_block
from lookalike.stores.embedded.rows import StoredRow

_REPORTED = 20
"""Problems that are reported."""

_KEPT = 1 << 20
"""Values of columns that are kept in memory."""


class ColumnCheck:
    """Compares columns with rows, a block at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._numbers = dict(connection.execute("SELECT name, number FROM columns"))
        self._unseen = {place for (place,) in connection.execute("SELECT place FROM column_codes")}
        self._values: dict[int, Sequence[Any]] = {}
        self._kept = 0
        self._wrong: Counter[str] = Counter()
        self._damage: dict[str, None] = {}

    def problems(self, *, deep: bool) -> list[str]:
        """Return what is wrong; of all rows, or of those of the last block.

        Raises:
            sqlite3.Error: the rows cannot be read.
        """
        (last,) = self._connection.execute("SELECT max(slot) FROM rows").fetchone()
        first = 0 if deep or last is None else last // BLOCK
        for block, rows in rows_by_block(self._connection, first):
            self._compare(block, rows)
        wrong = [
            f"column {shown(name)} of the metadata differs from {count:,} rows"
            for name, count in self._wrong.items()
            if count
        ]
        if deep and self._unseen:
            wrong.append(f"columns of the metadata: {len(self._unseen):,} blocks are of no rows")
        if not self._is_state_sound():
            wrong.append("the state of the columns of the metadata is damaged")
        return [*self._damage, *wrong][:_REPORTED]

    def _is_state_sound(self) -> bool:
        """Return whether the next column would get a number that none has."""
        query = "SELECT mark, next_number FROM column_state"
        states = self._connection.execute(query).fetchall()
        if not all(isinstance(value, int) for state in states for value in state):
            return False
        highest = max(self._numbers.values(), default=0)
        return (len(states) == 1 and states[0][1] > highest) or not (states or self._numbers)

    def _compare(self, block: int, rows: Iterable[StoredRow]) -> None:
        """Compare the codes of a block with its rows."""
        expected: dict[str, dict[int, Hashable]] = {name: {} for name in self._numbers}
        for row in rows:
            for name, value in row.metadata.items():
                by_place = expected.setdefault(name, {})
                if value is not None:
                    by_place[row.slot % BLOCK] = value_key(value)
        for name, keys in expected.items():
            number = self._numbers.get(name)
            if number is None:
                self._damage[f"column {shown(name)} of the metadata is missing"] = None
                continue
            try:
                actual = self._keys(number, block)
            except sqlite3.DatabaseError as error:
                self._damage[str(error)] = None
                continue
            places = actual.keys() | keys.keys()
            self._wrong[name] += sum(actual.get(place) != keys.get(place) for place in places)

    def _keys(self, number: int, block: int) -> dict[int, Hashable]:
        """Return the values of a block by place.

        Raises:
            sqlite3.DatabaseError: they are damaged.
        """
        place = place_of(number, block)
        if place not in self._unseen:
            return {}
        self._unseen.discard(place)
        codes = read_block(self._connection, place)
        values = self._values.get(number)
        if values is None:
            if self._kept > _KEPT:
                self._values.clear()
                self._kept = 0
            values = self._values[number] = read_values(self._connection, number).values
            self._kept += len(values)
        places = np.flatnonzero(codes >= 0)
        if int(codes.max()) >= len(values):
            raise DamagedColumnError(number, "codes")
        keys = (value_key(values[code]) for code in codes[places].tolist())
        return dict(zip(places.tolist(), keys, strict=True))
