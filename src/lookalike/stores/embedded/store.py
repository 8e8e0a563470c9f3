"""The embedded store: the rows of a gallery's folder, durable when a write returns."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lookalike.artifacts import flush
from lookalike.errors import StorageError
from lookalike.files import AnchoredPath, check_no_link
from lookalike.stores.base import Rows, check_rows, new_revision, replaced_error
from lookalike.stores.embedded.database import (
    FILE,
    StoredRow,
    StoreFacts,
    create_database,
    open_database,
    reading_errors,
    stored_rows,
    unreadable,
    writing_errors,
)
from lookalike.stores.embedded.derived import update_derived
from lookalike.stores.embedded.snapshot import EmbeddedSnapshot
from lookalike.stores.embedded.vector_files import VectorFiles
from lookalike.stores.snapshots import SnapshotStore
from lookalike.types import Metric


class EmbeddedStore(SnapshotStore):
    """Rows in a folder. Each read sees the last commit, whoever made it.

    A store that was put in the place of this one is never read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._place = AnchoredPath(folder)
        self._lock = threading.RLock()
        self._newest = EmbeddedSnapshot(folder)
        self._identity = self._newest.identity
        self._watch = _Watch(self._database)
        self._seen = self._watch.version()

    @classmethod
    def create(cls, folder: Path, dim: int) -> EmbeddedStore:
        """Create an empty store in a new folder.

        Raises:
            StorageError: it could not be written.
        """
        facts = StoreFacts(os.urandom(16).hex(), new_revision(0), dim, 1, 0, 0)
        try:
            folder.mkdir()
            VectorFiles(folder, facts.generation, dim).create()
            create_database(folder / FILE, facts)
            flush(folder)
        except OSError as error:
            raise StorageError(f"{folder}: the rows cannot be written ({error})") from error
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> EmbeddedStore:
        """Open a store.

        Raises:
            ArtifactError: it is missing or broken, or has links.
            FormatVersionError: a newer lookalike wrote it.
        """
        for file in folder.glob("*"):
            check_no_link(file, what="a gallery")
        return cls(folder)

    def __repr__(self) -> str:
        return f"EmbeddedStore({str(self._folder)!r}, dim={self.dim})"

    @property
    def _folder(self) -> Path:
        return self._place.path

    @property
    def _database(self) -> Path:
        return self._folder / FILE

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._newest.dim

    @property
    def identity(self) -> str:
        """A text that no other store has."""
        return self._identity

    def snapshot(self) -> EmbeddedSnapshot:
        """Return the rows as they are now.

        Raises:
            ReplacedError: another store was put in the place of this one.
            ArtifactError: it is missing or broken.
        """
        with self._lock:
            if not self._watch.is_in_place():
                self._watch = _Watch(self._database)
                self._seen = -1
            version = self._watch.version()
            if version != self._seen:
                newest = EmbeddedSnapshot(self._folder)
                if newest.identity != self._identity:
                    raise replaced_error(self._folder)
                if newest.revision != self._newest.revision:
                    self._newest = newest
                self._seen = version
            return self._newest

    def upsert(self, rows: Rows) -> None:
        """Insert or replace rows by id, in one commit.

        Raises:
            InputError: wrong dimensions, values that are not finite, or a duplicate id.
            ReplacedError: another store was put in the place of this one.
            StorageError: the commit failed; nothing was written.
        """
        embeddings = check_rows(rows, self.dim)
        if not len(rows):
            return
        metadata = [
            json.dumps(dict(fields), ensure_ascii=False, separators=(",", ":"))
            for fields in rows.metadata
        ]
        with self._writing() as (connection, facts):
            files = VectorFiles(self._folder, facts.generation, facts.dim)
            removed = stored_rows(connection, "id", rows.ids)
            old = {row.id: row.slot for row in removed}
            vectors = files.map(facts.slots, connection).vectors
            kept = np.zeros(len(rows), np.bool_)
            for place, row_id in enumerate(rows.ids):
                slot = old.get(row_id)
                kept[place] = slot is not None and np.array_equal(vectors[slot], embeddings[place])
            new = np.flatnonzero(~kept)
            if len(new):
                files.append(facts.slots, embeddings[new], connection)
            slots = np.empty(len(rows), np.int64)
            slots[new] = facts.slots + np.arange(len(new))
            slots[kept] = [old[rows.ids[place]] for place in np.flatnonzero(kept).tolist()]
            connection.executemany(
                "DELETE FROM rows WHERE slot = ?", [(each,) for each in old.values()]
            )
            connection.executemany(
                "INSERT INTO rows (slot, id, uri, metadata, content_hash, signature) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                zip(
                    slots.tolist(),
                    *(rows.ids, rows.uris, metadata, rows.hashes, rows.signatures),
                    strict=True,
                ),
            )
            columns = (slots.tolist(), rows.ids, rows.uris, rows.metadata)
            added = [StoredRow(*fields) for fields in zip(*columns, strict=True)]
            facts = replace(
                facts, slots=facts.slots + len(new), rows=facts.rows + len(rows) - len(old)
            )
            self._update_derived(connection, facts, removed, added)
            facts.write(connection)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many existed."""
        with self._writing() as (connection, facts):
            removed = stored_rows(connection, "id", list(dict.fromkeys(ids)))
            if removed:
                slots = [(row.slot,) for row in removed]
                connection.executemany("DELETE FROM rows WHERE slot = ?", slots)
                facts = replace(facts, rows=facts.rows - len(removed))
                self._update_derived(connection, facts, removed, [])
                facts.write(connection)
        return len(removed)

    @staticmethod
    def _update_derived(
        connection: sqlite3.Connection,
        facts: StoreFacts,
        removed: Sequence[StoredRow],
        added: Sequence[StoredRow],
    ) -> None:
        """Update what is derived from rows: first those removed, then those added.

        A row whose metadata change is in both, with the same slot.
        """
        del facts
        update_derived(connection, removed, added)

    def optimize(self, metric: Metric, *, purge: bool = False) -> None:
        """Compact the files if many slots are dead; with ``purge``, if any is."""
        del metric, purge

    @contextlib.contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, StoreFacts]]:
        """Yield a connection in a transaction, which is committed if the block succeeds.

        Raises:
            ReplacedError: another store was put in the place of this one.
            StorageError: it could not be written.
        """
        connection = open_database(self._database, write=True)
        with contextlib.closing(connection), writing_errors(self._database):
            connection.execute("BEGIN IMMEDIATE")
            facts = StoreFacts.read(connection)
            if facts.identity != self._identity:
                raise replaced_error(self._folder)
            yield connection, facts
            if connection.total_changes:
                connection.execute("COMMIT")


class _Watch:
    """Notices commits to a database, and that another one was put in its place."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._connection = open_database(database)
        weakref.finalize(self, self._connection.close)
        self._file = self._place()

    def _place(self) -> tuple[int, int]:
        try:
            facts = os.stat(self._database)  # noqa: PTH116 - for each read
        except OSError as error:
            raise unreadable(self._database, error) from error
        return facts.st_dev, facts.st_ino

    def is_in_place(self) -> bool:
        """Return whether the file that was opened is still there.

        Raises:
            ArtifactError: there is none.
        """
        return self._place() == self._file

    def version(self) -> int:
        """Return a number that differs after a commit by another connection."""
        with reading_errors(self._database):
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)
