"""The connections of a store to its database: kept between uses, closed together.

SQLite forbids to use a connection in a fork of the process that opened it, and its locks get lost
if both have one to the same file. So idle connections are closed before a fork; those that are in
use at that time are neither used nor closed in the child.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from lookalike.cancellation import check_cancelled
from lookalike.files import AnchoredPath
from lookalike.stores.embedded import database
from lookalike.stores.embedded.database import (
    FILE,
    Connection,
    file_place,
    frozen_facts,
    journal_mode,
    open_database,
)
from lookalike.stores.embedded.failures import is_busy

_MAX_IDLE = 4
_CHECK_S = 0.1
"""Seconds that others are waited for between checks whether the work was cancelled."""


class ConnectionPool:
    """Connections to a database: any number for reading, and one for writing.

    They are closed when the pool is garbage-collected or the process ends.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: AnchoredPath) -> None:
        self._folder = folder
        self._known = folder.path, folder.path / FILE
        self._state = _State()
        self.write_lock = threading.RLock()
        self._finalizer = weakref.finalize(self, self._state.close)
        _pools.add(self)

    @property
    def database(self) -> Path:
        """The file."""
        folder = self._folder.path
        if folder is not self._known[0]:
            self._known = folder, folder / FILE
        return self._known[1]

    def take(self) -> Connection:
        """Return a connection for reading, which has no transaction.

        Raises:
            ArtifactError: the database is missing or broken.
        """
        path = self.database
        place = file_place(path)
        while True:
            try:
                connection = self._state.idle.pop()
            except IndexError:
                return open_database(path)
            is_usable = connection.process == os.getpid() and connection.place == place
            if connection.frozen is not None:
                is_usable = is_usable and connection.frozen == frozen_facts(path)
            if is_usable:
                return connection
            self._state.discard(connection)

    def give_back(self, connection: Connection) -> None:
        """End the transaction of a connection and keep it for the next reader.

        It may be called by the garbage collector, in any thread: it takes no lock.
        """
        self._state.give_back(connection)

    def abandon(self, connection: Connection) -> None:
        """Never use or close a connection of another process."""
        _inherited.append(connection)

    def writer(self) -> Connection:
        """Return the connection for writing; the caller holds ``write_lock``.

        Raises:
            ArtifactError: the database is missing or broken.
        """
        path = self.database
        place = file_place(path)
        connection = self._state.writer
        if connection is not None:
            if connection.process == os.getpid() and connection.place == place:
                return connection
            self.discard_writer()
        connection = open_database(path, write=True)
        self._state.writer = connection
        mode = journal_mode(path.parent)
        if mode.lower() != connection.journal:
            self._close_readers()  # each one keeps the mode as it is
            with contextlib.suppress(sqlite3.OperationalError):  # others have it open
                set_timeout(connection, 0)
                (connection.journal,) = connection.execute(f"PRAGMA journal_mode={mode}").fetchone()
        return connection

    def discard_writer(self) -> None:
        """Close the connection for writing; the next write opens another one."""
        connection, self._state.writer = self._state.writer, None
        if connection is not None:
            self._state.discard(connection)

    def close_idle(self) -> None:
        """Close all connections that are not in use."""
        self._close_readers()
        if self.write_lock.acquire(blocking=False):
            try:
                if self._state.writer is not None and not self._state.writer.in_transaction:
                    self._state.close_writer()
            finally:
                self.write_lock.release()

    def _close_readers(self) -> None:
        while self._state.idle:
            with contextlib.suppress(IndexError):
                self._state.discard(self._state.idle.pop())


class _State:
    """The connections; apart from the pool, so that they can be closed when it is gone."""

    def __init__(self) -> None:
        self.idle: list[Connection] = []
        self.writer: Connection | None = None
        self.is_closed = False

    def give_back(self, connection: Connection) -> None:
        if connection.process != os.getpid():
            _inherited.append(connection)
            return
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self.discard(connection)
            return
        if self.is_closed or len(self.idle) >= _MAX_IDLE:
            self.discard(connection)
        else:
            self.idle.append(connection)

    def discard(self, connection: Connection) -> None:
        if connection.process != os.getpid():
            _inherited.append(connection)
            return
        with contextlib.suppress(sqlite3.Error):
            connection.close()

    def close(self) -> None:
        """Close all connections; the one for writing last, so that no log is left behind."""
        self.is_closed = True
        while self.idle:
            with contextlib.suppress(IndexError):
                self.discard(self.idle.pop())
        self.close_writer()

    def close_writer(self) -> None:
        connection, self.writer = self.writer, None
        if connection is None:
            return
        if connection.process == os.getpid():
            with contextlib.suppress(sqlite3.Error):
                truncate_log(connection)
        self.discard(connection)


def truncate_log(connection: sqlite3.Connection) -> bool:
    """Copy the write-ahead log into the database and empty it; return whether it is empty.

    Nobody is waited for: what others read of it stays.

    Raises:
        sqlite3.Error: that failed.
    """
    set_timeout(connection, 0)
    row = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return row is None or row[0] == 0


def wait_for_turn(execute: Callable[[], object], connection: sqlite3.Connection) -> None:
    """Execute what excludes other writers, and wait for them as long as the work may go on.

    Raises:
        sqlite3.Error: they are not ready after :data:`WAIT_S`, or it failed.
        CancelledError: the work was cancelled.
    """
    until = time.monotonic() + database.WAIT_S
    set_timeout(connection, _CHECK_S)
    while True:
        check_cancelled()
        try:
            execute()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > until:
                raise
        else:
            break
    set_timeout(connection, database.WAIT_S)


def set_timeout(connection: sqlite3.Connection, seconds: float) -> None:
    """Set how long a statement waits for others."""
    connection.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")


_pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()

_inherited: list[Connection] = []
"""Connections of the process that this one is a fork of."""


def _before_fork() -> None:
    for pool in list(_pools):
        pool.close_idle()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
