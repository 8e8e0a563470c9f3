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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.stores.embedded.column_tables import (
    DamagedColumnError,
    LastPiece,
    PackedBlock,
    Piece,
    packed_block,
    place_of,
    read_block,
    read_codes,
    read_values,
    slots_with_codes,
    with_values,
    within_column,
    write_block,
    write_piece,
)
from lookalike.stores.embedded.columns import BLOCK
from lookalike.stores.embedded.rows import RowBatch, StoredRow

_FEW = 1 << 16
"""Values up to which those of a column are remembered."""

_FEW_CHARACTERS = 1 << 23
"""Characters up to which the values of a column are read to be remembered."""

_REMEMBERED = 1 << 20
"""Values of all columns that are remembered between writes."""

_READ_AHEAD = 64
"""Blocks of codes up to which columns are encoded while others use the connection (4 MiB)."""

_LONG = 64
"""Characters of a text from which its hash is remembered in its place."""


class _Column:
    """A column that is being written."""

    def __init__(self, number: int, name: str, last: LastPiece) -> None:
        self.number = number
        self.name = name
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
        if kind in (bool, int, float):
            return self._encode(kind, values, values)
        if kind is str:
            return self._encode(kind, [*map(_text_key, values)], values)
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


class _Change:
    """What a write does to a column.

    Args:
        column: that is written.
        cleared: slots that have no value any more.
        slots: that have one now.
        values: theirs.
    """

    def __init__(
        self,
        column: _Column,
        cleared: NDArray[np.int64],
        slots: NDArray[np.int64],
        values: Sequence[Any],
    ) -> None:
        self.column = column
        self.new = 0
        self._cleared = cleared
        self._slots = slots
        self._values = values
        self._codes = np.empty(0, np.int32)
        self._piece: Piece | None = None
        blocks = np.union1d(cleared // BLOCK, slots // BLOCK).tolist()
        self._places = [place_of(column.number, block) for block in blocks]
        self._read: list[NDArray[np.int32]] = []
        self._packed: list[PackedBlock] = []

    def read(self, connection: sqlite3.Connection, count: int) -> int:
        """Read at most so many blocks of codes; return how many were read."""
        self._read = [read_block(connection, place) for place in self._places[:count]]
        return len(self._read)

    def encode(self) -> None:
        """Form what must be stored, without a connection: of the blocks that were read.

        Raises:
            sqlite3.DatabaseError: they are damaged.
        """
        column = self.column
        self._codes = column.encode(self._values)
        self.new = len(column.new)
        if column.new:
            column.last, self._piece = with_values(column.last, column.new)
            column.new = []
        self._packed = [*map(self._changed, self._places, self._read)]
        self._read = []

    def store(self, connection: sqlite3.Connection) -> None:
        """Store it; blocks that were not read are read, changed and stored one by one.

        Raises:
            sqlite3.Error: that failed.
        """
        if self._piece is not None:
            write_piece(connection, self._piece)
        for block in self._packed:
            write_block(connection, block)
        for place in self._places[len(self._packed) :]:
            check_cancelled()
            write_block(connection, self._changed(place, read_block(connection, place)))

    def _changed(self, place: int, codes: NDArray[np.int32]) -> PackedBlock:
        if int(codes.max()) >= self.column.count:
            raise DamagedColumnError(self.column.number, "values")
        block, slots, cleared = within_column(place), self._slots, self._cleared
        codes[cleared[cleared // BLOCK == block] % BLOCK] = -1
        within = slots // BLOCK == block
        codes[slots[within] % BLOCK] = self._codes[within]
        return packed_block(place, codes)


class ColumnUpdate:
    """A write in three steps. Others may use the connection during the second one.

    Args:
        writer: of the columns.
        connection: in a transaction.
        removed: rows that are removed.
        added: rows that are added then.
    """

    def __init__(
        self,
        writer: ColumnWriter,
        connection: sqlite3.Connection,
        removed: Sequence[StoredRow],
        added: RowBatch,
    ) -> None:
        self._writer = writer
        self._without = _slots_by_column(removed)
        self._values = _values_by_column(added)
        self._names = iter(dict.fromkeys((*self._without, *self._values)))
        self._changes: list[_Change] = []
        writer.begin(connection)
        left = _READ_AHEAD
        while left > 0 and (change := self._next(connection)) is not None:
            self._changes.append(change)
            left -= change.read(connection, left)

    def _next(self, connection: sqlite3.Connection) -> _Change | None:
        name = next(self._names, None)
        if name is None:
            return None
        cleared = np.array(self._without.get(name, ()), np.int64)
        column = self._writer.column(connection, name)
        return _Change(column, cleared, *self._values.get(name, _NONE))

    def encode(self) -> None:
        """Encode the values of the first columns, without a connection."""
        for change in self._changes:
            check_cancelled()
            change.encode()

    def finish(self, connection: sqlite3.Connection) -> None:
        """Store the first columns, and write the other ones."""
        for change in self._changes:
            self._writer.store(connection, change)
        while (another := self._next(connection)) is not None:
            check_cancelled()
            another.encode()
            self._writer.store(connection, another)
        self._writer.end(connection)


class ColumnWriter:
    """Writes columns, and remembers their values until somebody else writes them."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._mark: int | None = None
        self._next = 0
        self._remembered = 0

    def update(
        self, connection: sqlite3.Connection, removed: Sequence[StoredRow], added: RowBatch
    ) -> None:
        """Update the columns for rows that are removed and added."""
        update = ColumnUpdate(self, connection, removed, added)
        update.encode()
        update.finish(connection)

    def begin(self, connection: sqlite3.Connection) -> None:
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

    def end(self, connection: sqlite3.Connection) -> None:
        """Record that the columns were written."""
        mark = int.from_bytes(os.urandom(7), "little")
        connection.execute("UPDATE column_state SET mark = ?, next_number = ?", (mark, self._next))
        self._mark = mark

    def column(self, connection: sqlite3.Connection, name: str) -> _Column:
        """Return a column; it is read if it is not remembered, and added if it is new."""
        if name in self._columns:
            return self._columns[name]
        row = connection.execute("SELECT number FROM columns WHERE name = ?", (name,)).fetchone()
        if row is None:
            return self._add(connection, name)
        column = _Column(row[0], name, LastPiece.read(connection, row[0]))
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
        self._columns[name] = column
        return column

    def _add(self, connection: sqlite3.Connection, name: str) -> _Column:
        number, self._next = self._next, self._next + 1
        connection.execute("INSERT INTO columns VALUES (?, ?)", (number, name))
        column = self._columns[name] = _Column(number, name, LastPiece.none(number))
        return column

    def store(self, connection: sqlite3.Connection, change: _Change) -> None:
        """Store what was written into a column."""
        column = change.column
        change.store(connection)
        if change.new:
            self._remembered += change.new if column.is_known else 0
            column.is_known = column.is_known and column.count <= _FEW
        if not column.is_known:
            column.codes = {}
            end = slots_with_codes(connection, column.number)
            if column.count > _FEW + 2 * end:
                self._encode_again(connection, column.name, end)

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
        column.last, piece = with_values(column.last, column.new)
        write_piece(connection, piece)
        column.new = []
        codes = changed[codes]
        for start in range(0, slots, BLOCK):
            place = place_of(column.number, start // BLOCK)
            write_block(connection, packed_block(place, codes[start : start + BLOCK]))
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


def _values_by_column(rows: RowBatch) -> dict[str, tuple[NDArray[np.int64], Sequence[Any]]]:
    """Return the slots that have a value in a column, and their values, by column.

    Columns without a value are there too.
    """
    slots = np.array(rows.slots, np.int64)
    columns: dict[str, tuple[list[int], list[Any]]] = {}
    for group in rows.metadata:
        for name, values in zip(group.names, group.values, strict=True):
            all_places, all_values = columns.setdefault(name, ([], []))
            if None not in values:
                all_places += group.places
                all_values += values
                continue
            for place, value in zip(group.places, values, strict=True):
                if value is not None:
                    all_places.append(place)
                    all_values.append(value)
    return {name: (slots[places], values) for name, (places, values) in columns.items()}


def value_key(value: Any) -> tuple[type, Hashable]:
    """Return the type of a value, and what equal values of this type have in common."""
    if isinstance(value, str):
        return str, _text_key(value)
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind, value
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return list, _text_key(text)


def _text_key(text: str) -> str | bytes:
    if len(text) < _LONG:
        return text
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
