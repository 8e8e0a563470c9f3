"""Re-ranking: query expansion, database-side augmentation, k-reciprocal neighbors, diffusion.

Pure functions of embeddings, compared by their cosine similarity. They may have any length: each
function brings them to unit length first. Zero rows stay zero and have similarity 0 to everything.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError, SettingError
from lookalike.stores.exact import ExactIndex
from lookalike.types import Embeddings, Metric, check_embeddings
from lookalike.vectors import unit_rows

DEPTH = 200
"""Candidates per query for :func:`k_reciprocal_distances` and :func:`diffusion_distances`."""

_VALUES = 1 << 21
"""Values of neighbors held at once in 64 bits (16 MiB)."""

_LEAST = 1e-150
"""Weights below this one count as none: sums and products of them would underflow."""

_MOST_SPREAD = 0.999
"""The largest alpha of diffusion: at 1 its equations have no solution."""


def alpha_query_expansion(
    query: NDArray[np.float32], neighbors: Embeddings, *, alpha: float = 3.0
) -> NDArray[np.float32]:
    """Return a query drawn towards its nearest rows (alpha query expansion).

    It is the sum of the query, with weight 1, and of the neighbors, each with its similarity to
    the power ``alpha`` as weight (Radenović, Tolias, Chum 2018, "Fine-tuning CNN image retrieval
    with no human annotation"). A neighbor of negative similarity has weight 0; with ``alpha`` 0
    all others weigh the same.

    Args:
        query: ``(dim,)`` float32.
        neighbors: ``(k, dim)`` float32, the query's nearest rows; none leave it as it is.
        alpha: at least 0.

    Returns:
        ``(dim,)`` float32 of unit length; zeros for a query of zeros.

    Raises:
        InputError: shapes that do not fit, NaN or Inf.
        SettingError: ``alpha`` out of range.
    """
    _check_power("alpha", alpha)
    nodes = _together(query, neighbors, "neighbors").astype(np.float64)
    weights = _weights(nodes[1:] @ nodes[0], alpha)  # (k,)
    return np.asarray(_summed(nodes[:1], weights[None], nodes[None, 1:])[0])


def database_augmentation(rows: Embeddings, k: int, *, alpha: float = 3.0) -> Embeddings:
    """Return each row moved towards its ``k`` nearest other rows (database augmentation).

    Database-side augmentation (Arandjelović and Zisserman 2012, "Three things everyone should know
    to improve object retrieval"; the weights are Radenović's). Neighbors are those of the rows
    as given, found exactly. Copies of a row are other rows; all copies get the same result.

    Beside the rows in unit length and the result, ``n = 500,000`` rows take less than 256 MiB; the
    time grows with the square of n.

    Args:
        rows: ``(n, dim)`` float32.
        k: at least 1; fewer than ``k`` other rows are all neighbors.
        alpha: at least 0.

    Returns:
        ``(n, dim)`` float32 of unit length; zero rows stay zero.

    Raises:
        InputError: rows that are not ``(n, dim)``, NaN or Inf.
        SettingError: ``k`` or ``alpha`` out of range.
    """
    _check_counts(k=k)
    _check_power("alpha", alpha)
    unit = _unit(check_embeddings(rows, what="rows"))
    first, earlier = _copies(unit)
    # Zero rows have no weight, and of one row's copies none needs more than k as neighbors.
    # Left in, many alike would have the index compare each with all the others.
    kept = np.flatnonzero(unit.any(axis=1) & (earlier <= k))
    if len(kept) < len(unit):
        unit = unit[kept]
    index = ExactIndex(unit)
    result = np.zeros((len(first), unit.shape[1]), np.float32)
    step = max(1, _VALUES // (k * max(1, unit.shape[1])))
    for start in range(0, len(kept), step):
        part = slice(start, start + step)
        near = unit[index.others(start, start + step, k, Metric.COSINE).rows].astype(np.float64)
        asked = unit[part].astype(np.float64)
        weights = _weights(np.einsum("qd,qkd->qk", asked, near), alpha)
        result[kept[part]] = _summed(asked, weights, near)
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
    """Return distances that count common k-reciprocal neighbors.

    Zhong et al. 2017, "Re-ranking person re-identification with k-reciprocal encoding", sections
    3.2 to 3.5, among the query and its candidates alone. As in the authors' code, a row is its own
    neighbor, beside ``k1`` others (for half of ``k1``, rounded up, so many) or ``k2 - 1``; and
    the weights of equation 7 are scaled to sum 1. Rows as similar as the last neighbor are
    neighbors too, so that copies of a row are treated alike and the order of the candidates does
    not matter.

    Args:
        query: ``(dim,)`` float32.
        candidates: ``(m, dim)`` float32, about the :data:`DEPTH` nearest rows.
        k1: neighbors that have to be mutual, at least 1.
        k2: neighbors whose encodings are averaged (local query expansion), at least 1.
        share: of ``1 - cosine`` in the result, in [0, 1]; the rest is the Jaccard distance.

    Returns:
        ``(m,)`` float32, smaller is nearer: ``(1 - share) * jaccard + share * (1 - cosine)``.

    Raises:
        InputError: shapes that do not fit, NaN or Inf.
        SettingError: an option out of range.
    """
    _check_counts(k1=k1, k2=k2)
    if not 0 <= share <= 1:
        raise SettingError(f"share = {share}: must be from 0 to 1")
    similarities = _similarities(_together(query, candidates, "candidates"))  # (1 + m, 1 + m)
    own = np.eye(len(similarities), dtype=np.bool_)
    others = np.where(own, -np.inf, similarities)
    mutual = _both(_nearest(others, k1) | own)
    half = _both(_nearest(others, (k1 + 1) // 2) | own).astype(np.float32)
    common = mutual.astype(np.float32) @ half  # half is symmetric
    joined = mutual & (3 * common >= 2 * half.sum(axis=0))
    members = mutual | (joined.astype(np.float32) @ half > 0)
    encoded = np.where(members, np.exp(similarities.astype(np.float64) - 1), 0)
    encoded /= encoded.sum(axis=1, keepdims=True)
    averaged = _nearest(others, k2 - 1) | own
    encoded = averaged.astype(np.float64) @ encoded / averaged.sum(axis=1, keepdims=True)
    least = np.minimum(encoded[0], encoded[1:]).sum(axis=1)
    most = np.maximum(encoded[0], encoded[1:]).sum(axis=1)
    distances = (1 - share) * (1 - least / most) + share * (1 - similarities[0, 1:])
    return np.asarray(distances, np.float32)


def diffusion_distances(
    query: NDArray[np.float32],
    candidates: Embeddings,
    *,
    k: int = 20,
    alpha: float = 0.9,
    gamma: float = 3.0,
) -> NDArray[np.float32]:
    """Return distances along the candidates' neighbor graph (diffusion).

    Zhou et al. 2004, "Ranking on data manifolds", section 2, solved in closed form; graph and
    source as in Iscen et al. 2017, "Efficient diffusion on region manifolds": candidates among
    each other's ``k`` nearest are joined by their similarity to the power ``gamma``, and the query
    feeds its ``k`` nearest with theirs. Negative similarities count 0; rows as similar as the last
    neighbor are neighbors too.

    Args:
        query: ``(dim,)`` float32.
        candidates: ``(m, dim)`` float32, about the :data:`DEPTH` nearest rows; time grows with
            the cube of m.
        k: neighbors, at least 1.
        alpha: share that is passed on along the graph, from 0 to 0.999.
        gamma: at least 0.

    Returns:
        ``(m,)`` float32, smaller is nearer: minus the score, which is below 0, where the diffusion
        arrives; ``1 - cosine``, from 0 to 2, where it does not.

    Raises:
        InputError: shapes that do not fit, NaN or Inf.
        SettingError: an option out of range.
    """
    _check_counts(k=k)
    _check_power("gamma", gamma)
    if not 0 <= alpha <= _MOST_SPREAD:
        raise SettingError(f"alpha = {alpha}: must be from 0 to {_MOST_SPREAD}")
    similarities = _similarities(_together(query, candidates, "candidates"))  # (1 + m, 1 + m)
    near, between = similarities[:1, 1:], similarities[1:, 1:]
    source = np.where(_nearest(near, k), _weights(near, gamma), 0)[0]  # (m,)
    others = np.where(np.eye(len(between), dtype=np.bool_), -np.inf, between)
    affinity = np.where(_both(_nearest(others, k)), _weights(between, gamma), 0)  # (m, m)
    degrees = affinity.sum(axis=1)
    degrees[degrees == 0] = 1
    # (I - alpha S) f = y with S = D^-1/2 A D^-1/2, as (D - alpha A) g = D^1/2 y and f = D^1/2 g.
    # The diagonal dominates these columns, so elimination swaps no rows and, off the diagonal,
    # only adds numbers of one sign: scores are never negative, and 0 only where nothing arrives.
    roots = np.sqrt(degrees)
    scores = roots * np.linalg.solve(np.diag(degrees) - alpha * affinity, roots * source)
    smallest = np.finfo(np.float32).tiny
    arrived = -np.maximum(scores, smallest)
    return np.asarray(np.where(scores > 0, arrived, 1 - near[0]), np.float32)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise SettingError(f"{name} = {count}: must be at least 1")


def _check_power(name: str, power: float) -> None:
    if not 0 <= power < math.inf:
        raise SettingError(f"{name} = {power}: must be a finite number of at least 0")


def _unit(rows: Embeddings) -> Embeddings:
    """Scale each row of ``(n, dim)`` to unit length, however long or short it is."""
    result = np.empty_like(rows)
    step = max(1, _VALUES // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        peaks = np.abs(some).max(axis=1, keepdims=True, initial=0)
        # By a power of two, which rounds nothing: squares neither over- nor underflow then.
        result[start : start + step] = unit_rows(np.ldexp(some, -np.frexp(peaks)[1]))
    return result


def _together(query: NDArray[np.float32], rows: Embeddings, what: str) -> Embeddings:
    """Check a query ``(dim,)`` and rows ``(m, dim)``; return them as ``(1 + m, dim)`` unit rows."""
    query = np.asarray(query)
    if query.ndim != 1:
        raise InputError(f"query: expected one embedding of shape (dim,), got {query.shape}")
    first = check_embeddings(query[None], what="query")
    return _unit(np.vstack([first, check_embeddings(rows, dim=len(query), what=what)]))


def _copies(rows: Embeddings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each row the first one equal to it, and how many equal ones are before it."""
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
    """Return similarities to a power; 0 for those of at most 0."""
    raised = np.clip(similarities, 0, 1).astype(np.float64) ** power
    return np.where((similarities > 0) & (raised > _LEAST), raised, 0)


def _summed(
    rows: NDArray[np.float64], weights: NDArray[np.float64], near: NDArray[np.float64]
) -> Embeddings:
    """Return ``(q, dim)`` rows plus the weighted ``(q, k, dim)`` near them, in unit length."""
    total = rows + np.einsum("qk,qkd->qd", weights, near)
    return unit_rows(total.astype(np.float32))


def _similarities(unit: Embeddings) -> NDArray[np.float32]:
    """Return the cosine similarities ``(n, n)`` of unit rows.

    They are rounded from 64 to 32 bits, so that equal rows have equal similarities.
    """
    wide = unit.astype(np.float64)
    return np.clip((wide @ wide.T).astype(np.float32), -1, 1)


def _nearest(similarities: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Mark each row's ``k`` largest values, and those equal to the last; never one of -Inf."""
    columns = similarities.shape[1]
    if k < 1:
        return np.zeros(similarities.shape, np.bool_)
    if k >= columns:
        return similarities > -np.inf
    last = np.partition(similarities, columns - k, axis=1)[:, columns - k, None]
    return (similarities >= last) & (similarities > -np.inf)


def _both(near: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep what is marked in both directions."""
    return near & near.T
