"""Trials: one encoder's hits for some queries, and which of them are correct.

Every precision, recall, mAP and R@1 of the package comes from a :class:`Trial`, so that the same
embeddings and labels have the same figures wherever they are measured: ``evaluate``, ``choose``,
the sanity check of a trained encoder, and robustness.

* A query never is its own hit: rows of its id are left out of its ranking. Other copies of it are
  ordinary rows, unless they are to be ignored.
* Equal distances are ordered by id, as in a search.
* A query with an embedding of zeros has no direction: where the metric is cosine, all rows are
  equally far from it, and it has no hits.
* Queries without a relevant row are not part of a trial: their recall is undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.evaluation.metrics import Correct, Estimate, QueryScores
from lookalike.sources.labels import LabelSet
from lookalike.stores.base import MAX_K
from lookalike.stores.exact import ExactIndex
from lookalike.types import Embeddings, Hit, Metric
from lookalike.vectors import VectorView, has_direction

_BATCH = 1000
"""Queries searched at a time."""


class SearchableRows(Protocol):
    """Rows that can be searched by embedding, such as those of a store."""

    def search(self, queries: Embeddings, k: int, metric: Metric) -> Sequence[Sequence[Hit]]:
        """Return the ``k`` nearest rows to each of ``(q, dim)``; equal distances by id."""
        ...


class EncodedRows:
    """Rows in memory as one encoder sees them, searched exactly.

    Args:
        ids: of the rows, different.
        embeddings: ``(n, dim)`` float32.
    """

    def __init__(self, ids: Sequence[str], embeddings: Embeddings) -> None:
        order = sorted(range(len(ids)), key=ids.__getitem__)
        is_sorted = order == list(range(len(ids)))
        self._ids = [ids[row] for row in order]
        self._index = ExactIndex(embeddings if is_sorted else embeddings[order])

    def search(self, queries: Embeddings, k: int, metric: Metric) -> list[list[Hit]]:
        """Return the ``k`` nearest rows to each of ``(q, dim)``; equal distances by id."""
        nearest = self._index.search(queries, k, metric)
        return [
            [
                Hit(rank, self._ids[row], "", distance, {})
                for rank, (row, distance) in enumerate(zip(rows, distances, strict=True), 1)
            ]
            for rows, distances in zip(
                nearest.rows.tolist(), nearest.distances.tolist(), strict=True
            )
        ]


@dataclass(frozen=True, slots=True)
class TrialQuery:
    """One query: its id, its relevant rows, and those that are left out of its ranking.

    ``relevant`` may hold the query's own id; ``count`` of the relevant rows can be found.
    """

    id: str
    relevant: frozenset[str]
    count: int
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Trial:
    """The hits of some queries and which are correct.

    ``hits`` are at most k for each query, nearest first. ``correct`` is ``(q, k)`` bool, False
    where a query has fewer hits; ``relevant`` ``(q,)`` int64 counts the relevant rows.
    """

    metric: Metric
    hits: Sequence[Sequence[Hit]]
    correct: Correct
    relevant: NDArray[np.int64]

    @classmethod
    def search(
        cls,
        rows: SearchableRows,
        queries: Sequence[TrialQuery],
        embeddings: Embeddings | VectorView,
        *,
        k: int,
        metric: Metric,
        report: Callable[[int], None] = lambda _: None,
    ) -> Self:
        """Search with each query.

        Args:
            rows: to search.
            queries: with at least one relevant row each.
            embeddings: ``(q, dim)`` float32 of the queries.
            k: hits per query.
            metric: of the distances.
            report: called with the number of queries that were searched.
        """
        most = min(k + 1 + max((len(query.ignored) for query in queries), default=0), MAX_K)
        defined = is_defined(embeddings, metric)
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), _BATCH):
            part = slice(start, start + _BATCH)
            found = rows.search(embeddings[part], most, metric)
            for query, row, has_hits in zip(
                queries[part], found, defined[part].tolist(), strict=True
            ):
                others = (h for h in row if h.id != query.id and h.id not in query.ignored)
                hits.append(list(islice(others, k)) if has_hits else [])
            report(len(hits))
        return cls.of_hits(hits, queries, k=k, metric=metric)

    @classmethod
    def of_hits(
        cls,
        hits: Sequence[Sequence[Hit]],
        queries: Sequence[TrialQuery],
        *,
        k: int,
        metric: Metric,
    ) -> Self:
        """Mark the hits of each query, at most k, by its relevant rows."""
        correct = np.zeros((len(hits), k), np.bool_)
        for marks, row, query in zip(correct, hits, queries, strict=True):
            marks[: len(row)] = [hit.id in query.relevant for hit in row]
        return cls(metric, hits, correct, np.array([query.count for query in queries], np.int64))

    @property
    def scores(self) -> QueryScores:
        """The metrics of each query."""
        return QueryScores.of(self.correct, self.relevant)

    @property
    def precision(self) -> Estimate:
        """Precision@k with its 95 % interval over the queries."""
        return Estimate.of(self.scores.precision)

    @property
    def map(self) -> Estimate:
        """mAP@k, divided by ``min(k, relevant)``, with its 95 % interval over the queries."""
        return Estimate.of(self.scores.average_precision)


def is_defined(embeddings: Embeddings | VectorView, metric: Metric) -> NDArray[np.bool_]:
    """Return which of ``(q, dim)`` have a distance: none of zeros, where the metric is cosine."""
    return has_direction(embeddings) | (metric is Metric.L2)


def leave_one_out(
    embeddings: Embeddings, labels: LabelSet, *, k: int, metric: Metric = Metric.COSINE
) -> Trial:
    """Search with each labeled image among the others; relevant are those that share a label.

    Images that share none are searched, but are no queries.

    Args:
        embeddings: ``(n, dim)`` float32 of the labeled images, in the order of ``labels.by_id``.
        labels: of n images.
        k: hits per query.
        metric: of the distances.
    """
    related = labels.related()
    places = [place for place, ids in enumerate(related.values()) if len(ids) > 1]
    ids = list(related)
    queries = [
        TrialQuery(ids[place], related[ids[place]], len(related[ids[place]]) - 1)
        for place in places
    ]
    rows = EncodedRows(ids, embeddings)
    return Trial.search(rows, queries, embeddings[places], k=k, metric=metric)


def known_item(
    rows: SearchableRows,
    originals: Sequence[frozenset[str]],
    embeddings: Embeddings,
    *,
    k: int,
    metric: Metric,
) -> Correct:
    """Search for one known image each; return ``(q, k)``: whether it has each rank.

    Rows of the same image, ``originals``, count as one. It ranks after all other rows at its
    distance, so that an encoder with one embedding for all images finds none.
    """
    correct = np.zeros((len(embeddings), k), np.bool_)
    # With one more hit per copy, the first k hold all rows that tie with the original.
    depths = [max(k, min(k + len(copies), MAX_K)) for copies in originals]
    for depth in sorted(set(depths)):
        places = [place for place, value in enumerate(depths) if value == depth]
        for place, row in zip(places, rows.search(embeddings[places], depth, metric), strict=True):
            rank = _rank(row, originals[place])
            if rank is not None and rank <= k:
                correct[place, rank - 1] = True
    return correct


def _rank(hits: Sequence[Hit], copies: frozenset[str]) -> int | None:
    """Return the rank of an image, after all other rows at its distance; None if not a hit."""
    own = [hit.distance for hit in hits if hit.id in copies]
    if not own:
        return None
    return 1 + sum(hit.distance <= own[0] for hit in hits if hit.id not in copies)
