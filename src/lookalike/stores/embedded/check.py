"""Checking the files of a store: quickly, or every byte of them."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import ArtifactError, FormatVersionError, LookalikeError
from lookalike.formatting import format_count
from lookalike.metadata import parse_metadata
from lookalike.progress import current_progress
from lookalike.stores import full_text
from lookalike.stores.embedded import columns
from lookalike.stores.embedded.database import FILE, StoreFacts, check_file, open_database
from lookalike.stores.embedded.dead_slots import dead_mask
from lookalike.stores.embedded.graph_records import LOCK, GraphRecord, find_damage
from lookalike.stores.embedded.packing import (
    URI,
    Names,
    metadata_names,
    row_checksum,
    unpack_hash,
    unpack_metadata,
)
from lookalike.stores.embedded.vector_files import VectorFiles
from lookalike.stores.quantized import BLOCK, QuantizedBlocks
from lookalike.types import Embeddings, Progress

_ROWS = 4_096
"""Rows that are read at a time."""

_LISTED = 5
"""Ids that a problem names."""

_ROUNDING = 1e-9
"""Relative difference of bounds that were computed on another processor."""

_READ_ROWS = (
    f"SELECT slot, id, {URI}, content_hash, signature, metadata, checksum FROM rows "
    "WHERE slot >= ? AND slot < ? ORDER BY slot"
)


@dataclass(frozen=True, slots=True)
class StoreReport:
    """The state of a store.

    Args:
        rows: number of rows; 0 if the database cannot be read.
        revision: of the last commit; empty if the database cannot be read.
        problems: what is damaged, one each; empty if nothing is.
        damaged: ids of rows that are damaged, sorted.
        is_readable: whether the database can be opened.
        orphans: files that an interrupted write or compaction left; they do no harm, and the next
            write deletes them.
    """

    rows: int
    revision: str
    problems: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    is_readable: bool = True
    orphans: tuple[str, ...] = ()


def examine(folder: Path, *, deep: bool = False) -> StoreReport:
    """Check a store; nothing is written.

    Args:
        folder: of the store.
        deep: read every byte and compare all checksums; by default, only the structure, the sizes
            and samples are checked.

    Raises:
        ArtifactError: a file is a link or something else.
        FormatVersionError: a newer lookalike wrote it.
    """
    for file in folder.glob("*"):
        check_file(file)
    try:
        connection = open_database(folder / FILE)
    except FormatVersionError:
        raise
    except ArtifactError as error:
        return StoreReport(0, "", (f"{FILE}: {_reason(error)}",), is_readable=False)
    with contextlib.closing(connection):
        try:
            connection.execute("BEGIN")
            facts = StoreFacts.read(connection)
        except sqlite3.Error as error:
            return StoreReport(0, "", (f"{FILE}: {error}",), is_readable=False)
        return _Examination(folder, connection, facts, deep).report()


@dataclass(frozen=True, slots=True)
class ReadRow:
    """A row as it was read, and whether it is as it was written.

    Args:
        slot: its place in the vector files.
        id: its id, if it can be read as a text.
        fields: URI, content hash, signature and metadata; empty if it is damaged.
    """

    slot: int
    id: str
    fields: tuple[Any, ...]

    @property
    def is_sound(self) -> bool:
        """Whether its checksum is right."""
        return bool(self.fields)


def read_rows(connection: sqlite3.Connection, vectors: Embeddings, slots: int) -> Iterator[ReadRow]:
    """Yield all rows that can be read, by slot.

    Args:
        connection: to the database.
        vectors: ``(n, dim)`` embeddings of the first slots, as many as there are.
        slots: number of slots.

    Raises:
        CancelledError: the work was cancelled.
    """
    try:
        names = metadata_names(connection)
    except sqlite3.DatabaseError:
        names = {}
    for start in range(0, slots, _ROWS):
        for row in _read(connection, start, min(start + _ROWS, slots)):
            yield _checked(row, vectors, names)


def _read(connection: sqlite3.Connection, start: int, end: int) -> Sequence[Any]:
    """Return the rows of slots; those of a page that cannot be read are left out."""
    check_cancelled()
    try:
        return connection.execute(_READ_ROWS, (start, end)).fetchall()
    except sqlite3.DatabaseError:
        if end - start == 1:
            return []
        middle = (start + end) // 2
        return [*_read(connection, start, middle), *_read(connection, middle, end)]


def _checked(row: Sequence[Any], vectors: Embeddings, names: Names) -> ReadRow:
    slot, row_id, uri, digest, signature, packed, checksum = row
    name = row_id if isinstance(row_id, str) else ""
    texts = (row_id, uri, signature, packed)
    if not (all(isinstance(each, str) for each in texts) and isinstance(digest, bytes | str)):
        return ReadRow(slot, name, ())
    if slot >= len(vectors):
        return ReadRow(slot, name, ())
    embedding = vectors[slot]
    content = unpack_hash(digest)
    try:
        metadata = unpack_metadata(packed, names)
        expected = row_checksum((row_id, uri, content, signature, metadata), embedding.tobytes())
        if expected != checksum or not np.isfinite(embedding).all():
            return ReadRow(slot, name, ())
        return ReadRow(slot, name, (uri, content, signature, parse_metadata(metadata)))
    except (LookalikeError, ValueError, sqlite3.DatabaseError):
        return ReadRow(slot, name, ())


class _Examination:
    """One check of a store, in one transaction."""

    def __init__(
        self, folder: Path, connection: sqlite3.Connection, facts: StoreFacts, deep: bool
    ) -> None:
        self._folder = folder
        self._connection = connection
        self._facts = facts
        self._deep = deep
        self._files = VectorFiles(folder, facts.generation, facts.dim)
        self._damaged: list[str] = []

    def report(self) -> StoreReport:
        steps: list[Callable[[], Iterator[str]]] = [
            *(self._structure, self._counts, self._vectors, self._derived, self._graphs)
        ]
        problems: list[str] = []
        for step in steps:
            check_cancelled()
            try:
                problems += step()
            except Exception as error:  # noqa: BLE001 - whatever the damage leads to
                check_cancelled()  # which may be why SQLite was interrupted
                problems.append(_reason(error))
        return StoreReport(
            rows=self._facts.rows,
            revision=self._facts.revision,
            problems=tuple(dict.fromkeys(problems)),
            damaged=tuple(sorted(self._damaged)),
            orphans=tuple(self._orphans()),
        )

    def _orphans(self) -> list[str]:
        used = {f"{FILE}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")}
        used |= {path.name for path in self._files.paths} | {LOCK}
        with contextlib.suppress(sqlite3.Error):
            used |= {record.file for record in GraphRecord.read_all(self._connection).values()}
        return sorted(path.name for path in self._folder.glob("*") if path.name not in used)

    def _structure(self) -> Iterator[str]:
        check = "integrity_check" if self._deep else "quick_check"
        for (line,) in self._connection.execute(f"PRAGMA {check}({_LISTED})"):
            if line != "ok":
                yield f"{FILE}: {' '.join(str(line).split())}"

    def _counts(self) -> Iterator[str]:
        facts = self._facts
        query = "SELECT count(*), max(slot) FROM rows"
        count, highest = self._connection.execute(query).fetchone()
        if count != facts.rows:
            yield f"{FILE}: {count:,} rows, but {facts.rows:,} are recorded"
        if highest is not None and highest >= facts.slots:
            yield f"{FILE}: a row has the slot {highest:,}, but there are {facts.slots:,}"
        dead = dead_mask(self._connection, facts.slots)
        if np.count_nonzero(dead) != facts.slots - facts.rows:
            yield f"{FILE}: the slots of removed rows are damaged"
        elif self._deep:
            for (slot,) in self._connection.execute("SELECT slot FROM rows"):
                if not 0 <= slot < len(dead) or dead[slot]:
                    yield f"{FILE}: the slots of removed rows are damaged"
                    return

    def _vectors(self) -> Iterator[str]:
        try:
            mapped = self._files.map(self._facts.slots, self._connection)
        except ArtifactError as error:
            yield _reason(error)
            if self._deep:
                yield from self._rows(available_vectors(self._files, self._facts))
            return
        if self._deep:
            yield from self._rows(mapped.vectors)
            yield from self._blocks(mapped.vectors, mapped.codes)

    def _rows(self, vectors: Embeddings) -> Iterator[str]:
        damaged = count = 0
        on_progress = current_progress()
        rows = read_rows(self._connection, vectors, self._facts.slots)
        for count, row in enumerate(rows, 1):
            if count % _ROWS == 0 or count == self._facts.rows:
                on_progress(Progress("check", count, self._facts.rows, "rows"))
            if not row.is_sound:
                damaged += 1
                self._damaged.append(row.id)
        if damaged:
            named = ", ".join(map(repr, sorted(self._damaged)[:_LISTED]))
            more = f" and {damaged - _LISTED:,} more" if damaged > _LISTED else ""
            plural = f"checksums of {damaged:,} rows are wrong"
            what = "the checksum of 1 row is wrong" if damaged == 1 else plural
            yield f"{what}: {named}{more}"
        if count < self._facts.rows:
            yield f"{format_count(self._facts.rows - count, 'row')} cannot be read"

    def _blocks(self, vectors: Embeddings, codes: QuantizedBlocks) -> Iterator[str]:
        """Compare whole blocks of vectors and codes with what is recorded about them."""
        query = (
            "SELECT block, vectors_checksum, codes_checksum FROM blocks WHERE generation = ? "
            "AND block < ? ORDER BY block"
        )
        recorded = self._connection.execute(query, (self._facts.generation, len(codes))).fetchall()
        vectors_file, codes_file, _ = (path.name for path in self._files.paths)
        again = QuantizedBlocks.empty(1, self._facts.dim, BLOCK)
        for block, vectors_checksum, codes_checksum in recorded:
            check_cancelled()
            rows = np.array(vectors[block * BLOCK : (block + 1) * BLOCK])
            if zlib.crc32(rows.data.cast("B")) != vectors_checksum:
                yield f"{vectors_file}: the checksum of block {block:,} is wrong"
                continue
            parts = np.array(codes.codes[block]), np.array(codes.scales[block])
            if zlib.crc32(parts[1].data.cast("B"), zlib.crc32(parts[0].data.cast("B"))) != (
                codes_checksum
            ):
                yield f"{codes_file}: the checksum of block {block:,} is wrong"
                continue
            again.fill(0, rows)
            if not np.allclose(again.bounds[0], codes.bounds[block], rtol=_ROUNDING, atol=0):
                yield f"{FILE}: the bounds of block {block:,} are wrong"

    def _derived(self) -> Iterator[str]:
        if self._deep:  # their checksums are compared whenever they are read
            yield from columns.verify(self._connection)
        yield from full_text.verify(self._connection, deep=self._deep)

    def _graphs(self) -> Iterator[str]:
        records = GraphRecord.read_all(self._connection)
        (count,) = self._connection.execute("SELECT count(*) FROM graphs").fetchone()
        if count != len(records):
            yield f"{FILE}: what is recorded about the approximate index is damaged"
        for record in records.values():
            if record.generation != self._facts.generation:
                continue  # of files that are gone; it is built again
            damage = find_damage(self._folder, record, deep=self._deep)
            if damage is not None:
                yield f"{record.file}: {damage}"


def _reason(error: Exception) -> str:
    """Return what went wrong, without the path of the gallery and the next command."""
    cause = error.__cause__ or error
    if isinstance(cause, OSError) and cause.strerror:
        name = Path(str(cause.filename)).name if cause.filename else ""
        return f"{name}: {cause.strerror}" if name not in ("", FILE) else cause.strerror
    return str(cause)


def available_vectors(files: VectorFiles, facts: StoreFacts) -> Embeddings:
    """Map the vectors of the first slots, or as many as the file has."""
    path = files.paths[0]
    try:
        count = min(facts.slots, path.stat().st_size // (facts.dim * 4))
        if count:
            mapped: NDArray[np.float32] = np.memmap(path, "<f4", "r", shape=(count, facts.dim))
            return mapped
    except OSError:  # it is missing
        pass
    return np.empty((0, facts.dim), np.float32)
