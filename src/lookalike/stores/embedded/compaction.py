"""Compaction: live rows are copied to files of the next generation, and what was removed goes.

All of it is one transaction that keeps other writers waiting: until its commit the old files are
the ones in use, and after it the new ones. If it is interrupted, what it wrote is of a generation
that nobody reads, and the next writer deletes it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import flush
from lookalike.cancellation import check_cancelled
from lookalike.errors import BusyError
from lookalike.stores.embedded.connections import truncate_log
from lookalike.stores.embedded.database import StoreFacts
from lookalike.stores.embedded.dead_slots import clear_dead, dead_mask
from lookalike.stores.embedded.derived import rebuild_derived
from lookalike.stores.embedded.packing import remove_unused
from lookalike.stores.embedded.vector_files import VectorFiles, remove_other_files
from lookalike.stores.quantized import BLOCK
from lookalike.types import Progress, ProgressCallback

MAX_DEAD = 0.3
"""Share of dead slots, and of unused pages of the database, that is tolerated."""

READERS_S = 10.0
"""Seconds that erasing waits for others who read."""

_BLOCKS = 16
"""Blocks of vectors that are copied between checks whether the work was cancelled."""

_POLL_S = 0.02


def compact(
    folder: Path, connection: sqlite3.Connection, facts: StoreFacts, on_progress: ProgressCallback
) -> StoreFacts:
    """Copy live rows to the next generation, in a transaction; return the facts that were written.

    Raises:
        ArtifactError: the vectors are missing or broken.
        OSError, sqlite3.Error: the files or the database cannot be written.
        CancelledError: the work was cancelled.
    """
    live = np.flatnonzero(~dead_mask(connection, facts.slots))
    if len(live) != facts.rows:
        raise sqlite3.DatabaseError("the dead slots are damaged")
    vectors = VectorFiles(folder, facts.generation, facts.dim).map(facts.slots, connection).vectors
    compacted = replace(facts, generation=facts.generation + 1, slots=facts.rows)
    connection.execute("DELETE FROM blocks")
    files = VectorFiles(folder, compacted.generation, facts.dim)
    remove_other_files(folder, facts.generation)
    files.create()
    step = _BLOCKS * BLOCK
    for start in range(0, len(live), step):
        check_cancelled()
        on_progress(Progress("compact", start, facts.rows, "rows"))
        blocks = files.append(start, vectors[live[start : start + step]])
        files.record(connection, blocks)
    flush(folder)
    # In ascending order a row never moves to a slot that another one still has.
    connection.executemany("UPDATE rows SET slot = ? WHERE slot = ?", _moves(live))
    clear_dead(connection)
    remove_unused(connection)
    rebuild_derived(connection)
    if facts.rows:
        on_progress(Progress("compact", facts.rows, facts.rows, "rows"))
    return compacted.write(connection)


def _moves(live: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the new and the old slots of rows that move."""
    for start in range(0, len(live), BLOCK):
        check_cancelled()
        for new, old in enumerate(live[start : start + BLOCK].tolist(), start):
            if new != old:
                yield new, old


def has_unused_pages(connection: sqlite3.Connection) -> bool:
    """Return whether so much of a database is unused that it should be vacuumed.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (unused,) = connection.execute("PRAGMA freelist_count").fetchone()
    return bool(unused > MAX_DEAD * pages)


def empty_log(folder: Path, connection: sqlite3.Connection) -> None:
    """Empty the write-ahead log, in which removed rows are.

    Raises:
        sqlite3.Error: that failed.
        BusyError: others read it.
        CancelledError: the work was cancelled.
    """
    until = time.monotonic() + READERS_S
    while not truncate_log(connection):
        check_cancelled()
        if time.monotonic() > until:
            raise BusyError(
                f"{folder}: rows that were removed are still in the log of the database, since "
                "another process reads them; end it, or try again when it has finished"
            )
        time.sleep(_POLL_S)
