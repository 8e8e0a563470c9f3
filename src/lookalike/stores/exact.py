"""Exact nearest neighbors in memory: one matrix product, then the distances of few candidates.

The product gives every row an approximate score. The distances of all rows that may be among the
nearest, given the rounding error, are computed directly, as ``|q - x|`` or ``1 - cos``. The results
equal those of computing every distance, at the speed of a matrix product. From the second single
query on, the product uses rows in 8 bits.
"""

from __future__ import annotations

import math
import threading
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.stores.quantized import QuantizedBlocks, QuantizedRows
from lookalike.types import Embeddings, Metric

_MIN_QUANTIZED = 20_000
"""Rows from which quantization is worth its cost."""

_MAX_DIRECT = 2_000
"""Candidates up to which distances are computed directly."""

_BLOCK = 64
_EXTRA = 16
_CHUNK_SCORES = 1 << 24
"""Scores held at a time (64 MiB); queries are processed in chunks."""

_CHUNK_VALUES = 1 << 24
"""Values of rows that are multiplied between checks whether the search was cancelled."""

_CHUNK_DIRECT = 1 << 21
"""Values whose distances are computed at a time, in 64 bits (16 MiB)."""


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


class ExactIndex:
    """Exact search over embeddings ``(rows, dim)`` float32 in memory."""

    def __init__(
        self,
        vectors: Embeddings,
        codes: QuantizedBlocks | None = None,
        *,
        dead: NDArray[np.int64] | None = None,
    ) -> None:
        del codes
        self._dead = dead if dead is not None and len(dead) else None
        self._rows = np.ascontiguousarray(vectors, dtype=np.float32)
        squares = np.einsum("ij,ij->i", self._rows, self._rows, dtype=np.float64)
        norms = np.sqrt(squares)
        self._in_range = _in_range(norms)
        inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        with np.errstate(over="ignore", under="ignore"):
            self._half_squares = (squares / 2).astype(np.float32)
            self._inverse_norms = inverse.astype(np.float32)
        self._largest = float(norms.max(initial=0))
        self._quantized: QuantizedRows | None = None
        self._quantizing = threading.Lock()
        self._cosine_scales = np.empty(0, np.float32)
        self._single_queries: float = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def vectors(self) -> Embeddings:
        """The embeddings, ``(rows, dim)``."""
        return self._rows

    def at(self, rows: NDArray[np.int64]) -> Embeddings:
        """Return the embeddings of rows by their numbers."""
        return self._rows[rows]

    def others(self, start: int, stop: int, k: int, metric: Metric) -> Neighbors:
        """Return the ``min(k, rows - 1)`` nearest other rows to the rows ``start`` to ``stop``."""
        queries = self._rows[start:stop]
        nearest = self.search(queries, k + 1, metric)
        # Among identical rows the row itself need not be first, or among the nearest at all.
        other = nearest.rows != np.arange(start, start + len(queries))[:, None]
        other[other.all(axis=1), -1] = False
        shape = (len(queries), -1)
        return Neighbors(
            nearest.rows[other].reshape(shape), nearest.distances[other].reshape(shape)
        )

    def search_with_ties(
        self,
        queries: Embeddings,
        k: int,
        metric: Metric,
        subset: NDArray[np.int64] | None = None,
    ) -> list[Nearest]:
        """Return the nearest rows to each query, and all others at the distance of the k-th.

        ``subset`` restricts the search to some rows, in ascending order.
        """
        count = len(self) if subset is None else len(subset)
        results = []
        for query in queries:
            more = k + 1
            while True:
                nearest = self.search(query[None], more, metric, subset)
                rows, distances = nearest.rows[0], nearest.distances[0]
                if (
                    len(rows) < more
                    or more >= count
                    or distances[-1] > distances[k - 1]
                ):
                    break
                more *= 4
            last = np.searchsorted(distances, distances[k - 1], "right") if len(rows) > k else k
            results.append(Nearest(rows[:last], distances[:last]))
        return results

    def search(
        self,
        queries: Embeddings,
        k: int,
        metric: Metric,
        subset: NDArray[np.int64] | None = None,
    ) -> Neighbors:
        """Return the ``min(k, rows)`` nearest rows to queries ``(q, dim)`` float32.

        ``subset`` restricts the search to some rows, in ascending order.
        """
        if self._dead is not None:
            every = np.arange(len(self)) if subset is None else subset
            subset = np.setdiff1d(every, self._dead, assume_unique=True)
        if subset is not None and len(subset) == len(self):
            subset = None
        if len(queries) == 1 and k > 0 and self._in_range and _in_range(_lengths(queries)):
            quantized = self._quantize()
            if quantized is not None:
                subset = self._candidates(quantized, queries[0], k, metric, subset)
                if len(subset) <= _MAX_DIRECT:
                    rows, distances = self._nearest(queries[0], subset, k, metric)
                    return Neighbors(rows[None], distances[None])
        if subset is not None:
            nearest = self._take(subset).search(queries, k, metric)
            return Neighbors(subset[nearest.rows], nearest.distances)
        k = min(k, len(self))
        nearest = Neighbors(
            np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float64)
        )
        if k == 0:
            return nearest
        step = max(1, _CHUNK_SCORES // len(self))
        for start in range(0, len(queries), step):
            check_cancelled()
            part = slice(start, start + step)
            self._search(queries[part], metric, nearest.rows[part], nearest.distances[part])
        return nearest

    def _quantize(self) -> QuantizedRows | None:
        """Return the rows in 8 bits, if they are many and this is not the first single query.

        While one search computes them, to the end since all later ones use them, others do without.
        """
        if len(self) < _MIN_QUANTIZED:
            return None
        self._single_queries += 1
        if (
            self._quantized is None
            and self._single_queries > 1
            and self._quantizing.acquire(blocking=False)
        ):
            try:
                quantized = QuantizedRows(self._rows)
                self._cosine_scales = quantized.scales * self._inverse_norms
                self._quantized = quantized
            finally:
                self._quantizing.release()
        return self._quantized

    def _candidates(
        self,
        quantized: QuantizedRows,
        query: NDArray[np.float32],
        k: int,
        metric: Metric,
        subset: NDArray[np.int64] | None,
    ) -> NDArray[np.int64]:
        """Return rows, in ascending order, that include the ``k`` nearest to a query.

        The worst true score of the ``k`` best rows by rounded score is a lower bound of the score
        of the k-th nearest row. Rows whose rounded score is lower by more than the rounding error
        are excluded.
        """
        products, step, rounded = quantized.products(query)
        if metric is Metric.COSINE:  # without the step, which saves a pass over all rows
            scores = np.multiply(products, self._cosine_scales, dtype=np.float32)
        else:
            scores = np.multiply(products, quantized.scales * np.float32(step), dtype=np.float32)
            scores -= self._half_squares
            step = 1.0
        if subset is not None:
            scores = scores[subset]
        count = len(scores)
        if count <= k:
            return np.arange(count) if subset is None else subset
        best = _top(scores[None], k)[0]
        rows = best if subset is None else subset[best]
        true = self._scored((self._rows[rows] @ query)[None], metric, rows)[0]
        length = float(np.linalg.norm(query))
        query_error = float(np.linalg.norm(query - rounded))
        error = float(self._error(query[None], metric)[0])
        if metric is Metric.COSINE:
            error += 1.001 * (query_error + length * quantized.max_relative_error)
        else:
            error += 1.001 * (query_error * self._largest + length * quantized.max_error)
        passing = np.flatnonzero(scores >= (true.min() - error) / step)
        return passing if subset is None else subset[passing]

    def _take(self, rows: NDArray[np.int64]) -> ExactIndex:
        """Return an index of some of the rows, which reuses what is computed."""
        part = copy(self)
        part._quantized, part._single_queries = None, -math.inf
        part._rows = self._rows[rows]
        part._dead = None
        part._half_squares = self._half_squares[rows]
        part._inverse_norms = self._inverse_norms[rows]
        return part

    def _search(
        self,
        queries: Embeddings,
        metric: Metric,
        rows: NDArray[np.int64],
        distances: NDArray[np.float64],
    ) -> None:
        """Fill ``rows`` and ``distances``, both ``(q, k)``."""
        k = rows.shape[1]
        if not (self._in_range and _in_range(_lengths(queries))):
            every = np.arange(len(self))
            for q, query in enumerate(queries):
                check_cancelled()
                rows[q], distances[q] = self._nearest(query, every, k, metric)
            return
        scores = self._scored(self._products(queries), metric)
        candidates = np.sort(_top(scores, min(k + _EXTRA, len(self))), axis=1)
        exact = self._distances(queries[:, None], candidates, metric)
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        rows[:] = np.take_along_axis(candidates, order, axis=1)
        distances[:] = np.take_along_axis(exact, order, axis=1)
        if candidates.shape[1] == len(self):
            return
        # Where scores are too close to exclude the other rows, more candidates are compared.
        best = np.sort(np.take_along_axis(scores, candidates, axis=1), axis=1)
        threshold = best[:, -k] - 2 * self._error(queries, metric)
        for i in np.flatnonzero(best[:, 0] >= threshold):
            more = np.flatnonzero(scores[i] >= threshold[i])
            rows[i], distances[i] = self._nearest(queries[i], more, k, metric)

    def _nearest(
        self, query: NDArray[np.float32], rows: NDArray[np.int64], k: int, metric: Metric
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        exact = self._distances(query, rows, metric)
        order = np.argsort(exact, kind="stable")[:k]
        return rows[order], exact[order]

    def _products(self, queries: Embeddings) -> NDArray[np.float32]:
        """Return the products ``(q, rows)`` of queries with all rows."""
        products = np.empty((len(queries), len(self)), np.float32)
        step = max(1, _CHUNK_VALUES // max(1, self._rows.shape[1]))
        for start in range(0, len(self), step):
            check_cancelled()
            rows, part = self._rows[start : start + step], products[:, start : start + step]
            if len(queries) == 1:  # a matrix-vector product is faster then
                np.matmul(rows, queries[0], out=part[0])
            else:
                np.matmul(queries, rows.T, out=part)
        return products

    def _scored(
        self,
        products: NDArray[np.float32],
        metric: Metric,
        rows: NDArray[np.int64] | slice = slice(None),
    ) -> NDArray[np.float32]:
        """Turn products ``(..., rows)`` of queries with rows into scores, in place."""
        if metric is Metric.L2:
            products -= self._half_squares[rows]
        else:
            products *= self._inverse_norms[rows]
        return products

    def _error(self, queries: Embeddings, metric: Metric) -> NDArray[np.float32]:
        """Bound the rounding error of each query's scores (Higham 2002, section 3.1)."""
        unit = (self._rows.shape[1] + 2) * np.finfo(np.float32).eps
        norms = np.linalg.norm(queries, axis=1)
        if metric is Metric.COSINE:
            return np.asarray(2 * unit * norms)
        return np.asarray(unit * self._largest * (norms + self._largest))

    def _distances(
        self, query: Embeddings, rows: NDArray[np.int64], metric: Metric
    ) -> NDArray[np.float64]:
        """Return the distances ``(..., m)`` of rows ``(..., m)`` to queries ``(..., 1, dim)``."""
        result = np.empty(rows.shape)
        target = query.astype(np.float64)
        step = max(1, _CHUNK_DIRECT // max(1, math.prod(rows.shape[:-1]) * self._rows.shape[1]))
        for start in range(0, rows.shape[-1], step):
            check_cancelled()
            part = (..., slice(start, start + step))
            result[part] = _distances(self._rows[rows[part]].astype(np.float64), target, metric)
        return result


def _distances(
    vectors: NDArray[np.float64], target: NDArray[np.float64], metric: Metric
) -> NDArray[np.float64]:
    """Return the distances ``(..., m)`` of vectors ``(..., m, dim)`` to queries."""
    if metric is Metric.L2:
        difference = vectors - target
        return np.asarray(np.sqrt(np.einsum("...d,...d->...", difference, difference)))
    products = np.einsum("...d,...d->...", vectors, target)
    squares = np.einsum("...d,...d->...", vectors, vectors) * (target * target).sum(axis=-1)
    norms = np.sqrt(squares)
    similarity = np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0)
    return np.asarray(1 - similarity)


def _lengths(rows: Embeddings) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(rows.astype(np.float64), axis=1))


def _in_range(norms: NDArray[np.float64]) -> bool:
    """Return whether float32 products of vectors of these lengths neither over- nor underflow."""
    nonzero = norms[norms > 0]
    return bool(nonzero.min(initial=1) > 1e-12 and nonzero.max(initial=1) < 1e12)


def _top(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the columns of the ``k`` largest scores of each row, in any order.

    The k largest are in the k blocks of columns with the largest maxima, so only these blocks are
    searched. A block has every n-th column, so that maxima are of whole vectors: five times as fast
    as of neighboring columns.
    """
    count, rows = scores.shape
    blocks = rows // _BLOCK
    if blocks <= 2 * k:
        return np.argpartition(scores, rows - k, axis=1)[:, rows - k :]
    whole = blocks * _BLOCK
    maxima = scores[:, :whole].reshape(count, _BLOCK, blocks).max(axis=1)
    best = np.argpartition(maxima, blocks - k, axis=1)[:, blocks - k :]
    columns = (best[:, :, None] + np.arange(_BLOCK) * blocks).reshape(count, -1)
    rest = np.broadcast_to(np.arange(whole, rows), (count, rows - whole))
    columns = np.concatenate([columns, rest], axis=1)
    inside = np.take_along_axis(scores, columns, axis=1)
    chosen = np.argpartition(inside, inside.shape[1] - k, axis=1)[:, inside.shape[1] - k :]
    return np.take_along_axis(columns, chosen, axis=1)
