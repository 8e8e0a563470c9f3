"""Search by a graph index, with exact distances; where the graph may go wrong, an exact scan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.stores.embedded.graph import EFFORTS, GraphIndex, prepared
from lookalike.stores.exact import ExactIndex, Nearest
from lookalike.types import Embeddings, Metric

_MIN_CANDIDATES = 40
_CANDIDATES_PER_HIT = 4
_MAX_CANDIDATES = 1_000
"""Candidates above which a scan of some 300,000 rows is as fast."""

_NEARLY_ALL = 0.9
"""Share of the graph's rows from which a search takes no notice that some are gone."""

_MAX_NEAREST = 100
"""Hits, divided by the share of rows that a filter matches, above which recall falls below .99."""

_BATCH = 16
_BATCH_ROWS = 500_000
"""Queries in a batch, and rows below which a scan for all of them is faster."""

_MAX_GATHERED = 100
"""Newer rows up to which they are compared one by one, together with the candidates; a scan has the
same fixed cost as the comparison of so many."""


_SAMPLE, _SAMPLE_K = 100, 10
_SAMPLE_RECALL = 0.995
"""Rows whose neighbors are searched for, how many of each, and the share that is to be found: more
than .99, since queries that are no rows find less."""


class GraphResult(NamedTuple):
    """The nearest rows to one query, and whether a graph chose them."""

    nearest: Nearest
    is_approximate: bool


class GraphSearch:
    """Search of a snapshot's rows by a graph; where that may go wrong, by an exact scan.

    Args:
        graph: of the snapshot's generation; it may be of fewer or more slots.
        index: of all slots of the snapshot.
        allowed: slots of the rows that are searched, ascending; None if all slots have one.
    """

    def __init__(
        self, graph: GraphIndex, index: ExactIndex, allowed: NDArray[np.int64] | None
    ) -> None:
        self._graph = graph
        self._index = index
        self._slots = len(index)
        self._allowed = allowed
        record = graph.record
        if allowed is None:
            newer = np.arange(min(record.slots, self._slots), self._slots)
            self._held = min(record.slots, self._slots) - len(record.left_out)
            left_out = record.left_out
        else:
            start = np.searchsorted(allowed, record.slots)
            newer = allowed[start:]
            left_out = _within(record.left_out, allowed)
            self._held = int(start) - len(left_out)
        self._share = self._held / max(1, record.rows)
        self._others = np.concatenate([left_out[left_out < self._slots], newer])
        """Slots of rows that are searched but not in the graph."""

    def is_apt(self, queries: int, k: int) -> bool:
        """Return whether the graph is of use for a number of queries and of hits for each."""
        if queries >= _BATCH and self._slots < _BATCH_ROWS:
            return False
        return k <= self._share * _MAX_NEAREST and self._count(k) <= _MAX_CANDIDATES

    def search(self, queries: Embeddings, k: int, metric: Metric) -> list[GraphResult]:
        """Return about the ``k`` nearest rows to each query, and others of the same distance."""
        extra = self._others if len(self._others) <= _MAX_GATHERED else self._others[:0]
        others: Sequence[Nearest | None] = [None] * len(queries)
        if len(extra) < len(self._others):
            others = self._index.search_with_ties(queries, k, metric, self._others)
        vectors, fits = prepared(queries, metric, self._graph.record.scale)
        results = []
        for query, vector, fit, newer in zip(queries, vectors, fits.tolist(), others, strict=True):
            nearest = self._search(query, vector, k, metric, extra) if fit else None
            is_approximate = nearest is not None
            if nearest is None:
                [nearest] = self._index.search_with_ties(query[None], k, metric, self._allowed)
            elif newer is not None:
                nearest = _merge(nearest, newer, k)
            results.append(GraphResult(nearest, is_approximate))
        return results

    def _search(
        self,
        query: NDArray[np.float32],
        vector: NDArray[np.float32],
        k: int,
        metric: Metric,
        extra: NDArray[np.int64],
    ) -> Nearest | None:
        """Return the nearest among candidates and extra slots; None if too few candidates match.

        So they are if all have the same distance, as copies have: there may be more of them.
        """
        candidates = self._candidates(vector, k)
        if candidates is None:
            return None
        subset = np.concatenate([candidates, extra]) if len(extra) else candidates
        subset.sort()
        nearest = self._index.compare(query, k, metric, subset)
        is_cut = k < len(nearest.rows) == len(subset) and len(candidates) < self._held
        return None if is_cut else nearest

    def _candidates(self, vector: NDArray[np.float32], k: int) -> NDArray[np.int64] | None:
        """Return candidates among the rows that are searched; None if they are too few."""
        wanted, count = self._wanted(k), self._count(k)
        while count <= _MAX_CANDIDATES:
            slots = self._matching(self._graph.search(vector, count))
            if 2 * len(slots) >= wanted and len(slots) >= min(k + 1, self._held):
                return slots
            count *= 2
        return None

    def _wanted(self, k: int) -> int:
        """Return how many candidates are compared for ``k`` hits."""
        return min(self._held, max(_MIN_CANDIDATES, _CANDIDATES_PER_HIT * k))

    def _count(self, k: int) -> int:
        """Return of how many rows in the graph about so many are searched.

        Where a filter matches part of them, as many that match are looked at as without a filter.
        """
        wanted = self._wanted(k)
        if self._share < _NEARLY_ALL:
            wanted = max(wanted, self._graph.effort)
        return math.ceil(wanted / max(self._share, 1e-9))

    def _matching(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._allowed is None:
            return slots[(slots >= 0) & (slots < self._slots)]
        return _within(slots, self._allowed)


def measured_effort(
    graph: GraphIndex, index: ExactIndex, living: NDArray[np.int64] | None, metric: Metric
) -> int:
    """Return the least effort with which a sample of the rows finds its neighbors by a graph.

    How many candidates a recall needs depends on the embeddings: ef 64 finds all 10 neighbors of
    100,000 clustered vectors, ef 96 finds .998 of those of 60,000 HOG features of clothes, and
    ef 200 finds .994 where the vectors have 32 intrinsic dimensions. So it is measured, in about
    the time of 100 exact searches at once.

    Args:
        graph: to search.
        index: of all slots.
        living: slots of rows, ascending; None if all slots have one.
        metric: of the graph.

    Raises:
        LookalikeError: an embedding is damaged, or the work was cancelled.
    """
    record = graph.record
    slots = np.arange(len(index)) if living is None else living
    slots = np.setdiff1d(slots[slots < record.slots], record.left_out, assume_unique=True)
    k = min(_SAMPLE_K, len(slots) - 1)
    if k < 1:
        return EFFORTS[-1]
    chosen = np.random.default_rng(0).choice(slots, min(_SAMPLE, len(slots)), replace=False)
    queries = index.at(np.sort(chosen))
    nearest = index.search(queries, k + 1, metric, slots)  # a row finds itself, too
    thresholds = nearest.distances[:, -1]
    vectors, _ = prepared(queries, metric, record.scale)
    for effort in EFFORTS[:-1]:
        count = 0
        for query, vector, distance in zip(queries, vectors, thresholds.tolist(), strict=True):
            check_cancelled()
            candidates = graph.search_with(effort, vector, _MIN_CANDIDATES)
            candidates = np.sort(_within(candidates, slots))
            if len(candidates):
                compared = index.compare(query, k + 1, metric, candidates)
                count += int(np.count_nonzero(compared.distances[: k + 1] <= distance)) - 1
        if count >= _SAMPLE_RECALL * k * len(queries):
            return effort
    return EFFORTS[-1]


def _within(slots: NDArray[np.int64], allowed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the slots that are among others, which are ascending."""
    if not len(allowed) or not len(slots):
        return slots[:0]
    places = np.searchsorted(allowed, slots)
    places[places == len(allowed)] = 0
    return np.asarray(slots[allowed[places] == slots])


def _merge(one: Nearest, other: Nearest, k: int) -> Nearest:
    """Return the ``k`` nearest of two, and all others at the distance of the k-th."""
    rows = np.concatenate([one.rows, other.rows])
    distances = np.concatenate([one.distances, other.distances])
    order = np.argsort(distances, kind="stable")
    rows, distances = rows[order], distances[order]
    if len(rows) <= k:
        return Nearest(rows, distances)
    last = np.searchsorted(distances, distances[k - 1], "right")
    return Nearest(rows[:last], distances[:last])
