"""Active learning: which images to label next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from lookalike.arguments import checked
from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError, SettingError
from lookalike.formatting import format_count
from lookalike.gallery.gallery import Gallery, as_gallery
from lookalike.gallery.neighbors import NeighborGraph, neighbor_graph
from lookalike.gallery.notebook import SHOWN, Caption, images_html, table_html, text_html
from lookalike.labels.gallery_labels import labels_for
from lookalike.labels.propagation import raw_confidence
from lookalike.labels.propagation_methods import check_installed
from lookalike.labels.session import LabelingSession, save_session
from lookalike.process_state import IgnoreWarnings
from lookalike.progress import ProgressOption, reporting
from lookalike.sources.labels import LabelSet, LabelSource
from lookalike.sources.tables import data_frame
from lookalike.types import Embeddings, Progress, ProgressCallback, ignore_progress

if TYPE_CHECKING:
    import pandas as pd

_DEFAULT_COUNT = 100
"""Images that are suggested by default, or all if there are fewer."""

_FEW_CLUSTERS = 20


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class Suggestions(Sequence[str]):
    """Ids of images to label, the most useful first.

    ``labels`` are those that were there, and ``graph`` is the neighbor graph of the gallery.
    """

    ids: tuple[str, ...]
    uris: tuple[str, ...]
    graph: NeighborGraph
    labels: LabelSet | None = None
    gallery: Gallery | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        first = f", first {self.ids[0]!r}" if self.ids else ""
        return f"<Suggestions: {format_count(len(self), 'image')} to label{first}>"

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self.ids[index]

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame ``number``, ``id``, ``label``, ``uri``; fill in the column ``label``.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        columns = {
            "number": np.arange(1, len(self) + 1),
            "id": list(self.ids),
            "label": [""] * len(self),
            "uri": list(self.uris),
        }
        return data_frame("Suggestions.to_pandas", columns)

    def save(self) -> LabelingSession:
        """Save them in the gallery for the page of ``lookalike serve``, grouped by similarity.

        Raises:
            ArtifactError: the gallery is gone, or was replaced since.
            StorageError: they could not be written.
        """
        if self.gallery is None:
            raise InputError("these suggestions have no gallery to be saved in")
        place = {row_id: row for row, row_id in enumerate(self.graph.ids)}
        rows = [place[row_id] for row_id in self.ids]
        return save_session(self.gallery, self.graph, rows, self.labels)

    def _repr_html_(self) -> str:
        """Return the images with their numbers for a notebook; a table if none can be read."""
        pairs = list(enumerate(self.ids, 1))
        captions = [Caption(row_id, f"{number}\n{row_id}") for number, row_id in pairs[:SHOWN]]
        shown = images_html(self.gallery, captions)
        return f"<p>{text_html(self)}</p>{shown or table_html(('number', 'id'), pairs)}"


@checked
def suggest_labels(
    gallery: Gallery,
    k: int | None = None,
    *,
    labels: LabelSource | None = None,
    seed: int = 0,
    progress: ProgressOption = True,
) -> Suggestions:
    """Return the images to label next, the most useful first (active learning).

    Without labels, they are representative and diverse; with some, also those that the labels leave
    most uncertain (:func:`suggest`). No image is read.

    Args:
        gallery: whose images are to be labeled.
        k: how many; by default 100, or all that are unlabeled if these are fewer.
        labels: labels so far (see :func:`~lookalike.sources.labels.read_labels`); labeled images
            are not suggested again.
        seed: of the clustering.
        progress: True shows it on a terminal or in a notebook; False does not; a callback gets it.

    Raises:
        SettingError: ``k`` is below 1 or above the number of unlabeled images.
        InputError: labels of one class only, an unknown id, or fewer than two rows.
        MissingDependencyError: scikit-learn is not installed.
    """
    check_installed()
    view = as_gallery(gallery).snapshot()
    label_set = None if labels is None else labels_for(view, labels)
    with reporting(progress) as on_progress:
        graph = neighbor_graph(view, on_progress=on_progress)
        if k is None:
            labeled = {} if label_set is None else label_set.by_id
            unlabeled = sum(row_id not in labeled for row_id in graph.ids)
            k = min(_DEFAULT_COUNT, max(1, unlabeled))
        rows = suggest(graph, k, label_set, seed=seed, on_progress=on_progress)
    ids = tuple(graph.ids[row] for row in rows)
    uris = tuple(view.store.get(ids).uris)
    return Suggestions(ids=ids, uris=uris, graph=graph, labels=label_set, gallery=gallery)


def suggest(
    graph: NeighborGraph,
    k: int,
    labels: LabelSet | None = None,
    *,
    seed: int = 0,
    on_progress: ProgressCallback = ignore_progress,
) -> list[int]:
    """Return the row numbers of ``k`` images to label, the most useful first.

    Follows TypiClust (Hacohen et al. 2022, section 3) with medoids. The smoothed embeddings are
    clustered by k-means into as many clusters as there will be labels. Clusters without a labeled
    image are ordered by size or, if there are labels, by the sum of the uncertainties that these
    leave; each contributes its medoid. The medoids are representative (of a dense group) and
    diverse (one per group). Neither the classes nor their number need to be known.

    Args:
        graph: neighbor graph of the gallery.
        k: how many, at least 1.
        labels: labels so far; labeled images are not suggested again.
        seed: of k-means.
        on_progress: called before and after the clustering.

    Raises:
        SettingError: ``k`` is below 1 or above the number of unlabeled images.
        InputError: there are labels, but of one class only.
    """
    labeled = labels.by_id if labels is not None else {}
    unlabeled = np.array([row_id not in labeled for row_id in graph.ids])
    if not 1 <= k <= unlabeled.sum():
        raise SettingError(
            f"{{k}} must be from 1 to {unlabeled.sum():,}, the number of unlabeled images", k=k
        )
    on_progress(Progress("clusters", 0, k, "groups"))
    uncertainty = np.ones(len(graph), np.float32)
    if labels is not None and labels.by_id:
        uncertainty = 1 - raw_confidence(graph, labels)
    rows = _medoids(graph.smoothed_embeddings(), unlabeled, uncertainty, k, seed)
    on_progress(Progress("clusters", k, k, "groups"))
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
    kmeans = KMeans(clusters, n_init=starts, max_iter=50, random_state=seed, copy_x=False)
    # Fewer distinct images than clusters leave some clusters empty.
    with IgnoreWarnings(ConvergenceWarning):
        kmeans.fit(values)
    covered = np.bincount(kmeans.labels_[~unlabeled], minlength=clusters) > 0
    total = np.bincount(kmeans.labels_, uncertainty, clusters)
    rows: list[int] = []
    candidates = unlabeled.copy()
    check_cancelled()
    for cluster in np.argsort(np.where(covered, np.inf, -total), kind="stable")[:count]:
        members = np.flatnonzero(candidates & (kmeans.labels_ == cluster))
        if not len(members):
            members = np.flatnonzero(candidates)
        distances = kmeans.transform(values[members])[:, cluster]
        rows.append(int(members[np.argmin(distances)]))
        candidates[rows[-1]] = False
    return rows
