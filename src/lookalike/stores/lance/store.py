"""Lance tables: the default store, embedded and durable. Search is exact, from memory."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lookalike.artifacts import flush
from lookalike.errors import ArtifactError, MissingRowError, StorageError
from lookalike.filters import Columns, Filter
from lookalike.process_state import default_environment
from lookalike.stores.base import Record, Rows, check_queries, check_rows, matching_rows
from lookalike.stores.exact import ExactIndex
from lookalike.stores.lance import index
from lookalike.stores.lance.table import (
    ROW,
    SIGNATURE,
    LoadedTable,
    embedding_matrix,
    schema,
    to_hits,
    with_signatures,
)
from lookalike.types import Embeddings, Hit, Metric

with default_environment(LANCE_LOG="error"):  # read when it is imported
    import lance

KEEP_VERSIONS = timedelta(minutes=15)
"""Age at which old versions are deleted; readers may have younger ones open."""

_VERSIONS = "_versions"
_DELETE_BATCH = 1_000
_MAX_FRAGMENTS = 8
_MAX_DIRECT = 5_000
"""Rows that match a filter up to which they are read and searched exactly."""


class LanceStore:
    """A Lance table at a path. Metadata are stored as JSON text.

    Rows are read into memory on the first search, and again when this or another process has
    written. When a write returns, its files and folders are fsynced; Lance does not do that.
    """

    def __init__(self, dataset: Any, path: Path) -> None:
        self._dataset = dataset
        self._path = path
        self._loaded: LoadedTable | None = None
        self._versions: frozenset[str] = frozenset()
        self._flushed: dict[Path, int] = {}
        self._lock = threading.RLock()

    @classmethod
    def create(cls, path: Path, dim: int) -> LanceStore:
        """Create an empty table.

        Raises:
            StorageError: it could not be written.
        """
        try:
            store = cls(lance.write_dataset(schema(dim).empty_table(), path, mode="create"), path)
            store._make_durable()
        except OSError as error:
            raise StorageError(f"{path}: the table cannot be written ({error})") from error
        return store

    @classmethod
    def open(cls, path: Path) -> LanceStore:
        """Open the newest version of a table.

        Raises:
            ArtifactError: the table is missing or broken.
        """
        try:
            return cls(lance.dataset(path), path)
        except (ValueError, OSError) as error:
            raise ArtifactError(
                f"{path}: the table of the gallery is missing or broken ({_first_line(error)})"
            ) from error

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self._dataset.schema.field("embedding").type.list_size)

    def count(self) -> int:
        """Return the number of rows."""
        self._refresh()
        return int(self._dataset.count_rows())

    def upsert(self, rows: Rows) -> None:
        """Insert or replace rows by id, in one commit.

        Raises:
            InputError: wrong dimensions, values that are not finite, or a duplicate id.
            StorageError: the commit failed; the table is unchanged.
        """
        embeddings = check_rows(rows, self.dim)
        if not len(rows):
            return
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), self.dim)
        metadata = [json.dumps(dict(fields), ensure_ascii=False) for fields in rows.metadata]
        columns = [list(rows.ids), list(rows.uris), vectors, metadata, list(rows.hashes)]
        batch = pa.table([*columns, list(rows.signatures)], schema=schema(self.dim))
        self._refresh()
        if SIGNATURE not in self._dataset.schema.names:
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
            self._commit(partial(_delete, condition))
        return before - self.count()

    def optimize(self, metric: Metric) -> None:
        """Update the index of a large table, merge small files and delete old versions."""
        self._commit(lambda table: index.optimize(table, metric))
        self._refresh()
        if len(self._dataset.get_fragments()) > _MAX_FRAGMENTS:
            self._commit(lambda table: table.optimize.compact_files())
        self._commit(lambda table: table.cleanup_old_versions(KEEP_VERSIONS))

    def search(
        self,
        queries: Embeddings,
        k: int,
        metric: Metric,
        where: Filter | None = None,
        *,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Return the ``k`` nearest rows to each query."""
        queries = check_queries(queries, k, self.dim)
        self._refresh()
        if not exact and index.is_indexed(self._dataset, metric):
            return [self._search_index(query, k, metric, where) for query in queries]
        loaded = self._load()
        with self._lock:  # only one thread builds the index
            exact_index = loaded.index
            subset = None if where is None else matching_rows(where, loaded.columns)
        return to_hits(exact_index.search(queries, k, metric, subset), loaded.table)

    def _search_index(
        self, query: NDArray[np.float32], k: int, metric: Metric, where: Filter | None
    ) -> list[Hit]:
        """Return the ``k`` nearest rows to a query by the index.

        With a filter, the number of candidates grows until ``k`` of them match. If few rows match,
        they are searched exactly, which is faster.
        """
        loaded = self._load()
        rows = len(loaded.table)
        subset = None if where is None else matching_rows(where, loaded.columns)
        if subset is not None and len(subset) <= max(_MAX_DIRECT, k):
            table = loaded.table.take(subset)
            condition = pc.field("id").isin(table["id"].combine_chunks())
            table = self._table(["id", "uri", "metadata", "embedding"], condition)
        else:
            count = k if subset is None else 2 * k * rows // len(subset)
            table = self._nearest(query, count, metric, subset)
            while len(table) < k and count < rows:
                count = min(4 * count, rows)
                table = self._nearest(query, count, metric, subset)
        nearest = ExactIndex(embedding_matrix(table, self.dim)).search(query[None], k, metric)
        return to_hits(nearest, table)[0]

    def _nearest(
        self,
        query: NDArray[np.float32],
        k: int,
        metric: Metric,
        subset: NDArray[np.int64] | None,
    ) -> Any:
        """Return the approximate nearest rows that are in a subset, sorted by id."""
        names = ["id", "uri", "metadata", "embedding"]
        table = index.nearest(self._dataset, query, k, metric, names)
        if subset is not None:
            table = table.filter(pa.array(self._load().contains(table[ROW].to_numpy(), subset)))
        return table.take(pc.sort_indices(table["id"]))

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted."""
        ids: list[str] = self._load().ids.tolist()
        return ids

    def columns(self) -> Columns:
        """Return the metadata of all rows by column."""
        return self._load().columns

    def records(self, prefix: str = "") -> Iterator[Record]:
        """Iterate over rows sorted by id."""
        names = ["id", "uri", "metadata", "content_hash", SIGNATURE]
        table = self._table(names)
        if prefix:
            table = table.filter(pc.starts_with(table["id"], prefix))
        columns = (table[name].to_pylist() for name in names)
        for row_id, uri, metadata, *rest in zip(*columns, strict=True):
            yield Record(row_id, uri, json.loads(metadata), *rest)

    def embeddings(self, ids: Sequence[str]) -> Embeddings:
        """Return the embeddings of rows, from memory if they are loaded."""
        if self._loaded is not None and "index" in vars(self._loaded):
            places = self._loaded.places(ids)
            if places is not None:
                return self._loaded.index.at(places)
        return self.get(ids).embeddings

    def get(self, ids: Sequence[str]) -> Rows:
        """Return rows by id."""
        wanted = pa.array(list(ids), pa.string())
        table = self._table(schema(self.dim).names, pc.field("id").isin(wanted))
        positions = pc.index_in(wanted, table["id"])
        if positions.null_count:
            missing = ids[positions.to_pylist().index(None)]
            raise MissingRowError(f"there is no row with the id {missing!r}")
        return self._rows(table.take(positions))

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows, at most ``count`` at a time."""
        self._refresh()
        names = [name for name in schema(self.dim).names if name in self._dataset.schema.names]
        for batch in self._dataset.to_batches(columns=names, batch_size=count):
            if len(batch):
                yield self._rows(with_signatures(pa.Table.from_batches([batch])))

    def _rows(self, table: Any) -> Rows:
        return Rows(
            ids=table["id"].to_pylist(),
            uris=table["uri"].to_pylist(),
            embeddings=embedding_matrix(table, self.dim),
            metadata=[json.loads(text) for text in table["metadata"].to_pylist()],
            hashes=table["content_hash"].to_pylist(),
            signatures=table[SIGNATURE].to_pylist(),
        )

    def _load(self) -> LoadedTable:
        """Return the newest version in memory; only one thread reads it."""
        with self._lock:
            self._refresh()
            if self._loaded is None or self._loaded.version != self._dataset.version:
                table = self._table(["id", "uri", "metadata"], row_ids=True)
                self._loaded = LoadedTable(self._dataset.version, table, self._dataset)
            return self._loaded

    def _table(self, names: Sequence[str], where: Any = None, *, row_ids: bool = False) -> Any:
        """Return columns of the newest version, sorted by id; ``row_ids`` adds Lance's row ids."""
        self._refresh()
        columns = [name for name in names if name in self._dataset.schema.names]
        table = self._dataset.to_table(columns=columns, filter=where, with_row_id=row_ids)
        table = with_signatures(table) if SIGNATURE in names else table
        return table.take(pc.sort_indices(table["id"]))

    def _refresh(self) -> None:
        """Switch to the newest version, if anything was committed since the last call.

        Raises:
            ArtifactError: the table is missing or broken.
        """
        try:
            versions = frozenset(os.listdir(self._path / _VERSIONS))  # noqa: PTH208 - names only
            with self._lock:
                if versions != self._versions:
                    self._dataset = lance.dataset(self._path)
                    self._versions = versions
        except (ValueError, OSError) as error:
            raise ArtifactError(
                f"{self._path}: the table of the gallery is missing or broken "
                f"({_first_line(error)})"
            ) from error

    def _commit(self, write: Callable[[Any], object]) -> None:
        """Write through a separate handle, since Lance moves it to the version it has written.

        Threads that read keep their handle.
        """
        try:
            write(lance.dataset(self._path))
            self._make_durable()
        except OSError as error:
            raise StorageError(
                f"{self._dataset.uri}: the table cannot be written ({_first_line(error)}); "
                "the rows committed before are unchanged"
            ) from error

    def _make_durable(self) -> None:
        """Flush changed files to the disk, then the folders that name them."""
        for folder, _, names in os.walk(self._path):
            changed = False
            for name in names:
                path = Path(folder, name)
                written = path.stat().st_mtime_ns
                if self._flushed.get(path) != written:
                    flush(path)
                    self._flushed[path] = written
                    changed = True
            if changed:
                flush(folder)
        flush(self._path.parent)


def _first_line(error: BaseException) -> str:
    """Return Lance's message of an error, without the location in its source."""
    return (str(error).splitlines() or [type(error).__name__])[0].partition(", /")[0]


def _delete(condition: Any, table: Any) -> None:
    table.delete(condition)
