"""Lance tables: the durable, embedded default. Searched exactly, from a copy in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCE_LOG", "error")

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import ArtifactError, InputError, StorageError
from lookalike.stores.base import Record, Rows, check_queries, check_rows
from lookalike.stores.exact import ExactIndex
from lookalike.types import Embeddings, Hit, Metric

KEEP_VERSIONS = timedelta(minutes=15)
"""Old versions are kept this long, since cleaning at once breaks readers that have them open."""

_DELETE_AT_ONCE = 1_000
_COMPACT_ABOVE = 8
_PRIMARY_KEY = {b"lance-schema:unenforced-primary-key": b"true"}
"""Without it, two concurrent merges can both insert an id."""


def _schema(dim: int) -> Any:
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata=_PRIMARY_KEY),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("metadata", pa.string(), nullable=False),
            pa.field("content_hash", pa.string(), nullable=False),
        ]
    )


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The table in memory, in order of id."""

    table: Any
    index: ExactIndex


class LanceStore:
    """A Lance table at a path. Metadata are kept as JSON text.

    The rows are read into memory on the first search, and again after a write through this store.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._loaded: _Loaded | None = None

    @classmethod
    def create(cls, path: Path, dim: int) -> LanceStore:
        """Make an empty table.

        Raises:
            StorageError: it could not be written.
        """
        try:
            return cls(lance.write_dataset(_schema(dim).empty_table(), path, mode="create"))
        except OSError as error:
            raise StorageError(f"{path}: the table cannot be written ({error})") from error

    @classmethod
    def open(cls, path: Path) -> LanceStore:
        """Open the newest version of a table.

        Raises:
            ArtifactError: there is no table, or it is broken.
        """
        try:
            return cls(lance.dataset(path))
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
        batch = pa.table(columns, schema=_schema(self.dim))
        merge = self._dataset.merge_insert("id").when_matched_update_all()
        self._commit(lambda: merge.when_not_matched_insert_all().execute(batch))

    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many there were."""
        before = self.count()
        unique = sorted(set(ids))
        for start in range(0, len(unique), _DELETE_AT_ONCE):
            chosen = pc.field("id").isin(unique[start : start + _DELETE_AT_ONCE])
            self._commit(lambda chosen=chosen: self._dataset.delete(chosen))
        return before - self.count()

    def compact(self) -> None:
        """Merge the small files that many commits leave, and drop versions that are long past."""
        if len(self._dataset.get_fragments()) > _COMPACT_ABOVE:
            self._commit(self._dataset.optimize.compact_files)
        self._commit(lambda: self._dataset.cleanup_old_versions(KEEP_VERSIONS))

    def search(self, queries: Embeddings, n: int, metric: Metric) -> list[list[Hit]]:
        """Return the ``n`` nearest rows to each query."""
        queries = check_queries(queries, n, self.dim)
        loaded = self._load()
        found = loaded.index.search(queries, n, metric)
        names = ["id", "uri", "metadata"]
        taken = loaded.table.select(names).take(pa.array(found.rows.ravel()))
        ids, uris, metadata = (taken[name].to_pylist() for name in names)
        hits = iter(
            zip(ids, uris, map(json.loads, metadata), found.distances.ravel().tolist(), strict=True)
        )
        return [
            [
                Hit(rank, row_id, uri, distance, fields)
                for rank, (row_id, uri, fields, distance) in zip(
                    range(1, found.rows.shape[1] + 1), hits, strict=False
                )
            ]
            for _ in queries
        ]

    def records(self) -> Iterator[Record]:
        """Iterate over all rows in order of id."""
        names = ["id", "uri", "metadata", "content_hash"]
        columns = (self._load().table[name].to_pylist() for name in names)
        for row_id, uri, metadata, content_hash in zip(*columns, strict=True):
            yield Record(row_id, uri, json.loads(metadata), content_hash)

    def get(self, ids: Sequence[str]) -> Rows:
        """Return the rows of these ids."""
        table = self._load().table
        positions = pc.index_in(pa.array(list(ids), pa.string()), table["id"])
        if positions.null_count:
            missing = ids[positions.to_pylist().index(None)]
            raise InputError(f"there is no row with the id {missing!r}")
        taken = table.take(positions)
        return Rows(
            ids=list(ids),
            uris=taken["uri"].to_pylist(),
            embeddings=_matrix(taken, self.dim),
            metadata=[json.loads(text) for text in taken["metadata"].to_pylist()],
            hashes=taken["content_hash"].to_pylist(),
        )

    def _load(self) -> _Loaded:
        if self._loaded is None:
            table = self._dataset.to_table()
            table = table.take(pc.sort_indices(table["id"]))
            self._loaded = _Loaded(table, ExactIndex(_matrix(table, self.dim)))
        return self._loaded

    def _commit(self, write: Any) -> None:
        self._loaded = None
        try:
            write()
        except OSError as error:
            raise StorageError(
                f"{self._dataset.uri}: the table cannot be written ({_first_line(error)}); "
                "the rows committed before are unchanged"
            ) from error


def _matrix(table: Any, dim: int) -> Embeddings:
    values = table["embedding"].combine_chunks().flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(-1, dim)


def _first_line(error: BaseException) -> str:
    """Return what Lance says of an error, without the place in its own source."""
    return (str(error).splitlines() or [type(error).__name__])[0].partition(", /")[0]
