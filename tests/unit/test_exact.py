"""Exact search finds what computing every distance finds, in the same order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import CancelledError
from lookalike.stores import candidates, exact, quantized
from lookalike.stores.exact import ExactIndex, Nearest
from lookalike.types import Embeddings, Metric

KINDS = ("plain", "extreme", "crowded", "scales", "sparse", "twins", "one", "outlier", "tiny")
SCOPES = ("all", "dead", "few", "half", "most", "none", "range")


@pytest.fixture(autouse=True)
def small_blocks() -> Iterator[None]:
    """Some hundred rows have many blocks, and every branch is taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantized, "BLOCK", 32)
        patch.setattr(exact, "_MIN_QUANTIZED", 1)
        patch.setattr(exact, "_WORTH_QUANTIZING", 1)
        patch.setattr(exact, "_CHUNK_BLOCKS", 3)
        patch.setattr(exact, "_CHUNK_ROWS", 50)
        patch.setattr(exact, "_MAX_DIRECT", 20)
        patch.setattr(exact, "_BATCH", 8)
        patch.setattr(candidates, "_MIN_GROUPS", 2)
        yield


def table(seed: int, kind: str, count: int, dim: int) -> Embeddings:
    rng = np.random.default_rng(seed)
    if kind == "extreme":
        return rng.choice(np.array([-1, 1], np.float32), (count, dim))
    rows = rng.normal(size=(count, dim)).astype(np.float32)
    if kind == "crowded":
        rows = (1000 + 1e-3 * rows).astype(np.float32)
    if kind == "scales":
        rows *= 10.0 ** rng.integers(-4, 5, (count, 1)).astype(np.float32)
    if kind == "sparse":
        rows[rng.random((count, dim)) < 0.8] = 0
    if kind == "twins":
        rows = rows[rng.integers(0, max(1, count // 5), count)]
    if kind == "one":
        rows[:] = rows[0]
    if kind == "outlier":
        places = rng.integers(0, count, 2)
        rows[places] *= np.float32(10.0) ** rng.integers(3, 30)
        rows[rng.integers(count)] = np.finfo(np.float32).max
    if kind == "tiny":
        rows *= np.float32(1e-30)
    return rows


def scope(seed: int, name: str, count: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return dead rows and a subset."""
    rng = np.random.default_rng(seed + 1)
    dead = np.flatnonzero(rng.random(count) < 0.2)
    if name in ("all", "dead"):
        return (dead if name == "dead" else None), None
    if name == "range":
        return dead, np.arange(count // 3, count // 2)
    share = {"few": 0.04, "half": 0.5, "most": 0.97, "none": 0.0}[name]
    return (dead if seed % 2 else None), np.flatnonzero(rng.random(count) < share)


def oracle(
    rows: Embeddings,
    query: np.ndarray,
    k: int,
    metric: Metric,
    numbers: np.ndarray,
) -> Nearest:
    """Compute every distance."""
    vectors, target = rows[numbers].astype(np.float64), query.astype(np.float64)
    distances = exact._distances(vectors, target, metric)
    order = np.lexsort((numbers, distances))
    numbers, distances = numbers[order], distances[order]
    last = distances[k - 1] if len(distances) > k else np.inf
    return Nearest(numbers[distances <= last], distances[distances <= last])


def matching(count: int, dead: np.ndarray | None, subset: np.ndarray | None) -> np.ndarray:
    every = np.arange(count) if subset is None else subset
    return every if dead is None else np.setdiff1d(every, dead)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 999),
    st.sampled_from(KINDS),
    st.sampled_from(SCOPES),
    st.integers(1, 300),
    st.sampled_from((1, 3, 64, 257)),
    st.sampled_from((1, 2, 7, 20, 400)),
    st.sampled_from(list(Metric)),
)
def test_results_are_those_of_computing_every_distance(
    seed: int, kind: str, name: str, count: int, dim: int, k: int, metric: Metric
) -> None:
    rows = table(seed, kind, count, dim)
    dead, subset = scope(seed, name, count)
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(11, dim)).astype(np.float32)
    queries[:5] = rows[rng.integers(0, count, 5)]
    queries[5] = 0
    queries[6] *= np.float32(1e-20)
    queries[7] *= np.float32(1e-4)
    index = ExactIndex(rows, exact._quantized(rows), dead=dead)
    in_memory = ExactIndex(rows, dead=dead)
    numbers = matching(count, dead, subset)
    expected = [oracle(rows, query, k, metric, numbers) for query in queries]
    results = [
        index.search_with_ties(queries, k, metric, subset),
        in_memory.search_with_ties(queries, k, metric, subset),
        [index.search_with_ties(query[None], k, metric, subset)[0] for query in queries],
    ]
    for result in results:
        for nearest, true in zip(result, expected, strict=True):
            np.testing.assert_array_equal(nearest.rows, true.rows)
            np.testing.assert_array_equal(nearest.distances, true.distances)
    cut = index.search(queries, k, metric, subset)
    width = min(k, len(numbers))
    np.testing.assert_array_equal(cut.rows, [true.rows[:width] for true in expected])
    np.testing.assert_array_equal(cut.distances, [true.distances[:width] for true in expected])


def test_crowded_batches_are_searched_in_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_MAX_PER_QUERY", 40)
    queries = table(1, "plain", 20, 16)
    for kind in ("crowded", "one", "twins"):
        rows = table(3, kind, 3_000, 16)
        index = ExactIndex(rows, exact._quantized(rows))
        for metric in Metric:
            some = queries if kind != "crowded" else rows[:20]
            for place, nearest in enumerate(index.search_with_ties(some, 5, metric)):
                true = oracle(rows, some[place], 5, metric, np.arange(len(rows)))
                np.testing.assert_array_equal(nearest.rows, true.rows)
                np.testing.assert_array_equal(nearest.distances, true.distances)


def test_few_rows_are_compared_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds are tight enough to exclude almost all rows, beside an outlier too."""
    rows = table(0, "plain", 6_000, 64)
    rows[100] *= 1e6
    compared: list[int] = []
    distances = exact._distances

    def counted(vectors: np.ndarray, target: np.ndarray, metric: Metric) -> np.ndarray:
        compared.append(len(vectors))
        return distances(vectors, target, metric)

    monkeypatch.setattr(exact, "_distances", counted)
    for index in (ExactIndex(rows, exact._quantized(rows)), ExactIndex(rows)):
        for metric in Metric:
            compared.clear()
            index.search(rows[:20] + np.float32(0.1), 5, metric)
            assert sum(compared) < 20 * 300


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("kind", ["plain", "twins", "one"])
def test_others_leave_out_the_row_itself(kind: str, metric: Metric) -> None:
    rows = table(4, kind, 200, 8)
    dead = np.arange(0, 200, 7)
    for index, live in (
        (ExactIndex(rows), np.arange(200)),
        (ExactIndex(rows, exact._quantized(rows), dead=dead), np.setdiff1d(np.arange(200), dead)),
    ):
        nearest = index.others(20, 60, 6, metric)
        assert nearest.rows.shape == (40, 6)
        for place, row in enumerate(range(20, 60)):
            true = oracle(rows, rows[row], 6, metric, live[live != row])
            np.testing.assert_allclose(nearest.distances[place], true.distances[:6], atol=1e-7)
            assert row not in nearest.rows[place]
            assert set(nearest.rows[place]) <= set(live)
    assert index.others(0, 3, 10**6, metric).rows.shape == (3, len(live) - 1)


@pytest.mark.parametrize("queries", [1, 20])
def test_ties_that_are_not_needed_are_not_kept(queries: int) -> None:
    rows = table(0, "one", 500, 8)
    some = np.concatenate([table(1, "plain", queries, 8), np.zeros((2, 8), np.float32)])

    def shorten(nearest: Nearest) -> Nearest:
        return Nearest(nearest.rows[-3:], nearest.distances[-3:])

    for index in (ExactIndex(rows), ExactIndex(rows, exact._quantized(rows))):
        for metric in Metric:
            assert index.search(some, 3, metric).rows.tolist() == [[0, 1, 2]] * len(some)
            shortened = index.search_with_ties(some, 3, metric, shorten=shorten)
            assert [each.rows.tolist() for each in shortened] == [[497, 498, 499]] * len(some)


def test_rows_are_quantized_when_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_MIN_QUANTIZED", 50)
    monkeypatch.setattr(exact, "_WORTH_QUANTIZING", 30)
    rows, query = table(0, "plain", 64, 4), np.ones((1, 4), np.float32)
    index = ExactIndex(rows)
    index.search(query, 3, Metric.COSINE)
    assert index._scan.codes is None
    index.search(query, 3, Metric.COSINE)
    assert index._scan.codes is not None
    index = ExactIndex(rows)
    index.search(np.repeat(query, 20, axis=0), 3, Metric.COSINE)
    assert index._scan.codes is None
    index.search(np.repeat(query, 20, axis=0), 3, Metric.COSINE)
    assert index._scan.codes is not None
    small = ExactIndex(rows[:49])
    for _ in range(3):
        small.search(query, 3, Metric.COSINE)
    assert small._scan.codes is None


def test_a_new_index_reads_no_rows() -> None:
    """What is mapped is read by searches only."""
    rows = table(0, "plain", 320, 4)
    index = ExactIndex(rows, exact._quantized(rows))
    assert index._scan._facts is None
    index.search(rows[:1], 1, Metric.L2)
    assert index._scan.facts().lengths.half_squares.size == 0


class _Countdown(Cancellation):
    """Ends the work at the n-th check."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.checks = checks

    def check(self) -> None:
        self.checks -= 1
        if self.checks == 0:
            self.cancel()
        super().check()


@pytest.mark.parametrize("queries", [1, 14])
@pytest.mark.parametrize("scale", [1.0, 1e20])
def test_a_search_checks_between_chunks(queries: int, scale: float) -> None:
    rows = table(0, "plain", 2_000, 16)
    index = ExactIndex(rows, exact._quantized(rows))
    some = (scale * rows[:queries]).astype(np.float32)
    exact_chunk = exact._CHUNK_DIRECT
    exact._CHUNK_DIRECT = 16 * 50
    try:
        expected = index.search(some, 9, Metric.COSINE)
        for checks in (1, 5, 15):
            with cancellable(_Countdown(checks)), pytest.raises(CancelledError):
                index.search(some, 9, Metric.COSINE)
        result = index.search(some, 9, Metric.COSINE)
    finally:
        exact._CHUNK_DIRECT = exact_chunk
    np.testing.assert_array_equal(result.rows, expected.rows)


def test_cosine_distances_are_between_0_and_2() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 1_280)).astype(np.float32)
    distances = ExactIndex(np.concatenate([rows, -rows])).search(rows, 400, Metric.COSINE).distances
    assert distances.min() == 0
    assert distances.max() == 2
