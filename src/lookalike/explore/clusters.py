"""Clusters of a map, named by the labels of their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.explore.layout import Points
from lookalike.vectors import VectorView

UNCLUSTERED = -1
"""The cluster number of images between the clusters."""

_MIN_SIZE = 5
_MAX_CLUSTERS = 200
_MIN_SAMPLES = 10
_MAJORITY = 0.5


@dataclass(frozen=True, slots=True)
class Cluster:
    """A dense group of images on a map.

    ``medoid`` is the row nearest to the mean embedding. ``label`` is the label of more than half
    of the labeled images in the cluster, if there is one, and ``share`` the share that has it.
    """

    number: int
    size: int
    medoid: int
    label: str | None = None
    share: float | None = None

    @property
    def name(self) -> str:
        """The label or, without one, the number."""
        return self.label if self.label is not None else f"cluster {self.number + 1}"


def find_clusters(points: Points) -> NDArray[np.int64]:
    """Return the cluster number of each point of a map, ``(n,)``, 0 for the largest cluster.

    HDBSCAN (Campello et al. 2013) with clusters of at least 0.5 % of the points. Points between
    clusters get :data:`UNCLUSTERED`. Clusters of the map, not of the embeddings, are the ones
    that people see.
    """
    from sklearn.cluster import HDBSCAN

    min_size = max(_MIN_SIZE, len(points) // _MAX_CLUSTERS)
    if len(points) < 2 * min_size:
        return np.zeros(len(points), np.int64)
    # scikit-learn counts a point itself as one of its min_samples.
    hdbscan = HDBSCAN(min_size, min_samples=min(_MIN_SAMPLES, min_size), copy=True)
    numbers = hdbscan.fit_predict(points)
    if (numbers < 0).all():
        return np.zeros(len(points), np.int64)
    sizes = np.bincount(numbers[numbers >= 0])
    by_size = np.empty(len(sizes) + 1, np.int64)
    by_size[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    by_size[UNCLUSTERED] = UNCLUSTERED
    return np.asarray(by_size[numbers])


def describe_clusters(
    membership: NDArray[np.int64], embeddings: VectorView, labels: Sequence[str | None]
) -> tuple[Cluster, ...]:
    """Return the clusters of a map with their medoids and names.

    Args:
        membership: cluster number of each row, ``(n,)``.
        embeddings: of the rows.
        labels: of each row, None if it has none.
    """
    clusters = []
    for number in range(int(membership.max(initial=UNCLUSTERED)) + 1):
        check_cancelled()
        rows = np.flatnonzero(membership == number)
        medoid = rows[_medoid(embeddings.select(rows))]
        label, share = _majority([labels[row] for row in rows.tolist()])
        clusters.append(Cluster(number, len(rows), int(medoid), label, share))
    return tuple(clusters)


def _medoid(embeddings: VectorView) -> int:
    """Return the place of the row that is nearest to the mean."""
    total = np.zeros(embeddings.dim)
    for _, block in embeddings.blocks():
        total += block.sum(axis=0, dtype=np.float64)
    mean = (total / len(embeddings)).astype(np.float32)
    distances = [np.linalg.norm(block - mean, axis=1) for _, block in embeddings.blocks()]
    return int(np.concatenate(distances).argmin())


def _majority(labels: Sequence[str | None]) -> tuple[str | None, float | None]:
    """Return the label of more than half of the labeled images and its share, if there is one."""
    counts = Counter(label for label in labels if label is not None)
    if not counts:
        return None, None
    label, count = counts.most_common(1)[0]
    share = count / counts.total()
    return (label, share) if share > _MAJORITY else (None, None)
