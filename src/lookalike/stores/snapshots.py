"""Stores whose reads are those of their newest snapshot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lookalike.stores.base import Record, RowReader, Rows
from lookalike.types import Embeddings, Hit, Metric

if TYPE_CHECKING:
    from lookalike.filters import Columns, Filter
    from lookalike.filters.facets import Facet


class SnapshotStore(ABC):
    """A :class:`~lookalike.stores.base.VectorStore` in which every read is of a snapshot.

    Subclasses implement :meth:`snapshot` and the writes; each is documented in ``VectorStore``.
    """

    @abstractmethod
    def snapshot(self) -> RowReader:
        """Return the rows as they are now; this is called for each read, so it must be fast."""

    @abstractmethod
    def upsert(self, rows: Rows) -> None:
        """Insert or replace rows by id; on an error, none is written."""

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many existed."""

    def optimize(self, metric: Metric, *, purge: bool = False) -> None:  # noqa: B027 - optional
        """Do nothing; see :meth:`~lookalike.stores.base.VectorStore.optimize`."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.snapshot().dim

    @property
    def identity(self) -> str:
        """A text that no other store has."""
        return self.snapshot().identity

    @property
    def revision(self) -> str:
        """A text that changes with every commit."""
        return self.snapshot().revision

    def count(self, where: Filter | None = None) -> int:
        """Return the number of rows, of those that a filter matches."""
        return self.snapshot().count(where)

    def sample(self, k: int, seed: int = 0) -> Rows:
        """Return random rows."""
        return self.snapshot().sample(k, seed)

    def facets(self, columns: Sequence[str] | None = None) -> list[Facet]:
        """Describe columns of the metadata."""
        return self.snapshot().facets(columns)

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
        return self.snapshot().search(queries, k, metric, where, exact=exact)

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted."""
        return self.snapshot().ids()

    def ids_after(self, row_id: str, count: int) -> Sequence[str]:
        """Return the first ids, sorted, that come after a text."""
        return self.snapshot().ids_after(row_id, count)

    def ids_near(self, row_id: str, count: int) -> Sequence[str]:
        """Return ids that come before and after a text, sorted."""
        return self.snapshot().ids_near(row_id, count)

    def row_numbers(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the numbers of rows in the newest snapshot."""
        return self.snapshot().row_numbers(ids)

    def ids_at(self, numbers: NDArray[np.int64]) -> list[str]:
        """Return the ids of rows by their numbers in the newest snapshot."""
        return self.snapshot().ids_at(numbers)

    def columns(self) -> Columns:
        """Return the metadata of all rows by column."""
        return self.snapshot().columns()

    def vectors(self) -> Embeddings:
        """Return the embeddings of all rows by row number."""
        return self.snapshot().vectors()

    def resolve_filter(self, where: Filter) -> Filter:
        """Return a filter evaluated, for the newest snapshot."""
        return self.snapshot().resolve_filter(where)

    def records(self, prefix: str = "") -> Iterator[Record]:
        """Iterate over rows sorted by id."""
        return self.snapshot().records(prefix)

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows, at most ``count`` at a time."""
        return self.snapshot().rows(count)

    def embeddings(self, ids: Sequence[str]) -> Embeddings:
        """Return the embeddings of rows, from memory if they are loaded."""
        return self.snapshot().embeddings(ids)

    def get(self, ids: Sequence[str]) -> Rows:
        """Return rows by id."""
        return self.snapshot().get(ids)
