"""The neighbor graph of a collection: who is near whom, and what spreads along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lookalike.errors import InputError
from lookalike.gallery.gallery import Gallery
from lookalike.stores.exact import ExactIndex
from lookalike.types import Embeddings, Metric, Progress, ProgressCallback, ignore_progress
from lookalike.vectors import unit_rows

K = 20
"""Neighbors of each row in a graph."""

_SCALE = 7
_CHUNK = 2_048
_SMOOTHED = 2
_ALPHA = 0.9
_STEPS = 40


@dataclass(frozen=True, slots=True)
class NeighborGraph:
    """All rows of a gallery, in order of id, and the nearest others of each.

    ``embeddings`` is ``(n, dim)`` float32, of unit length where the metric is cosine; ``rows`` are
    ``(n, k)`` row numbers, nearest first, and ``distances`` ``(n, k)`` are Euclidean.
    """

    ids: tuple[str, ...]
    embeddings: Embeddings
    rows: NDArray[np.int64]
    distances: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)

    def affinity(self, k: int) -> sparse.csr_array:
        """Return the normalized affinity ``D^-1/2 W D^-1/2``, ``(n, n)`` float32.

        ``W`` joins rows of which one is among the ``k`` nearest of the other, with the weight
        ``exp(-d_ij^2 / (s_i s_j))``, where ``s_i`` is the distance to the seventh neighbor
        (Zelnik-Manor and Perona 2004, section 2).
        """
        k = min(k, self.rows.shape[1])
        scale = self.distances[:, min(_SCALE, self.distances.shape[1]) - 1]
        scale = np.maximum(scale, max(float(scale.mean()) * 1e-3, 1e-12))
        near = self.rows[:, :k]
        weights = np.exp(-(self.distances[:, :k] ** 2) / (scale[:, None] * scale[near]))
        starts = np.arange(0, len(self) * k + 1, k)
        one_way = sparse.csr_array(
            (weights.ravel().astype(np.float32), near.ravel(), starts), shape=(len(self),) * 2
        )
        both = one_way.maximum(one_way.T)
        degree = np.maximum(np.asarray(both.sum(axis=1)).ravel(), 1e-30)
        inverse = sparse.diags_array((1 / np.sqrt(degree)).astype(np.float32))
        return sparse.csr_array(inverse @ both @ inverse)

    def smoothed_embeddings(self) -> Embeddings:
        """Return each row's embedding and the mean of its neighbors', twice over, unit length.

        Clusters of these follow the shape of the collection: their medoids are better labeled
        first (``docs/labeling.md``).
        """
        values = unit_rows(self.embeddings)
        for _ in range(_SMOOTHED):
            mean = np.zeros_like(values)
            for column in self.rows.T:
                mean += values[column]
            values = unit_rows(values + mean / max(1, self.rows.shape[1]))
        return values


def neighbor_graph(
    gallery: Gallery, k: int = K, on_progress: ProgressCallback = ignore_progress
) -> NeighborGraph:
    """Return the graph of a gallery's rows by its metric, exactly.

    Raises:
        InputError: it has fewer than two rows.
    """
    ids = tuple(gallery.store.ids())
    if len(ids) < 2:
        raise InputError(f"{gallery.path}: has {len(ids)} rows; at least two are needed")
    embeddings = gallery.store.get(ids).embeddings
    if gallery.metric is Metric.COSINE:
        embeddings = unit_rows(embeddings)
    return graph_from_embeddings(ids, embeddings, k, on_progress)


def graph_from_embeddings(
    ids: tuple[str, ...],
    embeddings: Embeddings,
    k: int = K,
    on_progress: ProgressCallback = ignore_progress,
) -> NeighborGraph:
    """Return the graph of embeddings ``(n, dim)``, ``k`` at least 2, by Euclidean distance."""
    index = ExactIndex(embeddings)
    rows, distances = [], []
    for start in range(0, len(ids), _CHUNK):
        found = index.others(start, min(start + _CHUNK, len(ids)), k, Metric.L2)
        rows.append(found.rows)
        distances.append(found.distances)
        on_progress(Progress("neighbors", min(start + _CHUNK, len(ids)), len(ids), "images"))
    return NeighborGraph(ids, embeddings, np.concatenate(rows), np.concatenate(distances))


def propagate_seeds(affinity: sparse.csr_array, seeds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return seeds ``(n, c)`` spread along a graph, ``(n, c)``.

    Repeats ``F = a S F + (1 - a) Y`` (Zhou et al. 2004, section 2) with ``a = .9``. scikit-learn's
    LabelSpreading makes the graph anew in each fit, knows one label an image only, and returns
    rows scaled to 1, which images with several labels cannot be read from.
    """
    spread = seeds.copy()
    for _ in range(_STEPS):
        spread = np.float32(_ALPHA) * (affinity @ spread) + np.float32(1 - _ALPHA) * seeds
    return spread
