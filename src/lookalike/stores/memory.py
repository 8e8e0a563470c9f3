"""A store in memory with exact search, for small and temporary galleries."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import holding
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
    selected_rows,
)
from lookalike.stores.exact import ExactIndex
from lookalike.types import Embeddings, Hit, Metric

Row = tuple[Record, NDArray[np.float32]]


class _State:
    """The rows after one write. They never change; the matrix is built on the first search."""

    def __init__(self, dim: int, rows: Mapping[str, Row], commits: int) -> None:
        self.rows = rows
        self.commits = commits
        self.revision = new_revision(commits)
        self.ids = sorted(rows)
        self._dim = dim
        self._index: tuple[ExactIndex, MetadataColumns] | None = None
        self._building = threading.Lock()

    @property
    def index(self) -> tuple[ExactIndex, MetadataColumns]:
        """The embeddings and metadata of the rows, sorted by id; built once."""
        if self._index is None:
            with holding(self._building):
                self._index = self._index or self._build()
        return self._index

    def _build(self) -> tuple[ExactIndex, MetadataColumns]:
        rows = [self.rows[row_id] for row_id in self.ids]
        matrix = np.empty((len(rows), self._dim), np.float32)
        for place, (_, embedding) in enumerate(rows):
            matrix[place] = embedding
        return ExactIndex(matrix), MetadataColumns([record.metadata for record, _ in rows])


class MemoryStore:
    """Rows in a dictionary. A write makes a new one, so that snapshots keep the old one."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._identity = uuid.uuid4().hex
        self._state = _State(dim, {}, 0)

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
        return self._state.revision

    def snapshot(self) -> RowReader:
        """Return the rows as they are now."""
        return copy(self)

    def count(self) -> int:
        """Return the number of rows."""
        return len(self._state.rows)

    def upsert(self, rows: Rows) -> None:
        """Insert or replace rows by id."""
        embeddings = check_rows(rows, self.dim)
        if not len(rows):
            return
        columns = zip(rows.ids, rows.uris, rows.metadata, rows.hashes, rows.signatures, strict=True)
        new = {
            fields[0]: (Record(*fields), embedding.copy())
            for fields, embedding in zip(columns, embeddings, strict=True)
        }
        self._commit({**self._state.rows, **new})

    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many existed."""
        rows = self._state.rows
        removed = set(ids) & rows.keys()
        if removed:
            self._commit({key: row for key, row in rows.items() if key not in removed})
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
        state = self._state
        index, columns = state.index
        nearest = index.search(queries, k, metric, matching_rows(where, columns))
        return [
            [
                _hit(rank, state.rows[state.ids[row]][0], float(distance))
                for rank, (row, distance) in enumerate(zip(rows, distances, strict=True), 1)
            ]
            for rows, distances in zip(nearest.rows, nearest.distances, strict=True)
        ]

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted."""
        return self._state.ids

    def columns(self) -> Columns:
        """Return the metadata of all rows by column."""
        return self._state.index[1]

    def resolve_filter(self, where: Filter) -> Filter:
        """Return a filter evaluated, for a snapshot."""
        return selected_rows(where, self.columns())

    def records(self, prefix: str = "") -> Iterator[Record]:
        """Iterate over rows sorted by id."""
        state = self._state
        return (state.rows[key][0] for key in state.ids if key.startswith(prefix))

    def optimize(self, metric: Metric, *, purge: bool = False) -> None:
        """Do nothing."""

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows, at most ``count`` at a time."""
        view = copy(self)
        ids = view.ids()
        return (view.get(ids[start : start + count]) for start in range(0, len(ids), count))

    def embeddings(self, ids: Sequence[str]) -> Embeddings:
        """Return the embeddings of rows."""
        return self.get(ids).embeddings

    def get(self, ids: Sequence[str]) -> Rows:
        """Return rows by id."""
        rows = self._state.rows
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

    def _commit(self, rows: Mapping[str, Row]) -> None:
        self._state = _State(self.dim, rows, self._state.commits + 1)


def _hit(rank: int, record: Record, distance: float) -> Hit:
    return Hit(rank, record.id, record.uri, distance, record.metadata)
