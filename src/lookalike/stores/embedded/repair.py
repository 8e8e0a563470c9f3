"""Repairing a damaged store: the rows that are as they were written are written anew."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lookalike.artifacts import flush, storage_error
from lookalike.errors import ArtifactError, MissingDependencyError
from lookalike.progress import current_progress
from lookalike.stores.base import Rows
from lookalike.stores.embedded.check import ReadRow, available_vectors, read_rows
from lookalike.stores.embedded.database import FILE, StoreFacts, open_database
from lookalike.stores.embedded.failures import unreadable
from lookalike.stores.embedded.graph_records import GraphRecord
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.stores.embedded.vector_files import VectorFiles
from lookalike.types import Embeddings, Metric, Progress

_BATCH = 4_096

_BROKEN = ".broken"
"""End of the name of the folder that a damaged store is moved to."""


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did.

    Args:
        rows: number of rows that were written anew.
        removed: ids of rows that were left out, since they are damaged.
        lost: further rows that are recorded, but can no longer be read.
        backup: folder with the damaged files.
        graphs: metrics of graph indexes that could not be built again.
    """

    rows: int
    removed: tuple[str, ...]
    lost: int
    backup: Path
    graphs: tuple[Metric, ...]


def repair(folder: Path) -> RepairReport:
    """Write the rows of a store that are undamaged anew, with all that is derived from them.

    The store keeps its identity. Its damaged files are moved to a folder beside it. Nobody may
    write meanwhile; those who read go on with the damaged files until they read again.

    Raises:
        ArtifactError: the database cannot be opened, or none of its rows can be read; nothing was
            changed.
        StorageError: the files cannot be written; nothing was changed.
    """
    partial = folder.with_name(f".{folder.name}.{os.urandom(8).hex()}")
    try:
        report = _write_anew(folder, partial)
        folder.replace(report.backup)
        partial.replace(folder)
        flush(folder.parent)
    except OSError as error:
        raise storage_error(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _write_anew(folder: Path, partial: Path) -> RepairReport:
    with contextlib.closing(open_database(folder / FILE)) as connection:
        try:
            connection.execute("BEGIN")
            facts = StoreFacts.read(connection)
            graphs = list(GraphRecord.read_all(connection))
        except sqlite3.Error as error:
            raise unreadable(folder / FILE, error) from error
        store = EmbeddedStore.create(partial, facts.dim, origin=facts)
        vectors = available_vectors(VectorFiles(folder, facts.generation, facts.dim), facts)
        on_progress = current_progress()
        removed: list[str] = []
        seen: set[str] = set()
        for batch in _batches(read_rows(connection, vectors, facts.slots)):
            sound = [row for row in batch if row.is_sound and row.id not in seen]
            seen.update(row.id for row in sound)
            on_progress(Progress("repair", len(seen), facts.rows, "rows"))
            removed += [row.id for row in batch if not row.is_sound]
            store.upsert(_rows(sound, vectors))
    if facts.rows and not seen and not removed:
        raise ArtifactError(
            f"{folder}: none of its {facts.rows:,} rows can be read; nothing was changed. Restore "
            "a copy of the gallery, or index the images into a new one: "
            "lookalike index NEW.gallery FOLDER"
        )
    return RepairReport(
        rows=len(seen),
        removed=tuple(sorted(set(removed) - seen)),
        lost=max(0, facts.rows - len(seen) - len(removed)),
        backup=_backup(folder),
        graphs=tuple(metric for metric in graphs if not _build_graph(store, metric)),
    )


def _batches(rows: Iterator[ReadRow]) -> Iterator[list[ReadRow]]:
    batch: list[ReadRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _rows(rows: list[ReadRow], vectors: Embeddings) -> Rows:
    uris, hashes, signatures, metadata = ([row.fields[i] for row in rows] for i in range(4))
    return Rows(
        ids=[row.id for row in rows],
        uris=uris,
        embeddings=np.array(vectors[[row.slot for row in rows]]),
        metadata=metadata,
        hashes=hashes,
        signatures=signatures,
    )


def _build_graph(store: EmbeddedStore, metric: Metric) -> bool:
    try:
        return store.build_graph(metric)
    except MissingDependencyError:
        return False


def _backup(folder: Path) -> Path:
    """Return a name for the folder of the damaged files that is not taken."""
    backup, number = folder.with_name(f"{folder.name}{_BROKEN}"), 1
    while backup.exists():
        number += 1
        backup = folder.with_name(f"{folder.name}{_BROKEN}-{number}")
    return backup
