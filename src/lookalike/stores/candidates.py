"""The rows that may be among the nearest, chosen by scores whose errors are bounded.

Scores come in parts, some rows at a time. A row of a later part can exclude those of an earlier
one, so only few are kept at any time.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MIN_GROUPS = 64
_MAX_PER_QUERY = 20_000
"""Rows per query that are kept at a time on average."""

_LOWEST = np.finfo(np.float32).min
"""At most every score but those of excluded rows."""


class CrowdedError(Exception):
    """The errors of the scores are too large to exclude enough rows."""


class ScoredRows(NamedTuple):
    """Scores of some rows: the larger the nearer.

    Args:
        start: number of the first row.
        scores: ``(q, blocks, rows)`` float32; -inf where a row is excluded.
        maxima: ``(q, blocks, groups)`` float32, the largest scores of groups of rows. If there are
            n, each has every n-th row of the block.
        errors: ``(q, blocks)`` float32, bounds of the errors of scores.
        rows: numbers of the rows if they are not consecutive, of one block.
    """

    start: int
    scores: NDArray[np.float32]
    maxima: NDArray[np.float32]
    errors: NDArray[np.float32]
    rows: NDArray[np.int64] | None = None

    def numbers(self, blocks: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return numbers of rows."""
        if self.rows is not None:
            return self.rows[places]
        return np.asarray(self.start + blocks * self.scores.shape[2] + places)


class Candidates:
    """Rows ``(m,)`` of one query with their scores and bounds of their errors."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        errors: NDArray[np.float32],
    ) -> None:
        self.rows, self.scores, self.errors = rows, scores, errors

    def best(self, k: int) -> NDArray[np.int64]:
        """Return the ``k`` rows with the largest scores, in any order."""
        if len(self.rows) <= k:
            return self.rows
        return self.rows[np.argpartition(self.scores, len(self.scores) - k)[-k:]]

    def at_least(self, floor: float) -> Candidates:
        """Return those whose true score may be at least a number."""
        passing = self.scores + self.errors >= floor
        return Candidates(self.rows[passing], self.scores[passing], self.errors[passing])


class Selection:
    """Chooses the candidates of several queries while scores come in.

    Args:
        queries: how many.
        k: rows wanted for each.
    """

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._best = np.full((queries, k), -np.inf, np.float32)
        self._floors = np.full(queries, -np.inf, np.float32)
        self._chosen: list[tuple[NDArray[np.int64], Candidates]] = []
        self._count = 0
        self._has_floors = False

    def add(self, part: ScoredRows) -> None:
        """Choose from scores.

        Raises:
            CrowdedError: more rows are candidates than can be kept, for more than one query.
        """
        queries, blocks, groups = part.maxima.shape
        rows = part.scores.shape[2]
        maxima, errors = part.maxima.reshape(-1), part.errors.reshape(-1)
        is_first = not self._has_floors and blocks * groups >= self._k
        if is_first:
            self._set_floors(part)
        least = self._least(part)
        passing = (part.maxima >= least[:, :, None]).reshape(-1).nonzero()[0]
        series, group = np.divmod(passing, groups)  # a series has the scores of a query and a block
        maxima = maxima[passing]
        if not is_first and self._raise_floors(series // blocks, maxima - errors[series]):
            least = self._least(part)
            again = (maxima >= least.reshape(-1)[series]).nonzero()[0]
            series, group = series[again], group[again]
        if not len(series):
            return
        members = (series * rows + group)[:, None] + np.arange(0, rows, groups)
        scores = part.scores.reshape(-1).take(members)
        kept = (scores >= least.reshape(-1)[series, None]).reshape(-1).nonzero()[0]
        if not len(kept):
            return
        series, place = np.divmod(members.reshape(-1)[kept], rows)
        query, block = np.divmod(series, blocks)
        numbers = part.numbers(block, place)
        candidates = Candidates(numbers, scores.reshape(-1)[kept], errors[series])
        self._chosen.append((query, candidates))
        self._count += len(kept)
        if queries > 1 and self._count > _MAX_PER_QUERY * queries:
            self._join()
            if 2 * self._count > _MAX_PER_QUERY * queries:
                raise CrowdedError

    def _least(self, part: ScoredRows) -> NDArray[np.float32]:
        """Return the scores ``(q, blocks)`` from which a row may be among the nearest."""
        return np.asarray(np.maximum(self._floors[:, None] - part.errors, _LOWEST))

    def _set_floors(self, part: ScoredRows) -> None:
        """Take all scores of a first part into account, of at least ``k`` groups."""
        best = (part.maxima - part.errors[:, :, None]).reshape(len(self._floors), -1)
        best.partition(best.shape[1] - self._k, axis=1)
        self._best = best[:, -self._k :].copy()
        self._floors = self._best[:, 0].copy()
        self._has_floors = True

    def _raise_floors(self, query: NDArray[np.int64], least: NDArray[np.float32]) -> bool:
        """Take scores of some queries, in ascending order, into account; return whether some did.

        They are of groups: the k-th largest of these is at most the k-th largest of all rows.
        """
        higher = (least > self._floors[query]).nonzero()[0]
        if not len(higher):
            return False
        query, least = query[higher], least[higher]
        counts = np.bincount(query, minlength=len(self._floors))
        raised = counts.nonzero()[0]
        if len(raised) == 1:
            best = np.concatenate([self._best[raised], least[None]], axis=1)
        else:
            best = np.full((len(raised), self._k + counts.max()), -np.inf, np.float32)
            best[:, : self._k] = self._best[raised]
            ranks = np.arange(len(query)) - (np.cumsum(counts) - counts)[query]
            best[(np.cumsum(counts > 0) - 1)[query], self._k + ranks] = least
        best.partition(best.shape[1] - self._k, axis=1)
        best = best[:, -self._k :]
        self._best[raised], self._floors[raised] = best, best[:, 0]
        self._has_floors = True
        return True

    def _join(self) -> tuple[NDArray[np.int64], Candidates]:
        """Join what was chosen so far, without rows that were excluded later."""
        if len(self._chosen) == 1 and len(self._floors) == 1:
            return self._chosen[0]
        query = np.concatenate([query for query, _ in self._chosen])
        joined = Candidates(
            np.concatenate([each.rows for _, each in self._chosen]),
            np.concatenate([each.scores for _, each in self._chosen]),
            np.concatenate([each.errors for _, each in self._chosen]),
        )
        kept = joined.scores >= self._floors[query] - joined.errors
        query = query[kept]
        joined = Candidates(joined.rows[kept], joined.scores[kept], joined.errors[kept])
        self._chosen, self._count = [(query, joined)], len(query)
        return query, joined

    def result(self) -> list[Candidates]:
        """Return the candidates of each query."""
        if not self._chosen:
            empty = np.empty(0, np.float32)
            return [Candidates(np.empty(0, np.int64), empty, empty) for _ in self._floors]
        query, joined = self._join()
        if len(self._floors) == 1:
            return [joined]
        order = np.argsort(query, kind="stable")
        ends = np.searchsorted(query[order], np.arange(len(self._floors) + 1))
        parts = (order[start:stop] for start, stop in itertools.pairwise(ends.tolist()))
        return [
            Candidates(joined.rows[part], joined.scores[part], joined.errors[part])
            for part in parts
        ]


def group_count(rows: int, blocks: int, queries: int, k: int) -> int:
    """Return into how many groups the rows of a block are divided: a fraction by a power of 2.

    They are several times ``k`` in all, so that few rows are above the k-th largest maximum.
    """
    wanted = max(_MIN_GROUPS if queries == 1 else 4 * _MIN_GROUPS, 4 * k // blocks)
    while rows >= 2 * wanted and rows % 2 == 0:
        rows //= 2
    return rows


def group_maxima(scores: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Return the maxima ``(..., groups)`` of scores ``(..., rows)``."""
    while scores.shape[-1] > groups:  # halves are whole vectors
        half = scores.shape[-1] // 2
        scores = np.maximum(scores[..., :half], scores[..., half:])
    return scores
