"""Exact nearest neighbors in memory: one matrix product, then the true distances of a few.

The product gives every row an approximate score; the rows that may be among the nearest, given
its rounding error, get their distance computed directly, as ``|q - x|`` or ``1 - cos``. So the
answers are those of computing every distance directly, at the speed of a matrix product. For
single queries, once there have been a few, the product is one of the rows in 8 bits.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.stores.quantized import QuantizedRows
from lookalike.types import Embeddings, Metric

_MANY = 20_000
"""Rows in 8 bits pay from here on, if they are asked more than once."""

_FEW = 2_000
"""So many rows are compared with a query directly."""

_BLOCK = 64
_SPARE = 16
_SCORES = 1 << 24
"""Queries are taken in chunks of at most this many scores at once (64 MiB)."""


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Row numbers ``(q, k)`` int64 and distances ``(q, k)`` float64, nearest first.

    Equal distances are ordered by row number.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float64]


class ExactIndex:
    """Embeddings ``(rows, dim)`` float32 held in memory, ready to be searched."""

    def __init__(self, embeddings: Embeddings) -> None:
        self._rows = np.ascontiguousarray(embeddings, dtype=np.float32)
        squares = np.einsum("ij,ij->i", self._rows, self._rows, dtype=np.float64)
        norms = np.sqrt(squares)
        self._plain = _plain(norms)
        inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        with np.errstate(over="ignore", under="ignore"):
            self._half_squares = (squares / 2).astype(np.float32)
            self._inverse_norms = inverse.astype(np.float32)
        self._largest = float(norms.max(initial=0))
        self._coarse: QuantizedRows | None = None
        self._cosine_scales = np.empty(0, np.float32)
        self._singles: float = 0

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, rows: NDArray[np.int64]) -> Embeddings:
        """Return the embeddings of rows by their numbers."""
        return self._rows[rows]

    def others(self, start: int, stop: int, k: int, metric: Metric) -> Neighbors:
        """Return the ``min(n, rows - 1)`` nearest other rows to each from ``start`` to ``stop``."""
        asked = self._rows[start:stop]
        found = self.search(asked, k + 1, metric)
        # Among identical rows the row itself need not be the first, nor be there at all.
        other = found.rows != np.arange(start, start + len(asked))[:, None]
        other[other.all(axis=1), -1] = False
        shape = (len(asked), -1)
        return Neighbors(found.rows[other].reshape(shape), found.distances[other].reshape(shape))

    def search(
        self,
        queries: Embeddings,
        k: int,
        metric: Metric,
        among: NDArray[np.int64] | None = None,
    ) -> Neighbors:
        """Return the ``min(n, rows)`` nearest rows to each of ``(q, dim)`` float32 queries.

        ``among`` are the only rows that are searched, in ascending order; all unless given.
        """
        if among is not None and len(among) == len(self):
            among = None
        if len(queries) == 1 and k > 0 and self._plain and _plain(_lengths(queries)):
            coarse = self._rounded()
            if coarse is not None:
                among = self._near(coarse, queries[0], k, metric, among)
                if len(among) <= _FEW:
                    rows, distances = self._nearest(queries[0], among, k, metric)
                    return Neighbors(rows[None], distances[None])
        if among is not None:
            found = self._part(among).search(queries, k, metric)
            return Neighbors(among[found.rows], found.distances)
        k = min(k, len(self))
        found = Neighbors(
            np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float64)
        )
        if k == 0:
            return found
        step = max(1, _SCORES // len(self))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            self._search(queries[part], metric, found.rows[part], found.distances[part])
        return found

    def _rounded(self) -> QuantizedRows | None:
        """Return the rows in 8 bits, from the second single query over many rows on."""
        if len(self) < _MANY:
            return None
        self._singles += 1
        if self._coarse is None and self._singles > 1:
            coarse = QuantizedRows(self._rows)
            self._cosine_scales = coarse.scales * self._inverse_norms
            self._coarse = coarse
        return self._coarse

    def _near(
        self,
        coarse: QuantizedRows,
        query: NDArray[np.float32],
        k: int,
        metric: Metric,
        among: NDArray[np.int64] | None,
    ) -> NDArray[np.int64]:
        """Return, in ascending order, rows among which the ``k`` nearest to a query are.

        Of the ``k`` best by rounded products the worst true score is no better than that of the
        n-th nearest row, so a row whose rounded score is worse than it by more than the error of
        rounding is not among these.
        """
        products, step, rounded = coarse.products(query)
        if metric is Metric.COSINE:  # the step is left out: one look at all rows less
            scores = np.multiply(products, self._cosine_scales, dtype=np.float32)
        else:
            scores = np.multiply(products, coarse.scales * np.float32(step), dtype=np.float32)
            scores -= self._half_squares
            step = 1.0
        if among is not None:
            scores = scores[among]
        count = len(scores)
        if count <= k:
            return np.arange(count) if among is None else among
        best = _top(scores[None], k)[0]
        rows = best if among is None else among[best]
        true = self._scored((self._rows[rows] @ query)[None], metric, rows)[0]
        length = float(np.linalg.norm(query))
        lost = float(np.linalg.norm(query - rounded))
        error = float(self._error(query[None], metric)[0])
        if metric is Metric.COSINE:
            error += 1.001 * (lost + length * coarse.relative)
        else:
            error += 1.001 * (lost * self._largest + length * coarse.far)
        near = np.flatnonzero(scores >= (true.min() - error) / step)
        return near if among is None else among[near]

    def _part(self, rows: NDArray[np.int64]) -> ExactIndex:
        """Return some of the rows, without computing anything about them anew."""
        part = copy(self)
        part._coarse, part._singles = None, -math.inf
        part._rows = self._rows[rows]
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
        n = rows.shape[1]
        if not (self._plain and _plain(_lengths(queries))):
            every = np.arange(len(self))
            for q, query in enumerate(queries):
                rows[q], distances[q] = self._nearest(query, every, n, metric)
            return
        scores = self._scores(queries, metric)
        candidates = np.sort(_top(scores, min(n + _SPARE, len(self))), axis=1)
        exact = self._distances(queries[:, None], candidates, metric)
        order = np.argsort(exact, axis=1, kind="stable")[:, :n]
        rows[:] = np.take_along_axis(candidates, order, axis=1)
        distances[:] = np.take_along_axis(exact, order, axis=1)
        if candidates.shape[1] == len(self):
            return
        # Where the candidates' scores are too close for the rest to be ruled out, look at more.
        found = np.sort(np.take_along_axis(scores, candidates, axis=1), axis=1)
        threshold = found[:, -n] - 2 * self._error(queries, metric)
        for i in np.flatnonzero(found[:, 0] >= threshold):
            more = np.flatnonzero(scores[i] >= threshold[i])
            rows[i], distances[i] = self._nearest(queries[i], more, n, metric)

    def _nearest(
        self, query: NDArray[np.float32], rows: NDArray[np.int64], k: int, metric: Metric
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        exact = self._distances(query, rows, metric)
        order = np.argsort(exact, kind="stable")[:k]
        return rows[order], exact[order]

    def _scores(self, queries: Embeddings, metric: Metric) -> NDArray[np.float32]:
        """Return ``(q, rows)``: larger is nearer, in the order of the metric up to rounding."""
        one = len(queries) == 1  # a matrix-vector product is faster then
        products = (self._rows @ queries[0])[None] if one else queries @ self._rows.T
        return self._scored(products, metric)

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
        vectors = self._rows[rows].astype(np.float64)
        target = query.astype(np.float64)
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


def _plain(norms: NDArray[np.float64]) -> bool:
    """Tell whether float32 products of vectors this long neither over- nor underflow."""
    some = norms[norms > 0]
    return bool(some.min(initial=1) > 1e-12 and some.max(initial=1) < 1e12)


def _top(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the columns of the ``k`` largest scores of each row, in no order.

    The n largest lie in the n blocks of columns with the largest maxima, so only these are
    looked into.
    """
    count, rows = scores.shape
    blocks = rows // _BLOCK
    if blocks <= 2 * k:
        return np.argpartition(scores, rows - k, axis=1)[:, rows - k :]
    whole = blocks * _BLOCK
    maxima = scores[:, :whole].reshape(count, blocks, _BLOCK).max(axis=2)
    best = np.argpartition(maxima, blocks - k, axis=1)[:, blocks - k :]
    columns = (best[:, :, None] * _BLOCK + np.arange(_BLOCK)).reshape(count, -1)
    rest = np.broadcast_to(np.arange(whole, rows), (count, rows - whole))
    columns = np.concatenate([columns, rest], axis=1)
    inside = np.take_along_axis(scores, columns, axis=1)
    chosen = np.argpartition(inside, inside.shape[1] - k, axis=1)[:, inside.shape[1] - k :]
    return np.take_along_axis(columns, chosen, axis=1)
