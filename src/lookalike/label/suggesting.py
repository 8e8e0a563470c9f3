"""Which images to name first: representative, diverse, and later the doubtful ones."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import SettingError
from lookalike.graph import Graph
from lookalike.label.given import Given
from lookalike.label.spreading import raw_confidence
from lookalike.types import Embeddings, Progress, ProgressCallback, ignore_progress

_FEW = 20


def suggest(
    graph: Graph,
    count: int,
    given: Given | None = None,
    *,
    seed: int = 0,
    on_progress: ProgressCallback = ignore_progress,
) -> list[int]:
    """Return the row numbers of ``count`` images to name, those that tell most first.

    The smoothed embeddings are put into as many k-means clusters as there will be labels. Of the
    clusters in which nothing is labelled yet, those with the most images, or, when there are
    labels, with the most that these leave in doubt, give their medoid: representative, since it
    stands for a dense group, and diverse, since there is one of each (TypiClust, Hacohen et al.
    2022, section 3, with medoids). Nothing has to be known of the classes.

    Args:
        graph: of the gallery.
        count: how many, at least 1.
        given: labels so far; their images are not suggested again.
        seed: of k-means.
        on_progress: told before and after the clustering.

    Raises:
        SettingError: ``count`` is below 1, or there are fewer images left.
        InputError: there are labels, but all the same.
    """
    named = given.of if given is not None else {}
    free = np.array([row_id not in named for row_id in graph.ids])
    if not 1 <= count <= free.sum():
        raise SettingError(
            f"-k {count}: must be from 1 to {free.sum():,}, the images that have no label yet"
        )
    on_progress(Progress("clusters", 0, count, "groups"))
    doubt = np.ones(len(graph), np.float32)
    if given is not None and given.of:
        doubt = 1 - raw_confidence(graph, given)
    chosen = _medoids(graph.smoothed(), free, doubt, count, seed)
    on_progress(Progress("clusters", count, count, "groups"))
    return chosen


def _medoids(
    values: Embeddings, free: NDArray[np.bool_], doubt: NDArray[np.float32], count: int, seed: int
) -> list[int]:
    """Return the rows nearest to the centres of clusters without a label, most doubt first."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    clusters = count + int((~free).sum())
    # A bad start of a few clusters loses a class; of many, hardly anything.
    kmeans = KMeans(clusters, n_init=10 if clusters <= _FEW else 2, max_iter=50, random_state=seed)
    with warnings.catch_warnings():  # fewer different images than clusters leave some empty
        warnings.simplefilter("ignore", ConvergenceWarning)
        near = kmeans.fit_transform(values)
    covered = np.bincount(kmeans.labels_[~free], minlength=clusters) > 0
    total = np.bincount(kmeans.labels_, doubt, clusters)
    chosen: list[int] = []
    free = free.copy()
    for cluster in np.argsort(np.where(covered, np.inf, -total), kind="stable")[:count]:
        among = np.flatnonzero(free & (kmeans.labels_ == cluster))
        if not len(among):
            among = np.flatnonzero(free)
        chosen.append(int(among[np.argmin(near[among, cluster])]))
        free[chosen[-1]] = False
    return chosen
