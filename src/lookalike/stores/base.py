"""What a vector store is. One contract suite, ``tests/contract``, runs over every store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError, SettingError
from lookalike.filters import Columns, Filter
from lookalike.types import Embeddings, Hit, Metadata, Metric, check_embeddings

MAX_K = 16_384
"""More hits than this for one query are refused."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as columns of one length: what goes into a store and comes out of it.

    ``embeddings`` is ``(n, dim)`` float32, finite; ``hashes`` are of the images' contents;
    ``metadata`` holds JSON values; ``signatures`` are cheap signs of the contents, empty ones
    unless given (see :class:`lookalike.sources.Item`).
    """

    ids: Sequence[str]
    uris: Sequence[str]
    embeddings: Embeddings
    metadata: Sequence[Metadata]
    hashes: Sequence[str]
    signatures: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.signatures:
            object.__setattr__(self, "signatures", [""] * len(self.ids))
        lengths = {
            len(column)
            for column in (
                *(self.ids, self.uris, self.embeddings, self.metadata),
                *(self.hashes, self.signatures),
            )
        }
        if len(lengths) != 1:
            raise InputError(f"rows need columns of one length, got lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Record:
    """One row without its embedding."""

    id: str
    uri: str
    metadata: Metadata
    content_hash: str
    signature: str = ""


class VectorStore(Protocol):
    """Rows keyed by id. Search is exact, but for very many rows; equal distances go by id.

    NaN and Inf are refused in rows and queries. A zero vector has cosine distance 1 to every
    vector, itself included, and is never left out.
    """

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        ...

    def count(self) -> int:
        """Return the number of rows."""
        ...

    def upsert(self, rows: Rows) -> None:
        """Insert rows, or replace those whose id is there; all of them or, on error, none.

        Raises:
            InputError: embeddings of another length, not finite, or an id twice.
            StorageError: they could not be written.
        """
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many there were."""
        ...

    def optimize(self, metric: Metric) -> None:
        """Do what is due after many writes, for searches by a metric: merge, index, clean up."""
        ...

    def search(
        self,
        queries: Embeddings,
        k: int,
        metric: Metric,
        where: Filter | None = None,
        *,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Return the ``k`` nearest rows (fewer if there are fewer) to each query, nearest first.

        Args:
            queries: ``(q, dim)`` float32.
            k: at least 1, at most 16,384.
            metric: ``l2`` or ``cosine``.
            where: search only the rows that it matches.
            exact: look at every row, where a store would otherwise search a large table through
                an index.

        Raises:
            InputError: queries of another length, or not finite; a filter on a column that is not
                there, or whose values are of another kind.
            SettingError: ``k`` out of range.
        """
        ...

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, in order."""
        ...

    def columns(self) -> Columns:
        """Return the metadata of all rows by column, the rows in order of id."""
        ...

    def records(self, prefix: str = "") -> Iterator[Record]:
        """Iterate over rows without embeddings in order of id: all, or whose id begins so."""
        ...

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows, in no order of note, at most ``count`` at a time."""
        ...

    def embeddings(self, ids: Sequence[str]) -> Embeddings:
        """Return ``(n, dim)`` of rows that a search has just found, in this order.

        Raises:
            InputError: an id is not there.
        """
        ...

    def get(self, ids: Sequence[str]) -> Rows:
        """Return the rows of these ids, in this order.

        Raises:
            InputError: an id is not there.
        """
        ...


def check_rows(rows: Rows, dim: int) -> Embeddings:
    """Return the embeddings of rows that may be stored.

    Raises:
        InputError: see :meth:`VectorStore.upsert`.
    """
    if len(set(rows.ids)) != len(rows):
        seen: set[str] = set()
        twice = next(i for i in rows.ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise InputError(f"the id {twice!r} comes twice in one batch of rows")
    return check_embeddings(rows.embeddings, dim=dim, what="rows to store")


def check_queries(queries: Embeddings, k: int, dim: int) -> Embeddings:
    """Return queries that may be searched for.

    Raises:
        InputError: see :meth:`VectorStore.search`.
        SettingError: ``k`` out of range.
    """
    if not 1 <= k <= MAX_K:
        raise SettingError(f"n = {k}: must be from 1 to {MAX_K:,}")
    return check_embeddings(queries, dim=dim, what="queries")


def matching(where: Filter | None, columns: Columns) -> NDArray[np.int64] | None:
    """Return the numbers of the rows that a filter matches; None for all, without a filter."""
    if where is None or not len(columns):
        return None
    return np.flatnonzero(where.mask(columns))
