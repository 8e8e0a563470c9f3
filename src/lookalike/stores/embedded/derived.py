"""What is derived from rows inside the database, in the transaction that writes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from lookalike.stores import full_text
from lookalike.stores.embedded import columns
from lookalike.stores.embedded.beside import beside
from lookalike.stores.embedded.failures import odd_values
from lookalike.stores.embedded.rows import RowBatch, StoredRow

T = TypeVar("T")

SCHEMA = (*columns.SCHEMA, *full_text.SCHEMA)
"""The statements that create its tables, exactly as SQLite records them."""

_MANY = 1_000
"""Rows from which a thread is worth its start."""


def update_derived(
    connection: sqlite3.Connection,
    removed: Sequence[StoredRow],
    added: RowBatch,
    meanwhile: Callable[[], T],
) -> T:
    """Update everything for rows that are removed, then for those added.

    A row whose metadata or URI change is in both, with the same slot.

    Args:
        connection: in a transaction.
        removed: rows that are removed.
        added: rows that are added then.
        meanwhile: is called without the connection, while SQLite indexes texts; its result is
            returned.

    Raises:
        sqlite3.Error: that failed.
    """
    with odd_values():
        texts = full_text.TextUpdate(removed, added)
        values = columns.update(connection, removed, added)
        write_texts = partial(texts.write, connection)
        if len(added.slots) < _MANY:
            write_texts()
            values.encode()
            result = meanwhile()
        else:
            with beside(write_texts) as written:
                values.encode()
                result = meanwhile()
                written()
        values.finish(connection)
    return result


def rebuild_derived(connection: sqlite3.Connection) -> None:
    """Fill all tables anew.

    Raises:
        sqlite3.Error: that failed.
    """
    with odd_values():
        columns.rebuild(connection)
        full_text.rebuild(connection)
