"""Active learning: which images to label next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import SettingError
from lookalike.gallery.neighbors import NeighborGraph
from lookalike.labels.propagation import raw_confidence
from lookalike.process_state import IgnoreWarnings
from lookalike.sources.labels import LabelSet
from lookalike.types import Embeddings, Progress, ProgressCallback, ignore_progress

_FEW_CLUSTERS = 20


def suggest(
    graph: NeighborGraph,
    count: int,
    labels: LabelSet | None = None,
    *,
    seed: int = 0,
    on_progress: ProgressCallback = ignore_progress,
) -> list[int]:
    """Return the row numbers of ``count`` images to label, the most useful first.

    Follows TypiClust (Hacohen et al. 2022, section 3) with medoids. The smoothed embeddings are
    clustered by k-means into as many clusters as there will be labels. Clusters without a labeled
    image are ordered by size or, if there are labels, by the sum of the uncertainties that these
    leave; each contributes its medoid. The medoids are representative (of a dense group) and
    diverse (one per group). Neither the classes nor their number need to be known.

    Args:
        graph: neighbor graph of the gallery.
        count: how many, at least 1.
        labels: labels so far; labeled images are not suggested again.
        seed: of k-means.
        on_progress: called before and after the clustering.

    Raises:
        SettingError: ``count`` is below 1 or above the number of unlabeled images.
        InputError: there are labels, but of one class only.
    """
    labeled = labels.by_id if labels is not None else {}
    unlabeled = np.array([row_id not in labeled for row_id in graph.ids])
    if not 1 <= count <= unlabeled.sum():
        raise SettingError(
            f"{{count}} must be from 1 to {unlabeled.sum():,}, the number of unlabeled images",
            count=count,
        )
    on_progress(Progress("clusters", 0, count, "groups"))
    uncertainty = np.ones(len(graph), np.float32)
    if labels is not None and labels.by_id:
        uncertainty = 1 - raw_confidence(graph, labels)
    rows = _medoids(graph.smoothed_embeddings(), unlabeled, uncertainty, count, seed)
    on_progress(Progress("clusters", count, count, "groups"))
    return rows


def _medoids(
    values: Embeddings,
    unlabeled: NDArray[np.bool_],
    uncertainty: NDArray[np.float32],
    count: int,
    seed: int,
) -> list[int]:
    """Return the rows nearest to the centers of unlabeled clusters, the most uncertain first."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    clusters = count + int((~unlabeled).sum())
    # A bad start of a few clusters loses a class; of many clusters, hardly anything.
    starts = 10 if clusters <= _FEW_CLUSTERS else 2
    kmeans = KMeans(clusters, n_init=starts, max_iter=50, random_state=seed)
    # Fewer distinct images than clusters leave some clusters empty.
    with IgnoreWarnings(ConvergenceWarning):
        distances = kmeans.fit_transform(values)
    covered = np.bincount(kmeans.labels_[~unlabeled], minlength=clusters) > 0
    total = np.bincount(kmeans.labels_, uncertainty, clusters)
    rows: list[int] = []
    candidates = unlabeled.copy()
    check_cancelled()
    for cluster in np.argsort(np.where(covered, np.inf, -total), kind="stable")[:count]:
        members = np.flatnonzero(candidates & (kmeans.labels_ == cluster))
        if not len(members):
            members = np.flatnonzero(candidates)
        rows.append(int(members[np.argmin(distances[members, cluster])]))
        candidates[rows[-1]] = False
    return rows
