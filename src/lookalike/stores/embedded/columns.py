"""The columns of the metadata: what filters and facets read in place of all rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from lookalike.cancellation import check_cancelled
from lookalike.stores.embedded.rows import RowBatch, StoredRow, all_rows

if TYPE_CHECKING:
    from lookalike.stores.embedded.column_writer import ColumnUpdate, ColumnWriter

SCHEMA = (
    "CREATE TABLE columns (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    # The place is number << 32 | code of the first value. The data are the values as JSON, divided
    # by commas: a text, or compressed by zlib; size is that of the text, in characters.
    "CREATE TABLE column_values (place INTEGER PRIMARY KEY, count INTEGER NOT NULL, "
    "size INTEGER NOT NULL, data BLOB NOT NULL, checksum INTEGER NOT NULL)",
    # The place is number << 32 | block; first is NULL if the places of the slots are stored.
    "CREATE TABLE column_codes (place INTEGER PRIMARY KEY, first INTEGER, width INTEGER NOT NULL, "
    "data BLOB NOT NULL, checksum INTEGER NOT NULL)",
    # One row: a mark that differs after each write, and the number of the next new column.
    "CREATE TABLE column_state (mark INTEGER NOT NULL, next_number INTEGER NOT NULL)",
)


BLOCK = 1 << 14
"""Slots of a block of codes."""


def update(
    connection: sqlite3.Connection, removed: Sequence[StoredRow], added: RowBatch
) -> ColumnUpdate:
    """Begin to update the columns: first for rows that are removed, then for those added.

    Raises:
        sqlite3.Error: that failed.
    """
    from lookalike.stores.embedded.column_writer import ColumnUpdate, ColumnWriter

    writer = _writers.get(connection)
    if writer is None:
        writer = _writers[connection] = ColumnWriter()
    return ColumnUpdate(writer, connection, removed, added)


_writers: WeakKeyDictionary[sqlite3.Connection, ColumnWriter] = WeakKeyDictionary()
"""What remembers values between the writes of a connection."""


def rebuild(connection: sqlite3.Connection) -> None:
    """Empty the columns, and fill them from the rows.

    Raises:
        sqlite3.Error: that failed.
    """
    from lookalike.stores.embedded.column_writer import ColumnWriter

    for table in ("columns", "column_values", "column_codes"):
        connection.execute(f"DELETE FROM {table}")
    writer = ColumnWriter()
    writer.update(connection, (), RowBatch.of(()))
    for _, rows in rows_by_block(connection):
        writer.update(connection, (), RowBatch.of(rows))


def rows_by_block(
    connection: sqlite3.Connection, first: int = 0
) -> Iterator[tuple[int, Iterator[StoredRow]]]:
    """Iterate over the blocks that have rows, from the first one of a number.

    Raises:
        sqlite3.Error: the rows cannot be read.
    """
    return groupby(all_rows(connection, first * BLOCK), lambda row: row.slot // BLOCK)


def verify(connection: sqlite3.Connection, *, deep: bool = False) -> list[str]:
    """Compare the columns with the rows; return what is wrong, nothing if they agree.

    Args:
        connection: of a database with ``rows`` and the tables.
        deep: compare all rows; by default, those of the last block of slots.

    Raises:
        CancelledError: the work was cancelled.
    """
    from lookalike.stores.embedded.column_check import ColumnCheck

    try:
        return ColumnCheck(connection).problems(deep=deep)
    except sqlite3.DatabaseError as error:
        check_cancelled()  # which may be why SQLite was interrupted
        return [f"columns of the metadata: {error}"]
