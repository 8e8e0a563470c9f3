"""The metadata of the rows of one commit, by column."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lookalike.filters.columns import KEPT_BYTES, VALUE_BYTES, Recent
from lookalike.filters.encoded import Codes, EncodedColumn, Values
from lookalike.stores.embedded.column_tables import (
    DamagedColumnError,
    StoredValues,
    read_codes,
    read_values,
)

if TYPE_CHECKING:
    from lookalike.stores.embedded.reader import Reader

_CHARACTER_BYTES = 4
"""Memory for a character of JSON, at most."""

T = TypeVar("T")

KeptValues = Recent[int, StoredValues]
"""The values of columns that were read, by number, of which a later commit has more."""


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
        kept = self._cached("encoded", lambda: Recent[str, EncodedColumn](KEPT_BYTES))
        column = kept.get(name)
        if column is None:
            number = self._numbers.get(name)
            if number is None:
                return EncodedColumn(np.full(len(self), -1, np.int8), Values(()))
            codes, stored = self._read(number)
            column = EncodedColumn(codes, stored.values)
            kept.add(name, column, codes.nbytes + _bytes_of(stored))
        return column

    def _read(self, number: int) -> tuple[Codes, StoredValues]:
        """Return the codes of a column by row number, and its values."""
        lasting = self._reader.cache.lasting
        known: KeptValues = lasting.setdefault("column values", KeptValues(KEPT_BYTES))

        def read(connection: sqlite3.Connection) -> tuple[Codes, StoredValues]:
            codes = read_codes(connection, number, self._reader.facts.slots)
            stored = read_values(connection, number, known.get(number))
            if len(codes) and int(codes.max()) >= len(stored.values):
                raise DamagedColumnError(number, "codes")
            return codes, stored

        codes, stored = self._reader.run(read)
        known.add(number, stored, _bytes_of(stored))
        slots = self._reader.slots
        codes = codes if slots is None else codes[slots]
        codes.flags.writeable = False
        return codes, stored

    def _cached(self, name: str, compute: Callable[[], T]) -> T:
        return self._reader.cached(f"columns {self._mark}: {name}", compute)

    @property
    def _numbers(self) -> dict[str, int]:
        def read(connection: sqlite3.Connection) -> dict[str, int]:
            names = dict(connection.execute("SELECT name, number FROM columns ORDER BY name"))
            if not all(isinstance(name, str) for name in names):
                raise sqlite3.DatabaseError("the columns of the metadata are damaged")
            return names

        return self._cached("numbers", lambda: self._reader.run(read))


def _mark(connection: sqlite3.Connection) -> int:
    """Return what differs after each write of columns."""
    row = connection.execute("SELECT mark FROM column_state").fetchone()
    return 0 if row is None else int(row[0])


def _bytes_of(stored: StoredValues) -> int:
    """Return about how much memory values take."""
    return VALUE_BYTES * len(stored.values) + _CHARACTER_BYTES * stored.size
