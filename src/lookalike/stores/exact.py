"""Exact nearest neighbors: an approximate score of every row, then the distances of few candidates.

The distances of all rows that may be among the nearest, given the error of their scores, are
computed directly, as ``|q - x|`` or ``1 - cos``. The results equal those of computing every
distance. Scores are computed from rows in 8 bits where there are such, and else in 32 bits.
"""

from __future__ import annotations

import contextvars
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.config import settings
from lookalike.stores import quantized
from lookalike.stores.candidates import (
    Candidates,
    CrowdedError,
    ScoredRows,
    Selection,
    group_count,
    group_maxima,
)
from lookalike.stores.mapped import release_pages
from lookalike.stores.quantized import BlockScores, QuantizedBlocks, QuantizedQueries
from lookalike.types import Embeddings, Metric

_MIN_QUANTIZED = 20_000
"""Rows in memory from which quantization is worth its cost."""

_WORTH_QUANTIZING = 1_000
"""Queries in batches after which it is; of single ones, two."""

_MIN_BATCH = 6
"""Queries from which they are multiplied together; fewer are faster one by one."""

_BATCH = 256
_FEW = 256
"""Candidates that are not worth choosing from."""

_FEW_VALUES = 1 << 13
"""Values per query up to which the distances of several queries are computed together."""

_MAX_DIRECT = 1_000
"""Candidates up to which distances are computed directly."""

_GATHERED = 0.05
"""Share of the rows below which those of a subset are read one by one."""

_FIRST_BLOCKS = 16
"""Blocks of codes that are multiplied at a time by the first search, which gives back the memory of
what it maps: of a process that searches once, it is all that it needs."""

_CHUNK_BLOCKS = 128
_CHUNK_ROWS = 1 << 14
_CHUNK_VALUES = 1 << 22
"""Rows and values of rows that are multiplied in 32 bits at a time."""

_CHUNK_DIRECT = 1 << 18
"""Values whose distances are computed at a time, in 64 bits (2 MiB)."""

_EPSILON = float(np.finfo(np.float32).eps)
_SMALLEST, _LARGEST = 1e-12, 1e12
"""Lengths of vectors whose float32 products neither over- nor underflow."""


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Row numbers ``(q, k)`` int64 and distances ``(q, k)`` float64, nearest first.

    Equal distances are ordered by row number.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float64]


class Nearest(NamedTuple):
    """Row numbers ``(m,)`` int64 and distances ``(m,)`` float64 of one query, nearest first."""

    rows: NDArray[np.int64]
    distances: NDArray[np.float64]


Shorten = Callable[[Nearest], Nearest]
"""Returns what is needed of a result with ties."""


class ExactIndex:
    """Exact search over embeddings in memory or in a mapped file.

    Args:
        vectors: ``(rows, dim)`` float32.
        codes: of whole blocks of rows, from the first one on. If None, they are computed when
            searches have shown that they are worth it.
        dead: numbers of rows that never match, in ascending order.
        damaged: returns the error for rows that are not finite, as in files that were damaged. If
            None, such rows are the farthest.
    """

    def __init__(
        self,
        vectors: Embeddings,
        codes: QuantizedBlocks | None = None,
        *,
        dead: NDArray[np.int64] | None = None,
        damaged: Callable[[], Exception] | None = None,
    ) -> None:
        vectors = np.ascontiguousarray(vectors, np.float32)
        self._vectors = vectors.view(np.ndarray)  # a memmap is slower
        self._scan = _Scan(self._vectors, codes, damaged)
        self._can_quantize = codes is None and len(vectors) >= _MIN_QUANTIZED
        self._quantizing = threading.Lock()
        self._single_queries = self._batch_queries = 0
        self._dead: NDArray[np.bool_] | None = None
        if dead is not None and len(dead):
            self._dead = np.zeros(len(vectors), np.bool_)
            self._dead[dead] = True
        self._live = len(vectors) - (0 if dead is None else len(dead))

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def vectors(self) -> Embeddings:
        """The embeddings, ``(rows, dim)``."""
        return self._vectors

    def at(self, rows: NDArray[np.int64]) -> Embeddings:
        """Return the embeddings of rows by their numbers."""
        return self._vectors[rows]

    def others(self, start: int, stop: int, k: int, metric: Metric) -> Neighbors:
        """Return the ``min(k, rows - 1)`` nearest other rows to the rows ``start`` to ``stop``.

        Dead rows are no neighbors, and not counted, but have neighbors.
        """
        queries = self._vectors[start:stop]
        nearest = self.search(queries, k + 1, metric)
        # Among identical rows the row itself need not be first, or among the nearest at all.
        other = nearest.rows != np.arange(start, start + len(queries))[:, None]
        other[other.all(axis=1), -1] = False
        shape = (len(queries), -1)
        return Neighbors(
            nearest.rows[other].reshape(shape), nearest.distances[other].reshape(shape)
        )

    def search(
        self,
        queries: Embeddings,
        k: int,
        metric: Metric,
        subset: NDArray[np.int64] | None = None,
    ) -> Neighbors:
        """Return the ``min(k, rows)`` nearest rows to queries ``(q, dim)`` float32.

        Args:
            queries: the queries.
            k: rows wanted.
            metric: of the distances.
            subset: the numbers of the only rows that may match, in ascending order.
        """

        def shorten(nearest: Nearest) -> Nearest:
            if len(nearest.rows) <= k:
                return nearest
            return Nearest(nearest.rows[:k].copy(), nearest.distances[:k].copy())

        nearest = self.search_with_ties(queries, k, metric, subset, shorten=shorten)
        width = len(nearest[0].rows) if nearest else k
        rows = np.empty((len(nearest), width), np.int64)
        distances = np.empty((len(nearest), width))
        for place, each in enumerate(nearest):
            rows[place], distances[place] = each
        return Neighbors(rows, distances)

    def search_with_ties(
        self,
        queries: Embeddings,
        k: int,
        metric: Metric,
        subset: NDArray[np.int64] | None = None,
        *,
        shorten: Shorten | None = None,
    ) -> list[Nearest]:
        """Return the ``k`` nearest rows to each query, and all others as near as the k-th.

        Equal distances are ordered by row number. The arguments are those of :meth:`search`, and:

        Args:
            queries: the queries.
            k: rows wanted.
            metric: of the distances.
            subset: the numbers of the only rows that may match, in ascending order.
            shorten: returns what is needed of a result, so that not all ties of all queries are
                kept; it is called in several threads.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        scope = self._scope(subset)
        if k < 1 or not scope.count:
            return [Nearest(np.empty(0, np.int64), np.empty(0)) for _ in queries]
        targets = queries.astype(np.float64)
        lengths = np.sqrt(np.vecdot(targets, targets))
        search = _Search(self._scan, scope, metric, min(k, scope.count), shorten)
        undirected: Nearest | None = None
        results: list[Nearest | None] = [None] * len(queries)
        plain = []
        for place, length in enumerate(lengths.tolist()):
            if length == 0 and metric is Metric.COSINE:
                undirected = undirected or search.all_at(1)
                results[place] = undirected
            elif k >= scope.count or (length > 0 and not _SMALLEST < length < _LARGEST):
                check_cancelled()
                results[place] = search.direct(queries[place])
            else:
                plain.append(place)
        if plain:
            self._quantize(len(plain))
            search.scan = self._scan
            places = np.array(plain)
            for place, nearest in search.run(queries[places], targets[places], lengths[places]):
                results[plain[place]] = nearest
        self._scan.end_first_read()
        return [each for each in results if each is not None]

    def compare(
        self, query: NDArray[np.float32], k: int, metric: Metric, rows: NDArray[np.int64]
    ) -> Nearest:
        """Return the ``k`` nearest of few rows, and all others as near as the k-th.

        The distances of all of them are computed; they and their order are those of a search.

        Args:
            query: ``(dim,)``.
            k: rows wanted, at least 1.
            metric: of the distances.
            rows: numbers of rows that are not dead, in ascending order; at least one.
        """
        scope = _Scope(len(self), len(rows), None, rows)
        return _Search(self._scan, scope, metric, min(k, len(rows)), None).direct(query, rows)

    def _scope(self, subset: NDArray[np.int64] | None) -> _Scope:
        size = len(self)
        if subset is None or len(subset) == size:
            return _Scope(size, self._live, self._dead, None)
        if len(subset) and self._dead is not None:
            subset = subset[~self._dead[subset]]
        if len(subset) < _GATHERED * size or len(subset) == 0:
            return _Scope(size, len(subset), None, subset)
        excluded = np.ones(size, np.bool_)
        excluded[subset] = False
        return _Scope(size, len(subset), excluded, None)

    def _quantize(self, queries: int) -> None:
        """Quantize the rows if that is worth its cost by now.

        While one search does, to the end since all later ones profit, others do without.
        """
        if not self._can_quantize:
            return
        if queries < _MIN_BATCH:
            self._single_queries += queries
        else:
            self._batch_queries += queries
        if self._single_queries < 2 and self._batch_queries < _WORTH_QUANTIZING:
            return
        if self._quantizing.acquire(blocking=False):
            try:
                if self._can_quantize:
                    codes = _quantized(self._vectors)
                    self._scan = _Scan(self._vectors, codes, self._scan.damaged)
                    self._can_quantize = False
            finally:
                self._quantizing.release()


def _quantized(vectors: Embeddings) -> QuantizedBlocks:
    """Return the codes of all whole blocks of vectors."""
    rows = quantized.BLOCK
    blocks = QuantizedBlocks.empty(len(vectors) // rows, vectors.shape[1], rows)
    for block in range(len(blocks)):
        check_cancelled()
        blocks.fill(block, vectors[block * rows : (block + 1) * rows])
    return blocks


@dataclass(frozen=True, slots=True)
class _Scope:
    """The rows that may match.

    Args:
        size: rows of the index.
        count: rows that may match.
        excluded: ``(size,)`` whether a row may not match; None if all may, or only those of
            ``subset``.
        subset: numbers of the only rows that may match, if they are few, in ascending order.
    """

    size: int
    count: int
    excluded: NDArray[np.bool_] | None
    subset: NDArray[np.int64] | None

    def without(self, rows: NDArray[np.int64]) -> _Scope:
        """Return the scope without some rows; ``count`` stays."""
        if self.subset is not None:
            subset = np.setdiff1d(self.subset, rows, assume_unique=True)
            return _Scope(self.size, self.count, None, subset)
        excluded = np.zeros(self.size, np.bool_) if self.excluded is None else self.excluded.copy()
        excluded[rows] = True
        return _Scope(self.size, self.count, excluded, None)

    def rows(self) -> NDArray[np.int64]:
        """Return the numbers of the rows that may match, in ascending order."""
        if self.subset is not None:
            return self.subset
        return np.arange(self.size) if self.excluded is None else np.flatnonzero(~self.excluded)


class _Queries(NamedTuple):
    """Queries of a scan.

    Args:
        vectors: ``(q, dim)`` float32; of unit length for the metric cosine.
        targets: the same in 64 bits, not rounded to 32.
        lengths: ``(q,)`` of these.
        k: rows wanted for each.
    """

    vectors: Embeddings
    targets: NDArray[np.float64]
    lengths: NDArray[np.float64]
    k: int

    def take(self, places: NDArray[np.int64] | slice) -> _Queries:
        return _Queries(self.vectors[places], self.targets[places], self.lengths[places], self.k)

    def groups(self, rows: int, blocks: int = 1) -> int:
        return group_count(rows, blocks, len(self.vectors), self.k)


class _Lengths(NamedTuple):
    """Half the squared lengths of vectors, and 1 by their lengths, 0 for those of zeros."""

    half_squares: NDArray[np.float32]
    inverses: NDArray[np.float32]

    @classmethod
    def of(cls, half_squares: NDArray[np.floating[Any]]) -> _Lengths:
        with np.errstate(all="ignore"):
            inverses = np.where(half_squares > 0, 1 / np.sqrt(2 * half_squares), 0)
            return cls(half_squares.astype(np.float32), inverses.astype(np.float32))

    def take(self, places: NDArray[np.int64] | slice) -> _Lengths:
        return _Lengths(self.half_squares[places], self.inverses[places])

    def followed_by(self, other: _Lengths) -> _Lengths:
        pairs = zip(self, other, strict=True)
        return _Lengths(*(np.concatenate(pair) for pair in pairs))


class _Facts(NamedTuple):
    """What a scan computes once.

    Args:
        lengths: of the rows without codes.
        extreme: numbers of rows of lengths out of range, or with codes in a block with such a row.
    """

    lengths: _Lengths
    extreme: NDArray[np.int64]


class _Scan:
    """Scores of rows, from their codes as far as there are some, or else from the rows themselves.

    What is computed once is kept: the lengths of rows without codes, and which rows are out of the
    range of float32 products.
    """

    def __init__(
        self,
        vectors: Embeddings,
        codes: QuantizedBlocks | None = None,
        damaged: Callable[[], Exception] | None = None,
    ) -> None:
        self.vectors = vectors
        self.damaged = damaged
        self.threads = settings().threads
        self.codes: QuantizedBlocks | None = None
        self.coded = 0
        if codes is not None and len(codes):
            arrays = (codes.codes, codes.scales, codes.bounds)
            self.codes = QuantizedBlocks(*(each.view(np.ndarray) for each in arrays))
            self.coded = len(codes) * codes.rows
        self._facts: _Facts | None = None
        self._extreme_blocks: NDArray[np.int64] | None = None
        self._was_read = False

    def end_first_read(self) -> None:
        """Give back the memory of vectors that the first search mapped."""
        if not self._was_read:
            self._was_read = True
            release_pages(self.vectors)

    def facts(self) -> _Facts:
        """Return what is computed once."""
        if self._facts is None:
            rows = self.vectors[self.coded :]
            squares = np.empty(len(rows))
            step = max(1, _CHUNK_DIRECT // max(1, rows.shape[1]))
            for start in range(0, len(rows), step):
                check_cancelled()
                part = rows[start : start + step]
                with np.errstate(invalid="ignore"):  # of damaged rows
                    norms = np.einsum("ij,ij->i", part, part, dtype=np.float64)
                squares[start : start + step] = norms
            lengths = np.sqrt(squares)
            is_extreme = ~((lengths > _SMALLEST) & (lengths < _LARGEST) | (lengths == 0))
            extreme = self.coded + np.flatnonzero(is_extreme)
            if self.codes is not None:
                blocks = self.extreme_blocks()
                inside = blocks[:, None] * self.codes.rows + np.arange(self.codes.rows)
                extreme = np.concatenate([inside.ravel(), extreme])
            self._facts = _Facts(_Lengths.of(squares / 2), extreme)
        return self._facts

    def extreme_blocks(self) -> NDArray[np.int64]:
        """Return the numbers of blocks with codes that have rows out of range."""
        if self._extreme_blocks is None:
            smallest, largest = (
                np.empty((2, 0)) if self.codes is None else self.codes.bounds[:, 2:].T
            )
            in_range = (smallest > _SMALLEST) & (largest < _LARGEST)
            self._extreme_blocks = np.flatnonzero(~in_range)
        return self._extreme_blocks

    def _lengths(self, rows: NDArray[np.int64]) -> _Lengths:
        """Return the lengths of rows by their ascending numbers."""
        border = int(np.searchsorted(rows, self.coded))
        plain = self.facts().lengths.take(rows[border:] - self.coded)
        if self.codes is None or not border:
            return plain
        coded = _Lengths.of(self.codes.half_squares(rows[:border]))
        return coded if border == len(rows) else coded.followed_by(plain)

    def scores(
        self, queries: _Queries, metric: Metric, scope: _Scope, *, coded: bool
    ) -> Iterator[ScoredRows]:
        """Yield the scores of the rows that may match."""
        if scope.subset is not None:
            rows = scope.subset
            for start in range(0, len(rows), self._step()):
                check_cancelled()
                yield self.gathered_scores(queries, metric, rows[start : start + self._step()])
            return
        if not coded or self.codes is None:
            yield from self._plain_scores(queries, metric, scope, 0)
            return
        if len(queries.vectors) == 1:
            yield from self._query_scores(queries, metric, scope)
        else:
            yield from self._batch_scores(queries, metric, scope)

    def _query_scores(self, query: _Queries, metric: Metric, scope: _Scope) -> Iterator[ScoredRows]:
        """Yield the scores of many blocks at a time; rows behind the last one are its neighbors."""
        assert self.codes is not None
        size, extreme = self.codes.rows, self.extreme_blocks()
        rounded = QuantizedQueries.of(query.targets)
        first, last = 0, len(self.codes)
        if scope.excluded is not None:  # a folder's rows are often next to each other
            excluded = scope.excluded[: self.coded].reshape(-1, size)
            used = np.flatnonzero(~excluded.all(axis=1))
            first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        rest = slice(self.coded, len(self.vectors))
        step = _CHUNK_BLOCKS if self._was_read else _FIRST_BLOCKS
        for start in range(first, last, step):
            check_cancelled()
            part = slice(start, min(start + step, last))
            count = part.stop - start
            joins = part.stop == len(self.codes) and 0 < rest.stop - rest.start <= size
            groups = query.groups(size, count + joins)
            scores = np.empty((1, count + joins, size), np.float32)
            maxima = np.empty((1, count + joins, groups), np.float32)
            errors = np.empty((1, count + joins), np.float32)
            if joins:
                plain = scores[:, -1, : rest.stop - rest.start]
                errors[:, -1] = self._plain(query, metric, scope, rest, plain)
                scores[:, -1, plain.shape[1] :] = -np.inf
                maxima[:, -1] = group_maxima(scores[:, -1], groups)
                self._check(maxima[:, -1])
                rest = slice(rest.stop, rest.stop)
            exclude = None if scope.excluded is None else excluded[part]
            out = BlockScores(scores[0, :count], maxima[0, :count], exclude)
            self.codes.query_scores(rounded, part, metric, self.threads, out)
            errors[:, :count] = self.codes.errors(rounded, part, metric).T
            if len(extreme):  # all of their rows are excluded
                errors[:, extreme[(extreme >= start) & (extreme < part.stop)] - start] = 0
            yield ScoredRows(start * size, scores, maxima, errors)
            if not self._was_read:
                release_pages(self.codes.codes[part])
        yield from self._plain_scores(query, metric, scope, rest.start)

    def _batch_scores(
        self, queries: _Queries, metric: Metric, scope: _Scope
    ) -> Iterator[ScoredRows]:
        assert self.codes is not None
        size, extreme = self.codes.rows, set(self.extreme_blocks().tolist())
        rounded, groups = QuantizedQueries.of(queries.targets), queries.groups(self.codes.rows)
        errors = self.codes.errors(rounded, slice(None), metric).T
        for block in range(len(self.codes)):
            check_cancelled()
            excluded = None
            if scope.excluded is not None:
                excluded = scope.excluded[block * size : (block + 1) * size]
            if block in extreme or (excluded is not None and excluded.all()):
                continue
            scores, maxima = self.codes.batch_scores(rounded, block, metric, excluded, groups)
            part = slice(block, block + 1)
            start, errors_of = block * size, errors[:, part]
            yield ScoredRows(start, scores[:, None], maxima[:, None], errors_of)
        yield from self._plain_scores(queries, metric, scope, self.coded)

    def _plain_scores(
        self, queries: _Queries, metric: Metric, scope: _Scope, first: int
    ) -> Iterator[ScoredRows]:
        """Yield scores in 32 bits of consecutive rows."""
        for start in range(first, len(self.vectors), self._step()):
            check_cancelled()
            part = slice(start, min(start + self._step(), len(self.vectors)))
            scores = np.empty((len(queries.vectors), 1, part.stop - start), np.float32)
            errors = self._plain(queries, metric, scope, part, scores[:, 0])
            yield self._scored(queries, start, scores, errors)

    def _plain(
        self,
        queries: _Queries,
        metric: Metric,
        scope: _Scope,
        part: slice,
        out: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Write scores ``(q, m)`` in 32 bits of consecutive rows; return bounds of their errors."""
        if part.start >= self.coded:
            lengths = self.facts().lengths
            if part.stop - part.start < len(lengths.inverses):
                lengths = lengths.take(slice(part.start - self.coded, part.stop - self.coded))
        else:
            lengths = self._lengths(np.arange(part.start, part.stop))
        excluded = None if scope.excluded is None else scope.excluded[part]
        return _score(queries, metric, self.vectors[part], lengths, excluded, out)

    def gathered_scores(
        self, queries: _Queries, metric: Metric, rows: NDArray[np.int64]
    ) -> ScoredRows:
        """Return scores in 32 bits of some rows in range, by their ascending numbers."""
        first, last = int(rows[0]), int(rows[-1])
        excluded = None
        if 2 * len(rows) > last - first:
            excluded = np.ones(last + 1 - first, np.bool_)
            excluded[rows - first] = False
            lengths = self._lengths(np.arange(first, last + 1))
            vectors = self.vectors[first : last + 1]
        else:
            lengths = self._lengths(rows)
            vectors = self.vectors.take(rows, axis=0)
        scores = np.empty((len(queries.vectors), 1, len(vectors)), np.float32)
        errors = _score(queries, metric, vectors, lengths, excluded, scores[:, 0])
        scored = self._scored(queries, first, scores, errors)
        return scored if excluded is not None else scored._replace(rows=rows)

    def _scored(
        self,
        queries: _Queries,
        start: int,
        scores: NDArray[np.float32],
        errors: NDArray[np.float32],
    ) -> ScoredRows:
        """Return scores in 32 bits with their maxima."""
        maxima = group_maxima(scores, queries.groups(scores.shape[2]))
        self._check(maxima)
        return ScoredRows(start, scores, maxima, errors[:, None])

    def _check(self, maxima: NDArray[np.float32]) -> None:
        """Raise the error for damaged rows unless scores of rows in range are numbers."""
        if self.damaged is not None and np.isnan(maxima).any():
            raise self.damaged()

    def _step(self) -> int:
        dim: int = self.vectors.shape[1]
        return max(1, min(_CHUNK_ROWS, _CHUNK_VALUES // max(1, dim)))


class _Search:
    """One search: the nearest rows of a scope to some queries.

    Args:
        scan: of the rows.
        scope: the rows that may match.
        metric: of the distances.
        k: rows wanted, at most as many as may match.
        shorten: returns what is needed of a result.
    """

    def __init__(
        self, scan: _Scan, scope: _Scope, metric: Metric, k: int, shorten: Shorten | None
    ) -> None:
        self._shorten = shorten
        self.scan = scan
        self._scope = scope
        self._metric = metric
        self._k = k
        self._scored = scope  # without rows out of range
        self._extreme = np.empty(0, np.int64)

    def run(
        self,
        vectors: Embeddings,
        targets: NDArray[np.float64],
        lengths: NDArray[np.float64],
    ) -> Iterator[tuple[int, Nearest]]:
        """Yield the number of each query ``(q, dim)`` and its nearest rows, in any order."""
        extreme = self.scan.facts().extreme
        if len(extreme):
            self._extreme = np.intersect1d(extreme, self._scope.rows(), assume_unique=True)
            self._scored = self._scope.without(extreme)
        if self._metric is Metric.COSINE:
            scaled = targets / lengths[:, None]
            queries = _Queries(scaled.astype(np.float32), scaled, np.ones(len(lengths)), self._k)
        else:
            queries = _Queries(vectors, targets, lengths, self._k)
        groups = self._groups(queries)

        def search(places: NDArray[np.int64]) -> list[Nearest]:
            return self._group(queries.take(places), vectors[places])

        threads = min(self.scan.threads, len(groups))
        is_single = len(lengths) < _MIN_BATCH
        if threads < 2 or is_single or self.scan.codes is None or self._scope.subset is not None:
            results = map(search, groups)
            for places, nearest in zip(groups, results, strict=True):
                yield from zip(places.tolist(), nearest, strict=True)
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="lookalike-search") as pool:
            futures = [pool.submit(contextvars.copy_context().run, search, each) for each in groups]
            try:
                for places, future in zip(groups, futures, strict=True):
                    yield from zip(places.tolist(), future.result(), strict=True)
            finally:
                for future in futures:
                    future.cancel()

    def _groups(self, queries: _Queries) -> list[NDArray[np.int64]]:
        """Return the numbers of queries that are multiplied together.

        They are rounded with one step, so they have values of about the same size.
        """
        count = len(queries.vectors)
        if count < _MIN_BATCH:
            return list(np.arange(count)[:, None])
        size = max(_MIN_BATCH, min(_BATCH, -(-count // self.scan.threads)))
        peaks = np.abs(queries.targets).max(axis=1)
        groups: list[list[int]] = []
        for place in np.argsort(-peaks, kind="stable").tolist():
            if not groups or len(groups[-1]) == size or 2 * peaks[place] < peaks[groups[-1][0]]:
                groups.append([])
            groups[-1].append(place)
        return [
            part
            for group in groups
            for part in (
                [np.array(group)] if len(group) >= _MIN_BATCH else [np.array([i]) for i in group]
            )
        ]

    def _group(self, queries: _Queries, originals: Embeddings) -> list[Nearest]:
        for coded in (True, False):
            selection = Selection(len(originals), self._k)
            try:
                for part in self.scan.scores(queries, self._metric, self._scored, coded=coded):
                    selection.add(part)
            except CrowdedError:
                continue
            break
        else:
            every = np.arange(len(originals))[:, None]
            return [self._group(queries.take(i), originals[i])[0] for i in every]
        candidates = selection.result()
        if len(candidates) > 1 and not len(self._extreme):
            values = sum(len(each.rows) for each in candidates) * originals.shape[1]
            if values <= _FEW_VALUES * len(candidates):
                return self._compared(originals, [each.rows for each in candidates])
        return [
            self._refined(queries.take(np.array([place])), originals[place], each)
            for place, each in enumerate(candidates)
        ]

    def _compared(
        self, originals: Embeddings, candidates: Sequence[NDArray[np.int64]]
    ) -> list[Nearest]:
        """Return the nearest of few rows for each query, computed together."""
        counts = [len(each) for each in candidates]
        places, rows = np.repeat(np.arange(len(counts)), counts), np.concatenate(candidates)
        distances = self._distances(originals, rows, places)
        order = np.lexsort((rows, distances, places))
        rows, distances = rows[order], distances[order]
        ends = itertools.accumulate(counts, initial=0)
        return [
            self._first(rows[start:stop], distances[start:stop])
            for start, stop in itertools.pairwise(ends)
        ]

    def _refined(
        self, query: _Queries, original: NDArray[np.float32], candidates: Candidates
    ) -> Nearest:
        """Return the nearest of the candidates."""
        check_cancelled()
        if len(candidates.rows) > 2 * self._k + _FEW:
            candidates = candidates.at_least(self._floor(query, original, candidates))
        if len(candidates.rows) > _MAX_DIRECT:
            candidates = self._rescored(query, original, candidates)
        rows = candidates.rows
        if len(self._extreme):
            rows = np.concatenate([rows, self._extreme])
        return self.direct(original, np.sort(rows))

    def _floor(
        self, query: _Queries, original: NDArray[np.float32], candidates: Candidates
    ) -> float:
        """Return a number that the score of the k-th nearest row is at least."""
        if len(candidates.rows) < self._k:
            return -math.inf
        worst = float(self._distances(original, candidates.best(self._k)).max())
        length = float(query.lengths[0])
        error = 8 * (len(original) + 8) * float(np.finfo(np.float64).eps)
        if self._metric is Metric.COSINE:
            return 1 - worst - error
        return (length**2 * (1 - error) - worst**2 * (1 + error)) / 2

    def _rescored(
        self, query: _Queries, original: NDArray[np.float32], candidates: Candidates
    ) -> Candidates:
        """Return candidates with scores in 32 bits, fewer than there were."""
        floor = self._floor(query, original, candidates)
        rows = np.sort(candidates.rows)
        parts = []
        for start in range(0, len(rows), _CHUNK_ROWS):
            check_cancelled()
            part = rows[start : start + _CHUNK_ROWS]
            scored = self.scan.gathered_scores(query, self._metric, part)
            scores = scored.scores[0, 0]
            if scored.rows is None:
                scores = scores[part - scored.start]
            errors = np.full(len(part), scored.errors[0, 0])
            parts.append(Candidates(part, scores, errors).at_least(floor))
        joined = Candidates(
            np.concatenate([each.rows for each in parts]),
            np.concatenate([each.scores for each in parts]),
            np.concatenate([each.errors for each in parts]),
        )
        return joined.at_least(self._floor(query, original, joined))

    def direct(self, query: NDArray[np.float32], rows: NDArray[np.int64] | None = None) -> Nearest:
        """Return the nearest of rows in ascending order, by the distances of all of them."""
        if rows is None:
            rows = self._scope.rows()
        distances = self._distances(query, rows)
        if len(rows) > max(self._k, _MAX_DIRECT):
            last = np.partition(distances, self._k - 1)[self._k - 1]
            near = np.flatnonzero(distances <= last)
            rows, distances = rows[near], distances[near]
        order = distances.argsort(kind="stable")
        return self._first(rows[order], distances[order])

    def _first(self, rows: NDArray[np.int64], distances: NDArray[np.float64]) -> Nearest:
        """Return the first ``k`` rows, and others as near as the last, as far as needed."""
        if len(rows) > self._k:
            count = int(distances.searchsorted(distances[self._k - 1], "right"))
            rows, distances = rows[:count], distances[:count]
        nearest = Nearest(rows, distances)
        return nearest if self._shorten is None else self._shorten(nearest)

    def all_at(self, distance: float) -> Nearest:
        """Return the rows if all are equally near."""
        rows = self._scope.rows()
        return self._first(rows, np.full(len(rows), float(distance)))

    def _distances(
        self,
        queries: NDArray[np.float32],
        rows: NDArray[np.int64],
        places: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """Return the distances of rows to a query ``(dim,)``, or each to one of several."""
        result = np.empty(len(rows))
        targets = queries.astype(np.float64)
        step = max(1, _CHUNK_DIRECT // max(1, queries.shape[-1]))
        for start in range(0, len(rows), step):
            check_cancelled()
            part = rows[start : start + step]
            target = targets if places is None else targets[places[start : start + step]]
            with np.errstate(invalid="ignore"):  # of damaged rows
                vectors = self.scan.vectors.take(part, axis=0).astype(np.float64)
                result[start : start + step] = _distances(vectors, target, self._metric)
        if self.scan.damaged is not None and not math.isfinite(result.sum()):
            raise self.scan.damaged()
        return result


def _score(
    queries: _Queries,
    metric: Metric,
    vectors: Embeddings,
    lengths: _Lengths,
    excluded: NDArray[np.bool_] | None,
    out: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Write the scores ``(q, m)`` of vectors; return bounds ``(q,)`` of their errors.

    Vectors out of range must be excluded.
    """
    # Higham 2002, section 3.1.
    unit = (vectors.shape[1] + 8) * _EPSILON
    if metric is Metric.COSINE:
        errors = 2 * unit * queries.lengths
    else:
        squares = lengths.half_squares
        largest = squares.max() if excluded is None else squares[~excluded].max(initial=0)
        length = math.sqrt(2 * float(largest))
        errors = 1.001 * unit * length * (queries.lengths + length)
    with np.errstate(all="ignore"):
        if len(out) == 1:  # without threads, which would delay those of the codes
            np.vecdot(vectors, queries.vectors[0], out=out[0])
        else:
            np.matmul(queries.vectors, vectors.T, out=out)
        if metric is Metric.COSINE:
            out *= lengths.inverses
        else:
            out -= lengths.half_squares
    if excluded is not None:
        out[:, excluded] = -np.inf
    return np.asarray(errors, np.float32)


def _distances(
    vectors: NDArray[np.float64], target: NDArray[np.float64], metric: Metric
) -> NDArray[np.float64]:
    """Return the distances ``(m,)`` of vectors ``(m, dim)`` to a query, or each to its own.

    Those of equal vectors are equal to the last bit, wherever they lie: no BLAS is used.
    """
    sum_of = np.add.reduce
    if metric is Metric.L2:
        difference = vectors - target
        difference *= difference
        return np.asarray(np.sqrt(sum_of(difference, axis=1)))
    products = sum_of(vectors * target, axis=1)
    norms = np.sqrt(sum_of(vectors * vectors, axis=1) * sum_of(target * target, axis=-1))
    norms += norms == 0  # then the product is 0, too
    distances = 1 - products / norms
    clipped = np.minimum(np.maximum(distances, 0), 2)  # rounding may lead out of this range
    return np.asarray(clipped)
