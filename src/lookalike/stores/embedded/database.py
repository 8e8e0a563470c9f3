"""The database of a store: its schema, how it is opened, and what is recorded about the store."""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from lookalike.cancellation import check_cancelled
from lookalike.errors import ArtifactError, FormatVersionError, StorageError
from lookalike.metadata import parse_metadata
from lookalike.stores.base import is_identity, new_revision, revision_number
from lookalike.types import Metadata

FILE = "rows.db"

SCHEMA_VERSION = 1
"""Recorded as ``user_version``. To raise it: add one here, and upgrade older databases when they
are opened for writing."""

APPLICATION_ID = 0x6C6F6F6B
"""Recorded as ``application_id``: ``look`` in ASCII."""

WAIT_S = 60.0
"""Seconds that a write waits for that of another process."""

_SCHEMA = (
    # Always one row.
    "CREATE TABLE store (identity TEXT NOT NULL, revision TEXT NOT NULL, dim INTEGER NOT NULL, "
    "generation INTEGER NOT NULL, slots INTEGER NOT NULL, rows INTEGER NOT NULL)",
    "CREATE TABLE rows (slot INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uri TEXT NOT NULL, "
    "content_hash TEXT NOT NULL, signature TEXT NOT NULL, metadata TEXT NOT NULL)",
    # Of the vector files: see there.
    "CREATE TABLE blocks (generation INTEGER NOT NULL, block INTEGER NOT NULL, "
    "error REAL NOT NULL, relative_error REAL NOT NULL, smallest REAL NOT NULL, "
    "largest REAL NOT NULL, vectors_checksum INTEGER NOT NULL, codes_checksum INTEGER NOT NULL, "
    "PRIMARY KEY (generation, block)) WITHOUT ROWID",
)

_MAX_VARIABLES = 500


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What is recorded about a store.

    Args:
        identity: no other store has it.
        revision: changes with every commit.
        dim: length of an embedding.
        generation: number in the names of the vector files; the next one with each compaction.
        slots: places of the vector files that are in use, of dead rows too.
        rows: rows that exist.
    """

    identity: str
    revision: str
    dim: int
    generation: int
    slots: int
    rows: int

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> Self:
        """Read them.

        Raises:
            sqlite3.Error: they cannot be read, or are damaged.
        """
        found = connection.execute(
            "SELECT identity, revision, dim, generation, slots, rows FROM store"
        ).fetchone()
        if found is None or not (isinstance(found[0], str) and is_identity(found[0])):
            raise sqlite3.DatabaseError("its identity is damaged")
        return cls(*found)

    def write(self, connection: sqlite3.Connection) -> Self:
        """Write them with the next revision; return them."""
        facts = replace(self, revision=new_revision(revision_number(self.revision) + 1))
        connection.execute(
            "UPDATE store SET revision = ?, generation = ?, slots = ?, rows = ?",
            (facts.revision, facts.generation, facts.slots, facts.rows),
        )
        return facts


def create_database(path: Path, facts: StoreFacts) -> None:
    """Create an empty database.

    Raises:
        StorageError: it could not be written.
    """
    with writing_errors(path):
        connection = sqlite3.connect(path, isolation_level=None)
        with contextlib.closing(connection):
            connection.execute("PRAGMA page_size = 8192")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO store VALUES (?, ?, ?, ?, ?, ?)",
                (facts.identity, facts.revision, facts.dim, facts.generation, 0, 0),
            )
            connection.execute("COMMIT")


def open_database(path: Path, *, write: bool = False) -> sqlite3.Connection:
    """Open a database in autocommit mode.

    Raises:
        ArtifactError: it is missing or broken, or of another program.
        FormatVersionError: a newer lookalike wrote it.
    """
    with reading_errors(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=WAIT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA trusted_schema = OFF")
            if not write:
                connection.execute("PRAGMA query_only = ON")
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION_ID:
                raise sqlite3.DatabaseError("it is no database of lookalike")
            if version > SCHEMA_VERSION:
                raise FormatVersionError(
                    f"{path}: format {version}, but this lookalike reads up to {SCHEMA_VERSION}; "
                    "update lookalike"
                )
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Raise ArtifactError for whatever SQLite raises in the block about a broken database."""
    try:
        yield
    except sqlite3.Error as error:
        check_cancelled()  # which may be why SQLite was interrupted
        raise unreadable(path, error) from error


@contextlib.contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Raise StorageError for whatever SQLite or the system raises in the block."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        check_cancelled()
        raise StorageError(
            f"{path.parent}: the rows cannot be written ({error}); those committed before are "
            "unchanged"
        ) from error


def unreadable(path: Path, error: BaseException) -> ArtifactError:
    """Return the error that the rows cannot be read, with the reason and the next command."""
    return ArtifactError(
        f"{path}: the rows of the gallery are missing or broken ({error}); to see what can be "
        f"done: lookalike doctor {shlex.quote(str(path.parent.parent))}"
    )


def select_many(
    connection: sqlite3.Connection, query: str, values: Sequence[Any]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query whose ``IN (?)`` stands for many values."""
    for start in range(0, len(values), _MAX_VARIABLES):
        check_cancelled()
        part = values[start : start + _MAX_VARIABLES]
        yield from connection.execute(query.replace("(?)", f"({','.join('?' * len(part))})"), part)


@dataclass(frozen=True, slots=True)
class StoredRow:
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


def stored_rows(
    connection: sqlite3.Connection, column: str, values: Sequence[Any]
) -> list[StoredRow]:
    """Return rows by values of a column, in any order; values that none has are left out."""
    query = f"SELECT slot, id, uri, metadata FROM rows WHERE {column} IN (?)"
    return [
        StoredRow(slot, row_id, uri, parse_metadata(metadata))
        for slot, row_id, uri, metadata in select_many(connection, query, values)
    ]
