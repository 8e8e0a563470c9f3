"""Metrics against slow, obvious versions and against ir-measures."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import AP, P, R

from lookalike.errors import InputError
from lookalike.metrics import (
    QueryScores,
    Scores,
    average_precision_at_n,
    bootstrap_interval,
    precision_at_n,
    recall_at_n,
)
from lookalike.types import Metric


@st.composite
def results(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 8))
    rows = draw(st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=9))
    correct = np.array(rows, dtype=np.bool_)
    more = draw(st.lists(st.integers(0, 12), min_size=len(rows), max_size=len(rows)))
    return correct, correct.sum(axis=1) + np.array(more)


def slow_average_precision(row: np.ndarray, relevant: int) -> float:
    total = sum(row[: k + 1].mean() for k in range(len(row)) if row[k])
    return total / min(len(row), relevant) if relevant else 0.0


@given(results())
def test_metrics_match_their_definitions(given_results: tuple[np.ndarray, np.ndarray]) -> None:
    correct, relevant = given_results
    np.testing.assert_allclose(precision_at_n(correct), [sum(r) / len(r) for r in correct])
    expected = [slow_average_precision(r, k) for r, k in zip(correct, relevant, strict=True)]
    np.testing.assert_allclose(average_precision_at_n(correct, relevant), expected)
    recall = [sum(r) / k if k else 0 for r, k in zip(correct, relevant, strict=True)]
    np.testing.assert_allclose(recall_at_n(correct, relevant), recall)


def test_metrics_match_ir_measures() -> None:
    rng = np.random.default_rng(1)
    n, queries = 7, 50
    correct = rng.random((queries, n)) < 0.5
    relevant = correct.sum(axis=1) + rng.integers(0, 9, queries)
    relevant[relevant == 0] = 1
    qrels, run = [], []
    for q in range(queries):
        for k in range(n):
            run.append(ir_measures.ScoredDoc(f"q{q:03}", f"d{k}", float(n - k)))
            qrels.append(ir_measures.Qrel(f"q{q:03}", f"d{k}", int(correct[q, k])))
        unseen = range(int(relevant[q] - correct[q].sum()))
        qrels += [ir_measures.Qrel(f"q{q:03}", f"unseen{k}", 1) for k in unseen]
    theirs: dict[str, list[float]] = {"P@7": [], "R@7": [], "AP@7": []}
    found = sorted(
        ir_measures.iter_calc([P @ n, R @ n, AP @ n], qrels, run), key=lambda m: m.query_id
    )
    for value in found:
        theirs[str(value.measure)].append(value.value)
    np.testing.assert_allclose(precision_at_n(correct), theirs["P@7"])
    np.testing.assert_allclose(recall_at_n(correct, relevant), theirs["R@7"])
    # Theirs divides by all relevant documents, ours by those that fit into n.
    ours = average_precision_at_n(correct, relevant) * np.minimum(relevant, n) / relevant
    np.testing.assert_allclose(ours, theirs["AP@7"])


def test_chance_is_what_drawing_at_random_gives() -> None:
    rng = np.random.default_rng(2)
    rows, relevant, n = 20, 6, 7
    labels = np.arange(rows) < relevant
    drawn = np.stack([rng.permutation(labels)[:n] for _ in range(40_000)])
    many = np.full(len(drawn), relevant)
    chance = QueryScores.by_chance(np.array([relevant]), np.array([rows]), n)
    assert precision_at_n(drawn).mean() == pytest.approx(chance.precision[0], abs=0.004)
    assert recall_at_n(drawn, many).mean() == pytest.approx(chance.recall[0], abs=0.004)
    found = average_precision_at_n(drawn, many).mean()
    assert found == pytest.approx(chance.average_precision[0], abs=0.004)


def test_a_query_without_relevant_rows_scores_nothing() -> None:
    scores = QueryScores.of(np.zeros((1, 3), np.bool_), np.array([0]))
    assert (scores.precision[0], scores.average_precision[0], scores.recall[0]) == (0, 0, 0)
    chance = QueryScores.by_chance(np.array([0]), np.array([9]), 3)
    assert (chance.precision[0], chance.average_precision[0], chance.recall[0]) == (0, 0, 0)


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(200):
        values = rng.binomial(7, 0.8, size=150) / 7
        interval = bootstrap_interval(values, seed=trial)
        covered += interval.low <= 0.8 <= interval.high
    assert 180 <= covered <= 198


def test_the_interval_matches_resampling_one_by_one() -> None:
    values = np.random.default_rng(5).random(80)
    slow = [np.random.default_rng(s).choice(values, 80).mean() for s in range(4000)]
    interval = bootstrap_interval(values)
    assert interval.low == pytest.approx(np.quantile(slow, 0.025), abs=0.01)
    assert interval.high == pytest.approx(np.quantile(slow, 0.975), abs=0.01)
    same = np.full(10_000, 0.1)
    assert bootstrap_interval(same).low == bootstrap_interval(same).high == same.mean()
    with pytest.raises(InputError, match="no queries"):
        bootstrap_interval(np.array([]))


def test_scores_are_summed_up_by_label_and_for_the_first() -> None:
    correct = np.array([[1, 1], [0, 0], [1, 0]], dtype=np.bool_)
    values = QueryScores.of(correct, np.array([5, 5, 5]))
    scores = Scores.of("e", Metric.L2, values, ["a", "b", "a"], first=2)
    assert scores.precision.value == pytest.approx(0.5)
    assert scores.first.precision == pytest.approx(0.5)
    assert scores.per_label["a"].precision == pytest.approx(0.75)
    assert scores.per_label["a"].queries == 2
    assert scores.as_dict()["precision_interval"][0] <= 0.5
