"""The layout of a map: t-SNE on the neighbor graph, and measures of its quality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import require
from lookalike.gallery.neighbors import NeighborGraph
from lookalike.types import Progress, ProgressCallback, ignore_progress
from lookalike.vectors import VectorView, principal_axes_in_parts

METHOD = "t-SNE"

K = 10
"""Neighbors whose preservation is measured."""

_NEIGHBORS = 15
_EXAGGERATED_STEPS = 125
_STEPS = 375
_STEPS_PER_REPORT = 25
_EXAGGERATION = 12
_MIN_ROWS = 12
_MAX_SAMPLE = 1_000

Points = NDArray[np.float32]
"""``(n, 2)`` in [0, 1], both axes with the same scale."""


@dataclass(frozen=True, slots=True)
class MapQuality:
    """How well a map preserves neighborhoods, measured on ``sampled`` of its points.

    ``trustworthiness`` (Venna and Kaski 2001, section 2) is 1 if neighbors on the map are
    neighbors in the embedding. ``neighborhood_preservation`` is the share of the 10 nearest
    neighbors that are among the 10 nearest on the map; ``10 / n`` by chance. Both are None if all
    embeddings are the same, so that no image is nearer than another.
    """

    trustworthiness: float | None
    neighborhood_preservation: float | None
    sampled: int


def compute_layout(
    graph: NeighborGraph, *, seed: int = 0, on_progress: ProgressCallback = ignore_progress
) -> Points:
    """Return the position of each row, by t-SNE on the neighbor graph (openTSNE, FIt-SNE).

    Initialized with the first two principal components, which preserves the global structure
    (Kobak and Berens 2019), with a learning rate of n / 12 (Belkina et al. 2019). With fewer than
    12 rows the components are the layout.

    Raises:
        MissingDependencyError: openTSNE is not installed.
    """
    points = principal_components(graph.embeddings)
    if len(graph) >= _MIN_ROWS:
        points = _tsne(graph, points, seed, on_progress)
    points -= points.min(axis=0)
    return np.asarray(points / max(float(points.max()), 1e-12), np.float32)


def principal_components(embeddings: VectorView) -> NDArray[np.float64]:
    """Return the first two principal components, ``(n, 2)``, the first with deviation 1e-4."""
    count = min(2, len(embeddings), embeddings.dim)
    mean, axes, _ = principal_axes_in_parts(embeddings, count)
    components = np.zeros((len(embeddings), 2))
    for part, block in embeddings.blocks():
        components[part, :count] = (block - mean) @ axes.T
    return np.asarray(components / max(float(components[:, 0].std()), 1e-12) * 1e-4)


def check_installed() -> None:
    """Check that the package that a layout needs is installed.

    Raises:
        MissingDependencyError: it is not.
    """
    require("openTSNE", "a map", "explore")


def _tsne(
    graph: NeighborGraph, start: NDArray[np.float64], seed: int, on_progress: ProgressCallback
) -> NDArray[np.float64]:
    check_installed()
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    from lookalike.config import settings

    k = min(_NEIGHBORS, graph.rows.shape[1])
    neighbors = PrecomputedNeighbors(graph.rows[:, :k], graph.distances[:, :k])
    threads = settings().threads
    affinity = PerplexityBasedNN(knn_index=neighbors, perplexity=k / 3, n_jobs=threads)
    # Identical images start at the same point, from which no force would separate them.
    start = start + np.random.default_rng(seed).normal(0, 1e-6, start.shape)
    points = TSNEEmbedding(start, affinity, n_jobs=threads, random_state=seed)
    total = _EXAGGERATED_STEPS + _STEPS

    def reporter(done: int) -> Callable[..., bool]:
        def report(iteration: int, *_: object) -> bool:
            check_cancelled()
            on_progress(Progress("map", min(done + iteration, total), total, "steps"))
            return False

        return report

    for done, steps, exaggeration, momentum in (
        (0, _EXAGGERATED_STEPS, _EXAGGERATION, 0.5),
        (_EXAGGERATED_STEPS, _STEPS, None, 0.8),
    ):
        points.optimize(
            steps,
            exaggeration=exaggeration,
            momentum=momentum,
            inplace=True,
            callbacks=[reporter(done)],
            callbacks_every_iters=_STEPS_PER_REPORT,
        )
    return np.asarray(points, np.float64)


def measure_quality(graph: NeighborGraph, points: Points, *, seed: int = 0) -> MapQuality:
    """Measure how well a layout preserves neighborhoods, on at most 1,000 of its points."""
    from scipy.spatial import cKDTree

    count = len(graph)
    first = graph.embeddings[[0]]
    if not any((block != first).any() for _, block in graph.embeddings.blocks()):
        return MapQuality(None, None, 0)
    k = min(K, max(1, (count - 2) // 2))
    sample = np.random.default_rng(seed).permutation(count)[:_MAX_SAMPLE]
    _, map_neighbors = cKDTree(points).query(points[sample], k + 1)
    on_map = np.stack(
        [each[each != row][:k] for row, each in zip(sample, map_neighbors, strict=True)]
    )
    ranks = _ranks(graph.embeddings, sample, on_map)
    penalty = int(np.maximum(ranks - k, 0).sum())
    preserved = int((ranks <= k).sum())
    max_penalty = k * (2 * count - 3 * k - 1) / 2 * len(sample)
    return MapQuality(
        trustworthiness=1 - penalty / max(max_penalty, 1),
        neighborhood_preservation=preserved / (k * len(sample)),
        sampled=len(sample),
    )


def _ranks(
    embeddings: VectorView, rows: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the ranks ``(q, k)`` of ``others`` among the nearest other rows to each of ``rows``.

    Two passes over all rows, with the same products.
    """
    queries = embeddings[rows]
    limits = np.empty(others.shape, np.float32)
    ranks = np.ones(others.shape, np.int64)
    for counting in (False, True):
        for part, block in embeddings.blocks():
            half_norms = np.einsum("nd,nd->n", block, block) / 2
            proximity = queries @ block.T - half_norms
            own = (rows >= part.start) & (rows < part.stop)
            proximity[own, rows[own] - part.start] = -np.inf
            if counting:
                for rank, limit in zip(ranks.T, limits.T, strict=True):
                    rank += (proximity > limit[:, None]).sum(axis=1)
            else:
                query, column = np.nonzero((others >= part.start) & (others < part.stop))
                limits[query, column] = proximity[query, others[query, column] - part.start]
    return ranks
