"""The database of a store: its schema, how it is opened, and what is recorded about the store.

It may be opened in three ways. For reading and writing, which readers prefer too, since the index
of its log can then be made where it is missing. By ``mode=ro`` where nothing may be written, and
the log and its index are there. By ``immutable=1`` where nothing may be written and there is no
log, or an empty one: SQLite then reads the file without any lock, so :class:`Connection` has the
facts by which a change is noticed.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Self
from zlib import crc32

from lookalike.errors import ArtifactError, FormatVersionError, StorageError
from lookalike.files import check_no_link, check_regular
from lookalike.stores.base import is_identity, new_revision, revision_number
from lookalike.stores.embedded import dead_slots, derived, graph_records, rows
from lookalike.stores.embedded.failures import (
    error_kind,
    reading_errors,
    unreadable,
    writing_errors,
)
from lookalike.stores.embedded.rows import StoredRow, select_many, stored_rows
from lookalike.types import MAX_DIM

__all__ = [
    "APPLICATION_ID",
    "FILE",
    "SCHEMA",
    "SCHEMA_VERSION",
    "WAIT_S",
    "Connection",
    "StoreFacts",
    "StoredRow",
    "create_database",
    "open_database",
    "reading_errors",
    "select_many",
    "stored_rows",
    "unreadable",
    "writing_errors",
]

FILE = "rows.db"

SCHEMA_VERSION = 1
"""Recorded as ``user_version``. To raise it: add one here, and upgrade older databases when they
are opened for writing."""

APPLICATION_ID = 0x6C6F6F6B
"""Recorded as ``application_id``: ``look`` in ASCII."""

OLDEST_SQLITE = (3, 37, 0)

WAIT_S = 60.0
"""Seconds that a write waits for that of another process."""

_PAGE = 8192
_WRITER_CACHE_KIB = 32_768
_CHECKPOINT_PAGES = 4_000
"""Pages in the log (32 MiB) from which a commit copies them into the database."""

_LARGEST_LOG = 64 << 20
"""Bytes that the log keeps when it starts anew; it is larger while a reader needs what is in it."""

SCHEMA = (
    # Always one row.
    "CREATE TABLE store (identity TEXT NOT NULL, revision TEXT NOT NULL, dim INTEGER NOT NULL, "
    "generation INTEGER NOT NULL, slots INTEGER NOT NULL, rows INTEGER NOT NULL, "
    "checksum INTEGER NOT NULL)",
    # Of the vector files: see there.
    "CREATE TABLE blocks (generation INTEGER NOT NULL, block INTEGER NOT NULL, "
    "error REAL NOT NULL, relative_error REAL NOT NULL, smallest REAL NOT NULL, "
    "largest REAL NOT NULL, vectors_checksum INTEGER NOT NULL, codes_checksum INTEGER NOT NULL, "
    "PRIMARY KEY (generation, block)) WITHOUT ROWID",
    *rows.SCHEMA,
    *dead_slots.SCHEMA,
    *graph_records.SCHEMA,
    *derived.SCHEMA,
)
"""Exactly as SQLite records the statements."""

_MAX_COUNT = 1 << 48


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

    @property
    def dead(self) -> int:
        """Slots whose rows were removed."""
        return self.slots - self.rows

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> Self:
        """Read them.

        Raises:
            sqlite3.Error: they cannot be read, or are damaged.
        """
        fields = connection.execute(
            "SELECT identity, revision, dim, generation, slots, rows, checksum FROM store"
        ).fetchone()
        if fields is None:
            raise sqlite3.DatabaseError("it has no identity")
        identity, revision, *numbers, checksum = fields
        if not (isinstance(identity, str) and is_identity(identity)):
            raise sqlite3.DatabaseError("its identity is damaged")
        if not (isinstance(revision, str) and is_identity(revision)):
            raise sqlite3.DatabaseError("its revision is damaged")
        if not all(isinstance(number, int) and 0 <= number < _MAX_COUNT for number in numbers):
            raise sqlite3.DatabaseError("its numbers of rows are damaged")
        dim, generation, slots, count = numbers
        if not (1 <= dim <= MAX_DIM and count <= slots):
            raise sqlite3.DatabaseError("its numbers of rows are damaged")
        facts = cls(identity, revision, dim, generation, slots, count)
        if checksum != facts.checksum:
            raise sqlite3.DatabaseError("what is recorded about the rows is damaged")
        return facts

    @property
    def checksum(self) -> int:
        """The CRC-32 of them."""
        fields = (self.identity, self.revision, self.dim, self.generation, self.slots, self.rows)
        return crc32(" ".join(map(str, fields)).encode())

    def write(self, connection: sqlite3.Connection) -> Self:
        """Write them with the next revision; return them."""
        facts = replace(self, revision=new_revision(revision_number(self.revision) + 1))
        connection.execute(
            "UPDATE store SET revision = ?, generation = ?, slots = ?, rows = ?, checksum = ?",
            (facts.revision, facts.generation, facts.slots, facts.rows, facts.checksum),
        )
        return facts


class Connection(sqlite3.Connection):
    """A connection in autocommit mode, usable from any thread, one at a time.

    Attributes:
        process: that opened it; SQLite forbids its use in a fork of it.
        place: the device and number of the file.
        frozen: facts of the files, if they are read without locks because nothing may be written.
        journal: how commits are kept: ``wal`` or ``delete``.
        is_tidy: whether files that an interrupted write left were deleted.
    """

    process: int
    place: tuple[int, int]
    frozen: tuple[int, ...] | None = None
    journal: str
    is_tidy: bool = False


def file_place(path: Path) -> tuple[int, int]:
    """Return the device and number of a database's file: another file there has others.

    Raises:
        ArtifactError: there is none.
    """
    try:
        facts = os.stat(path)  # noqa: PTH116 - for each read
    except OSError as error:
        raise unreadable(path, error.strerror) from error
    return facts.st_dev, facts.st_ino


def frozen_facts(path: Path) -> tuple[int, ...] | None:
    """Return facts of a database that change when it is written; None if it has a log.

    Raises:
        ArtifactError: it is missing.
    """
    for suffix in ("-wal", "-journal"):
        log = Path(f"{path}{suffix}")
        try:
            if log.stat().st_size:
                return None
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unreadable(log, error.strerror) from error
    try:
        facts = path.stat()
    except OSError as error:
        raise unreadable(path, error.strerror) from error
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def create_database(path: Path, facts: StoreFacts) -> None:
    """Create an empty database.

    Raises:
        StorageError: it could not be written, or SQLite is too old.
    """
    _check_sqlite()
    with writing_errors(path):
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE}")
            connection.execute(f"PRAGMA journal_mode = {journal_mode(path.parent)}")
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            for statement in SCHEMA:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO store VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(facts.identity, facts.revision, facts.dim, facts.generation),
                    *(facts.slots, facts.rows, facts.checksum),
                ),
            )
            connection.execute("COMMIT")
        finally:
            connection.close()


def open_database(path: Path, *, write: bool = False) -> Connection:
    """Open a database and check that it is of this lookalike, and has nothing else.

    Args:
        path: the file.
        write: for writing; else nothing can be written through the connection.

    Raises:
        ArtifactError: it is missing or broken, of another program, or a link or a pipe.
        FormatVersionError: a newer lookalike wrote it.
        BusyError: another process is writing, where that excludes readers.
        StorageError: it cannot be opened for writing, or SQLite is too old.
    """
    _check_sqlite()
    for suffix in ("", "-wal", "-shm", "-journal"):
        check_file(Path(f"{path}{suffix}"))
    place = file_place(path)
    modes = ("mode=rw",) if write else ("mode=rw", "mode=ro", "immutable=1")
    failure: sqlite3.Error | None = None
    with reading_errors(path):
        for mode in modes:
            frozen = frozen_facts(path) if mode == "immutable=1" else None
            if mode == "immutable=1" and frozen is None:
                raise ArtifactError(
                    f"{path}: the folder may only be read, but an interrupted write left a log "
                    "whose index is missing; copy the gallery to where it can be written"
                ) from failure
            try:
                connection = _connect(path, mode, write)
            except sqlite3.Error as error:
                if error_kind(error) not in _FORBIDDEN:
                    raise
                failure = failure or error
                continue
            connection.process, connection.place = os.getpid(), place
            connection.frozen = frozen
            (connection.journal,) = connection.execute("PRAGMA journal_mode").fetchone()
            return connection
    with writing_errors(path) if write else reading_errors(path):
        raise failure or sqlite3.DatabaseError("it cannot be opened")


_FORBIDDEN = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
)
"""Kinds of errors that a way of opening may have and the next one not."""


def check_file(path: Path) -> None:
    """Check that a file of a store, if it exists, is one: a link could lead to files of others.

    Raises:
        ArtifactError: it is a link, a pipe or something else.
    """
    check_no_link(path, what="a gallery")
    try:
        check_regular(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ArtifactError(
            f"{path}: {error.strerror}; delete it, a gallery has only files"
        ) from error


def _connect(path: Path, mode: str, write: bool) -> Connection:
    """Open a database and read from it.

    Raises:
        sqlite3.Error: that failed, or it is not a database of a store.
        FormatVersionError: a newer lookalike wrote it.
    """
    connection: Connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}",
        uri=True,
        timeout=WAIT_S,
        isolation_level=None,
        check_same_thread=False,
        factory=Connection,
    )
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        if write:
            connection.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG}")
            # Beyond FULL, the entry of a rollback journal is flushed when it is deleted.
            connection.execute("PRAGMA synchronous = EXTRA")
        else:
            connection.execute("PRAGMA query_only = ON")
        _check_schema(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Check that a database has the tables of a store and nothing else.

    A view or a trigger of somebody else would be run by what lookalike reads and writes.

    Raises:
        sqlite3.Error: it has others, or cannot be read.
        FormatVersionError: a newer lookalike wrote it.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise sqlite3.DatabaseError("it is no database of lookalike")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise FormatVersionError(
            f"{path}: format {version}, but this lookalike reads up to {SCHEMA_VERSION}; "
            "upgrade: pip install --upgrade lookalike"
        )
    if version < SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"it has the format {version}")
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master"
    if frozenset(connection.execute(query)) != _expected_schema():
        raise sqlite3.DatabaseError("it has other tables than those of a gallery")


@lru_cache(maxsize=1)
def _expected_schema() -> frozenset[tuple[str, str, str, str | None]]:
    """Return what SQLite records of the schema."""
    connection = sqlite3.connect(":memory:")
    try:
        for statement in SCHEMA:
            connection.execute(statement)
        return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))
    finally:
        connection.close()


_NEEDED = ("SELECT 1 FROM json_each('[]')", "CREATE VIRTUAL TABLE words USING fts5(word)")
"""Statements that fail where SQLite was built without what galleries need."""


@lru_cache(maxsize=1)
def _check_sqlite() -> None:
    """Check SQLite, once.

    Raises:
        StorageError: it is too old, or lacks full text or JSON.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StorageError(
            f"galleries need SQLite {oldest} or newer, but this Python ({sys.executable}) has "
            f"{sqlite3.sqlite_version}; use a Python that was built with a newer one"
        )
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            for statement in _NEEDED:
                connection.execute(statement)
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"galleries need SQLite with FTS5 and JSON, but that of this Python "
                f"({sys.executable}) was built without ({error}); use another Python"
            ) from error


_MOUNTS = Path("/proc/mounts")
_REMOTE = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "smb", "9p", "vboxsf", "fuse"),
        *("afs", "ceph", "lustre", "glusterfs", "beegfs", "gpfs"),
    )
)
"""File systems that other machines may use too, or whose mapped memory is not shared."""


def journal_mode(folder: Path) -> str:
    """Return how SQLite should keep commits in a folder: ``WAL``, or ``DELETE`` on a network mount.

    A write-ahead log needs memory that all who use the database share.
    """
    return "DELETE" if is_remote(folder) else "WAL"


def is_remote(folder: Path) -> bool:
    """Return whether a folder is on a network mount or FUSE; False where mounts are not listed."""
    if sys.platform != "linux":
        return False
    try:
        place = folder.resolve()
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    kind, longest = "", -1
    for line in lines:
        parts = line.split(" ")
        if len(parts) < 3:
            continue
        mount = Path(_unescape(parts[1]))
        if len(mount.parts) >= longest and place.is_relative_to(mount):
            kind, longest = parts[2], len(mount.parts)
    return kind in _REMOTE or kind.startswith("fuse.")


def _unescape(text: str) -> str:
    r"""Return a folder as /proc/mounts writes it, with ``\040`` for a space."""
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        text = text.replace(f"\\{code}", character)
    return text
