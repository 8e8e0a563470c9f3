"""A map of a collection: each image a point, its neighbors near it, and how far that is true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import MissingDependencyError
from lookalike.gallery.neighbors import NeighborGraph
from lookalike.types import Embeddings, Progress, ProgressCallback, ignore_progress

METHOD = "t-SNE"

K = 10
"""Neighbors whose place on the map is judged."""

_NEAR = 15
_EARLY = 125
_LATE = 375
_EVERY = 25
_EXAGGERATION = 12
_FEW = 12
_JUDGED = 1_000

Points = NDArray[np.float32]
"""``(n, 2)``, within 0 and 1, one scale for both."""


@dataclass(frozen=True, slots=True)
class MapQuality:
    """How far a map can be believed, over ``judged`` of its points.

    ``trustworthiness`` is 1 if whoever is near on the map is near in the embedding (Venna and Kaski
    2001, section 2), ``kept`` the share of an image's 10 nearest that are its 10 nearest on the
    map; by chance that would be ``10 / n``.
    """

    trustworthiness: float
    kept: float
    judged: int


def lay_out(
    graph: NeighborGraph, *, seed: int = 0, on_progress: ProgressCallback = ignore_progress
) -> Points:
    """Return a place for each row, by t-SNE on the neighbor graph (openTSNE, FIt-SNE).

    Begins with the first two principal components, which keeps what is far apart so (Kobak and
    Berens 2019), with a learning rate of n / 12 (Belkina et al. 2019). Of fewer than 12 rows these
    components are the map.

    Raises:
        MissingDependencyError: openTSNE is not installed.
    """
    start = components(graph.embeddings)
    if len(graph) >= _FEW:
        start = _tsne(graph, start, seed, on_progress)
    start -= start.min(axis=0)
    return np.asarray(start / max(float(start.max()), 1e-12), np.float32)


def components(embeddings: Embeddings) -> NDArray[np.float64]:
    """Return the first two principal components, ``(n, 2)``, the first of deviation 1e-4."""
    centered = embeddings - embeddings.mean(axis=0)
    _, axes = np.linalg.eigh((centered.T @ centered).astype(np.float64))
    found = centered.astype(np.float64) @ axes[:, -2:][:, ::-1]
    if found.shape[1] < 2:
        found = np.column_stack([found, np.zeros(len(found))])
    # The sign of a component is the machine's choice; the map should not be.
    found *= np.where(found[np.abs(found).argmax(axis=0), [0, 1]] < 0, -1, 1)
    return np.asarray(found / max(float(found[:, 0].std()), 1e-12) * 1e-4)


def _tsne(
    graph: NeighborGraph, start: NDArray[np.float64], seed: int, on_progress: ProgressCallback
) -> NDArray[np.float64]:
    try:
        from openTSNE import TSNEEmbedding
        from openTSNE.affinity import PerplexityBasedNN
        from openTSNE.nearest_neighbors import PrecomputedNeighbors
    except ImportError:
        raise MissingDependencyError("openTSNE", "a map", "explore") from None
    from lookalike.config import settings

    near = min(_NEAR, graph.rows.shape[1])
    known = PrecomputedNeighbors(graph.rows[:, :near], graph.distances[:, :near])
    threads = settings().threads
    affinity = PerplexityBasedNN(knn_index=known, perplexity=near / 3, n_jobs=threads)
    # Equal images begin in one place, from which no force would move them apart.
    start = start + np.random.default_rng(seed).normal(0, 1e-6, start.shape)
    points = TSNEEmbedding(start, affinity, n_jobs=threads, random_state=seed)
    total = _EARLY + _LATE

    def told(done: int) -> Callable[..., bool]:
        def tell(iteration: int, *_: object) -> bool:
            on_progress(Progress("map", min(done + iteration, total), total, "steps"))
            return False

        return tell

    for done, steps, exaggeration, momentum in (
        (0, _EARLY, _EXAGGERATION, 0.5),
        (_EARLY, _LATE, None, 0.8),
    ):
        points.optimize(
            steps,
            exaggeration=exaggeration,
            momentum=momentum,
            inplace=True,
            callbacks=[told(done)],
            callbacks_every_iters=_EVERY,
        )
    return np.asarray(points, np.float64)


def faith(graph: NeighborGraph, points: Points, *, seed: int = 0) -> MapQuality:
    """Return how far a map can be believed, from at most 1,000 of its points."""
    from scipy.spatial import cKDTree

    count = len(graph)
    k = min(K, max(1, (count - 2) // 2))
    judged = np.random.default_rng(seed).permutation(count)[:_JUDGED]
    _, found = cKDTree(points).query(points[judged], k + 1)
    halves = np.einsum("nd,nd->n", graph.embeddings, graph.embeddings) / 2
    worse, kept = 0, 0
    for row, around in zip(judged, found, strict=True):
        others = around[around != row][:k]
        near = graph.embeddings @ graph.embeddings[row] - halves
        near[row] = -np.inf
        ranks = 1 + (near[None] > near[others][:, None]).sum(axis=1)
        worse += int(np.maximum(ranks - k, 0).sum())
        kept += int((ranks <= k).sum())
    most = k * (2 * count - 3 * k - 1) / 2 * len(judged)
    return MapQuality(1 - worse / max(most, 1), kept / (k * len(judged)), len(judged))
