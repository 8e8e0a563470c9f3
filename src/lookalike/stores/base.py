"""The interface of vector stores. The tests in ``tests/contract`` run over every store."""

from __future__ import annotations

import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError, ReplacedError, SettingError
from lookalike.types import Embeddings, Hit, Metadata, Metric, check_embeddings

if TYPE_CHECKING:
    from lookalike.filters import Columns, Filter, RowFilter
    from lookalike.filters.facets import Facet

MAX_K = 16_384
"""Maximum number of hits per query."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as columns of equal length: row ``i`` is the ``i``-th value of each.

    Args:
        ids: distinct texts.
        uris: locations of the images: a path, a URL, or a place in a file of several images.
        embeddings: ``(n, dim)`` float32, finite.
        metadata: JSON values by column, one mapping per row.
        hashes: SHA-256 of the images' contents; equal for copies of an image.
        signatures: cheap fingerprints of the contents (see :class:`lookalike.sources.Item`); empty
            by default.

    Raises:
        InputError: the columns have different lengths.
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
            raise InputError(f"the columns of rows must have equal length, got {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Rows({len(self):,} rows, embeddings {np.shape(self.embeddings)})"

    def take(self, places: Sequence[int]) -> Rows:
        """Return some of the rows, by their places from 0, in this order."""
        return Rows(
            ids=[self.ids[place] for place in places],
            uris=[self.uris[place] for place in places],
            embeddings=self.embeddings[list(places)],
            metadata=[self.metadata[place] for place in places],
            hashes=[self.hashes[place] for place in places],
            signatures=[self.signatures[place] for place in places],
        )

    def records(self) -> Iterator[Record]:
        """Iterate over the rows without embeddings."""
        columns = (self.ids, self.uris, self.metadata, self.hashes, self.signatures)
        return (Record(*fields) for fields in zip(*columns, strict=True))


@dataclass(frozen=True, slots=True)
class Record:
    """One row without its embedding.

    Args:
        id: identifies it in the gallery, ``SOURCE:KEY``.
        uri: where its image is.
        metadata: JSON values by column.
        content_hash: SHA-256 of the image's content.
        signature: cheap fingerprint of the content; empty if there is none.
    """

    id: str
    uri: str
    metadata: Metadata
    content_hash: str
    signature: str = ""


_NO_METADATA: Metadata = {}


def without_metadata(records: Iterable[Record]) -> list[Record]:
    """Return records without their metadata, which take most of the memory."""
    return [replace(record, metadata=_NO_METADATA) for record in records]


class RowReader(Protocol):
    """Rows by id, for reading. Search is exact, except in very large stores.

    Equal distances are ordered by id. Queries with NaN or Inf are refused. A zero vector has cosine
    distance 1 to every vector, itself included, and is never omitted.

    Every method raises ReplacedError when another store was put in its place, and ArtifactError
    when the rows are missing or broken.
    """

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        ...

    @property
    def identity(self) -> str:
        """A text that no other store has; it stays the same as rows are written."""
        ...

    @property
    def revision(self) -> str:
        """A text that changes with every commit, by whatever process: ``NUMBER-MARK``.

        The number grows with each commit (:func:`revision_number`); the mark differs between
        copies of a store that were written separately.
        """
        ...

    def count(self, where: Filter | None = None) -> int:
        """Return the number of rows: of all, or of those that a filter matches.

        Raises:
            InputError: the filter names an unknown column, or compares values of different kinds.
        """
        ...

    def sample(self, k: int, seed: int = 0) -> Rows:
        """Return ``k`` different random rows in random order, or all rows if there are fewer.

        Each row is as likely as any other. The same seed gives the same rows until rows are
        written. Only these rows are read.

        Raises:
            SettingError: ``k`` is not positive.
        """
        ...

    def facets(self, columns: Sequence[str] | None = None) -> list[Facet]:
        """Describe columns of the metadata: their kind, their values, and how often each occurs.

        Args:
            columns: names, in the order of the result; by default all columns, sorted by name, the
                first 1,000. Columns without booleans, numbers or texts are left out.

        Raises:
            InputError: there are rows, but none has or had one of the columns.
        """
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
        """Return the ``k`` nearest rows to each query, or all if there are fewer, nearest first.

        Hits that an approximate index found are :class:`ApproximateHits`.

        Args:
            queries: ``(q, dim)`` float32.
            k: from 1 to 16,384.
            metric: ``l2`` or ``cosine``.
            where: filter by metadata.
            exact: exact search; skip the approximate index of a large store.

        Raises:
            InputError: wrong dimensions or values that are not finite, or a filter on an unknown
                column or with values of another kind.
            SettingError: ``k`` out of range.
        """
        ...

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted."""
        ...

    def ids_after(self, row_id: str, count: int) -> Sequence[str]:
        """Return the first ids, sorted, that come after a text; at most so many."""
        ...

    def ids_near(self, row_id: str, count: int) -> Sequence[str]:
        """Return ids that come before and after a text, sorted; at most so many of each.

        None where that would read the ids of a large store.
        """
        ...

    def row_numbers(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the numbers of rows, from 0; -1 where there is no row with an id.

        A row has one number in a snapshot, and may have another one after the next write. It is its
        place in :meth:`columns` and :meth:`vectors`, and what a :class:`RowFilter` chooses by.
        """
        ...

    def ids_at(self, numbers: NDArray[np.int64]) -> list[str]:
        """Return the ids of rows by their numbers, in this order."""
        ...

    def columns(self) -> Columns:
        """Return the metadata of all rows by column, by row number."""
        ...

    def vectors(self) -> Embeddings:
        """Return the embeddings of all rows by row number, ``(n, dim)``, read-only.

        They are mapped from a file where a store can do that, so that those which are read take no
        memory of the process's own.
        """
        ...

    def resolve_filter(self, where: Filter) -> Filter:
        """Evaluate a filter; return one that matches the same rows of this snapshot at no cost.

        Raises:
            InputError: it names an unknown column, or compares values of different kinds.
        """
        ...

    def records(self, prefix: str = "") -> Iterator[Record]:
        """Iterate over rows without embeddings, sorted by id: all, or those with an id prefix."""
        ...

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows in any order, at most ``count`` at a time."""
        ...

    def embeddings(self, ids: Sequence[str]) -> Embeddings:
        """Return the embeddings ``(n, dim)`` of hits, in this order; fast after a search.

        Raises:
            MissingRowError: there is no row with one of the ids.
        """
        ...

    def get(self, ids: Sequence[str]) -> Rows:
        """Return rows by id, in this order.

        Raises:
            MissingRowError: there is no row with one of the ids.
        """
        ...


class TextSearch(Protocol):
    """Full-text search in names and metadata of the rows of one snapshot, by row number.

    A keyword matches words that begin with it, ignoring case and accents; a phrase in double quotes
    matches its words in that order. A reader that has such a search offers it as ``full_text()``.

    Every method raises InputError if there is no keyword, or more than 50, or more than 2,000
    characters; CancelledError when the work was cancelled; and ArtifactError when the rows are
    broken. Repeated calls with the same keywords cost little.
    """

    def matching(self, keywords: str) -> NDArray[np.int64]:
        """Return the rows with any of the keywords, ascending."""
        ...

    def scores(self, keywords: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the BM25 scores of rows (Robertson & Zaragoza 2009), 0 where nothing matches.

        They are those of the metadata and of the name, added.
        """
        ...

    def unmatched(self, keywords: str) -> dict[str, str | None]:
        """Return the keywords that match no row, each with the most similar word that one has.

        The word is None if there is no similar one.
        """
        ...


class VectorStore(RowReader, Protocol):
    """Rows by id that can be written. Rows with NaN or Inf are refused."""

    def snapshot(self) -> RowReader:
        """Return the rows as they are now, for several reads that must fit together.

        Later writes do not change what it returns. Of rows on a server, only ids and columns stay
        as they are.
        """
        ...

    def upsert(self, rows: Rows) -> None:
        """Insert rows, or replace those with the same id; on an error, none is written.

        Raises:
            InputError: wrong dimensions, values that are not finite, or a duplicate id.
            StorageError: they could not be written.
        """
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many existed."""
        ...

    def optimize(self, metric: Metric, *, purge: bool = False) -> None:
        """Compact the files where much of them is of removed rows; update the index for a metric.

        With ``purge``, nothing is left on disk of rows that were deleted or replaced.
        """
        ...


_LONGEST_NUMBER = 20


class ApproximateHits(list[Hit]):
    """The hits of one query that an approximate index found: a few nearer rows may be missing."""

    __slots__ = ()


def has_approximate_index(store: RowReader) -> bool:
    """Return whether searches that are not to be exact may use an approximate index."""
    return bool(getattr(store, "is_approximate", False))


def new_revision(number: int) -> str:
    """Return the revision of the commit with this number, with a random mark."""
    return f"{number}-{os.urandom(6).hex()}"


def revision_number(revision: str) -> int:
    """Return the number of commits in a revision; 0 if it has none."""
    number = revision.partition("-")[0]
    return int(number) if number.isdecimal() and len(number) < _LONGEST_NUMBER else 0


def is_identity(text: str) -> bool:
    """Return whether a text that was read is an identity: it becomes part of headers and files."""
    return re.fullmatch(r"[A-Za-z0-9-]{1,100}", text) is not None


def replaced_error(place: object) -> ReplacedError:
    """Return the error that another store was put in the place of an open one."""
    return ReplacedError(
        f"{place}: another gallery was put in its place while it was open; open it again"
    )


def check_rows(rows: Rows, dim: int) -> Embeddings:
    """Check rows before they are stored; return their embeddings.

    Raises:
        InputError: see :meth:`VectorStore.upsert`.
    """
    if len(set(rows.ids)) != len(rows):
        seen: set[str] = set()
        twice = next(i for i in rows.ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise InputError(f"the id {twice!r} occurs twice in one batch of rows")
    return check_embeddings(rows.embeddings, dim=dim, what="rows to store")


def check_queries(queries: Embeddings, k: int, dim: int) -> Embeddings:
    """Check queries and ``k``; return the queries.

    Raises:
        InputError: see :meth:`VectorStore.search`.
        SettingError: ``k`` out of range.
    """
    if not 1 <= k <= MAX_K:
        raise SettingError(f"{{k}} must be from 1 to {MAX_K:,}", k=k)
    return check_embeddings(queries, dim=dim, what="queries")


def sample_places(count: int, k: int, seed: int) -> list[int]:
    """Return the numbers of ``k`` different random rows of ``count``, or of all if fewer exist.

    Raises:
        SettingError: ``k`` is not positive.
    """
    import random

    if k < 1:
        raise SettingError("{k} must be at least 1", k=k)
    return random.Random(seed).sample(range(count), min(k, count))


def places_in(sorted_ids: Sequence[str], ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the places of ids among sorted ones; -1 where one is not among them."""
    places = np.empty(len(ids), np.int64)
    for number, row_id in enumerate(ids):
        place = bisect_left(sorted_ids, row_id)
        exists = place < len(sorted_ids) and sorted_ids[place] == row_id
        places[number] = place if exists else -1
    return places


def ids_after(sorted_ids: Sequence[str], row_id: str, count: int) -> Sequence[str]:
    """Return the first of sorted ids that come after a text."""
    start = bisect_right(sorted_ids, row_id)
    return sorted_ids[start : start + count]


def ids_near(sorted_ids: Sequence[str], row_id: str, count: int) -> Sequence[str]:
    """Return the ids of sorted ones that come before and after a text, so many of each."""
    place = bisect_left(sorted_ids, row_id)
    return sorted_ids[max(0, place - count) : place + count]


def count_matching(where: Filter, columns: Columns) -> int:
    """Return the number of rows that a filter matches."""
    return int(np.count_nonzero(where.mask(columns))) if len(columns) else 0


def matching_rows(where: Filter | None, columns: Columns) -> NDArray[np.int64] | None:
    """Return the numbers of the rows that a filter matches, ascending; None without a filter."""
    from lookalike.filters import RowFilter

    if where is None or not len(columns):
        return None
    if isinstance(where, RowFilter):
        return where.ascending(columns)
    return np.flatnonzero(where.mask(columns))


_latest: WeakKeyDictionary[Columns, tuple[Filter, NDArray[np.int64]]] = WeakKeyDictionary()
"""The filter that was evaluated last, by columns: the queries of a batch have the same."""


def selected_rows(where: Filter, columns: Columns) -> RowFilter:
    """Return the filter of the rows that another one matches, by their numbers."""
    from lookalike.filters import RowFilter

    if isinstance(where, RowFilter):
        return where
    latest = _latest.get(columns)
    if latest is None or latest[0] is not where:
        rows = matching_rows(where, columns)
        latest = where, np.empty(0, np.int64) if rows is None else rows
        _latest[columns] = latest
    return RowFilter(latest[1], columns)
