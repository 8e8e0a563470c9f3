"""Checking the files of a store: quickly, or every byte of them; and repairing what can be."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lookalike.cancellation import check_cancelled
from lookalike.errors import ArtifactError, LookalikeError
from lookalike.files import check_no_link
from lookalike.metadata import parse_metadata
from lookalike.stores.embedded.database import FILE, StoreFacts, open_database
from lookalike.stores.embedded.vector_files import VectorFiles

_ROWS = 4_096
"""Rows that are read between checks whether the work was cancelled."""

_LISTED = 5
"""Ids that a problem names."""


@dataclass(frozen=True, slots=True)
class StoreReport:
    """The state of a store.

    Args:
        rows: number of rows; 0 if the database cannot be read.
        slots: places of the vector files that are in use, of dead rows too.
        revision: of the last commit; empty if the database cannot be read.
        problems: what is damaged, one each; empty if nothing is.
        damaged: ids of rows that are damaged, sorted.
        derived: names of damaged parts that can be made again from the rows.
        is_readable: whether the database can be opened.
        orphans: files that an interrupted write or compaction left; they do no harm, and the next
            compaction deletes them.
        deep: whether every byte was read.
    """

    rows: int
    slots: int
    revision: str
    problems: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    is_readable: bool = True
    orphans: tuple[str, ...] = ()
    deep: bool = False


def examine(folder: Path, *, deep: bool = False) -> StoreReport:
    """Check a store; nothing is written.

    Args:
        folder: of the store.
        deep: read every byte; by default, only the structure and the sizes are checked.

    Raises:
        ArtifactError: there is no store, or it has links.
        FormatVersionError: a newer lookalike wrote it.
    """
    for file in folder.glob("*"):
        check_no_link(file, what="a gallery")
    try:
        connection = open_database(folder / FILE)
    except ArtifactError as error:
        reason = str(error.__cause__ or error)
        return StoreReport(0, 0, "", (f"{FILE}: {reason}",), is_readable=False, deep=deep)
    with contextlib.closing(connection):
        return _Examination(folder, connection, deep).report()


class _Examination:
    """One check of a store, in one transaction."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, deep: bool) -> None:
        self._folder = folder
        self._connection = connection
        self._deep = deep
        self._problems: list[str] = []
        self._damaged: set[str] = set()

    def report(self) -> StoreReport:
        try:
            self._connection.execute("BEGIN")
            facts = StoreFacts.read(self._connection)
        except sqlite3.Error as error:
            problems = (f"{FILE}: {error}",)
            return StoreReport(0, 0, "", problems, is_readable=False, deep=self._deep)
        files = VectorFiles(self._folder, facts.generation, facts.dim)
        steps: tuple[Callable[[], Iterator[str]], ...] = (
            self._structure,
            lambda: self._counts(facts),
            lambda: self._vectors(files, facts),
        )
        for step in steps:
            check_cancelled()
            try:
                self._problems += step()
            except (LookalikeError, sqlite3.Error, OSError, ValueError) as error:
                self._problems.append(str(error.__cause__ or error))
        used = {FILE, f"{FILE}-wal", f"{FILE}-shm", *(path.name for path in files.paths)}
        orphans = sorted(path.name for path in self._folder.glob("*") if path.name not in used)
        return StoreReport(
            rows=facts.rows,
            slots=facts.slots,
            revision=facts.revision,
            problems=tuple(self._problems),
            damaged=tuple(sorted(self._damaged)),
            orphans=tuple(orphans),
            deep=self._deep,
        )

    def _structure(self) -> Iterator[str]:
        check = "integrity_check" if self._deep else "quick_check"
        for (line,) in self._connection.execute(f"PRAGMA {check}({_LISTED})"):
            if line != "ok":
                yield f"{FILE}: {' '.join(str(line).split())}"

    def _counts(self, facts: StoreFacts) -> Iterator[str]:
        (count, highest) = self._connection.execute(
            "SELECT count(*), max(slot) FROM rows"
        ).fetchone()
        if count != facts.rows:
            yield f"{FILE}: {count:,} rows, but {facts.rows:,} are recorded"
        if highest is not None and highest >= facts.slots:
            yield f"{FILE}: a row has the slot {highest:,}, but there are {facts.slots:,}"

    def _vectors(self, files: VectorFiles, facts: StoreFacts) -> Iterator[str]:
        vectors = files.map(facts.slots, self._connection).vectors
        if not self._deep:
            return
        cursor = self._connection.execute("SELECT slot, id, metadata FROM rows ORDER BY slot")
        while rows := cursor.fetchmany(_ROWS):
            check_cancelled()
            for slot, row_id, metadata in rows:
                try:
                    parse_metadata(metadata)
                    is_sound = bool(np.isfinite(vectors[slot]).all())
                except (LookalikeError, ValueError, IndexError):
                    is_sound = False
                if not is_sound:
                    self._damaged.add(row_id)
        if self._damaged:
            first = ", ".join(map(repr, sorted(self._damaged)[:_LISTED]))
            yield f"{len(self._damaged):,} rows are damaged: {first}"
