"""Retrieval metrics: pure functions of which hits were right, and their summaries.

The functions take ``correct``, ``(q, n)`` bool: whether the hit at each rank has the query's
label, nearest first, False where a query has fewer than n hits; and give one value in [0, 1] for
each query.
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

_RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float


def precision_at_n(correct: Correct) -> PerQuery:
    """Return the share of the n hits that are right (the report's accuracy, per query)."""
    return np.asarray(correct.mean(axis=1, dtype=np.float64))


def average_precision_at_n(correct: Correct, relevant: NDArray[np.int64]) -> PerQuery:
    """Return average precision at n, divided by ``min(n, relevant)``.

    So a query whose n hits are all right scores 1 however many more there are. Other tools divide
    by all relevant rows or by the right hits found (Manning, Raghavan, Schütze 2008, section 8.4).

    Args:
        correct: see the module.
        relevant: ``(q,)``, how many rows of the gallery have the query's label; a query without
            any scores 0.
    """
    n = correct.shape[1]
    precision = np.cumsum(correct, axis=1) / np.arange(1, n + 1)  # (q, n)
    return _share((precision * correct).sum(axis=1), np.minimum(relevant, n))


def recall_at_n(correct: Correct, relevant: NDArray[np.int64]) -> PerQuery:
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
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1:  # resampling could only add rounding errors
        return Interval(float(values.mean()), float(values.mean()))
    # Resampling values is drawing how often each distinct one comes up: a multinomial.
    drawn = rng.multinomial(len(values), counts / len(values), size=_RESAMPLES)
    means = drawn @ distinct / len(values)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _share(part: NDArray[Any], whole: NDArray[np.int64]) -> PerQuery:
    return np.asarray(np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0))


@dataclass(frozen=True, slots=True)
class QueryScores:
    """The three metrics for each query, each ``(q,)`` in [0, 1]."""

    precision: PerQuery
    average_precision: PerQuery
    recall: PerQuery

    @classmethod
    def of(cls, correct: Correct, relevant: NDArray[np.int64]) -> QueryScores:
        """Score ``(q, n)`` hits; see the functions above."""
        return cls(
            precision_at_n(correct),
            average_precision_at_n(correct, relevant),
            recall_at_n(correct, relevant),
        )

    @classmethod
    def by_chance(cls, relevant: NDArray[np.int64], rows: NDArray[np.int64], n: int) -> QueryScores:
        """Return what n hits drawn at random are expected to score, exactly.

        Args:
            relevant: ``(q,)`` rows with the query's label.
            rows: ``(q,)`` rows that may be drawn.
            n: hits; at most the smallest of ``rows``.
        """
        share = _share(relevant, rows)
        again = _share(np.maximum(relevant - 1, 0), rows - 1)  # given that one was right
        ranks = np.arange(1, n + 1)[:, None]
        gain = (share * (1 + (ranks - 1) * again) / ranks).sum(axis=0)
        average = _share(gain, np.minimum(relevant, n))
        return cls(share, average, np.where(relevant > 0, n / rows, 0.0))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries with its 95 % bootstrap interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Precision@n and mAP@n over some of the queries."""

    queries: int
    precision: float
    map: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Scores:
    """One encoder's scores over all queries, over the first few, and by label."""

    encoder: str
    metric: Metric
    precision: Estimate
    map: Estimate
    recall: Estimate
    first: GroupScore
    per_label: Mapping[str, GroupScore]

    @classmethod
    def of(
        cls, encoder: str, metric: Metric, values: QueryScores, labels: Sequence[str], first: int
    ) -> Scores:
        """Sum up per-query scores; ``labels`` are the queries'."""
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
            recall=estimate(values.recall),
            first=group(slice(first)),
            per_label={str(label): group(names == label) for label in np.unique(names)},
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, intervals as ``NAME_interval: [low, high]``."""
        fields: dict[str, Any] = {"encoder": self.encoder, "metric": self.metric.value}
        for name in ("precision", "map", "recall"):
            estimate: Estimate = getattr(self, name)
            fields[name] = estimate.value
            fields[f"{name}_interval"] = [estimate.interval.low, estimate.interval.high]
        fields["first"] = self.first.as_dict()
        fields["per_label"] = {label: score.as_dict() for label, score in self.per_label.items()}
        return fields
