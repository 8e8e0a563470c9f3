"""One read transaction: the rows of one commit, whatever is written meanwhile.

A :class:`Reader` is shared by the snapshots of a commit that exist at a time, and by the columns,
texts and graphs that they hand out; it ends with the last of them. What is computed of a commit is
in its ``cache``, which the store keeps for the next reader of the same commit. Nothing in there may
refer to a reader: a transaction that never ends would make the write-ahead log grow.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from mmap import mmap
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled, holding, is_cancelled
from lookalike.errors import ArtifactError
from lookalike.stores.embedded.connections import ConnectionPool
from lookalike.stores.embedded.database import Connection, StoreFacts, frozen_facts
from lookalike.stores.embedded.dead_slots import dead_mask
from lookalike.stores.embedded.failures import reading_errors, unreadable
from lookalike.stores.embedded.graph_records import GraphRecord
from lookalike.stores.embedded.rows import select_many
from lookalike.stores.embedded.vector_files import MappedVectors, VectorFiles
from lookalike.types import Metric

T = TypeVar("T")

_STEP = 1_000
"""Rows that are read between checks whether the work was cancelled."""

_INSTRUCTIONS = 10_000
"""Instructions of SQLite between such checks: about a millisecond."""

_ATTEMPTS = 5

_MARKERS = "SELECT revision, (SELECT group_concat(hex(file)) FROM graphs) FROM store"
"""What no other commit has, and the files of graph indexes, which are built without one."""


class CommitCache:
    """What is computed of a commit, for all who read it.

    Attributes:
        facts: what is recorded about the store.
        mapped: its vector files.
        slots: the slots of the rows by number, once they are known; None if no slot is dead.
        graphs: the files of graph indexes, and what is recorded about them, as it was read last.
        values: whatever else is computed, by name.
        lasting: what is of use for later commits too, by name.
    """

    def __init__(
        self, facts: StoreFacts, mapped: MappedVectors, last: CommitCache | None = None
    ) -> None:
        self.facts = facts
        self.mapped = mapped
        self.slots: NDArray[np.int64] | None = None
        self.graphs: tuple[object, Mapping[Metric, GraphRecord]] | None = None
        self.values: dict[str, Any] = {}
        self.lasting: dict[str, Any] = {} if last is None else last.lasting
        parts: tuple[NDArray[Any], ...] = (
            mapped.vectors,
            mapped.codes.codes,
            mapped.codes.scales,
        )
        bases: list[tuple[object, int]] = [(part.base, part.nbytes) for part in parts]
        self._sizes = [(base, size) for base, size in bases if isinstance(base, mmap)]

    def is_truncated(self) -> bool:
        """Return whether a mapped file is shorter than what is mapped, which would be a crash."""
        return any(file.size() < size for file, size in self._sizes)


class Reader:
    """A read transaction, with the vector files of its generation.

    Args:
        pool: where the connection goes back to.
        connection: in the transaction.
        cache: of the commit.
        graph_files: the files of graph indexes, as one value.

    Attributes:
        columns: the columns that were handed out last, if somebody still has them.
    """

    def __init__(
        self, pool: ConnectionPool, connection: Connection, cache: CommitCache, graph_files: object
    ) -> None:
        self.cache = cache
        self.lock = threading.RLock()
        self._pool = pool
        self._connection = connection
        self._graph_files = graph_files
        self.columns: weakref.ref[Any] | None = None
        self._finalizer = weakref.finalize(self, pool.give_back, connection)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] | None = None

    @classmethod
    def begin(cls, pool: ConnectionPool, last: CommitCache | None = None) -> Reader:
        """Begin a transaction at the last commit.

        Args:
            pool: of connections to the database.
            last: of the commit that was read before.

        Raises:
            ArtifactError: the database or a vector file is missing or broken.
        """
        for attempt in range(_ATTEMPTS):
            connection = pool.take()
            facts: StoreFacts | None = None
            try:
                with reading_errors(pool.database):
                    connection.execute("BEGIN")
                    row = connection.execute(_MARKERS).fetchone()
                    graph_files = None if row is None else row[1]
                    if last is not None and row is not None and row[0] == last.facts.revision:
                        return cls(pool, connection, last, graph_files)
                    facts = StoreFacts.read(connection)
                    files = VectorFiles(pool.database.parent, facts.generation, facts.dim)
                    cache = CommitCache(facts, files.map(facts.slots, connection), last)
            except ArtifactError:
                pool.give_back(connection)
                if attempt + 1 < _ATTEMPTS and facts and _has_moved_on(pool, facts):
                    continue
                raise
            except BaseException:
                pool.give_back(connection)
                raise
            return cls(pool, connection, cache, graph_files)
        raise AssertionError("unreachable")

    @property
    def blocks_writers(self) -> bool:
        """Whether nobody can write as long as the transaction is there."""
        return self._connection.journal != "wal" and self._connection.frozen is None

    @property
    def database(self) -> Path:
        """The file of the rows."""
        return self._pool.database

    @property
    def facts(self) -> StoreFacts:
        """What is recorded about the store."""
        return self.cache.facts

    @property
    def mapped(self) -> MappedVectors:
        """The vector files.

        Raises:
            ArtifactError: one was truncated, so that reading it would end the process.
        """
        if self.cache.is_truncated():
            folder = self.database.parent
            files = VectorFiles(folder, self.facts.generation, self.facts.dim)
            raise unreadable(files.paths[0], "it became shorter while it was open")
        return self.cache.mapped

    @property
    def slots(self) -> NDArray[np.int64] | None:
        """The slots of the rows by number, ascending; None if no slot is dead."""
        if not self.facts.dead:
            return None
        if self.cache.slots is None:
            dead = self.run(lambda connection: dead_mask(connection, self.facts.slots))
            slots = np.flatnonzero(~dead).astype(np.int64, copy=False)
            if len(slots) != self.facts.rows:
                raise unreadable(self.database, "the dead slots are damaged")
            slots.flags.writeable = False
            self.cache.slots = slots
        return self.cache.slots

    @property
    def graph_records(self) -> Mapping[Metric, GraphRecord]:
        """What is recorded about the graph indexes, which are built without a new revision."""
        cached = self.cache.graphs
        if cached is None or cached[0] != self._graph_files:
            cached = self.cache.graphs = self._graph_files, self.run(GraphRecord.read_all)
        return cached[1]

    def slots_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the slots of rows by their numbers."""
        slots = self.slots
        return numbers if slots is None else slots[numbers]

    def numbers_of(
        self, slots: NDArray[np.int64], *, otherwise: str = "the index of ids is damaged"
    ) -> NDArray[np.int64]:
        """Return the numbers of rows by their slots; -1 stays.

        Raises:
            ArtifactError: there is no row in one of the slots; ``otherwise`` is the reason.
        """
        every = self.slots
        numbers = slots if every is None else np.searchsorted(every, slots)
        numbers = np.where(slots == -1, -1, numbers)
        known = slots != -1
        exist = (slots >= -1) & (numbers < self.facts.rows)
        if not exist.all() or not np.array_equal(self.slots_of(numbers[known]), slots[known]):
            raise unreadable(self.database, otherwise)
        return numbers

    def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what some work reads; it can be cancelled.

        Raises:
            ArtifactError: the database is broken, or was written where nothing may be.
        """
        check_cancelled()
        with holding(self.lock), reading_errors(self.database):
            connection = self._connection
            if connection.process != os.getpid():
                connection = self._reopen()
            connection.set_progress_handler(is_cancelled, _INSTRUCTIONS)
            try:
                result = work(connection)
            finally:
                connection.set_progress_handler(None, 0)
            if connection.frozen is not None and connection.frozen != frozen_facts(self.database):
                raise ArtifactError(
                    f"{self.database.parent}: the rows were written by somebody else, in a folder "
                    "that may only be read here; try again"
                )
            return result

    def select(self, query: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Yield the rows of a query; others may use the transaction meanwhile."""
        cursor: sqlite3.Cursor | None = None
        count = 0

        def fetch(connection: sqlite3.Connection) -> list[Any]:
            nonlocal cursor
            if cursor is None or cursor.connection is not connection:  # detached, or a fork
                cursor = connection.execute(query, values)
                if self._cursors is None:
                    self._cursors = weakref.WeakSet()
                self._cursors.add(cursor)
                for _ in zip(range(count), cursor, strict=False):
                    pass
            return cursor.fetchmany(_STEP)

        while part := self.run(fetch):
            yield from part
            count += len(part)

    def select_many(self, query: str, values: Sequence[Any]) -> list[Any]:
        """Return the rows of a query whose ``IN (?)`` stands for many values."""
        return self.run(lambda connection: list(select_many(connection, query, values)))

    def cached(self, name: str, compute: Callable[[], T]) -> T:
        """Return a value that is computed once for a commit; it must not refer to the reader."""
        value = self.cache.values.get(name)
        if value is None:
            value = self.cache.values[name] = compute()
        result: T = value
        return result

    def detach(self) -> None:
        """Read from a copy in memory from now on, so that the transaction can end.

        For a rollback journal, where nobody can write as long as it is there.
        """
        with self.lock:
            if not self.blocks_writers:
                return
            copy: Connection = sqlite3.connect(
                ":memory:", isolation_level=None, check_same_thread=False, factory=Connection
            )
            self._connection.backup(copy)
            copy.execute("PRAGMA query_only = ON")
            copy.process, copy.place, copy.journal = os.getpid(), (0, 0), "wal"
            old, self._connection = self._connection, copy
            self._finalizer.detach()
            for cursor in self._cursors or ():  # which are executed again when they go on
                cursor.close()
            old.close()

    def _reopen(self) -> Connection:
        """Return a connection of this process, a fork of the one that began the transaction.

        Raises:
            ArtifactError: rows were written since.
        """
        self._finalizer.detach()
        self._pool.abandon(self._connection)
        connection = self._pool.take()
        connection.execute("BEGIN")
        if StoreFacts.read(connection).revision != self.facts.revision:
            self._pool.give_back(connection)
            raise ArtifactError(
                f"{self.database.parent}: rows were written since this process was forked; open "
                "the gallery again"
            )
        self._connection = connection
        self._finalizer = weakref.finalize(self, self._pool.give_back, connection)
        return connection


def _has_moved_on(pool: ConnectionPool, facts: StoreFacts) -> bool:
    """Return whether a compaction has made the files of another generation the current ones."""
    connection = pool.take()
    try:
        with reading_errors(pool.database):
            return StoreFacts.read(connection).generation != facts.generation
    finally:
        pool.give_back(connection)
