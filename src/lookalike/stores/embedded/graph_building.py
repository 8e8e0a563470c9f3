"""Building the graph index of a store, while others read and write its rows."""

from __future__ import annotations

import contextlib
import mmap
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import flush, sole_writer
from lookalike.cancellation import check_cancelled
from lookalike.errors import StorageError, require
from lookalike.files import open_regular
from lookalike.stores.embedded.database import (
    FILE,
    StoreFacts,
    open_database,
    reading_errors,
    writing_errors,
)
from lookalike.stores.embedded.dead_slots import dead_mask
from lookalike.stores.embedded.graph import (
    MAX_VALUE,
    GraphIndex,
    library_version,
    new_index,
    prepared,
    raising_interrupts,
)
from lookalike.stores.embedded.graph_records import (
    LOCK,
    TEMPORARY,
    GraphRecord,
    checksum,
    remove_files,
)
from lookalike.stores.embedded.vector_files import VectorFiles
from lookalike.types import Embeddings, Metric, Progress, ProgressCallback

Writing = Callable[[], AbstractContextManager[tuple[sqlite3.Connection, StoreFacts]]]
"""A transaction of the store, with its facts."""

_STEP = 1_000
"""Rows that are added between checks whether the work was cancelled."""

_CHECKPOINT = 500_000
"""Rows after which an unfinished graph is recorded: it serves, and building goes on from it."""

_MAX_LEFT_OUT = 10_000
"""Rows that a graph can leave out: they are compared one by one in each search."""


@dataclass(frozen=True, slots=True)
class _Source:
    """The rows that a graph is built of, as they were when it began.

    Args:
        facts: of the store.
        living: slots of rows that exist, ascending; None if no slot is dead.
        vectors: of all slots, mapped.
        record: of the present graph, if there is one.
    """

    facts: StoreFacts
    living: NDArray[np.int64] | None
    vectors: Embeddings
    record: GraphRecord | None

    @classmethod
    def read(cls, folder: Path, metric: Metric) -> _Source:
        """Read it; the transaction is over afterwards, so that others can truncate the log."""
        connection = open_database(folder / FILE)
        with contextlib.closing(connection), reading_errors(folder / FILE):
            connection.execute("BEGIN")
            facts = StoreFacts.read(connection)
            living = None
            if facts.rows < facts.slots:
                living = np.flatnonzero(~dead_mask(connection, facts.slots))
            record = GraphRecord.read_all(connection).get(metric)
            files = VectorFiles(folder, facts.generation, facts.dim)
            vectors = files.map(facts.slots, connection).vectors
        return cls(facts, living, vectors, record)

    def slots(self, start: int) -> NDArray[np.int64]:
        """Return the slots of rows from a slot on."""
        if self.living is None:
            return np.arange(start, self.facts.slots)
        return self.living[np.searchsorted(self.living, start) :]


def build_graph(
    folder: Path, metric: Metric, writing: Writing, on_progress: ProgressCallback
) -> GraphIndex | None:
    """Build the graph of a metric, or add the rows that it lacks; return it.

    Others may write meanwhile. If they compact the files, the graph is not recorded, and None
    returned. Killed, the last one that was recorded stays; building goes on from there.

    By one thread, since several of usearch's leave rows that no search finds.

    Args:
        folder: of the store.
        metric: to search by.
        writing: opens a transaction of the store.
        on_progress: called with the number of rows.

    Raises:
        MissingDependencyError: usearch is missing.
        BusyError: another process is building one.
        StorageError: it could not be written or read back, or 16 bits hold too few of the vectors.
        CancelledError: the work was cancelled.
    """
    require("usearch", "an approximate index", "ann")
    with sole_writer(folder / LOCK, what=f"the approximate index of {folder.parent}"):
        source = _Source.read(folder, metric)
        complete = _complete(folder, source)
        if complete is not None:
            return complete
        return _Builder(folder, metric, source, writing).build(on_progress)


def _complete(folder: Path, source: _Source) -> GraphIndex | None:
    """Return the present graph if it is valid and lacks no slot."""
    record, facts = source.record, source.facts
    if record is None or (record.generation, record.slots) != (facts.generation, facts.slots):
        return None
    with contextlib.suppress(OSError, ValueError):
        return GraphIndex.load(folder, record, facts.dim)
    return None


class _Builder:
    """One graph in the making."""

    def __init__(self, folder: Path, metric: Metric, source: _Source, writing: Writing) -> None:
        self._folder = folder
        self._metric = metric
        self._source = source
        self._writing = writing
        self._start = 0
        self._scale = 1.0
        self._left_out: list[int] = []
        self._index: Any = new_index(metric, source.facts.dim, writable=True)
        if not self._resume():
            self._scale = self._fitting_scale(0)

    def _resume(self) -> bool:
        """Go on from the present graph; return whether that can be done."""
        record, facts = self._source.record, self._source.facts
        if record is None or record.generation != facts.generation or record.slots > facts.slots:
            return False
        if self._metric is Metric.L2 and self._fitting_scale(record.slots) < record.scale / 1_000:
            return False  # newer vectors are much longer
        try:
            graph = GraphIndex.load(self._folder, record, facts.dim, copy=True)
        except (OSError, ValueError):
            return False
        self._index, self._start, self._scale = graph.index, record.slots, record.scale
        self._left_out = record.left_out.tolist()
        return True

    def _fitting_scale(self, start: int) -> float:
        """Return a factor that makes the largest value of the vectors from a slot on about 1."""
        if self._metric is Metric.COSINE:
            return 1.0
        largest = 0.0
        for slots in self._parts(start):
            largest = max(largest, float(np.abs(self._source.vectors[slots]).max(initial=0)))
        return min(1 / largest, MAX_VALUE) if largest else 1.0

    def _parts(self, start: int) -> Iterator[NDArray[np.int64]]:
        slots = self._source.slots(start)
        for place in range(0, len(slots), _STEP):
            check_cancelled()
            yield slots[place : place + _STEP]

    def build(self, on_progress: ProgressCallback) -> GraphIndex | None:
        """Add all rows, and record the graph; see :func:`build_graph`."""
        facts, total = self._source.facts, len(self._source.slots(self._start))
        done = unsaved = 0
        on_progress(Progress("approximate index", 0, total, "rows"))
        for slots in self._parts(self._start):
            if unsaved >= _CHECKPOINT:
                if self._record(int(slots[0])) is None:
                    return None
                unsaved = 0
            self._add(slots)
            done += len(slots)
            unsaved += len(slots)
            on_progress(Progress("approximate index", done, total, "rows"))
        record = self._record(facts.slots)
        self._index = None  # its memory is not needed any more
        try:
            return None if record is None else GraphIndex.load(self._folder, record, facts.dim)
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{self._folder.parent}: the approximate index was not read as it was written "
                f"({error}); search stays exact"
            ) from error

    def _add(self, slots: NDArray[np.int64]) -> None:
        vectors, fits = prepared(self._source.vectors[slots], self._metric, self._scale)
        self._left_out += slots[~fits].tolist()
        if len(self._left_out) > _MAX_LEFT_OUT:
            raise StorageError(
                f"{self._folder.parent}: over {_MAX_LEFT_OUT:,} rows have zero vectors, or values "
                "too large for an approximate index; search stays exact"
            )
        if fits.any():
            with raising_interrupts():
                self._index.add(slots[fits].astype(np.uint64), vectors[fits], threads=1)

    def _record(self, slots: int) -> GraphRecord | None:
        """Write the graph as that of the first slots, and record it; None after a compaction."""
        facts = self._source.facts
        name = f"index-{facts.generation}-{slots}-{uuid.uuid4().hex[:8]}.usearch"
        path, part = self._folder / name, self._folder / (name + TEMPORARY)
        with writing_errors(self._folder / FILE):
            try:
                size, crc = self._write(part)
                part.replace(path)
                flush(self._folder)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        record = GraphRecord(
            metric=self._metric,
            generation=facts.generation,
            slots=slots,
            file=name,
            bytes=size,
            checksum=crc,
            rows=len(self._index),
            library=library_version() or "",
            scale=self._scale,
            left_out=np.array(self._left_out, np.int64),
        )
        with self._writing() as (connection, current):
            is_current = current.generation == facts.generation
            if is_current:
                record.write(connection)
        with contextlib.closing(open_database(self._folder / FILE)) as connection:
            remove_files(self._folder, connection, current.generation)
        return record if is_current else None

    def _write(self, path: Path) -> tuple[int, int]:
        """Write the graph to a file, flush it, and return its size and checksum."""
        try:
            self._index.save(path)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        flush(path)
        with (
            open_regular(path) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            if len(mapped) != self._index.serialized_length:
                raise OSError("the file was cut off")
            return len(mapped), checksum(mapped)
