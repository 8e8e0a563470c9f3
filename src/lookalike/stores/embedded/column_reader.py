"""The metadata of the rows of one commit, by column."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lookalike.filters.columns import KeptColumns
from lookalike.filters.encoded import Codes, EncodedColumn, Values
from lookalike.stores.embedded.column_tables import (
    DamagedColumnError,
    StoredValues,
    read_codes,
    read_values,
)

if TYPE_CHECKING:
    from lookalike.stores.embedded.reader import Reader

_KEPT_CHARACTERS = 1 << 28
"""Characters of values, as JSON, that are kept for the next commit."""


T = TypeVar("T")


class ValueCache:
    """The values of columns that were read, of which a later commit has more."""

    def __init__(self) -> None:
        self._columns: dict[int, StoredValues] = {}

    def read(self, connection: sqlite3.Connection, number: int) -> Values:
        """Return the values of a column by its number.

        Raises:
            sqlite3.Error: they cannot be read, or are damaged.
        """
        stored = read_values(connection, number, self._columns.get(number))
        others = {key: value for key, value in self._columns.items() if key != number}
        total = stored.size
        kept = {number: stored}
        for key, value in reversed(others.items()):
            total += value.size
            if total <= _KEPT_CHARACTERS:
                kept[key] = value
        self._columns = dict(reversed(kept.items()))
        return stored.values


class EmbeddedColumns:
    """The metadata of the rows of one commit, read a column at a time on first use.

    Use :meth:`of`: row numbers are valid for one object only.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        # Columns may be rebuilt while the rows stay the same: what is cached is of this mark.
        self._mark = reader.run(_mark)

    @classmethod
    def of(cls, reader: Reader) -> EmbeddedColumns:
        """Return the columns of a commit, the same ones as long as somebody has them."""
        with reader.lock:
            existing = None if reader.columns is None else reader.columns()
            columns = existing if isinstance(existing, EmbeddedColumns) else cls(reader)
            reader.columns = weakref.ref(columns)
        return columns

    def __len__(self) -> int:
        return self._reader.facts.rows

    def __repr__(self) -> str:
        return f"EmbeddedColumns(rows={len(self):,})"

    @property
    def names(self) -> Sequence[str]:
        """All columns that a row has, or had until the last compaction, sorted by name."""
        return self._cached("names", lambda: tuple(self._numbers))

    def encoded(self, name: str) -> EncodedColumn:
        """Return the codes and values of a column.

        Raises:
            ArtifactError: they cannot be read, or are damaged.
            CancelledError: the work was cancelled.
        """
        kept = self._cached("encoded", KeptColumns)
        column = kept.get(name)
        if column is None:
            column = self._read(name)
            kept.add(name, column)
        return column

    def _cached(self, name: str, compute: Callable[[], T]) -> T:
        return self._reader.cached(f"columns {self._mark}: {name}", compute)

    @property
    def _numbers(self) -> dict[str, int]:
        def read(connection: sqlite3.Connection) -> dict[str, int]:
            return dict(connection.execute("SELECT name, number FROM columns ORDER BY name"))

        return self._cached("numbers", lambda: self._reader.run(read))

    def _read(self, name: str) -> EncodedColumn:
        number = self._numbers.get(name)
        if number is None:
            return EncodedColumn(np.full(len(self), -1, np.int8), Values(()))
        lasting = self._reader.cache.lasting
        known: ValueCache = lasting.setdefault("column values", ValueCache())

        def read(connection: sqlite3.Connection) -> tuple[Codes, Values]:
            codes = read_codes(connection, number, self._reader.facts.slots)
            values = known.read(connection, number)
            if len(codes) and int(codes.max()) >= len(values):
                raise DamagedColumnError(number, "codes")
            return codes, values

        codes, values = self._reader.run(read)
        slots = self._reader.slots
        codes = codes if slots is None else codes[slots]
        codes.flags.writeable = False
        return EncodedColumn(codes, values)


def _mark(connection: sqlite3.Connection) -> int:
    """Return what differs after each write of columns."""
    row = connection.execute("SELECT mark FROM column_state").fetchone()
    return 0 if row is None else int(row[0])
