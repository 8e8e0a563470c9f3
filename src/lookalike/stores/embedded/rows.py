"""Rows in the database.

Whatever is derived from them reads them by :func:`stored_rows` and :func:`all_rows`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from lookalike.cancellation import check_cancelled
from lookalike.metadata import parse_metadata
from lookalike.stores.embedded import packing
from lookalike.stores.embedded.packing import URI, Names, PackedRow, metadata_names, unpack_metadata
from lookalike.stores.same_columns import SameColumns, by_columns
from lookalike.types import Metadata

SCHEMA = (
    # A row's slot is its place in the vector files; the other values are packed (see there).
    "CREATE TABLE rows (slot INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uri BLOB NOT NULL, "
    "content_hash BLOB NOT NULL, signature TEXT NOT NULL, metadata TEXT NOT NULL, "
    "checksum INTEGER NOT NULL)",
    *packing.SCHEMA,
)

_INSERT = "INSERT INTO rows (slot, uri, id, content_hash, signature, metadata, checksum) VALUES "
_VALUES = "(?, ?, ?, ?, ?, ?, ?)"
_AT_ONCE = 128
"""Rows that one statement inserts, which takes two thirds of the time."""

_INSERT_MANY = _INSERT + ", ".join([_VALUES] * _AT_ONCE)
UPDATE = (
    "UPDATE rows SET uri = ?2, content_hash = ?4, signature = ?5, metadata = ?6, checksum = ?7 "
    "WHERE slot = ?1 AND id = ?3"
)
DELETE = "DELETE FROM rows WHERE slot = ?"

_MAX_VARIABLES = 500
_STEP = 1_000
"""Rows that are read between checks whether the work was cancelled."""


def insert_rows(connection: sqlite3.Connection, rows: Sequence[PackedRow]) -> None:
    """Insert rows.

    Raises:
        sqlite3.Error: that failed.
    """
    single = len(rows) % _AT_ONCE
    connection.executemany(_INSERT + _VALUES, rows[:single])
    for start in range(single, len(rows), _AT_ONCE):
        part = chain.from_iterable(rows[start : start + _AT_ONCE])
        connection.execute(_INSERT_MANY, [*part])


class StoredRow(NamedTuple):
    """The parts of a row that something is derived from.

    Args:
        slot: its place in the vector files.
        id: its id.
        uri: where its image is.
        metadata: JSON values by column.
    """

    slot: int
    id: str
    uri: str
    metadata: Metadata


class RowBatch(NamedTuple):
    """The same of many rows.

    Args:
        slots: of the rows.
        ids: likewise.
        uris: likewise.
        metadata: of all of them, by columns.
    """

    slots: Sequence[int]
    ids: Sequence[str]
    uris: Sequence[str]
    metadata: Sequence[SameColumns]

    @classmethod
    def of(cls, rows: Iterable[StoredRow]) -> RowBatch:
        """Return a batch of rows."""
        slots, ids, uris, metadata = [*zip(*rows, strict=True)] or [()] * 4
        return cls(slots, ids, uris, by_columns(metadata))


def stored_rows(
    connection: sqlite3.Connection, column: str, values: Sequence[Any]
) -> list[StoredRow]:
    """Return rows by values of a column, in any order; values that none has are left out.

    Raises:
        sqlite3.Error: they cannot be read.
    """
    query = f"SELECT slot, id, {URI}, metadata FROM rows WHERE {column} IN (?)"
    names = metadata_names(connection)
    return [_stored(fields, names) for fields in select_many(connection, query, values)]


def all_rows(connection: sqlite3.Connection, first: int = 0) -> Iterator[StoredRow]:
    """Iterate over all rows by slot, from a first slot.

    Raises:
        sqlite3.Error: they cannot be read.
    """
    query = f"SELECT slot, id, {URI}, metadata FROM rows WHERE slot >= ? ORDER BY slot"
    names = metadata_names(connection)
    cursor = connection.execute(query, (first,))
    while rows := cursor.fetchmany(_STEP):
        check_cancelled()
        yield from (_stored(fields, names) for fields in rows)


def _stored(fields: tuple[Any, ...], names: Names) -> StoredRow:
    """Return a row as it was read.

    Raises:
        sqlite3.DatabaseError: its values have other types.
    """
    slot, row_id, uri, metadata = fields
    if not (isinstance(row_id, str) and isinstance(uri, str)):
        raise sqlite3.DatabaseError(f"the row in slot {slot} is damaged")
    return StoredRow(slot, row_id, uri, parse_metadata(unpack_metadata(metadata, names)))


def select_many(
    connection: sqlite3.Connection, query: str, values: Sequence[Any]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query whose ``IN (?)`` stands for many values."""
    for start in range(0, len(values), _MAX_VARIABLES):
        check_cancelled()
        part = values[start : start + _MAX_VARIABLES]
        places = f"({','.join('?' * len(part))})"
        yield from connection.execute(query.replace("(?)", places), part).fetchall()
