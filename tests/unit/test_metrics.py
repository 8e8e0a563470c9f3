"""Metrics against slow, obvious versions and against ir-measures."""

from __future__ import annotations

import json
from dataclasses import fields
from itertools import permutations

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import AP, P, R
from scipy.stats import bootstrap

from lookalike.errors import InputError
from lookalike.evaluation.metrics import (
    Estimate,
    QueryScores,
    Scores,
    average_precision_at_k,
    average_precision_of_retrieved,
    bootstrap_interval,
    ceiling_at_k,
    precision_at_k,
    recall_at_1,
    recall_at_k,
)
from lookalike.types import Metric


@st.composite
def results(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    k = draw(st.integers(1, 8))
    rows = draw(st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=1, max_size=9))
    correct = np.array(rows, dtype=np.bool_)
    more = draw(st.lists(st.integers(0, 12), min_size=len(rows), max_size=len(rows)))
    return correct, correct.sum(axis=1) + np.array(more)


def slow_average_precision(row: np.ndarray, relevant: int) -> float:
    total = sum(row[: k + 1].mean() for k in range(len(row)) if row[k])
    return total / min(len(row), relevant) if relevant else np.nan


def slow_average_precision_of_retrieved(row: np.ndarray) -> float:
    """As in programs of the AI Meets Beauty challenge, for the predictions of one query."""
    hits, gains = 0, []
    for position, is_correct in enumerate(row, 1):
        hits += bool(is_correct)
        gains.append(hits / position if is_correct else 0.0)
    return sum(gains) / hits if hits else 0.0


@given(results())
def test_metrics_match_their_definitions(given_results: tuple[np.ndarray, np.ndarray]) -> None:
    correct, relevant = given_results
    np.testing.assert_allclose(precision_at_k(correct), [sum(r) / len(r) for r in correct])
    expected = [slow_average_precision(r, k) for r, k in zip(correct, relevant, strict=True)]
    np.testing.assert_allclose(average_precision_at_k(correct, relevant), expected)
    recall = [sum(r) / k if k else np.nan for r, k in zip(correct, relevant, strict=True)]
    np.testing.assert_allclose(recall_at_k(correct, relevant), recall)
    retrieved = average_precision_of_retrieved(correct)
    slow = [slow_average_precision_of_retrieved(row) for row in correct]
    np.testing.assert_allclose(retrieved, slow)
    defined = relevant > 0
    ours = average_precision_at_k(correct, relevant)[defined]
    assert (retrieved[defined] >= ours - 1e-12).all()
    assert recall_at_1(correct).tolist() == [float(row[0]) for row in correct]
    best = np.arange(correct.shape[1]) < relevant[:, None]  # all relevant rows come first
    np.testing.assert_allclose(ceiling_at_k(relevant, correct.shape[1]), precision_at_k(best))


def test_the_two_conventions_of_average_precision_on_an_example() -> None:
    correct = np.array([[1, 0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]], np.bool_)
    relevant = np.array([4, 1])
    np.testing.assert_allclose(average_precision_at_k(correct, relevant), [(1 + 2 / 3) / 4, 0.5])
    np.testing.assert_allclose(average_precision_of_retrieved(correct), [(1 + 2 / 3) / 2, 0.5])


def test_metrics_match_ir_measures() -> None:
    rng = np.random.default_rng(1)
    k, queries = 7, 50
    correct = rng.random((queries, k)) < 0.5
    relevant = correct.sum(axis=1) + rng.integers(0, 9, queries)
    relevant[relevant == 0] = 1
    qrels, run = [], []
    for q in range(queries):
        for rank in range(k):
            run.append(ir_measures.ScoredDoc(f"q{q:03}", f"d{rank}", float(k - rank)))
            qrels.append(ir_measures.Qrel(f"q{q:03}", f"d{rank}", int(correct[q, rank])))
        unseen = range(int(relevant[q] - correct[q].sum()))
        qrels += [ir_measures.Qrel(f"q{q:03}", f"unseen{i}", 1) for i in unseen]
    theirs: dict[str, list[float]] = {"P@7": [], "R@7": [], "AP@7": []}
    values = sorted(
        ir_measures.iter_calc([P @ k, R @ k, AP @ k], qrels, run), key=lambda m: m.query_id
    )
    for value in values:
        theirs[str(value.measure)].append(value.value)
    np.testing.assert_allclose(precision_at_k(correct), theirs["P@7"])
    np.testing.assert_allclose(recall_at_k(correct, relevant), theirs["R@7"])
    # Theirs divides by all relevant documents, ours by those that fit into k.
    ours = average_precision_at_k(correct, relevant) * np.minimum(relevant, k) / relevant
    np.testing.assert_allclose(ours, theirs["AP@7"])


@pytest.mark.parametrize(
    ("rows", "relevant", "k"), [(20, 6, 7), (20, 1, 7), (9, 8, 7), (5, 2, 7), (12, 3, 1), (1, 1, 7)]
)
def test_chance_matches_random_draws(rows: int, relevant: int, k: int) -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(rows) < relevant
    drawn = np.zeros((40_000, k), np.bool_)
    for row in drawn:
        row[: min(k, rows)] = rng.permutation(labels)[:k]
    many = np.full(len(drawn), relevant)
    measured = QueryScores.of(drawn, many)
    chance = QueryScores.by_chance(np.array([relevant]), np.array([rows]), k)
    for name in fields(QueryScores):
        mean = getattr(measured, name.name).mean()
        assert mean == pytest.approx(getattr(chance, name.name)[0], abs=0.006), name.name


def test_chance_matches_all_permutations() -> None:
    rows, relevant, k = 7, 3, 4
    drawn = np.array([p[:k] for p in set(permutations([True] * relevant + [False] * 4))])
    chance = QueryScores.by_chance(np.array([relevant, relevant]), np.array([rows, rows]), k)
    exact = QueryScores.of(drawn, np.full(len(drawn), relevant))
    for name in fields(QueryScores):
        mean = getattr(exact, name.name).mean()
        np.testing.assert_allclose(getattr(chance, name.name), [mean, mean])


def test_recall_and_average_precision_without_relevant_rows_are_undefined() -> None:
    scores = QueryScores.of(np.zeros((1, 3), np.bool_), np.array([0]))
    chance = QueryScores.by_chance(np.array([0]), np.array([9]), 3)
    empty = QueryScores.by_chance(np.array([0]), np.array([0]), 3)
    for each in (scores, chance, empty):
        values = {name.name: getattr(each, name.name)[0] for name in fields(QueryScores)}
        undefined = {name for name, value in values.items() if np.isnan(value)}
        assert undefined == {"recall", "average_precision"}
        assert sum(value for name, value in values.items() if name not in undefined) == 0
    with pytest.raises(InputError, match="the score of 1 of 2 queries is undefined"):
        Estimate.of(np.array([0.5, np.nan]))


def test_one_query_has_no_interval() -> None:
    estimate = Estimate.of(np.array([0.5]))
    assert estimate.value == 0.5
    assert not estimate.interval.is_defined
    assert estimate.interval.as_list() == [None, None]
    assert estimate.interval.describe(".3f") == "none"
    scores = QueryScores.of(np.ones((1, 3), np.bool_), np.array([3]))
    fields_of_one = Scores.of("e", Metric.L2, scores, ["a"], 10).as_dict()
    assert json.loads(json.dumps(fields_of_one, allow_nan=False))["map_interval"] == [None, None]
    two = Estimate.of(np.array([0.0, 1.0])).interval
    assert two.as_list() == [two.low, two.high] == [0.0, 1.0]
    assert two.describe(".1f", " to ") == "0.0 to 1.0"


def test_intervals_have_their_nominal_coverage() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(200):
        values = rng.binomial(7, 0.8, size=150) / 7
        interval = bootstrap_interval(values, seed=trial)
        covered += interval.low <= 0.8 <= interval.high
    assert 180 <= covered <= 198


def test_intervals_match_a_slow_bootstrap() -> None:
    values = np.random.default_rng(5).random(80)
    slow = [np.random.default_rng(s).choice(values, 80).mean() for s in range(4000)]
    interval = bootstrap_interval(values)
    assert interval.low == pytest.approx(np.quantile(slow, 0.025), abs=0.01)
    assert interval.high == pytest.approx(np.quantile(slow, 0.975), abs=0.01)
    same = np.full(10_000, 0.1)
    assert bootstrap_interval(same).low == bootstrap_interval(same).high == same.mean()
    with pytest.raises(InputError, match="at least one query"):
        bootstrap_interval(np.array([]))


def test_intervals_of_distinct_values_are_those_of_scipy() -> None:
    values = np.random.default_rng(5).random(300)
    theirs = bootstrap(
        (values,),
        np.mean,
        n_resamples=2_000,
        batch=(1 << 19) // 300,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    interval = bootstrap_interval(values, level=0.9, seed=3)
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)


def test_intervals_of_repeated_values_match_those_of_scipy() -> None:
    rng = np.random.default_rng(6)
    values = rng.binomial(7, 0.8, size=2_000) / 7
    theirs = bootstrap((values,), np.mean, n_resamples=2_000, method="percentile", rng=rng)
    interval = bootstrap_interval(values)
    width = interval.high - interval.low
    assert interval.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * width)
    assert interval.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * width)
    assert interval == bootstrap_interval(values)
    assert interval != bootstrap_interval(values, seed=1)
    narrow = bootstrap_interval(values, level=0.5)
    assert interval.low < narrow.low < values.mean() < narrow.high < interval.high


def test_scores_are_averaged_by_label_and_over_the_first_queries() -> None:
    correct = np.array([[1, 1], [0, 0], [1, 0]], dtype=np.bool_)
    values = QueryScores.of(correct, np.array([5, 5, 5]))
    scores = Scores.of("e", Metric.L2, values, ["a", "b", "a"], first=2)
    assert scores.precision.value == pytest.approx(0.5)
    assert scores.first.precision == pytest.approx(0.5)
    assert scores.per_label["a"].precision == pytest.approx(0.75)
    assert scores.per_label["a"].queries == 2
    assert scores.as_dict()["precision_interval"][0] <= 0.5
    assert scores.recall_at_1.value == pytest.approx(2 / 3)
    assert scores.map_retrieved.value == pytest.approx(2 / 3)
    assert Scores.of("e", Metric.L2, values, [], first=2).per_label == {}
