"""Retrieval metrics per query, and their means with confidence intervals.

The functions take ``correct``, ``(q, k)`` bool: whether the hit at each rank is correct, nearest
first, False where a query has fewer than k hits. They return one value in [0, 1] per query.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError
from lookalike.types import Metric

Correct = NDArray[np.bool_]
PerQuery = NDArray[np.float64]

RESAMPLES = 2_000
"""Bootstrap resamples."""

_BATCH = 1 << 19
"""Values resampled at a time, few enough for the processor's cache."""

_REPEATED = 10
"""Mean number of queries per distinct value from which on it pays to resample counts."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence interval; NaN to NaN if a single value says nothing about others."""

    low: float
    high: float

    @property
    def is_defined(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low)

    @property
    def side(self) -> int:
        """1 if the whole interval is above 0, -1 if it is below, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def as_list(self) -> list[float | None]:
        """Return both ends as JSON values, null if there is no interval."""
        return [self.low, self.high] if self.is_defined else [None, None]

    def describe(self, spec: str, separator: str = ", ") -> str:
        """Return both ends in a format such as ``.3f``; ``none`` if there is no interval."""
        if not self.is_defined:
            return "none"
        return f"{self.low:{spec}}{separator}{self.high:{spec}}"


def precision_at_k(correct: Correct) -> PerQuery:
    """Return precision at k: the share of the k hits that are correct."""
    return np.asarray(correct.mean(axis=1, dtype=np.float64))


def average_precision_at_k(correct: Correct, relevant: NDArray[np.int64]) -> PerQuery:
    """Return average precision at k, divided by ``min(k, relevant)``.

    A query whose k hits are all correct scores 1 even if more rows are relevant. Other tools divide
    by all relevant rows (Manning, Raghavan, Schütze 2008, section 8.4) or by the relevant rows
    retrieved (:func:`average_precision_of_retrieved`).

    Args:
        correct: see the module.
        relevant: ``(q,)``, number of relevant rows in the gallery; NaN for a query with none.
    """
    return _share(_gains(correct), np.minimum(relevant, correct.shape[1]), without=np.nan)


def average_precision_of_retrieved(correct: Correct) -> PerQuery:
    """Return average precision at k, divided by the number of correct hits; 0 without any.

    Missed rows cost nothing: a single correct hit at rank 1 scores 1. The value is never below
    :func:`average_precision_at_k`, and equal to it with one relevant row. Programs of the AI Meets
    Beauty challenge compute mAP in this way.
    """
    return _share(_gains(correct), correct.sum(axis=1))


def recall_at_1(correct: Correct) -> PerQuery:
    """Return 1 where the first hit is correct, else 0; its mean is known as R@1."""
    return np.asarray(correct[:, 0], np.float64)


def ceiling_at_k(relevant: NDArray[np.int64], k: int) -> PerQuery:
    """Return the highest possible precision at k: ``min(relevant, k) / k``."""
    return np.asarray(np.minimum(relevant, k) / k)


def recall_at_k(correct: Correct, relevant: NDArray[np.int64]) -> PerQuery:
    """Return recall at k: the share of relevant rows among the k hits; NaN if none is relevant."""
    return _share(correct.sum(axis=1), relevant, without=np.nan)


def bootstrap_interval(values: PerQuery, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Return the percentile bootstrap interval of the mean (Efron 1979) over 2,000 resamples.

    Queries are resampled: the interval holds for other queries of the same kind and the same
    gallery. One query has no interval.

    Raises:
        InputError: ``values`` is empty, or has NaN.
    """
    if not len(values):
        raise InputError("a confidence interval needs at least one query")
    if undefined := int(np.isnan(values).sum()):
        raise InputError(
            f"the score of {undefined:,} of {len(values):,} queries is undefined, such as the "
            "recall of a query without a relevant row; leave them out"
        )
    if len(values) == 1:
        return Interval(math.nan, math.nan)
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1:
        return Interval(float(values.mean()), float(values.mean()))
    if len(distinct) * _REPEATED <= len(values):
        # How often a resample draws each distinct value is multinomial: the same distribution of
        # means, for 10,000 queries ten times as fast.
        drawn = rng.multinomial(len(values), counts / len(values), RESAMPLES)
        return resampled_interval(drawn @ distinct / len(values), level)
    return resampled_interval(resampled_statistic((values,), np.mean, rng), level)


def resampled_statistic(
    samples: Sequence[NDArray[np.float64]],
    statistic: Callable[..., NDArray[np.float64]],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return a statistic of 2,000 bootstrap resamples, in the last axis.

    Args:
        samples: each ``(..., n)``, resampled independently along the last axis; all rows of one
            sample alike, which keeps their differences paired.
        statistic: of resamples ``(..., b, n)`` and ``axis=-1``, ``(..., b)``.
        rng: source of all randomness.
    """
    batch = max(1, _BATCH // max(sample.size for sample in samples))
    results = []
    for start in range(0, RESAMPLES, batch):
        count = min(batch, RESAMPLES - start)
        drawn = [
            sample[..., rng.integers(sample.shape[-1], size=(count, sample.shape[-1]))]
            for sample in samples
        ]
        results.append(statistic(*drawn, axis=-1))
    return np.concatenate(results, axis=-1)


def resampled_interval(values: NDArray[np.float64], level: float = 0.95) -> Interval:
    """Return the percentile interval of the values of a statistic over resamples, ``(n,)``."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def standard_error(values: PerQuery) -> float:
    """Return the standard error of the mean of values; 0 of a single one."""
    return float(values.std() / math.sqrt(len(values)))


def _gains(correct: Correct) -> PerQuery:
    """Return the sum of the precisions at the ranks of correct hits."""
    precision = np.cumsum(correct, axis=1) / np.arange(1, correct.shape[1] + 1)  # (q, k)
    return np.asarray((precision * correct).sum(axis=1))


def _share(part: NDArray[Any], whole: NDArray[np.int64], without: float = 0.0) -> PerQuery:
    """Return the quotients, and ``without`` where the whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), without), where=whole > 0))


@dataclass(frozen=True, slots=True)
class QueryScores:
    """The metrics of each query, each ``(q,)`` in [0, 1], or NaN; see the functions above."""

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
        """Return the expected scores of k hits drawn at random, exactly.

        m = min(k, rows) hits are drawn. Given that h of them are correct, their ranks are random,
        and the expected average precision of the retrieved is
        ``(H(m) + (h - 1) (m - H(m)) / (m - 1)) / m`` with ``H(m) = 1 + 1/2 + ... + 1/m``. This is
        linear in h, so the mean of h and the probability of any correct hit suffice.

        Args:
            relevant: ``(q,)``, number of relevant rows.
            rows: ``(q,)``, number of rows that can be drawn.
            k: number of hits.
        """
        ranks = np.arange(1, k + 1)[:, None]
        drawn = np.minimum(rows, k)
        is_drawn = ranks <= drawn  # (k, q)
        share = _share(relevant, rows)
        next_share = _share(np.maximum(relevant - 1, 0), rows - 1)  # given one correct hit
        gains = (is_drawn * share * (1 + (ranks - 1) * next_share) / ranks).sum(axis=0)
        harmonic = (is_drawn / ranks).sum(axis=0)
        missed = np.maximum(rows - relevant - ranks + 1, 0) / np.maximum(rows - ranks + 1, 1)
        any_correct = 1 - np.where(is_drawn, missed, 1).prod(axis=0)  # a probability
        more = _share((drawn - harmonic) * (drawn * share - any_correct), drawn - 1)
        return cls(
            precision=drawn / k * share,
            average_precision=_share(gains, np.minimum(relevant, k), without=np.nan),
            average_precision_of_retrieved=_share(harmonic * any_correct + more, drawn),
            recall=np.where(relevant > 0, _share(drawn, rows), np.nan),
            recall_at_1=share,
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries with its 95 % bootstrap interval."""

    value: float
    interval: Interval

    @classmethod
    def of(cls, values: PerQuery) -> Self:
        """Return the estimate from one value per query.

        Raises:
            InputError: ``values`` is empty, or has NaN.
        """
        interval = bootstrap_interval(values)
        return cls(float(values.mean()), interval)

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.interval.describe('.3f')}]"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, the interval as ``[low, high]``."""
        return {"value": self.value, "interval": self.interval.as_list()}


def table_row(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Return estimates as columns of a table: ``NAME``, ``NAME_low`` and ``NAME_high``."""
    row: dict[str, float] = {}
    for name, estimate in estimates.items():
        low, high = estimate.interval.low, estimate.interval.high
        row |= {name: estimate.value, f"{name}_low": low, f"{name}_high": high}
    return row


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the rows of a table as columns; None where a row has no value."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Precision@k and mAP@k over a group of queries."""

    queries: int
    precision: float
    map: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FirstScore(GroupScore):
    """The scores of the first queries; few queries have a wide ``interval`` of their precision."""

    interval: Interval

    @property
    def precision_estimate(self) -> Estimate:
        """Precision@k with its interval."""
        return Estimate(self.precision, self.interval)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, the interval as ``[low, high]``."""
        return {
            "queries": self.queries,
            "precision": self.precision,
            "precision_interval": self.interval.as_list(),
            "map": self.map,
        }


@dataclass(frozen=True, slots=True, repr=False)
class Scores:
    """One encoder's scores over all queries, over the first ones, and by label.

    ``map`` divides by ``min(k, relevant)``, ``map_retrieved`` by the correct hits;
    ``recall_at_1`` is the share of queries whose first hit is correct.
    """

    encoder: str
    metric: Metric
    precision: Estimate
    map: Estimate
    map_retrieved: Estimate
    recall: Estimate
    recall_at_1: Estimate
    first: FirstScore
    per_label: Mapping[str, GroupScore]

    @classmethod
    def of(
        cls, encoder: str, metric: Metric, values: QueryScores, labels: Sequence[str], first: int
    ) -> Scores:
        """Average per-query scores; without ``labels`` of the queries, ``per_label`` is empty."""
        names = np.array(labels)

        def group(queries: slice | NDArray[np.bool_]) -> GroupScore:
            precision = values.precision[queries]
            average = values.average_precision[queries]
            return GroupScore(len(precision), float(precision.mean()), float(average.mean()))

        return cls(
            encoder=encoder,
            metric=metric,
            precision=Estimate.of(values.precision),
            map=Estimate.of(values.average_precision),
            map_retrieved=Estimate.of(values.average_precision_of_retrieved),
            recall=Estimate.of(values.recall),
            recall_at_1=Estimate.of(values.recall_at_1),
            first=FirstScore(
                **asdict(group(slice(first))),
                interval=bootstrap_interval(values.precision[:first]),
            ),
            per_label={str(label): group(names == label) for label in np.unique(names)},
        )

    def __repr__(self) -> str:
        return (
            f"Scores({self.encoder!r}, {self.metric.value}: precision {self.precision}, "
            f"mAP {self.map}, R@1 {self.recall_at_1})"
        )

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The scores over all queries, by name."""
        names = ("precision", "map", "map_retrieved", "recall", "recall_at_1")
        return {name: getattr(self, name) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, intervals as ``NAME_interval: [low, high]``."""
        fields: dict[str, Any] = {"encoder": self.encoder, "metric": self.metric.value}
        for name, estimate in self.estimates.items():
            fields[name] = estimate.value
            fields[f"{name}_interval"] = estimate.interval.as_list()
        fields["first"] = self.first.as_dict()
        fields["per_label"] = {label: score.as_dict() for label, score in self.per_label.items()}
        return fields
