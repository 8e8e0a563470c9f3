"""Writing the columns of the metadata, in the transaction that writes their rows.

A value that a column already has gets its code again, as long as the column has few values. Of a
column with many, such as names of files, only the values of one write are compared with each other:
a value may have several codes then, which costs some bytes, and filters and facets take that into
account.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.stores.embedded.column_tables import (
    DamagedColumnError,
    LastPiece,
    append_values,
    place_of,
    read_block,
    read_codes,
    read_values,
    slots_with_codes,
    write_block,
)
from lookalike.stores.embedded.columns import BLOCK
from lookalike.stores.embedded.rows import StoredRow

_FEW = 1 << 16
"""Values up to which those of a column are remembered."""

_FEW_CHARACTERS = 1 << 23
"""Characters up to which the values of a column are read to be remembered."""

_REMEMBERED = 1 << 20
"""Values of all columns that are remembered between writes."""

_LONG = 64
"""Characters of a text from which its hash is remembered in its place."""


_SPARSE = 4
"""Places in a table of rows and columns for each value up to which all places are looked at."""


class _Column:
    """A column that is being written."""

    def __init__(self, number: int, last: LastPiece) -> None:
        self.number = number
        self.last = last
        self.codes: dict[type, dict[Hashable, int]] = {}  # by value, by its type
        self.is_known = True  # of each value
        self.count = last.end
        self.new: list[Any] = []

    def remember(self, values: Iterable[Any]) -> None:
        """Remember the values that are stored."""
        for code, value in enumerate(values):
            kind, key = value_key(value)
            self.codes.setdefault(kind, {})[key] = code

    def encode(self, values: Sequence[Any]) -> NDArray[np.int32]:
        """Return the codes of values that are not None; those that have none become new ones."""
        kinds = set(map(type, values))
        kind = kinds.pop() if len(kinds) == 1 else object
        if kind in (bool, int, float) or (kind is str and max(map(len, values)) < _LONG):
            return self._encode(kind, values, values)
        pairs = [*map(value_key, values)]
        codes = np.empty(len(values), np.int32)
        for kind in dict.fromkeys(kind for kind, _ in pairs):
            places = [place for place, pair in enumerate(pairs) if pair[0] is kind]
            keys = [pairs[place][1] for place in places]
            codes[places] = self._encode(kind, keys, [values[place] for place in places])
        return codes

    def _encode(
        self, kind: type, keys: Sequence[Hashable], values: Sequence[Any]
    ) -> NDArray[np.int32]:
        """Return the codes of values of one type, by their keys."""
        known = self.codes.setdefault(kind, {})
        codes = [*map(known.get, keys)]
        if None in codes:
            pairs = zip(keys, values, codes, strict=True)
            new = {key: value for key, value, code in pairs if code is None}
            known.update(zip(new, range(self.count, self.count + len(new)), strict=True))
            self.count += len(new)
            self.new += new.values()
            codes = [*map(known.get, keys)]
        return np.array(codes, np.int32)


class ColumnWriter:
    """Writes columns, and remembers their values until somebody else writes them."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._mark: int | None = None
        self._next = 0
        self._remembered = 0

    def update(
        self,
        connection: sqlite3.Connection,
        removed: Sequence[StoredRow],
        added: Sequence[StoredRow],
    ) -> None:
        """Update the columns for rows that are removed and added."""
        self._begin(connection)
        without = _slots_by_column(removed)
        values = _values_by_column(added)
        for name in dict.fromkeys((*without, *values)):
            check_cancelled()
            cleared = np.array(without.get(name, ()), np.int64)
            self._write(connection, name, cleared, *values.get(name, _NONE))
        self._end(connection)

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Forget what was remembered if somebody else has written since."""
        state = connection.execute("SELECT mark, next_number FROM column_state").fetchone()
        if state is None:
            connection.execute("INSERT INTO column_state VALUES (0, 1)")
            state = 0, 1
        if state[0] != self._mark or self._remembered > _REMEMBERED:
            self._columns.clear()
            self._remembered = 0
        self._next = state[1]
        self._mark = None  # if this write fails

    def _end(self, connection: sqlite3.Connection) -> None:
        mark = int.from_bytes(os.urandom(7), "little")
        connection.execute("UPDATE column_state SET mark = ?, next_number = ?", (mark, self._next))
        self._mark = mark

    def _load(self, connection: sqlite3.Connection, name: str) -> _Column:
        """Read a column, or add a new one."""
        row = connection.execute("SELECT number FROM columns WHERE name = ?", (name,)).fetchone()
        if row is None:
            return self._add(connection, name)
        column = self._columns[name] = _Column(row[0], LastPiece.read(connection, row[0]))
        column.is_known = column.count <= _FEW and self._remembered < _REMEMBERED
        if column.is_known and column.count:
            (size,) = connection.execute(
                "SELECT sum(size) FROM column_values WHERE place >= ? AND place < ?",
                (place_of(column.number), place_of(column.number + 1)),
            ).fetchone()
            column.is_known = size <= _FEW_CHARACTERS
        if column.is_known:
            column.remember(read_values(connection, column.number).values)
            self._remembered += column.count
        return column

    def _add(self, connection: sqlite3.Connection, name: str) -> _Column:
        number, self._next = self._next, self._next + 1
        connection.execute("INSERT INTO columns VALUES (?, ?)", (number, name))
        column = self._columns[name] = _Column(number, LastPiece.none(number))
        return column

    def _write(
        self,
        connection: sqlite3.Connection,
        name: str,
        cleared: NDArray[np.int64],
        slots: NDArray[np.int64],
        values: Sequence[Any],
    ) -> None:
        """Write values into the slots of a column, after others were cleared."""
        column = self._columns.get(name) or self._load(connection, name)
        codes = column.encode(values)
        if column.new:
            column.last = append_values(connection, column.last, column.new)
            self._remembered += len(column.new) if column.is_known else 0
            column.is_known = column.is_known and column.count <= _FEW
            column.new = []
        for block in np.union1d(cleared // BLOCK, slots // BLOCK).tolist():
            place = place_of(column.number, block)
            block_codes = read_block(connection, place)
            if int(block_codes.max()) >= column.count:
                raise DamagedColumnError(column.number, "values")
            block_codes[cleared[cleared // BLOCK == block] % BLOCK] = -1
            within = slots // BLOCK == block
            block_codes[slots[within] % BLOCK] = codes[within]
            write_block(connection, place, block_codes)
        if not column.is_known:
            column.codes = {}
            end = slots_with_codes(connection, column.number)
            if column.count > _FEW + 2 * end:
                self._encode_again(connection, name, end)

    def _encode_again(self, connection: sqlite3.Connection, name: str, slots: int) -> None:
        """Write a column without the values that no row has any more, and those that are equal."""
        old = self._columns[name]
        codes = read_codes(connection, old.number, slots)
        values = read_values(connection, old.number).values
        connection.execute("DELETE FROM columns WHERE number = ?", (old.number,))
        for table in ("column_values", "column_codes"):
            limits = place_of(old.number), place_of(old.number + 1)
            connection.execute(f"DELETE FROM {table} WHERE place >= ? AND place < ?", limits)
        column = self._add(connection, name)
        used = np.unique(codes[codes >= 0])
        changed = np.full(len(values) + 1, -1, np.int32)
        changed[used] = column.encode([values[code] for code in used.tolist()])
        column.last = append_values(connection, column.last, column.new)
        column.new = []
        codes = changed[codes]
        for start in range(0, slots, BLOCK):
            place = place_of(column.number, start // BLOCK)
            write_block(connection, place, codes[start : start + BLOCK])
        column.is_known = column.count <= _FEW
        if not column.is_known:
            column.codes = {}


_NONE: tuple[NDArray[np.int64], Sequence[Any]] = (np.empty(0, np.int64), ())


def _slots_by_column(rows: Sequence[StoredRow]) -> dict[str, list[int]]:
    slots: dict[str, list[int]] = {}
    for row in rows:
        for name in row.metadata:
            slots.setdefault(name, []).append(row.slot)
    return slots


def _values_by_column(
    rows: Sequence[StoredRow],
) -> dict[str, tuple[NDArray[np.int64], Sequence[Any]]]:
    """Return the slots that have a value in a column, and their values, by column.

    Columns without a value are there too.
    """
    slots = np.array([row.slot for row in rows], np.int64)
    metadata = [row.metadata for row in rows]
    names = dict.fromkeys(chain.from_iterable(metadata))
    pairs = sum(map(len, metadata))
    columns: dict[str, tuple[NDArray[np.int64], Sequence[Any]]] = {}
    if len(names) * len(rows) <= _SPARSE * pairs:
        for name in names:
            values = [fields.get(name) for fields in metadata]
            columns[name] = slots, values
            if None in values:
                places = [place for place, value in enumerate(values) if value is not None]
                columns[name] = slots[places], [values[place] for place in places]
        return columns
    places_by_column: dict[str, list[int]] = {name: [] for name in names}
    for place, fields in enumerate(metadata):
        for name, value in fields.items():
            if value is not None:
                places_by_column[name].append(place)
    for name, places in places_by_column.items():
        columns[name] = slots[places], [metadata[place][name] for place in places]
    return columns


def value_key(value: Any) -> tuple[type, Hashable]:
    """Return the type of a value, and what equal values of this type have in common."""
    if isinstance(value, str):
        return str, value if len(value) < _LONG else _digest(value)
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind, value
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return list, text if len(text) < _LONG else _digest(text)


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
