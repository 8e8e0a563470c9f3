"""A store in memory with exact search, for small and temporary galleries."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import holding
from lookalike.errors import MissingRowError
from lookalike.filters import Columns, Filter, MetadataColumns
from lookalike.filters.facets import Facet, facets
from lookalike.stores.base import (
    Record,
    Rows,
    check_queries,
    check_rows,
    count_matching,
    ids_after,
    ids_near,
    matching_rows,
    new_revision,
    places_in,
    revision_number,
    sample_places,
    selected_rows,
)
from lookalike.stores.exact import ExactIndex
from lookalike.stores.snapshots import SnapshotStore
from lookalike.types import Embeddings, Hit, Metric

Row = tuple[Record, NDArray[np.float32]]
"""A record and its embedding, ``(dim,)``."""


class MemorySnapshot:
    """Rows that never change, in memory; the matrix is built on the first search.

    Args:
        dim: length of an embedding.
        rows: by id.
        identity: of the store.
        revision: of the rows.
    """

    def __init__(self, dim: int, rows: Mapping[str, Row], identity: str, revision: str) -> None:
        self.dim = dim
        self.identity = identity
        self.revision = revision
        self.rows_by_id = rows
        self._ids = sorted(rows)
        self._index: tuple[ExactIndex, MetadataColumns] | None = None
        self._building = threading.Lock()

    @classmethod
    def of(cls, rows: Rows, dim: int, identity: str, revision: str) -> Self:
        """Return a snapshot of rows."""
        return cls(dim, rows_by_id(rows, rows.embeddings), identity, revision)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rows={len(self._ids)}, dim={self.dim})"

    def count(self, where: Filter | None = None) -> int:
        """Return the number of rows, of those that a filter matches."""
        return len(self._ids) if where is None else count_matching(where, self.columns())

    def sample(self, k: int, seed: int = 0) -> Rows:
        """Return random rows."""
        return self.get([self._ids[place] for place in sample_places(len(self._ids), k, seed)])

    def facets(self, columns: Sequence[str] | None = None) -> list[Facet]:
        """Describe columns of the metadata."""
        return facets(self.columns(), columns)

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
        index, columns = self._built
        nearest = index.search(queries, k, metric, matching_rows(where, columns))
        return [
            [
                _hit(rank, self.rows_by_id[self._ids[row]][0], float(distance))
                for rank, (row, distance) in enumerate(zip(rows, distances, strict=True), 1)
            ]
            for rows, distances in zip(nearest.rows, nearest.distances, strict=True)
        ]

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted."""
        return self._ids

    def ids_after(self, row_id: str, count: int) -> Sequence[str]:
        """Return the first ids, sorted, that come after a text."""
        return ids_after(self._ids, row_id, count)

    def ids_near(self, row_id: str, count: int) -> Sequence[str]:
        """Return ids that come before and after a text, sorted."""
        return ids_near(self._ids, row_id, count)

    def row_numbers(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the numbers of rows: their places among the sorted ids."""
        return places_in(self._ids, ids)

    def ids_at(self, numbers: NDArray[np.int64]) -> list[str]:
        """Return the ids of rows by their numbers."""
        return [self._ids[number] for number in numbers.tolist()]

    def columns(self) -> Columns:
        """Return the metadata of all rows by column."""
        return self._built[1]

    def vectors(self) -> Embeddings:
        """Return the embeddings of all rows."""
        return self._built[0].vectors

    def resolve_filter(self, where: Filter) -> Filter:
        """Return a filter evaluated."""
        return selected_rows(where, self.columns())

    def records(self, prefix: str = "") -> Iterator[Record]:
        """Iterate over rows sorted by id."""
        return (self.rows_by_id[key][0] for key in self._ids if key.startswith(prefix))

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows, at most ``count`` at a time."""
        ids = self._ids
        return (self.get(ids[start : start + count]) for start in range(0, len(ids), count))

    def embeddings(self, ids: Sequence[str]) -> Embeddings:
        """Return the embeddings of rows."""
        return self.get(ids).embeddings

    def get(self, ids: Sequence[str]) -> Rows:
        """Return rows by id."""
        rows = self.rows_by_id
        missing = [key for key in ids if key not in rows]
        if missing:
            raise MissingRowError(f"there is no row with the id {missing[0]!r}")
        records = [rows[key][0] for key in ids]
        embeddings = [rows[key][1] for key in ids]
        return Rows(
            ids=list(ids),
            uris=[record.uri for record in records],
            embeddings=np.stack(embeddings) if ids else np.empty((0, self.dim), np.float32),
            metadata=[record.metadata for record in records],
            hashes=[record.content_hash for record in records],
            signatures=[record.signature for record in records],
        )

    @property
    def _built(self) -> tuple[ExactIndex, MetadataColumns]:
        """The embeddings and metadata of the rows, sorted by id; built once."""
        if self._index is None:
            with holding(self._building):
                self._index = self._index or self._build()
        return self._index

    def _build(self) -> tuple[ExactIndex, MetadataColumns]:
        rows = [self.rows_by_id[row_id] for row_id in self._ids]
        matrix = np.empty((len(rows), self.dim), np.float32)
        for place, (_, embedding) in enumerate(rows):
            matrix[place] = embedding
        return ExactIndex(matrix), MetadataColumns([record.metadata for record, _ in rows])


class MemoryStore(SnapshotStore):
    """Rows in a dictionary. A write makes a new one, so that snapshots keep the old one."""

    def __init__(self, dim: int) -> None:
        self._newest = MemorySnapshot(dim, {}, uuid.uuid4().hex, new_revision(0))

    def __repr__(self) -> str:
        return f"MemoryStore(rows={self.count()}, dim={self.dim})"

    def snapshot(self) -> MemorySnapshot:
        """Return the rows as they are now."""
        return self._newest

    def upsert(self, rows: Rows) -> None:
        """Insert or replace rows by id."""
        embeddings = check_rows(rows, self.dim)
        if len(rows):
            self._commit({**self._newest.rows_by_id, **rows_by_id(rows, embeddings)})

    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many existed."""
        rows = self._newest.rows_by_id
        removed = set(ids) & rows.keys()
        if removed:
            self._commit({key: row for key, row in rows.items() if key not in removed})
        return len(removed)

    def _commit(self, rows: Mapping[str, Row]) -> None:
        revision = new_revision(revision_number(self.revision) + 1)
        self._newest = MemorySnapshot(self.dim, rows, self.identity, revision)


def rows_by_id(rows: Rows, embeddings: Embeddings) -> dict[str, Row]:
    """Return rows by id, with copies of their embeddings."""
    columns = zip(rows.ids, rows.uris, rows.metadata, rows.hashes, rows.signatures, strict=True)
    return {
        fields[0]: (Record(*fields), embedding.copy())
        for fields, embedding in zip(columns, embeddings, strict=True)
    }


def _hit(rank: int, record: Record, distance: float) -> Hit:
    return Hit(rank, record.id, record.uri, distance, record.metadata)
