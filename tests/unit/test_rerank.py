"""Re-ranking against slow and obvious versions without matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.errors import InputError, SettingError
from lookalike.search import rerank
from lookalike.search.rerank import (
    alpha_query_expansion,
    database_augmentation,
    diffusion_distances,
    k_reciprocal_distances,
)

Rows = np.ndarray[Any, np.dtype[np.float32]]

seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([0, 1, 2, 3, 7, 20, 45])
few = settings(max_examples=40, deadline=None)


def gallery(seed: int, n: int, dim: int = 4) -> tuple[Rows, Rows]:
    """Return a query and n rows in clusters, of any length, with duplicates and zero rows."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(3, dim))
    rows = centers[rng.integers(0, 3, n)] + rng.normal(size=(n, dim)) * rng.choice([0.05, 0.5, 2])
    rows *= rng.choice([0.01, 1, 30], size=(n, 1))
    rows[rng.random(n) < 0.1] = 0
    for i in np.flatnonzero(rng.random(n) < 0.3):
        rows[i] = rows[rng.integers(0, n)]
    query = rows[0] if n and rng.random() < 0.2 else rng.normal(size=dim)
    return query.astype(np.float32), rows.astype(np.float32)


def cosine(a: Rows, b: Rows) -> float:
    product = math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    squares = [math.fsum(float(x) ** 2 for x in v) for v in (a, b)]
    return product / math.sqrt(squares[0] * squares[1]) if all(squares) else 0.0


def unit(row: Any) -> Any:
    length = math.sqrt(math.fsum(float(x) ** 2 for x in row))
    return np.array([float(x) / length if length else 0.0 for x in row])


def slow_sum(row: Rows, near: list[Rows], alpha: float) -> Any:
    total = unit(row)
    for other in near:
        similarity = cosine(row, other)
        if similarity > 0:
            total = total + similarity**alpha * unit(other)
    return unit(total)


def slow_augment(rows: Rows, k: int, alpha: float) -> list[Any]:
    result = []
    for i, row in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        others.sort(key=lambda j: -cosine(row, rows[j]))
        result.append(slow_sum(row, [rows[j] for j in others[:k]], alpha))
    return result


def slow_nearest(i: int, rows: list[Rows], k: int) -> set[int]:
    """Return the k nearest other rows and those as near as the last."""
    result = {j: cosine(rows[i], rows[j]) for j in range(len(rows)) if j != i}
    best = sorted(result.values(), reverse=True)[:k]
    return {j for j, value in result.items() if best and value >= best[-1]}


def slow_reciprocal(query: Rows, rows: Rows, k1: int, k2: int, share: float) -> list[float]:
    nodes = [query, *rows]
    every = range(len(nodes))

    def mutual(k: int) -> list[set[int]]:
        near = [slow_nearest(i, nodes, k) | {i} for i in every]
        return [{j for j in near[i] if i in near[j]} for i in every]

    wide, narrow = mutual(k1), mutual(math.ceil(k1 / 2))
    encoded = []
    for i in every:
        members = set(wide[i])
        for j in wide[i]:
            if len(wide[i] & narrow[j]) >= 2 / 3 * len(narrow[j]) - 1e-9:
                members |= narrow[j]
        weights = {j: math.exp(-(1 - cosine(nodes[i], nodes[j]))) for j in members}
        encoded.append([weights.get(j, 0) / sum(weights.values()) for j in every])
    averaged = []
    for i in every:
        near = sorted(slow_nearest(i, nodes, k2 - 1) | {i}) if k2 > 1 else [i]
        averaged.append([sum(encoded[j][c] for j in near) / len(near) for c in every])
    distances = []
    for i in every[1:]:
        least = sum(min(a, b) for a, b in zip(averaged[0], averaged[i], strict=True))
        most = sum(max(a, b) for a, b in zip(averaged[0], averaged[i], strict=True))
        original = 1 - cosine(query, nodes[i])
        distances.append((1 - share) * (1 - least / most) + share * original)
    return distances


def slow_diffuse(query: Rows, rows: Rows, k: int, alpha: float, gamma: float) -> list[float]:
    """Iterate f = alpha S f + y (Zhou et al. 2004, section 2) from f = y until it stands still."""
    m = len(rows)
    fed = {j - 1 for j in slow_nearest(0, [query, *rows], k)}
    source = [max(cosine(query, rows[i]), 0.0) ** gamma if i in fed else 0.0 for i in range(m)]
    near = [slow_nearest(i, list(rows), k) for i in range(m)]
    edges = [dict[int, float]() for _ in range(m)]
    for i in range(m):
        for j in near[i]:
            similarity = cosine(rows[i], rows[j])
            if i in near[j] and similarity > 0:
                edges[i][j] = similarity**gamma
    degrees = [sum(row.values()) for row in edges]
    scores = np.array(source)
    for _ in range(2000):
        spread = [
            sum(w / math.sqrt(degrees[i] * degrees[j]) * scores[j] for j, w in edges[i].items())
            for i in range(m)
        ]
        before, scores = scores, alpha * np.array(spread) + source
        if np.allclose(before, scores, rtol=1e-12, atol=0):
            break
    return [-scores[i] if scores[i] > 0 else 1 - cosine(query, rows[i]) for i in range(m)]


def average_precision(distances: Any, right: Any) -> float:
    hits = right[np.argsort(distances, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum())


def plain(query: Rows, rows: Rows) -> Any:
    return np.array([1 - cosine(query, row) for row in rows])


def mean_average_precision(points: Rows, labels: Any, method: Callable[[Rows, Rows], Any]) -> float:
    """Return it for each eighth point asking for the others."""
    values = []
    for i in range(0, len(points), 8):
        distances = method(points[i], np.delete(points, i, axis=0))
        values.append(average_precision(distances, np.delete(labels, i) == labels[i]))
    return float(np.mean(values))


@few
@given(seeds, sizes, st.sampled_from([0.0, 1.0, 3.0]))
def test_query_expansion_is_the_weighted_sum(seed: int, k: int, alpha: float) -> None:
    query, rows = gallery(seed, k)
    result = alpha_query_expansion(query, rows, alpha=alpha)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, slow_sum(query, list(rows), alpha), atol=1e-6)


@few
@given(seeds, sizes, st.integers(1, 50), st.sampled_from([0.0, 1.0, 3.0]))
def test_database_augmentation_is_the_weighted_sum(seed: int, n: int, k: int, alpha: float) -> None:
    _, rows = gallery(seed, n)
    result = database_augmentation(rows, k, alpha=alpha)
    assert result.dtype == np.float32
    assert result.shape == rows.shape
    if n:
        np.testing.assert_allclose(result, slow_augment(rows, k, alpha), atol=1e-6)


def test_database_augmentation_counts_duplicates_as_other_rows() -> None:
    a, b = np.array([1, 0], np.float32), np.array([0.6, 0.8], np.float32)
    one = database_augmentation(np.stack([b, a, a]), 1, alpha=1)
    np.testing.assert_allclose(one, [unit(b + 0.6 * a), a, a], atol=1e-6)
    two = database_augmentation(np.stack([a, b, a]), 2, alpha=1)
    drawn = unit(2 * a + 0.6 * b)
    np.testing.assert_allclose(two, [drawn, unit(b + 1.2 * a), drawn], atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 39, 60])
def test_database_augmentation_treats_duplicates_alike(k: int) -> None:
    rng = np.random.default_rng(k)
    rows = rng.normal(size=(60, 3)).astype(np.float32)
    rows[rng.permutation(60)[:40]] = rows[0]
    result = database_augmentation(rows, k)
    np.testing.assert_allclose(result, slow_augment(rows, k, 3), atol=1e-6)
    copies = result[(rows == rows[0]).all(axis=1)]
    np.testing.assert_allclose(copies, np.broadcast_to(copies[0], copies.shape), atol=1e-6)


def test_database_augmentation_does_not_depend_on_its_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, rows = gallery(3, 300, dim=8)
    whole = database_augmentation(rows, 5)
    monkeypatch.setattr(rerank, "_CHUNK_VALUES", 7 * 5 * 8)
    np.testing.assert_allclose(database_augmentation(rows, 5), whole, atol=1e-6)


@pytest.mark.slow
@few
@given(seeds, sizes, st.integers(1, 25), st.integers(1, 8), st.sampled_from([0.0, 0.3, 1.0]))
def test_k_reciprocal_distances_follow_the_paper(
    seed: int, m: int, k1: int, k2: int, share: float
) -> None:
    query, rows = gallery(seed, m)
    result = k_reciprocal_distances(query, rows, k1=k1, k2=k2, share=share)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, slow_reciprocal(query, rows, k1, k2, share), atol=1e-6)


@few
@given(seeds, sizes, st.integers(1, 25), st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([1, 3]))
def test_diffusion_is_the_limit_of_the_iteration(
    seed: int, m: int, k: int, alpha: float, gamma: float
) -> None:
    query, rows = gallery(seed, m)
    result = diffusion_distances(query, rows, k=k, alpha=alpha, gamma=gamma)
    assert result.dtype == np.float32
    expected = slow_diffuse(query, rows, k, alpha, gamma)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_rows_that_diffusion_does_not_reach_are_last_by_distance() -> None:
    rng = np.random.default_rng(0)
    query = np.array([1, 0, 0], np.float32)
    chain = [[math.cos(t), math.sin(t), 0] for t in np.linspace(0, 1.5, 30)]
    island = [0.9, 0, 0.45] + rng.normal(size=(10, 3)) * 0.01
    opposite = -np.array(chain[:5])
    rows = np.vstack([opposite, island, chain, np.zeros((2, 3))]).astype(np.float32)
    order = np.argsort(diffusion_distances(query, rows, k=2), kind="stable")
    kind = np.repeat([2, 1, 0, 2], [5, 10, 30, 2])[order]
    assert (kind == 0).argmin() == 30
    far = order[30:]
    assert list(far) == sorted(far, key=lambda i: (1 - cosine(query, rows[i]), i))


def test_scores_too_small_for_32_bits_precede_unreached_rows() -> None:
    rows = np.array([[0, 0], [0.6, 0.8], [1, 0]], np.float32)
    result = diffusion_distances(rows[2], rows, k=1, alpha=1e-60)
    np.testing.assert_array_equal(result, np.array([1, -np.finfo(np.float32).tiny, -1]))


@pytest.mark.parametrize("method", [k_reciprocal_distances, diffusion_distances])
@given(seed=seeds)
@few
def test_order_and_length_of_candidates_do_not_matter(
    method: Callable[[Rows, Rows], Any], seed: int
) -> None:
    query, rows = gallery(seed, 45)
    order = np.random.default_rng(seed).permutation(45)
    result = method(query, rows)
    np.testing.assert_allclose(method(query, rows[order]), result[order], rtol=1e-5, atol=1e-6)
    scaled = method(query * np.float32(2.0**100), rows * np.float32(2.0**-110))
    np.testing.assert_allclose(scaled, result, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [k_reciprocal_distances, diffusion_distances])
@pytest.mark.parametrize("m", [0, 1, 2, 30])
@pytest.mark.parametrize("value", [0, 1e-45, 1, 3e38])
def test_identical_rows_have_one_distance(
    method: Callable[[Rows, Rows], Any], m: int, value: float
) -> None:
    rows = np.full((m, 3), value, np.float32)
    for query in (np.zeros(3, np.float32), np.ones(3, np.float32), -np.ones(3, np.float32)):
        result = method(query, rows)
        assert result.shape == (m,)
        assert np.isfinite(result).all()
        assert np.ptp(result) <= 1e-6 if m else True


@pytest.mark.parametrize("value", [1e-45, 1e-30, 3e38])
def test_very_long_and_short_rows_are_normalized(value: float) -> None:
    rows = np.full((4, 3), value, np.float32)
    rows[3] = 0
    third = np.full(3, 1 / math.sqrt(3))
    np.testing.assert_allclose(
        database_augmentation(rows, 2), [third] * 3 + [np.zeros(3)], atol=1e-6
    )
    np.testing.assert_allclose(alpha_query_expansion(rows[0], rows), third, atol=1e-6)
    np.testing.assert_array_equal(alpha_query_expansion(rows[3], rows), np.zeros(3))


@pytest.mark.parametrize("gamma", [0.0, 50.0, 1e6])
def test_diffusion_with_any_exponent_is_finite(gamma: float) -> None:
    query, rows = gallery(8, 45)
    assert np.isfinite(diffusion_distances(query, rows, gamma=gamma, alpha=0.999)).all()


def clusters(spread: float | Rows) -> tuple[Rows, Any]:
    labels = np.repeat(np.arange(6), 25)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(6, 16))[labels] + rng.normal(size=(150, 16)) * spread
    return points.astype(np.float32), labels


def test_diffusion_follows_two_moons() -> None:
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, np.pi, 80)
    upper = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    moons = np.vstack([upper, [1, 0.5] - upper]) + rng.normal(size=(160, 2)) * 0.05
    points = np.c_[moons - moons.mean(axis=0), np.full(160, 3)].astype(np.float32)
    labels = np.repeat([0, 1], 80)
    before = mean_average_precision(points, labels, plain)
    assert mean_average_precision(points, labels, diffusion_distances) > before + 0.15


def test_k_reciprocal_separates_clusters_of_unequal_spread() -> None:
    spread = np.random.default_rng(1).uniform(0.4, 1.6, size=(150, 1)).astype(np.float32)
    points, labels = clusters(spread)
    before = mean_average_precision(points, labels, plain)
    assert mean_average_precision(points, labels, k_reciprocal_distances) > before + 0.08


def test_expansion_and_augmentation_separate_clusters() -> None:
    points, labels = clusters(1)

    def expanded(query: Rows, others: Rows) -> Any:
        near = others[np.argsort(plain(query, others))[:10]]
        return plain(alpha_query_expansion(query, near), others)

    def augmented(query: Rows, others: Rows) -> Any:
        return plain(query, database_augmentation(others, 10))

    before = mean_average_precision(points, labels, plain)
    assert mean_average_precision(points, labels, expanded) > before + 0.05
    assert mean_average_precision(points, labels, augmented) > before + 0.05


QUERY, ROWS = np.ones(3, np.float32), np.ones((4, 3), np.float32)


@pytest.mark.parametrize(
    "method", [alpha_query_expansion, k_reciprocal_distances, diffusion_distances]
)
def test_incompatible_shapes_are_refused(method: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(InputError, match="query: expected one embedding"):
        method(ROWS, ROWS)
    with pytest.raises(InputError, match="expected 3 dimensions, got 2"):
        method(QUERY, ROWS[:, :2])
    with pytest.raises(InputError, match=r"\(n, dim\)"):
        method(QUERY, QUERY)
    with pytest.raises(InputError, match="query: row 0 has NaN"):
        method(QUERY * np.float32(np.nan), ROWS)
    with pytest.raises(InputError, match="row 0 has NaN or Inf"):
        method(QUERY, np.full((1, 3), np.inf, np.float32))


def test_invalid_rows_are_refused() -> None:
    with pytest.raises(InputError, match=r"rows: expected embeddings of shape \(n, dim\)"):
        database_augmentation(QUERY, 1)
    with pytest.raises(InputError, match="rows: row 0 has NaN"):
        database_augmentation(ROWS * np.float32(np.nan), 1)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: alpha_query_expansion(QUERY, ROWS, alpha=-1), "alpha"),
        (lambda: alpha_query_expansion(QUERY, ROWS, alpha=math.nan), "alpha"),
        (lambda: database_augmentation(ROWS, 0), "k"),
        (lambda: database_augmentation(ROWS, 1, alpha=math.inf), "alpha"),
        (lambda: k_reciprocal_distances(QUERY, ROWS, k1=0), "k1"),
        (lambda: k_reciprocal_distances(QUERY, ROWS, k2=0), "k2"),
        (lambda: k_reciprocal_distances(QUERY, ROWS, share=1.1), "share"),
        (lambda: k_reciprocal_distances(QUERY, ROWS, share=math.nan), "share"),
        (lambda: diffusion_distances(QUERY, ROWS, k=0), "k"),
        (lambda: diffusion_distances(QUERY, ROWS, alpha=1), "alpha"),
        (lambda: diffusion_distances(QUERY, ROWS, alpha=-0.1), "alpha"),
        (lambda: diffusion_distances(QUERY, ROWS, gamma=-1), "gamma"),
    ],
)
def test_options_out_of_range_are_refused(call: Callable[[], Any], name: str) -> None:
    with pytest.raises(SettingError, match=f"^{name}="):
        call()
