"""A store in memory with exact search, for small and temporary galleries."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import MissingRowError
from lookalike.filters import Columns, Filter, MetadataColumns
from lookalike.stores.base import (
    Record,
    RowReader,
    Rows,
    check_queries,
    check_rows,
    matching_rows,
    new_revision,
)
from lookalike.stores.exact import ExactIndex
from lookalike.types import Embeddings, Hit, Metric


class MemoryStore:
    """Rows in a dictionary; the matrix to search is built on the first search.

    A write makes a new dictionary, so that snapshots keep the old one.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._identity = uuid.uuid4().hex
        self._commits = 0
        self._revision = new_revision(0)
        self._rows: dict[str, tuple[Record, NDArray[np.float32]]] = {}
        self._index: tuple[list[Record], ExactIndex, MetadataColumns] | None = None

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._dim

    @property
    def identity(self) -> str:
        """A text that no other store has."""
        return self._identity

    @property
    def revision(self) -> str:
        """A text that changes with every write."""
        return self._revision

    def snapshot(self) -> RowReader:
        """Return the rows as they are now."""
        self._index = self._index or self._build()  # built once for all snapshots
        return copy(self)

    def count(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def upsert(self, rows: Rows) -> None:
        """Insert or replace rows by id."""
        embeddings = check_rows(rows, self.dim)
        if not len(rows):
            return
        columns = zip(rows.ids, rows.uris, rows.metadata, rows.hashes, rows.signatures, strict=True)
        self._commit(
            self._rows
            | {
                fields[0]: (Record(*fields), embedding.copy())
                for fields, embedding in zip(columns, embeddings, strict=True)
            }
        )

    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many existed."""
        removed = set(ids) & self._rows.keys()
        if removed:
            self._commit({key: row for key, row in self._rows.items() if key not in removed})
        return len(removed)

    def search(
        self,
        queries: Embeddings,
        k: int,
        metric: Metric,
        where: Filter | None = None,
        *,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Return the ``k`` nearest rows to each query, always exactly."""
        del exact
        queries = check_queries(queries, k, self.dim)
        records, index, columns = self._index or self._build()
        nearest = index.search(queries, k, metric, matching_rows(where, columns))
        return [
            [
                Hit(rank, records[row].id, records[row].uri, float(distance), records[row].metadata)
                for rank, (row, distance) in enumerate(zip(rows, distances, strict=True), 1)
            ]
            for rows, distances in zip(nearest.rows, nearest.distances, strict=True)
        ]

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted."""
        return sorted(self._rows)

    def columns(self) -> Columns:
        """Return the metadata of all rows by column."""
        return (self._index or self._build())[2]

    def records(self, prefix: str = "") -> Iterator[Record]:
        """Iterate over rows sorted by id."""
        return (self._rows[key][0] for key in sorted(self._rows) if key.startswith(prefix))

    def optimize(self, metric: Metric) -> None:
        """Do nothing."""

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows, at most ``count`` at a time."""
        ids = sorted(self._rows)
        return (self.get(ids[start : start + count]) for start in range(0, len(ids), count))

    def embeddings(self, ids: Sequence[str]) -> Embeddings:
        """Return the embeddings of rows."""
        return self.get(ids).embeddings

    def get(self, ids: Sequence[str]) -> Rows:
        """Return rows by id."""
        missing = [key for key in ids if key not in self._rows]
        if missing:
            raise MissingRowError(f"there is no row with the id {missing[0]!r}")
        records = [self._rows[key][0] for key in ids]
        embeddings = [self._rows[key][1] for key in ids]
        return Rows(
            ids=list(ids),
            uris=[record.uri for record in records],
            embeddings=np.stack(embeddings) if ids else np.empty((0, self.dim), np.float32),
            metadata=[record.metadata for record in records],
            hashes=[record.content_hash for record in records],
            signatures=[record.signature for record in records],
        )

    def _commit(self, rows: dict[str, tuple[Record, NDArray[np.float32]]]) -> None:
        self._rows, self._index = rows, None
        self._commits += 1
        self._revision = new_revision(self._commits)

    def _build(self) -> tuple[list[Record], ExactIndex, MetadataColumns]:
        rows = [self._rows[key] for key in sorted(self._rows)]
        matrix = np.stack([embedding for _, embedding in rows]) if rows else np.empty((0, self.dim))
        records = [record for record, _ in rows]
        columns = MetadataColumns([record.metadata for record in records])
        self._index = records, ExactIndex(matrix.astype(np.float32)), columns
        return self._index
