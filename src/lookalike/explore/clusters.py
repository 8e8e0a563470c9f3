"""Clusters of a collection, named by the labels of their images or shown by their medoids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.explore.layout import Points
from lookalike.types import Embeddings

NONE = -1
"""The number of the cluster of an image that is in none."""

_SHARE = 200
_LEAST = 5
_DENSE = 10
_MOST_OF = 0.5


@dataclass(frozen=True, slots=True)
class Cluster:
    """Images that lie together.

    ``medoid`` is the row nearest to the mean of the embeddings. ``label`` is the label that most
    of its labeled images have, if more than half have it, and ``share`` how many of these do.
    """

    number: int
    size: int
    medoid: int
    label: str | None = None
    share: float | None = None

    @property
    def name(self) -> str:
        """What it is called: its label, or its number."""
        return self.label if self.label is not None else f"cluster {self.number + 1}"


def cluster(points: Points) -> NDArray[np.int64]:
    """Return the number of the cluster of each point of a map, ``(n,)``, the largest first.

    HDBSCAN (Campello et al. 2013), of at least a two-hundredth of the points each: how many there
    are need not be known, and what lies between them is in none, -1. They are clusters of the
    map, which is where people see them.
    """
    from sklearn.cluster import HDBSCAN

    least = max(_LEAST, len(points) // _SHARE)
    if len(points) < 2 * least:
        return np.zeros(len(points), np.int64)
    # scikit-learn takes min_samples of itself as one of them.
    found = HDBSCAN(least, min_samples=min(_DENSE, least), copy=True).fit_predict(points)
    if (found < 0).all():
        return np.zeros(len(points), np.int64)
    sizes = np.bincount(found[found >= 0])
    order = np.argsort(-sizes, kind="stable")
    place = np.empty(len(sizes) + 1, np.int64)
    place[order] = np.arange(len(sizes))
    place[NONE] = NONE
    return np.asarray(place[found])


def described(
    numbers: NDArray[np.int64], embeddings: Embeddings, labels: Sequence[str | None]
) -> tuple[Cluster, ...]:
    """Return the clusters with their medoids and, where images are labeled, their names."""
    found = []
    for number in range(int(numbers.max(initial=NONE)) + 1):
        rows = np.flatnonzero(numbers == number)
        values = embeddings[rows]
        apart = np.linalg.norm(values - values.mean(axis=0), axis=1)
        named = Counter(
            label for label in (labels[row] for row in rows.tolist()) if label is not None
        )
        label, share = None, None
        if named:
            (most, count), share_of = named.most_common(1)[0], named.total()
            if count > _MOST_OF * share_of:
                label, share = most, count / share_of
        found.append(Cluster(number, len(rows), int(rows[apart.argmin()]), label, share))
    return tuple(found)
