"""Exact nearest neighbours in memory: one matrix product, then the true distances of a few.

The product gives every row an approximate score; the rows that may be among the nearest, given
its rounding error, get their distance computed directly, as ``|q - x|`` or ``1 - cos``. So the
answers are those of computing every distance directly, at the speed of a matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.types import Embeddings, Metric

_BLOCK = 64
_SPARE = 16
_SCORES = 1 << 24
"""Queries are taken in chunks of at most this many scores at once (64 MiB)."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Row numbers ``(q, n)`` int64 and distances ``(q, n)`` float64, nearest first.

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

    def __len__(self) -> int:
        return len(self._rows)

    def others(self, start: int, stop: int, n: int, metric: Metric) -> NDArray[np.int64]:
        """Return the nearest other rows to each of the rows from ``start`` to ``stop``.

        They are ``(stop - start, min(n, rows - 1))`` row numbers, nearest first.
        """
        asked = self._rows[start:stop]
        rows = self.search(asked, n + 1, metric).rows
        # Among identical rows the row itself need not be the first, nor be there at all.
        other = rows != np.arange(start, start + len(asked))[:, None]
        other[other.all(axis=1), -1] = False
        return np.asarray(rows[other].reshape(len(asked), -1))

    def search(self, queries: Embeddings, n: int, metric: Metric) -> Neighbours:
        """Return the ``min(n, rows)`` nearest rows to each of ``(q, dim)`` float32 queries."""
        n = min(n, len(self))
        found = Neighbours(
            np.empty((len(queries), n), np.int64), np.empty((len(queries), n), np.float64)
        )
        if n == 0:
            return found
        step = max(1, _SCORES // len(self))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            self._search(queries[part], metric, found.rows[part], found.distances[part])
        return found

    def _search(
        self,
        queries: Embeddings,
        metric: Metric,
        rows: NDArray[np.int64],
        distances: NDArray[np.float64],
    ) -> None:
        """Fill ``rows`` and ``distances``, both ``(q, n)``."""
        n = rows.shape[1]
        if not (self._plain and _plain(np.linalg.norm(queries.astype(np.float64), axis=1))):
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
        self, query: NDArray[np.float32], rows: NDArray[np.int64], n: int, metric: Metric
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        exact = self._distances(query, rows, metric)
        order = np.argsort(exact, kind="stable")[:n]
        return rows[order], exact[order]

    def _scores(self, queries: Embeddings, metric: Metric) -> NDArray[np.float32]:
        """Return ``(q, rows)``: larger is nearer, in the order of the metric up to rounding."""
        one = len(queries) == 1  # a matrix-vector product is faster then
        scores = (self._rows @ queries[0])[None] if one else queries @ self._rows.T
        if metric is Metric.L2:
            scores -= self._half_squares
        else:
            scores *= self._inverse_norms
        return np.asarray(scores)

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


def _plain(norms: NDArray[np.float64]) -> bool:
    """Tell whether float32 products of vectors this long neither over- nor underflow."""
    some = norms[norms > 0]
    return bool(some.min(initial=1) > 1e-12 and some.max(initial=1) < 1e12)


def _top(scores: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """Return the columns of the ``n`` largest scores of each row, in no order.

    The n largest lie in the n blocks of columns with the largest maxima, so only these are
    looked into.
    """
    count, rows = scores.shape
    blocks = rows // _BLOCK
    if blocks <= 2 * n:
        return np.argpartition(scores, rows - n, axis=1)[:, rows - n :]
    whole = blocks * _BLOCK
    maxima = scores[:, :whole].reshape(count, blocks, _BLOCK).max(axis=2)
    best = np.argpartition(maxima, blocks - n, axis=1)[:, blocks - n :]
    columns = (best[:, :, None] * _BLOCK + np.arange(_BLOCK)).reshape(count, -1)
    rest = np.broadcast_to(np.arange(whole, rows), (count, rows - whole))
    columns = np.concatenate([columns, rest], axis=1)
    inside = np.take_along_axis(scores, columns, axis=1)
    chosen = np.argpartition(inside, inside.shape[1] - n, axis=1)[:, inside.shape[1] - n :]
    return np.take_along_axis(columns, chosen, axis=1)
