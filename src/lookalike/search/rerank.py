"""Re-ranking: query expansion, database augmentation, k-reciprocal neighbors, diffusion.

Pure functions of embeddings, which are compared by cosine similarity. Embeddings may have any
length; zero rows have similarity 0 to everything.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError, SettingError
from lookalike.stores.exact import ExactIndex
from lookalike.types import Embeddings, Metric, check_embeddings
from lookalike.vectors import unit_rows

DEPTH = 200
"""Candidates per query for :func:`k_reciprocal_distances` and :func:`diffusion_distances`."""

_CHUNK_VALUES = 1 << 21
"""Values of neighbors held at a time, in 64 bits (16 MiB)."""

_MIN_WEIGHT = 1e-150
"""Smaller weights are 0: sums and products of them would underflow."""

_MAX_DIFFUSION_ALPHA = 0.999
"""At alpha = 1 the equations of diffusion have no solution."""


def alpha_query_expansion(
    query: NDArray[np.float32], neighbors: Embeddings, *, alpha: float = 3.0
) -> NDArray[np.float32]:
    """Return a query moved towards its nearest rows (alpha query expansion).

    It is the sum of the query, with weight 1, and its neighbors, weighted by their similarity to
    the power ``alpha`` (Radenović, Tolias, Chum 2018, "Fine-tuning CNN image retrieval
    with no human annotation"). Neighbors of negative similarity have weight 0; with ``alpha`` 0
    all others have the same weight.

    Args:
        query: ``(dim,)`` float32.
        neighbors: ``(k, dim)`` float32, the query's nearest rows; without any, it is unchanged.
        alpha: at least 0.

    Returns:
        ``(dim,)`` float32 of unit length; zeros for a query of zeros.

    Raises:
        InputError: incompatible shapes, NaN or Inf.
        SettingError: ``alpha`` out of range.
    """
    _check_exponent("alpha", alpha)
    nodes = _stack(query, neighbors, "neighbors").astype(np.float64)
    weights = _weights(nodes[1:] @ nodes[0], alpha)  # (k,)
    return np.asarray(_weighted_sum(nodes[:1], weights[None], nodes[None, 1:])[0])


def database_augmentation(rows: Embeddings, k: int, *, alpha: float = 3.0) -> Embeddings:
    """Return each row moved towards its ``k`` nearest other rows (database augmentation).

    Database augmentation (Arandjelović and Zisserman 2012, "Three things everyone should know
    to improve object retrieval"; the weights are Radenović's). Neighbors are found exactly,
    among the rows before augmentation. Duplicates of a row are other rows; all get the same result.

    Besides the unit rows and the result, ``n = 500,000`` rows need less than 256 MiB; time grows
    with the square of n.

    Args:
        rows: ``(n, dim)`` float32.
        k: neighbors, at least 1; all other rows if there are fewer.
        alpha: at least 0.

    Returns:
        ``(n, dim)`` float32 of unit length; zero rows stay zero.

    Raises:
        InputError: rows that are not ``(n, dim)``, NaN or Inf.
        SettingError: ``k`` or ``alpha`` out of range.
    """
    _check_positive(k=k)
    _check_exponent("alpha", alpha)
    unit = _unit(check_embeddings(rows, what="rows"))
    first, earlier = _duplicates(unit)
    # Zero rows have no weight, and k + 1 duplicates of a row are enough to be neighbors. More of
    # them would force the exact index to compare each with all the others.
    distinct = np.flatnonzero(unit.any(axis=1) & (earlier <= k))
    if len(distinct) < len(unit):
        unit = unit[distinct]
    index = ExactIndex(unit)
    result = np.zeros((len(first), unit.shape[1]), np.float32)
    step = max(1, _CHUNK_VALUES // (k * max(1, unit.shape[1])))
    for start in range(0, len(distinct), step):
        check_cancelled()
        part = slice(start, start + step)
        near = unit[index.others(start, start + step, k, Metric.COSINE).rows].astype(np.float64)
        rows_part = unit[part].astype(np.float64)
        weights = _weights(np.einsum("qd,qkd->qk", rows_part, near), alpha)
        result[distinct[part]] = _weighted_sum(rows_part, weights, near)
    surplus = earlier > k
    result[surplus] = result[first[surplus]]
    return result


def k_reciprocal_distances(
    query: NDArray[np.float32],
    candidates: Embeddings,
    *,
    k1: int = 20,
    k2: int = 6,
    share: float = 0.3,
) -> NDArray[np.float32]:
    """Return distances by shared k-reciprocal neighbors.

    Zhong et al. 2017, "Re-ranking person re-identification with k-reciprocal encoding", sections
    3.2 to 3.5, among the query and its candidates only. As in the authors' code, a row is its own
    neighbor, besides ``k1``, half of ``k1`` (rounded up) or ``k2 - 1`` others, and the weights of
    equation 7 are normalized to sum 1. Rows as similar as the last neighbor are neighbors too, so
    that duplicates are treated alike and the order of the candidates does not matter.

    Args:
        query: ``(dim,)`` float32.
        candidates: ``(m, dim)`` float32, about the :data:`DEPTH` nearest rows.
        k1: neighbors that must be mutual, at least 1.
        k2: neighbors whose encodings are averaged (local query expansion), at least 1.
        share: weight of ``1 - cosine``, in [0, 1]; the Jaccard distance has the rest.

    Returns:
        ``(m,)`` float32, smaller is nearer: ``(1 - share) * jaccard + share * (1 - cosine)``.

    Raises:
        InputError: incompatible shapes, NaN or Inf.
        SettingError: an option out of range.
    """
    _check_positive(k1=k1, k2=k2)
    if not 0 <= share <= 1:
        raise SettingError("{share} must be from 0 to 1", share=share)
    similarities = _similarities(_stack(query, candidates, "candidates"))  # (1 + m, 1 + m)
    own = np.eye(len(similarities), dtype=np.bool_)
    others = np.where(own, -np.inf, similarities)
    mutual = _mutual(_nearest(others, k1) | own)
    half = _mutual(_nearest(others, (k1 + 1) // 2) | own).astype(np.float32)
    common = mutual.astype(np.float32) @ half  # half is symmetric
    joined = mutual & (3 * common >= 2 * half.sum(axis=0))
    members = mutual | (joined.astype(np.float32) @ half > 0)
    encoded = np.where(members, np.exp(similarities.astype(np.float64) - 1), 0)
    encoded /= encoded.sum(axis=1, keepdims=True)
    averaged = _nearest(others, k2 - 1) | own
    encoded = averaged.astype(np.float64) @ encoded / averaged.sum(axis=1, keepdims=True)
    intersection = np.minimum(encoded[0], encoded[1:]).sum(axis=1)
    union = np.maximum(encoded[0], encoded[1:]).sum(axis=1)
    distances = (1 - share) * (1 - intersection / union) + share * (1 - similarities[0, 1:])
    return np.asarray(distances, np.float32)


def diffusion_distances(
    query: NDArray[np.float32],
    candidates: Embeddings,
    *,
    k: int = 20,
    alpha: float = 0.9,
    gamma: float = 3.0,
) -> NDArray[np.float32]:
    """Return distances by diffusion along the neighbor graph of the candidates.

    Zhou et al. 2004, "Ranking on data manifolds", section 2, solved in closed form; graph and
    source as in Iscen et al. 2017, "Efficient diffusion on region manifolds": mutual ``k`` nearest
    candidates are connected by their similarity to the power ``gamma``, and so are the query and
    its ``k`` nearest candidates. Negative similarities count as 0; rows as similar as the last
    neighbor are neighbors too.

    Args:
        query: ``(dim,)`` float32.
        candidates: ``(m, dim)`` float32, about the :data:`DEPTH` nearest rows; time grows with
            the cube of m.
        k: neighbors, at least 1.
        alpha: share that diffuses along the graph, from 0 to 0.999.
        gamma: exponent of similarities, at least 0.

    Returns:
        ``(m,)`` float32, smaller is nearer: the negative score where the diffusion reaches a
        candidate; ``1 - cosine``, from 0 to 2, where it does not.

    Raises:
        InputError: incompatible shapes, NaN or Inf.
        SettingError: an option out of range.
    """
    _check_positive(k=k)
    _check_exponent("gamma", gamma)
    if not 0 <= alpha <= _MAX_DIFFUSION_ALPHA:
        raise SettingError(f"{{alpha}} must be from 0 to {_MAX_DIFFUSION_ALPHA}", alpha=alpha)
    similarities = _similarities(_stack(query, candidates, "candidates"))  # (1 + m, 1 + m)
    near, between = similarities[:1, 1:], similarities[1:, 1:]
    source = np.where(_nearest(near, k), _weights(near, gamma), 0)[0]  # (m,)
    others = np.where(np.eye(len(between), dtype=np.bool_), -np.inf, between)
    affinity = np.where(_mutual(_nearest(others, k)), _weights(between, gamma), 0)  # (m, m)
    degrees = affinity.sum(axis=1)
    degrees[degrees == 0] = 1
    # (I - alpha S) f = y with S = D^-1/2 A D^-1/2, as (D - alpha A) g = D^1/2 y and f = D^1/2 g.
    # The diagonal dominates these columns, so elimination swaps no rows and, off the diagonal,
    # only adds numbers of one sign: scores are never negative, and 0 only where nothing is reached.
    roots = np.sqrt(degrees)
    scores = roots * np.linalg.solve(np.diag(degrees) - alpha * affinity, roots * source)
    smallest = np.finfo(np.float32).tiny
    reached = -np.maximum(scores, smallest)
    return np.asarray(np.where(scores > 0, reached, 1 - near[0]), np.float32)


def _check_positive(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise SettingError(f"{{{name}}} must be at least 1", **{name: count})


def _check_exponent(name: str, exponent: float) -> None:
    if not 0 <= exponent < math.inf:
        raise SettingError(f"{{{name}}} must be finite and at least 0", **{name: exponent})


def _unit(rows: Embeddings) -> Embeddings:
    """Scale each row of ``(n, dim)`` to unit length, whatever its length."""
    result = np.empty_like(rows)
    step = max(1, _CHUNK_VALUES // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        peaks = np.abs(part).max(axis=1, keepdims=True, initial=0)
        # Scaling by a power of two is exact and keeps squares from over- and underflowing.
        result[start : start + step] = unit_rows(np.ldexp(part, -np.frexp(peaks)[1]))
    return result


def _stack(query: NDArray[np.float32], rows: Embeddings, what: str) -> Embeddings:
    """Check a query ``(dim,)`` and rows ``(m, dim)``; return them as ``(1 + m, dim)`` unit rows."""
    query = np.asarray(query)
    if query.ndim != 1:
        raise InputError(f"query: expected one embedding of shape (dim,), got {query.shape}")
    first = check_embeddings(query[None], what="query")
    return _unit(np.vstack([first, check_embeddings(rows, dim=len(query), what=what)]))


def _duplicates(rows: Embeddings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each row the first equal row, and the number of equal rows before it."""
    first = np.empty(len(rows), np.int64)
    earlier = np.empty(len(rows), np.int64)
    counts = np.zeros(len(rows), np.int64)
    seen: dict[bytes, int] = {}
    for number, row in enumerate(rows):
        key = hashlib.blake2b(row, digest_size=16).digest()
        first[number] = original = seen.setdefault(key, number)
        earlier[number] = counts[original]
        counts[original] += 1
    return first, earlier


def _weights(similarities: NDArray[Any], power: float) -> NDArray[np.float64]:
    """Return similarities to a power; negative ones become 0."""
    raised = np.clip(similarities, 0, 1).astype(np.float64) ** power
    return np.where((similarities > 0) & (raised > _MIN_WEIGHT), raised, 0)


def _weighted_sum(
    rows: NDArray[np.float64], weights: NDArray[np.float64], near: NDArray[np.float64]
) -> Embeddings:
    """Return rows ``(q, dim)`` plus their weighted neighbors ``(q, k, dim)``, in unit length."""
    total = rows + np.einsum("qk,qkd->qd", weights, near)
    return unit_rows(total.astype(np.float32))


def _similarities(unit: Embeddings) -> NDArray[np.float32]:
    """Return the cosine similarities ``(n, n)`` of unit rows.

    They are computed in 64 bits and rounded to 32, so that equal rows have equal similarities.
    """
    wide = unit.astype(np.float64)
    return np.clip((wide @ wide.T).astype(np.float32), -1, 1)


def _nearest(similarities: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Mark each row's ``k`` largest values, and those equal to the last; never -Inf."""
    columns = similarities.shape[1]
    if k < 1:
        return np.zeros(similarities.shape, np.bool_)
    if k >= columns:
        return similarities > -np.inf
    last = np.partition(similarities, columns - k, axis=1)[:, columns - k, None]
    return (similarities >= last) & (similarities > -np.inf)


def _mutual(near: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which neighbors are mutual."""
    return near & near.T
