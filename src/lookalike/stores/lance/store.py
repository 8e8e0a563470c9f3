"""Lance tables: the default store, embedded and durable. Search is exact, from memory."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lookalike.artifacts import flush, storage_error
from lookalike.errors import StorageError
from lookalike.files import AnchoredPath
from lookalike.process_state import default_environment
from lookalike.stores.base import Rows, check_rows, replaced_error
from lookalike.stores.lance import index
from lookalike.stores.lance.files import (
    VERSIONS,
    Checksums,
    check_links,
    check_manifest,
    check_version,
    files_of,
    newest_version,
)
from lookalike.stores.lance.snapshot import LanceSnapshot, check_interrupted, first_line, reading
from lookalike.stores.lance.table import IDENTITY, SIGNATURE, schema
from lookalike.stores.snapshots import SnapshotStore
from lookalike.types import Metric

with default_environment(LANCE_LOG="error"):  # read when it is imported
    import lance

KEEP_VERSIONS = timedelta(minutes=15)
"""Age at which old versions are deleted; readers may have younger ones open."""

KEEP_DELETED = timedelta(days=7)
"""Age of a file at which rows of it that were deleted are removed from it."""

_DELETE_BATCH = 1_000
_MAX_FRAGMENTS = 8


class LanceStore(SnapshotStore):
    """A Lance table at a path. Metadata are stored as JSON text.

    Each read sees the newest version, whoever wrote it; versions are kept in memory as
    :class:`LanceSnapshot`. A table that was put in the place of this one is never read or written.
    When a write returns, its files and folders are fsynced; Lance does not do that.
    """

    def __init__(self, dataset: Any, path: Path) -> None:
        self._place = AnchoredPath(path)
        self._loading = threading.RLock()
        self._newest = LanceSnapshot(dataset, path, self._loading)
        self._identity = self._newest.identity
        self._stamp: _Stamp | None = None
        self._flushed: dict[Path, int] = {}
        self._lock = threading.RLock()

    @classmethod
    def create(cls, path: Path, dim: int) -> LanceStore:
        """Create an empty table.

        Raises:
            StorageError: it could not be written.
        """
        named = schema(dim).with_metadata({IDENTITY: uuid.uuid4().hex.encode()})
        try:
            store = cls(lance.write_dataset(named.empty_table(), path, mode="create"), path)
            store._make_durable()
        except OSError as error:
            check_interrupted(error)
            raise StorageError(f"{path}: the table cannot be written ({error})") from error
        return store

    @classmethod
    def open(cls, path: Path) -> LanceStore:
        """Open the newest version of a table.

        Raises:
            ArtifactError: the table is missing or broken, or has links or files of others.
        """
        check_links(path)
        with reading(path):
            return cls(_open_newest(path)[0], path)

    def snapshot(self) -> LanceSnapshot:  # type: ignore[override]
        """Return the newest version; it is opened if anything was committed since the last call.

        Raises:
            ReplacedError: another table was put in the place of this one.
            ArtifactError: the table is missing or broken.
        """
        with reading(self._path):
            stamp = _stamp(self._path / VERSIONS)
            with self._lock:
                if stamp != self._stamp:
                    dataset, stamp = _open_newest(self._path)
                    newest = LanceSnapshot(dataset, self._path, self._loading)
                    if newest.identity != self._identity:
                        raise replaced_error(self._path)
                    if newest.revision != self._newest.revision:
                        self._newest = newest
                    self._stamp = stamp
                return self._newest

    @property
    def _path(self) -> Path:
        return self._place.path

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._newest.dim

    @property
    def identity(self) -> str:
        """A text that no other table has; tables before format 4 get it with the next write."""
        return self._identity

    def __repr__(self) -> str:
        return f"LanceStore({str(self._path)!r}, dim={self.dim})"

    def upsert(self, rows: Rows) -> None:
        """Insert or replace rows by id, in one commit.

        Raises:
            InputError: wrong dimensions, values that are not finite, or a duplicate id.
            ReplacedError: another table was put in the place of this one.
            StorageError: the commit failed; the table is unchanged.
        """
        embeddings = check_rows(rows, self.dim)
        if not len(rows):
            return
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), self.dim)
        metadata = [json.dumps(dict(fields), ensure_ascii=False) for fields in rows.metadata]
        columns = [list(rows.ids), list(rows.uris), vectors, metadata, list(rows.hashes)]
        batch = pa.table([*columns, list(rows.signatures)], schema=schema(self.dim))
        if SIGNATURE not in self.snapshot().dataset.schema.names:
            self._commit(lambda table: table.add_columns({SIGNATURE: "''"}))

        def merge(table: Any) -> None:
            matched = table.merge_insert("id").when_matched_update_all()
            matched.when_not_matched_insert_all().execute(batch)

        self._commit(merge)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many existed."""
        before = self.count()
        unique = sorted(set(ids))
        for start in range(0, len(unique), _DELETE_BATCH):
            condition = pc.field("id").isin(unique[start : start + _DELETE_BATCH])
            if self.snapshot().dataset.count_rows(filter=condition):
                self._commit(partial(_delete, condition))
        return before - self.count()

    def optimize(self, metric: Metric, *, purge: bool = False) -> None:
        """Update the index of a large table, merge small files and delete old versions.

        Rows that were deleted or replaced are gone from disk once their file is a week old.
        """
        self._commit(lambda table: index.optimize(table, metric))
        fragments = self.snapshot().dataset.get_fragments()
        if purge or any(map(self._is_stale, fragments)):
            self._commit(
                lambda table: table.optimize.compact_files(materialize_deletions_threshold=0.0)
            )
        elif len(fragments) > _MAX_FRAGMENTS:
            self._commit(lambda table: table.optimize.compact_files())
        age = timedelta(0) if purge else KEEP_VERSIONS
        self._commit(lambda table: table.cleanup_old_versions(age, delete_unverified=purge))
        try:
            Checksums(self._path).forget_deleted()
        except OSError as error:
            raise storage_error(Checksums(self._path).file, error) from error

    def _is_stale(self, fragment: Any) -> bool:
        """Return whether a file has rows that were deleted, and is old enough to be rewritten."""
        if not fragment.num_deletions:
            return False
        oldest = time.time() - KEEP_DELETED.total_seconds()
        files = (self._path / "data" / file.path for file in fragment.data_files())
        return any(file.exists() and file.stat().st_mtime < oldest for file in files)

    def _commit(self, write: Callable[[Any], object]) -> None:
        """Write through a separate handle, since Lance moves it to the version it has written.

        Threads that read keep their handle.
        """
        table = self._writable()
        try:
            earlier = set(self._flushed) or files_of(self._path)
            write(table)
            self._make_durable(earlier)
        except OSError as error:
            check_interrupted(error)
            raise StorageError(
                f"{self._path}: the table cannot be written ({first_line(error)}); "
                "the rows committed before are unchanged"
            ) from error

    def ensure_identity(self) -> str:
        """Return the identity; a table before format 4 gets one.

        Raises:
            ReplacedError: another table was put in the place of this one.
            StorageError: it could not be written.
        """
        self._writable()
        return self._identity

    def _writable(self) -> Any:
        """Return a handle for writing to this very table, with an identity.

        Raises:
            ReplacedError: another table was put in the place of this one.
            ArtifactError: the table is missing or broken.
            StorageError: the identity could not be written.
        """
        with self._lock:
            with reading(self._path):
                table, _ = _open_newest(self._path)
                newest = LanceSnapshot(table, self._path)
                if newest.identity != self._identity:
                    raise replaced_error(self._path)
            if not newest.is_named:
                identity = uuid.uuid4().hex
                try:
                    table.update_schema_metadata({IDENTITY.decode(): identity})
                except OSError as error:
                    check_interrupted(error)
                    raise StorageError(
                        f"{self._path}: the table cannot be written ({first_line(error)})"
                    ) from error
                self._identity = identity
            return table

    def _make_durable(self, earlier: Set[Path] = frozenset()) -> None:
        """Flush changed files to the disk, then the folders that name them.

        Checksums are recorded of files that are new since ``earlier``.
        """
        new = []
        for folder, _, names in os.walk(self._path):
            changed = False
            for name in names:
                path = Path(folder, name)
                written = path.stat().st_mtime_ns
                if self._flushed.get(path) != written:
                    flush(path)
                    if path not in earlier:
                        new.append(path)
                    self._flushed[path] = written
                    changed = True
            if changed:
                flush(folder)
        Checksums(self._path).add(new)
        flush(self._path.parent)


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What changes with a commit (the names of the versions), or when the folder is another one."""

    names: frozenset[str]
    facts: tuple[int, ...]


def _stamp(versions: Path) -> _Stamp:
    names = frozenset(os.listdir(versions))  # noqa: PTH208 - names only
    facts = versions.stat()
    return _Stamp(names, (facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns))


def open_version(path: Path, number: int | None = None) -> Any:
    """Open a version of a table, by default the one that Lance takes for the newest.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    return lance.dataset(path, version=number)


def _open_newest(path: Path) -> tuple[Any, _Stamp]:
    """Open the newest version of a table and check it; return it with the table's stamp.

    Raises:
        OSError, ValueError: it cannot be read.
        ArtifactError: it refers to files of others.
    """
    while True:
        stamp = _stamp(path / VERSIONS)
        try:
            number, name = newest_version(stamp.names)
            if name:
                check_manifest(path, name)
            dataset = open_version(path)
            check_version(dataset, path, number)
        except (OSError, ValueError):
            if _stamp(path / VERSIONS) == stamp:
                raise  # otherwise another table was put in its place meanwhile
        else:
            return dataset, stamp


def _delete(condition: Any, table: Any) -> None:
    table.delete(condition)
