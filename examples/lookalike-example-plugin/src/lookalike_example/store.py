"""A store: rows in an SQLite file, searched exactly in memory."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from lookalike.errors import ArtifactError, InputError, SettingError, StorageError
from lookalike.metadata import parse_metadata
from lookalike.stores.base import Rows, check_rows, new_revision, replaced_error, revision_number
from lookalike.stores.memory import MemorySnapshot
from lookalike.stores.registry import PlainAddress, StoreSpec
from lookalike.stores.snapshots import SnapshotStore
from lookalike.types import Metric

_WAIT_S = 30.0
"""Seconds that a writer waits for another one."""

_SCHEMA = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE files (name TEXT PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TABLE vectors (id TEXT PRIMARY KEY, uri TEXT, embedding BLOB, metadata TEXT, "
    "content_hash TEXT, signature TEXT)",
)
_COLUMNS = "id, uri, embedding, metadata, content_hash, signature"


class SqliteStore(SnapshotStore):
    """Rows in an SQLite file at an address ``sqlite:///PATH``.

    A snapshot holds all rows in memory; it is read again when the revision in the file differs.
    """

    def __init__(self, address: PlainAddress) -> None:
        self.address = address
        self._path = _path(address)
        self._reading = threading.Lock()
        with self._transaction() as connection:
            self.description: Mapping[str, Any] = json.loads(_fact(connection, "description"))
            self._identity = _fact(connection, "identity")
            self._dim = int(_fact(connection, "dim"))
        self._newest: MemorySnapshot | None = None

    @classmethod
    def create(
        cls, address: PlainAddress, dim: int, metric: Metric, description: Mapping[str, Any]
    ) -> Self:
        """Create an empty store; the search here needs no index for the metric."""
        del metric
        path = _path(address)
        if _exists(path):
            raise ArtifactError(f"{address}: exists already; choose another file")
        facts = {
            "description": json.dumps(dict(description)),
            "identity": uuid.uuid4().hex,
            "dim": str(dim),
            "revision": new_revision(0),
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
                connection.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{address}: cannot be created ({error})") from error
        return cls(address)

    @classmethod
    def open(cls, address: PlainAddress) -> Self:
        """Open a store."""
        return cls(address)

    @classmethod
    def find(cls, address: PlainAddress) -> Self | None:
        """Open a store; None if there is no such file."""
        return cls(address) if _exists(_path(address)) else None

    def __repr__(self) -> str:
        return f"SqliteStore({str(self.address)!r}, dim={self.dim})"

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._dim

    @property
    def identity(self) -> str:
        """A text that no other store has."""
        return self._identity

    @property
    def facts(self) -> Mapping[str, Any]:
        """The file's size."""
        return {"sqlite_bytes": self._path.stat().st_size}

    def snapshot(self) -> MemorySnapshot:
        """Return the rows as they are now; they are read if the file has another revision."""
        with self._reading, self._transaction() as connection:
            revision = _fact(connection, "revision")
            if self._newest is None or self._newest.revision != revision:
                table = connection.execute(f"SELECT {_COLUMNS} FROM vectors ORDER BY id").fetchall()
                self._newest = MemorySnapshot.of(
                    _to_rows(table, self.dim), self.dim, self.identity, revision
                )
            return self._newest

    def upsert(self, rows: Rows) -> None:
        """Insert or replace rows by id, in one transaction."""
        embeddings = check_rows(rows, self.dim)
        metadata = [json.dumps(dict(fields), ensure_ascii=False) for fields in rows.metadata]
        columns = (rows.ids, rows.uris, [row.tobytes() for row in embeddings], metadata)
        table = zip(*columns, rows.hashes, rows.signatures, strict=True)
        if len(rows):
            with self._transaction(writes=True) as connection:
                sql = f"INSERT OR REPLACE INTO vectors ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
                connection.executemany(sql, table)
                _commit(connection)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many existed."""
        with self._transaction(writes=True) as connection:
            sql, keys = "DELETE FROM vectors WHERE id = ?", [(row_id,) for row_id in ids]
            deleted = connection.executemany(sql, keys).rowcount if keys else 0
            if deleted:
                _commit(connection)
        return max(0, deleted)

    def optimize(self, metric: Metric, *, purge: bool = False) -> None:
        """With ``purge``, write the file anew, without what was deleted."""
        del metric
        if purge:
            with self._connection(writes=True) as connection:
                connection.execute("VACUUM")

    def files(self) -> list[str]:
        """Return the names of the files beside the rows."""
        with self._transaction() as connection:
            return [name for (name,) in connection.execute("SELECT name FROM files ORDER BY name")]

    def read_file(self, name: str) -> bytes:
        """Return the content of a file."""
        with self._transaction() as connection:
            found = connection.execute("SELECT data FROM files WHERE name = ?", (name,)).fetchone()
        if found is None:
            raise ArtifactError(f"{self.address}: has no {name}; not a complete gallery")
        return bytes(found[0])

    def write_file(self, name: str, data: bytes) -> None:
        """Write or replace a file."""
        with self._transaction(writes=True) as connection:
            connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (name, data))

    def drop(self) -> None:
        """Delete the file."""
        self._path.unlink()

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """Open a transaction: what is read is of one moment, and all is written or nothing."""
        with self._connection(writes=writes) as connection:
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            if hasattr(self, "_identity") and _fact(connection, "identity") != self._identity:
                raise replaced_error(self.address)
            yield connection
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _connection(self, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """Open the file; without COMMIT, nothing is written."""
        try:
            uri = f"{self._path.as_uri()}?mode=rw"
            connection = sqlite3.connect(uri, uri=True, timeout=_WAIT_S, isolation_level=None)
            with contextlib.closing(connection):
                yield connection
        except sqlite3.Error as error:
            if writes:
                raise StorageError(f"{self.address}: cannot be written ({error})") from error
            raise ArtifactError(f"{self.address}: cannot be read ({error})") from error


def _path(address: PlainAddress) -> Path:
    if not address.location.startswith("/"):
        raise SettingError(f"{address}: expected the absolute path of a file, sqlite:///PATH")
    if address.options:
        raise InputError(f"{address}: has no options, got {', '.join(address.options)}")
    return Path(address.location)


def _exists(path: Path) -> bool:
    """Return whether there is a store; a creation that was interrupted leaves an empty file."""
    return path.exists() and path.stat().st_size > 0


def _fact(connection: sqlite3.Connection, name: str) -> str:
    found = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    if found is None:
        raise sqlite3.DatabaseError("it is no store of lookalike")
    return str(found[0])


def _commit(connection: sqlite3.Connection) -> None:
    """Count the commit in the revision."""
    revision = new_revision(revision_number(_fact(connection, "revision")) + 1)
    connection.execute("UPDATE facts SET value = ? WHERE name = 'revision'", (revision,))


def _to_rows(table: Sequence[tuple[Any, ...]], dim: int) -> Rows:
    ids, uris, vectors, metadata, hashes, signatures = (
        zip(*table, strict=True) if table else 6 * [()]
    )
    return Rows(
        ids=ids,
        uris=uris,
        embeddings=np.frombuffer(b"".join(vectors), np.float32).reshape(-1, dim),
        metadata=[parse_metadata(text) for text in metadata],
        hashes=hashes,
        signatures=signatures,
    )


SPEC = StoreSpec(
    scheme="sqlite",
    summary="rows in an SQLite file",
    example="sqlite:///ABSOLUTE/PATH",
    create=SqliteStore.create,
    open=SqliteStore.open,
    find=SqliteStore.find,
)
