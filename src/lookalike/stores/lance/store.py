"""Lance tables: the durable, embedded default. Searched exactly, from a copy in memory."""

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
from lookalike.stores.base import Record, Rows, check_queries, check_rows, matching
from lookalike.stores.exact import ExactIndex
from lookalike.stores.lance import index
from lookalike.stores.lance.table import ROW, SIGNATURE, Loaded, hits_of, matrix, schema, signed
from lookalike.types import Embeddings, Hit, Metric

with default_environment(LANCE_LOG="error"):  # read when it is imported
    import lance

KEEP_VERSIONS = timedelta(minutes=15)
"""Old versions are kept this long, since cleaning at once breaks readers that have them open."""

_VERSIONS = "_versions"
_DELETE_AT_ONCE = 1_000
_COMPACT_ABOVE = 8
_FEW = 5_000
"""So many rows that match a filter are read and compared with a query directly."""


class LanceStore:
    """A Lance table at a path. Metadata are kept as JSON text.

    The rows are read into memory on the first search, and again when this or another process has
    written. A write is on disk, files and folders fsynced, when its method returns; Lance itself
    leaves that to the system.
    """

    def __init__(self, dataset: Any, path: Path) -> None:
        self._dataset = dataset
        self._path = path
        self._loaded: Loaded | None = None
        self._seen: frozenset[str] = frozenset()
        self._durable: dict[Path, int] = {}
        self._reading = threading.RLock()

    @classmethod
    def create(cls, path: Path, dim: int) -> LanceStore:
        """Make an empty table.

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
            ArtifactError: there is no table, or it is broken.
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
            InputError: embeddings of another length, not finite, or an id twice.
            StorageError: the commit failed; the table is as it was before.
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
        """Delete rows by id and return how many there were."""
        before = self.count()  # of the newest version
        unique = sorted(set(ids))
        for start in range(0, len(unique), _DELETE_AT_ONCE):
            chosen = pc.field("id").isin(unique[start : start + _DELETE_AT_ONCE])
            self._commit(partial(_delete, chosen))
        return before - self.count()

    def optimize(self, metric: Metric) -> None:
        """Merge small files, drop versions long past, and see to the index of a large table."""
        self._commit(lambda table: index.optimize(table, metric))
        self._refresh()
        if len(self._dataset.get_fragments()) > _COMPACT_ABOVE:
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
        if not exact and index.serves(self._dataset, metric):
            return [self._about(query, k, metric, where) for query in queries]
        loaded = self._load()
        with self._reading:  # of several threads, one lays out the rows
            exact_index = loaded.index
            among = None if where is None else matching(where, loaded.columns)
        return hits_of(exact_index.search(queries, k, metric, among), loaded.table)

    def _about(
        self, query: NDArray[np.float32], k: int, metric: Metric, where: Filter | None
    ) -> list[Hit]:
        """Return the ``k`` nearest rows to a query through the index.

        With a filter, more and more rows are asked for until ``k`` of them match; where few match,
        it is quicker to compare these directly.
        """
        loaded = self._load()
        rows = asked = len(loaded.table)
        among = None if where is None else matching(where, loaded.columns)
        if among is not None and len(among) <= max(_FEW, k):
            table = loaded.table.take(among)
            wanted = pc.field("id").isin(table["id"].combine_chunks())
            table = self._table(["id", "uri", "metadata", "embedding"], wanted)
        else:
            asked = k if among is None else 2 * k * rows // len(among)
            table = self._nearest(query, asked, metric, among)
            while len(table) < k and asked < rows:
                asked = min(4 * asked, rows)
                table = self._nearest(query, asked, metric, among)
        found = ExactIndex(matrix(table, self.dim)).search(query[None], k, metric)
        return hits_of(found, table)[0]

    def _nearest(
        self,
        query: NDArray[np.float32],
        k: int,
        metric: Metric,
        among: NDArray[np.int64] | None,
    ) -> Any:
        """Return about the nearest rows in order of id, of them those that match a filter."""
        names = ["id", "uri", "metadata", "embedding"]
        table = index.nearest(self._dataset, query, k, metric, names)
        if among is not None:
            table = table.filter(pa.array(self._load().holds(table[ROW].to_numpy(), among)))
        return table.take(pc.sort_indices(table["id"]))

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, in order."""
        found: list[str] = self._load().ids.tolist()
        return found

    def columns(self) -> Columns:
        """Return the metadata of all rows by column."""
        return self._load().columns

    def records(self, prefix: str = "") -> Iterator[Record]:
        """Iterate over rows in order of id."""
        names = ["id", "uri", "metadata", "content_hash", SIGNATURE]
        table = self._table(names)
        if prefix:
            table = table.filter(pc.starts_with(table["id"], prefix))
        columns = (table[name].to_pylist() for name in names)
        for row_id, uri, metadata, *rest in zip(*columns, strict=True):
            yield Record(row_id, uri, json.loads(metadata), *rest)

    def embeddings(self, ids: Sequence[str]) -> Embeddings:
        """Return the embeddings of rows, from memory if they are there."""
        if self._loaded is not None and "index" in vars(self._loaded):
            places = self._loaded.places(ids)
            if places is not None:
                return self._loaded.index.at(places)
        return self.get(ids).embeddings

    def get(self, ids: Sequence[str]) -> Rows:
        """Return the rows of these ids."""
        wanted = pa.array(list(ids), pa.string())
        table = self._table(schema(self.dim).names, pc.field("id").isin(wanted))
        positions = pc.index_in(wanted, table["id"])
        if positions.null_count:
            missing = ids[positions.to_pylist().index(None)]
            raise MissingRowError(f"there is no row with the id {missing!r}")
        return self._rows(table.take(positions))

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows, at most ``count`` at a time, without holding more."""
        self._refresh()
        names = [name for name in schema(self.dim).names if name in self._dataset.schema.names]
        for batch in self._dataset.to_batches(columns=names, batch_size=count):
            if len(batch):
                yield self._rows(signed(pa.Table.from_batches([batch])))

    def _rows(self, table: Any) -> Rows:
        return Rows(
            ids=table["id"].to_pylist(),
            uris=table["uri"].to_pylist(),
            embeddings=matrix(table, self.dim),
            metadata=[json.loads(text) for text in table["metadata"].to_pylist()],
            hashes=table["content_hash"].to_pylist(),
            signatures=table[SIGNATURE].to_pylist(),
        )

    def _load(self) -> Loaded:
        """Return the newest version in memory; of several threads, one reads it."""
        with self._reading:
            self._refresh()
            if self._loaded is None or self._loaded.version != self._dataset.version:
                table = self._table(["id", "uri", "metadata"], rows=True)
                self._loaded = Loaded(self._dataset.version, table, self._dataset)
            return self._loaded

    def _table(self, names: Sequence[str], where: Any = None, *, rows: bool = False) -> Any:
        """Return columns of the newest version in order of id, of some rows or all.

        ``rows`` adds Lance's own numbers of the rows.
        """
        self._refresh()
        there = [name for name in names if name in self._dataset.schema.names]
        table = self._dataset.to_table(columns=there, filter=where, with_row_id=rows)
        table = signed(table) if SIGNATURE in names else table
        return table.take(pc.sort_indices(table["id"]))

    def _refresh(self) -> None:
        """Take up the newest version, if anything was committed since the last look.

        Raises:
            ArtifactError: the table is gone or broken.
        """
        try:
            versions = frozenset(os.listdir(self._path / _VERSIONS))  # noqa: PTH208 - names only
            with self._reading:
                if versions != self._seen:
                    self._dataset = lance.dataset(self._path)
                    self._seen = versions
        except (ValueError, OSError) as error:
            raise ArtifactError(
                f"{self._path}: the table of the gallery is missing or broken "
                f"({_first_line(error)})"
            ) from error

    def _commit(self, write: Callable[[Any], object]) -> None:
        """Write through a table opened for it, since Lance moves it on to the version it wrote.

        Threads that read have another one, which stays as it is.
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
        """Have the system write every changed file to the disk, then the folders that name them."""
        for folder, _, names in os.walk(self._path):
            changed = False
            for name in names:
                path = Path(folder, name)
                written = path.stat().st_mtime_ns
                if self._durable.get(path) != written:
                    flush(path)
                    self._durable[path] = written
                    changed = True
            if changed:
                flush(folder)
        flush(self._path.parent)


def _first_line(error: BaseException) -> str:
    """Return what Lance says of an error, without the place in its own source."""
    return (str(error).splitlines() or [type(error).__name__])[0].partition(", /")[0]


def _delete(chosen: Any, table: Any) -> None:
    table.delete(chosen)
