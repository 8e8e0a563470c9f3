"""Embeddings and exact nearest rows by row number, of whatever store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import MissingRowError
from lookalike.stores.base import RowReader
from lookalike.stores.exact import ExactIndex, Nearest
from lookalike.types import Embeddings, Metric
from lookalike.vectors import VectorView


class RowIndex(Protocol):
    """The embeddings of the rows of a snapshot, to read in parts and to search exactly.

    A reader that has such an index already offers it as ``row_index()``.
    """

    def at(self, rows: NDArray[np.int64]) -> Embeddings:
        """Return the embeddings ``(m, dim)`` of rows by their numbers, in this order."""
        ...

    def search_with_ties(
        self,
        queries: Embeddings,
        k: int,
        metric: Metric,
        subset: NDArray[np.int64] | None = None,
    ) -> list[Nearest]:
        """Return the ``k`` nearest rows to each query, and all others at the last distance.

        ``subset`` restricts the search to some rows, in ascending order.
        """
        ...


def row_index(store: RowReader) -> RowIndex:
    """Return the index of a snapshot: its own, or one of all its embeddings in memory."""
    own = getattr(store, "row_index", None)
    return ExactIndex(store.vectors()) if own is None else own()


def vectors_of(store: RowReader, ids: Sequence[str]) -> VectorView:
    """Return the embeddings of rows of a snapshot, in this order, to read in parts.

    Raises:
        MissingRowError: there is no row with one of the ids.
    """
    numbers = store.row_numbers(ids)
    if (numbers < 0).any():
        missing = ids[int(np.argmax(numbers < 0))]
        raise MissingRowError(f"there is no row with the id {missing!r}")
    return VectorView(row_index(store).at, numbers, store.dim)


class LiveRows:
    """An index of slots, some of them dead, as one of the rows that exist.

    Args:
        index: of all slots.
        slots: those of the rows by number, ascending.
    """

    def __init__(self, index: ExactIndex, slots: NDArray[np.int64]) -> None:
        self._index, self._slots = index, slots

    def at(self, rows: NDArray[np.int64]) -> Embeddings:
        """Return the embeddings of rows by their numbers."""
        return self._index.at(self._slots[rows])

    def search_with_ties(
        self,
        queries: Embeddings,
        k: int,
        metric: Metric,
        subset: NDArray[np.int64] | None = None,
    ) -> list[Nearest]:
        """Return the nearest rows to each query, and all others at the distance of the last."""
        slots = None if subset is None else self._slots[subset]
        return [
            Nearest(np.searchsorted(self._slots, each.rows), each.distances)
            for each in self._index.search_with_ties(queries, k, metric, slots)
        ]
