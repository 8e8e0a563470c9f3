"""What is derived from rows inside the database, in the transaction that writes them.

A part is a module with its ``SCHEMA``, ``update`` and ``rebuild``; :data:`PARTS` lists all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Protocol

from lookalike.stores import full_text
from lookalike.stores.embedded import columns
from lookalike.stores.embedded.failures import odd_values
from lookalike.stores.embedded.rows import StoredRow


class Part(Protocol):
    """A module that keeps tables up to date."""

    @property
    def SCHEMA(self) -> tuple[str, ...]:  # noqa: N802 - a constant of a module
        """The statements that create its tables, exactly as SQLite records them."""
        ...

    def update(
        self,
        connection: sqlite3.Connection,
        removed: Sequence[StoredRow],
        added: Sequence[StoredRow],
    ) -> None:
        """Update the tables: first for rows that are removed, then for those added.

        A row whose metadata or URI change is in both, with the same slot.
        """
        ...

    def rebuild(self, connection: sqlite3.Connection) -> None:
        """Empty the tables, and fill them from the table ``rows``."""
        ...


PARTS: tuple[Part, ...] = (columns, full_text)

SCHEMA = tuple(statement for part in PARTS for statement in part.SCHEMA)


def update_derived(
    connection: sqlite3.Connection, removed: Sequence[StoredRow], added: Sequence[StoredRow]
) -> None:
    """Update all parts for rows that are removed, then for those added.

    Raises:
        sqlite3.Error: that failed.
    """
    with odd_values():
        for part in PARTS:
            part.update(connection, removed, added)


def rebuild_derived(connection: sqlite3.Connection) -> None:
    """Fill all parts anew.

    Raises:
        sqlite3.Error: that failed.
    """
    with odd_values():
        for part in PARTS:
            part.rebuild(connection)
