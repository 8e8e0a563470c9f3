"""Retrieval metrics: pure functions of which hits were right, and their summaries.

The functions take ``correct``, ``(q, k)`` bool: whether the hit at each rank is right, nearest
first, False where a query has fewer than n hits; and give one value in [0, 1] for each query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError
from lookalike.types import Metric

Correct = NDArray[np.bool_]
PerQuery = NDArray[np.float64]

RESAMPLES = 2_000
_BATCH = 1 << 19
"""Values drawn at a time: they stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float


def precision_at_k(correct: Correct) -> PerQuery:
    """Return the share of the n hits that are right (the report's accuracy, per query)."""
    return np.asarray(correct.mean(axis=1, dtype=np.float64))


def average_precision_at_k(correct: Correct, relevant: NDArray[np.int64]) -> PerQuery:
    """Return average precision at n, divided by ``min(n, relevant)``.

    So a query whose n hits are all right scores 1 however many more there are. Other tools divide
    by all relevant rows (Manning, Raghavan, Schütze 2008, section 8.4), or as the next function.

    Args:
        correct: see the module.
        relevant: ``(q,)``, how many rows of the gallery are right; a query without any scores 0.
    """
    return _share(_gains(correct), np.minimum(relevant, correct.shape[1]))


def average_precision_of_retrieved(correct: Correct) -> PerQuery:
    """Return average precision at n, divided by the right hits among the n; 0 if there are none.

    What was not found costs nothing: one right hit, if it comes first, scores 1 however many right
    answers are missed. So it is never below :func:`average_precision_at_k`, and the same where
    there is one right answer. Programs of the AI Meets Beauty challenge compute it so.
    """
    return _share(_gains(correct), correct.sum(axis=1))


def recall_at_1(correct: Correct) -> PerQuery:
    """Return 1 where the first hit is right, else 0; its mean is also called recall@1."""
    return np.asarray(correct[:, 0], np.float64)


def ceiling_at_k(relevant: NDArray[np.int64], k: int) -> PerQuery:
    """Return the highest precision at n that a query can have: ``min(relevant, n) / n``."""
    return np.asarray(np.minimum(relevant, k) / k)


def recall_at_k(correct: Correct, relevant: NDArray[np.int64]) -> PerQuery:
    """Return the share of the ``relevant`` rows that are among the n hits; 0 if there are none."""
    return _share(correct.sum(axis=1), relevant)


def bootstrap_interval(values: PerQuery, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Return the percentile bootstrap interval of the mean (Efron 1979) over 2,000 resamples.

    Queries are what is resampled, so it holds for other queries of the same kind against the same
    gallery.

    Raises:
        InputError: no values.
    """
    if not len(values):
        raise InputError("no interval can be given for no queries at all")
    if values.min() == values.max():  # scipy refuses a single value, and resampling adds nothing
        return Interval(float(values.mean()), float(values.mean()))
    from scipy.stats import bootstrap  # takes half a second to import

    low, high = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=bootstrap_batch_size(len(values)),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(low), float(high))


def bootstrap_batch_size(count: int) -> int:
    """Return the ``batch`` of :func:`scipy.stats.bootstrap` for samples of ``count`` values."""
    return max(1, _BATCH // count)


def _gains(correct: Correct) -> PerQuery:
    """Return the sum of the precisions at the ranks of right hits."""
    precision = np.cumsum(correct, axis=1) / np.arange(1, correct.shape[1] + 1)  # (q, k)
    return np.asarray((precision * correct).sum(axis=1))


def _share(part: NDArray[Any], whole: NDArray[np.int64]) -> PerQuery:
    return np.asarray(np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0))


@dataclass(frozen=True, slots=True)
class QueryScores:
    """The metrics for each query, each ``(q,)`` in [0, 1]; see the functions above."""

    precision: PerQuery
    average_precision: PerQuery
    average_precision_of_retrieved: PerQuery
    recall: PerQuery
    recall_at_1: PerQuery

    @classmethod
    def of(cls, correct: Correct, relevant: NDArray[np.int64]) -> QueryScores:
        """Score ``(q, k)`` hits; see the functions above."""
        return cls(
            precision_at_k(correct),
            average_precision_at_k(correct, relevant),
            average_precision_of_retrieved(correct),
            recall_at_k(correct, relevant),
            recall_at_1(correct),
        )

    @classmethod
    def by_chance(cls, relevant: NDArray[np.int64], rows: NDArray[np.int64], k: int) -> QueryScores:
        """Return what n hits drawn at random are expected to score, exactly.

        m = min(n, rows) are drawn. Given that h of them are right, these lie at random ranks, and
        average precision of what was found is expected to be
        ``(H(m) + (h - 1) (m - H(m)) / (m - 1)) / m`` with ``H(m) = 1 + 1/2 + ... + 1/m``. That is
        linear in h, so that the mean of h and the chance of any right hit are enough.

        Args:
            relevant: ``(q,)`` rows that are right.
            rows: ``(q,)`` rows that may be drawn.
            k: hits.
        """
        ranks = np.arange(1, k + 1)[:, None]
        drawn = np.minimum(rows, k)
        is_drawn = ranks <= drawn  # (n, q)
        share = _share(relevant, rows)
        again = _share(np.maximum(relevant - 1, 0), rows - 1)  # given that one was right
        gains = (is_drawn * share * (1 + (ranks - 1) * again) / ranks).sum(axis=0)
        harmonic = (is_drawn / ranks).sum(axis=0)
        missed = np.maximum(rows - relevant - ranks + 1, 0) / np.maximum(rows - ranks + 1, 1)
        found = 1 - np.where(is_drawn, missed, 1).prod(axis=0)  # the chance of any right hit
        more = _share((drawn - harmonic) * (drawn * share - found), drawn - 1)
        return cls(
            precision=drawn / k * share,
            average_precision=_share(gains, np.minimum(relevant, k)),
            average_precision_of_retrieved=_share(harmonic * found + more, drawn),
            recall=np.where(relevant > 0, _share(drawn, rows), 0.0),
            recall_at_1=share,
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries with its 95 % bootstrap interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Precision@k and mAP@k over some of the queries."""

    queries: int
    precision: float
    map: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Scores:
    """One encoder's scores over all queries, over the first few, and by label.

    ``map`` divides by ``min(n, relevant)`` and ``map_retrieved`` by the right hits found;
    ``recall_at_1`` is the share of queries whose first hit is right.
    """

    encoder: str
    metric: Metric
    precision: Estimate
    map: Estimate
    map_retrieved: Estimate
    recall: Estimate
    recall_at_1: Estimate
    first: GroupScore
    per_label: Mapping[str, GroupScore]

    @classmethod
    def of(
        cls, encoder: str, metric: Metric, values: QueryScores, labels: Sequence[str], first: int
    ) -> Scores:
        """Sum up per-query scores; ``labels`` are the queries', or none for none by label."""
        names = np.array(labels)

        def group(chosen: slice | NDArray[np.bool_]) -> GroupScore:
            precision = values.precision[chosen]
            average = values.average_precision[chosen]
            return GroupScore(len(precision), float(precision.mean()), float(average.mean()))

        def estimate(each: PerQuery) -> Estimate:
            return Estimate(float(each.mean()), bootstrap_interval(each))

        return cls(
            encoder=encoder,
            metric=metric,
            precision=estimate(values.precision),
            map=estimate(values.average_precision),
            map_retrieved=estimate(values.average_precision_of_retrieved),
            recall=estimate(values.recall),
            recall_at_1=estimate(values.recall_at_1),
            first=group(slice(first)),
            per_label={str(label): group(names == label) for label in np.unique(names)},
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, intervals as ``NAME_interval: [low, high]``."""
        fields: dict[str, Any] = {"encoder": self.encoder, "metric": self.metric.value}
        for name in ("precision", "map", "map_retrieved", "recall", "recall_at_1"):
            estimate: Estimate = getattr(self, name)
            fields[name] = estimate.value
            fields[f"{name}_interval"] = [estimate.interval.low, estimate.interval.high]
        fields["first"] = self.first.as_dict()
        fields["per_label"] = {label: score.as_dict() for label, score in self.per_label.items()}
        return fields
