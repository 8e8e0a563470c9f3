"""The embedded store: the rows of a gallery's folder, durable when a write returns."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import flush
from lookalike.cancellation import holding
from lookalike.errors import StorageError
from lookalike.files import AnchoredPath
from lookalike.progress import current_progress
from lookalike.stores.base import Rows, check_rows, new_revision, replaced_error, revision_number
from lookalike.stores.embedded import packing
from lookalike.stores.embedded.beside import beside
from lookalike.stores.embedded.connections import ConnectionPool, wait_for_turn
from lookalike.stores.embedded.database import (
    FILE,
    Connection,
    StoreFacts,
    check_file,
    create_database,
)
from lookalike.stores.embedded.dead_slots import mark_dead
from lookalike.stores.embedded.derived import rebuild_derived, update_derived
from lookalike.stores.embedded.failures import writing_errors
from lookalike.stores.embedded.graph import Graphs, GraphState
from lookalike.stores.embedded.graph_records import remove_unused
from lookalike.stores.embedded.packing import Sharing, checked_rows
from lookalike.stores.embedded.reader import CommitCache, Reader
from lookalike.stores.embedded.rows import (
    DELETE,
    UPDATE,
    RowBatch,
    StoredRow,
    insert_rows,
    stored_rows,
)
from lookalike.stores.embedded.snapshot import EmbeddedSnapshot
from lookalike.stores.embedded.vector_files import BlockRecord, VectorFiles, remove_other_files
from lookalike.stores.snapshots import SnapshotStore
from lookalike.types import Embeddings, Metric, ProgressCallback, ignore_progress

_COMPARED = 8_192
"""Rows whose embeddings are compared with those stored at a time."""


class EmbeddedStore(SnapshotStore):
    """Rows in a folder. Each read sees the last commit, whoever made it.

    A store that was put in the place of this one is never read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._place = AnchoredPath(folder)
        self._lock = threading.RLock()
        self._graphs = Graphs()
        self._pool = ConnectionPool(self._place)
        self._reader: weakref.ref[Reader] | None = None
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self._cache: CommitCache | None = None
        self._identity = ""
        self._identity = self.snapshot().identity

    @classmethod
    def create(cls, folder: Path, dim: int, *, origin: StoreFacts | None = None) -> EmbeddedStore:
        """Create an empty store in a new folder.

        Args:
            folder: of its files.
            dim: length of an embedding.
            origin: of a store that it takes the place of; it has the same identity.

        Raises:
            StorageError: it could not be written.
        """
        identity, revision = os.urandom(16).hex(), new_revision(0)
        if origin is not None:
            identity = origin.identity
            revision = new_revision(revision_number(origin.revision) + 1)
        facts = StoreFacts(identity, revision, dim, 1, 0, 0)
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
            check_file(file)
        return cls(folder)

    def __repr__(self) -> str:
        return f"EmbeddedStore({str(self._folder)!r}, dim={self.dim})"

    @property
    def _folder(self) -> Path:
        return self._place.path

    @property
    def _database(self) -> Path:
        return self._pool.database

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._facts.dim

    @property
    def _facts(self) -> StoreFacts:
        """What was recorded at the last read."""
        assert self._cache is not None  # there was one when the store was opened
        return self._cache.facts

    @property
    def identity(self) -> str:
        """A text that no other store has."""
        return self._identity

    def snapshot(self) -> EmbeddedSnapshot:
        """Return the rows as they are now.

        Its transaction ends when it is garbage-collected. Snapshots of one commit share it.

        Raises:
            ReplacedError: another store was put in the place of this one.
            ArtifactError: it is missing or broken.
        """
        with self._lock:
            reader = Reader.begin(self._pool, self._cache)
            if self._identity and reader.facts.identity != self._identity:
                raise replaced_error(self._folder)
            if reader.cache is not self._cache:
                self._cache = reader.cache
            current = self._reader() if self._reader is not None else None
            if current is not None and current.cache is reader.cache:
                return EmbeddedSnapshot(current, self._graphs)
            self._reader = weakref.ref(reader)
            if reader.blocks_writers:
                self._readers.add(reader)
            return EmbeddedSnapshot(reader, self._graphs)

    def upsert(self, rows: Rows) -> None:
        """Insert or replace rows by id, in one commit.

        A row whose embedding stays the same keeps its slot.

        Raises:
            InputError: wrong dimensions, values that are not finite, or a duplicate id.
            ReplacedError: another store was put in the place of this one.
            StorageError: the commit failed; nothing was written.
            BusyError: another process is writing.
        """
        embeddings = np.ascontiguousarray(check_rows(rows, self.dim), "<f4")
        if not len(rows):
            return
        checked = checked_rows(rows)
        with self._writing() as (connection, facts):
            files = VectorFiles(self._folder, facts.generation, facts.dim)
            removed = _existing(connection, facts, rows.ids)
            slots = np.full(len(rows), -1, np.int64)
            if removed:
                old = {row.id: row.slot for row in removed}
                old_slots = np.array([old.get(row_id, -1) for row_id in rows.ids], np.int64)
                slots = _kept(
                    old_slots, embeddings, lambda: files.map(facts.slots, connection).vectors
                )
                dead = old_slots[(slots < 0) & (old_slots >= 0)]
                connection.executemany(DELETE, ((slot,) for slot in dead.tolist()))
                mark_dead(connection, dead)
            kept, new = np.flatnonzero(slots >= 0), np.flatnonzero(slots < 0)
            slots[new] = facts.slots + np.arange(len(new))
            appended_vectors = embeddings if len(new) == len(rows) else embeddings[new]
            append: Callable[[], list[BlockRecord]] = list
            if len(new):
                append = partial(files.append, facts.slots, appended_vectors)
            with beside(append) as appended:  # while SQLite writes
                places = slots.tolist()
                sharing = Sharing(connection)
                stored = update_derived(
                    connection,
                    removed,
                    RowBatch(places, rows.ids, rows.uris, checked.columns),
                    partial(sharing.packed_rows, places, checked, embeddings),
                )
                sharing.store(connection)
                if len(kept):
                    connection.executemany(UPDATE, [stored[place] for place in kept.tolist()])
                    stored = [stored[place] for place in new.tolist()]
                insert_rows(connection, stored)
                facts = replace(
                    facts, slots=facts.slots + len(new), rows=facts.rows + len(rows) - len(removed)
                )
                files.record(connection, appended())
            facts.write(connection)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many existed."""
        with self._writing() as (connection, facts):
            removed = _existing(connection, facts, list(dict.fromkeys(ids)))
            if removed:
                slots = [row.slot for row in removed]
                connection.executemany(DELETE, ((slot,) for slot in slots))
                mark_dead(connection, np.array(slots, np.int64))
                facts = replace(facts, rows=facts.rows - len(removed))
                update_derived(connection, removed, RowBatch.of(()), lambda: None)
                facts.write(connection)
        return len(removed)

    def optimize(self, metric: Metric, *, purge: bool = False) -> None:
        """Compact the files if many slots are dead; with ``purge``, if any is.

        Other writers wait until it has finished. Progress is reported to that of the work around
        (:func:`lookalike.progress.current_progress`).

        Raises:
            ReplacedError: another store was put in the place of this one.
            StorageError: it failed; the rows are unchanged.
            BusyError: another process is writing, or with ``purge`` reads rows that were removed.
            CancelledError: the work was cancelled; the rows are unchanged.
        """
        from lookalike.stores.embedded import compaction

        del metric
        on_progress = current_progress()
        with self._writing() as (connection, facts):
            if facts.dead > (0 if purge else compaction.MAX_DEAD * facts.slots):
                facts = compaction.compact(self._folder, connection, facts, on_progress)
            elif purge:  # metadata of rows that were replaced
                rebuild_derived(connection)
                packing.remove_unused(connection)
                facts.write(connection)
        with self._writing() as (connection, facts):
            remove_other_files(self._folder, facts.generation)
            remove_unused(self._folder, connection, facts.generation)
            is_sparse = compaction.has_unused_pages(connection)
            if purge:
                VectorFiles(self._folder, facts.generation, facts.dim).truncate(facts.slots)
        if purge or is_sparse:
            self._vacuum()
        if purge:
            self._empty_log()

    def _vacuum(self) -> None:
        """Write the database anew, without what was removed from it."""
        with holding(self._pool.write_lock), writing_errors(self._database):
            connection = self._pool.writer()
            wait_for_turn(lambda: connection.execute("VACUUM"), connection)

    def _empty_log(self) -> None:
        """Empty the write-ahead log, in which removed rows are.

        Raises:
            BusyError: another process reads them.
        """
        from lookalike.stores.embedded import compaction

        with holding(self._pool.write_lock), writing_errors(self._database):
            compaction.empty_log(self._folder, self._pool.writer())

    def build_graph(self, metric: Metric, on_progress: ProgressCallback = ignore_progress) -> bool:
        """Build the graph index of a metric, or add the rows that it lacks.

        Others may read and write meanwhile; if they compact the files, False is returned.

        Raises:
            MissingDependencyError: usearch is missing.
            BusyError: another process is building one.
            StorageError: it could not be written, or 16 bits hold too few of the vectors.
        """
        from lookalike.stores.embedded.graph_building import build_graph

        graph = build_graph(self._folder, metric, self._writing, on_progress)
        if graph is not None:
            self._graphs.use(graph)
            with self._lock:
                self._reader = None  # it may not know of the graph
        return graph is not None

    def drop_graph(self, metric: Metric) -> bool:
        """Delete the graph index of a metric; return whether there was one.

        Raises:
            StorageError: it could not be deleted.
        """
        with self._writing() as (connection, _):
            name = (metric.value,)
            count = connection.execute("DELETE FROM graphs WHERE metric = ?", name).rowcount
        with self._writing() as (connection, facts):
            remove_unused(self._folder, connection, facts.generation)
        with self._lock:
            self._reader = None
        return bool(count)

    def graph_state(self, metric: Metric, *, verify: bool = True) -> GraphState | None:
        """Return the state of the graph index of a metric; None if there is none.

        Args:
            metric: that it searches by.
            verify: also verify its checksum, if this process has not used it.
        """
        return self.snapshot().graph_state(metric, verify=verify)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[tuple[Connection, StoreFacts]]:
        """Yield a connection in a transaction, which is committed if the block succeeds.

        Raises:
            ReplacedError: another store was put in the place of this one.
            StorageError: it could not be written.
        """
        with holding(self._pool.write_lock), writing_errors(self._database):
            connection = self._pool.writer()
            with self._lock:
                readers = list(self._readers)
            for reader in readers:
                reader.detach()
            wait_for_turn(lambda: connection.execute("BEGIN IMMEDIATE"), connection)
            try:
                facts = StoreFacts.read(connection)
                if facts.identity != self._identity:
                    raise replaced_error(self._folder)
                if not connection.is_tidy:
                    remove_other_files(self._folder, facts.generation)
                    connection.is_tidy = True
                before = connection.total_changes
                yield connection, facts
                connection.execute("COMMIT" if connection.total_changes > before else "ROLLBACK")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                if connection.in_transaction or isinstance(error, sqlite3.Error | OSError):
                    self._pool.discard_writer()
                raise


def _existing(
    connection: sqlite3.Connection, facts: StoreFacts, ids: Sequence[str]
) -> list[StoredRow]:
    """Return the rows that exist, of those with some ids, in any order.

    Raises:
        sqlite3.Error: they cannot be read, or are in slots that there are not.
    """
    rows = stored_rows(connection, "id", ids)
    if not all(0 <= row.slot < facts.slots for row in rows):
        raise sqlite3.DatabaseError("the index of ids is damaged")
    return rows


def _kept(
    slots: NDArray[np.int64], embeddings: Embeddings, stored: Callable[[], Embeddings]
) -> NDArray[np.int64]:
    """Return the slots whose embeddings, bit by bit, are those of new rows; -1 for the others."""
    vectors = stored()
    kept = np.full(len(slots), -1, np.int64)
    places = np.flatnonzero(slots >= 0)
    for start in range(0, len(places), _COMPARED):
        part = places[start : start + _COMPARED]
        old = vectors[slots[part]].view(np.uint32)
        same = part[(old == embeddings[part].view(np.uint32)).all(axis=1)]
        kept[same] = slots[same]
    return kept
