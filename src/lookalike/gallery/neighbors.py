"""The nearest neighbors of every row of a gallery; their graph, and label propagation along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import ArtifactError, InputError, SettingError, requiring
from lookalike.formatting import format_count
from lookalike.gallery.gallery import Gallery, as_gallery
from lookalike.gallery.state import GalleryState
from lookalike.progress import ProgressOption, reporting
from lookalike.sources.tables import data_frame
from lookalike.stores.base import MAX_K
from lookalike.stores.exact import ExactIndex
from lookalike.stores.row_index import RowIndex, row_index
from lookalike.types import Embeddings, Metric, Progress, ProgressCallback, ignore_progress
from lookalike.vectors import VectorView, has_direction, unit_rows

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

K = 20
"""Neighbors of each row in a graph."""

PUBLIC_K = 10
"""Neighbors of each row that are returned to users by default."""

_SCALE_NEIGHBOR = 7
_CHUNK = 2_048
_SMOOTHING_STEPS = 2
_ALPHA = 0.9
_PROPAGATION_STEPS = 40


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Neighbors:
    """The nearest neighbors of every row of a gallery, without the row itself.

    ``rows`` are positions in ``ids``: those of ``ids[3]`` are ``[ids[i] for i in rows[3]]``. With
    the metric cosine, rows with an embedding of zeros are left out: they have no direction, so none
    is nearer than another.

    Args:
        ids: of the rows, sorted.
        rows: ``(n, k)`` int64, nearest first; ``k`` is at most ``n - 1``.
        distances: ``(n, k)`` float64, in the metric's units.
        metric: of the gallery.
        zero_embeddings: ids of the rows that are left out.
    """

    ids: tuple[str, ...]
    rows: NDArray[np.int64]
    distances: NDArray[np.float64]
    metric: Metric
    zero_embeddings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        rows = format_count(len(self), "row")
        return f"<Neighbors of {rows}: k={self.rows.shape[1]}, {self.metric}>"

    def __len__(self) -> int:
        return len(self.ids)

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame of edges: ``id``, ``rank`` (from 1), ``neighbor``, ``distance``.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        n, k = self.rows.shape
        ids = np.array(self.ids, object)
        columns = {
            "id": np.repeat(ids, k),
            "rank": np.tile(np.arange(1, k + 1), n),
            "neighbor": ids[self.rows.ravel()],
            "distance": self.distances.ravel(),
        }
        return data_frame("Neighbors.to_pandas", columns)


def neighbors(gallery: Gallery, k: int = PUBLIC_K, *, progress: ProgressOption = True) -> Neighbors:
    """Return the ``k`` nearest neighbors of every row, by exact search in the gallery's metric.

    Args:
        gallery: whose embeddings are compared; no image is read.
        k: neighbors of each row; all others if there are fewer.
        progress: True shows it on a terminal or in a notebook; False does not; a callback gets it.

    Raises:
        SettingError: ``k`` is not a number of at least 1.
        InputError: fewer than two rows, or fewer than two with an embedding but zeros.
    """
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= MAX_K:
        raise SettingError(f"{{k}} must be a number from 1 to {MAX_K:,}", k=k)
    gallery = as_gallery(gallery).snapshot()
    with reporting(progress) as on_progress:
        graph = neighbor_graph(gallery, int(k), on_progress)
    distances = graph.distances
    if gallery.metric is Metric.COSINE:
        distances = distances**2 / 2  # of unit length
    return Neighbors(graph.ids, graph.rows, distances, gallery.metric, graph.zero_embeddings)


@dataclass(frozen=True, slots=True, repr=False)
class NeighborGraph:
    """The k nearest neighbors of the rows of a gallery.

    With the metric cosine, rows with an embedding of zeros are left out: they have no direction, so
    none is nearer than another, and they would be neighbors of everything.

    Args:
        ids: of the rows, sorted.
        embeddings: of the rows, of unit length if the metric is cosine.
        rows: ``(n, k)`` row numbers of the neighbors, nearest first.
        distances: ``(n, k)`` their Euclidean distances.
        state: the state of the gallery; None for embeddings that are not of one.
        zero_embeddings: ids of the rows that are left out.
    """

    ids: tuple[str, ...]
    embeddings: VectorView
    rows: NDArray[np.int64]
    distances: NDArray[np.float64]
    state: GalleryState | None = None
    zero_embeddings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<NeighborGraph of {format_count(len(self), 'row')}: k={self.rows.shape[1]}>"

    def __len__(self) -> int:
        return len(self.ids)

    def affinity(self, k: int) -> sparse.csr_array:
        """Return the normalized affinity ``D^-1/2 W D^-1/2``, ``(n, n)`` float32.

        ``W`` connects rows of which one is among the ``k`` nearest of the other, with the weight
        ``exp(-d_ij^2 / (s_i s_j))``, where ``s_i`` is the distance to the seventh neighbor
        (Zelnik-Manor and Perona 2004, section 2).

        Raises:
            MissingDependencyError: scipy is not installed.
        """
        with requiring("scipy", "label propagation", "label"):
            from scipy import sparse

        k = min(k, self.rows.shape[1])
        scale = self.distances[:, min(_SCALE_NEIGHBOR, self.distances.shape[1]) - 1]
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
        """Return embeddings averaged with those of their neighbors, twice, in unit length.

        Clusters of smoothed embeddings follow the graph; their medoids are better images to label
        first (``docs/labeling.md``).
        """
        view = self.embeddings.of_unit_length()
        for _ in range(_SMOOTHING_STEPS):
            values = np.empty((len(self), view.dim), np.float32)
            for part, block in view.blocks():
                mean = np.zeros_like(block)
                for column in self.rows[part].T:
                    mean += view[column]
                values[part] = unit_rows(block + mean / max(1, self.rows.shape[1]))
            view = VectorView.of(values)
        return values


def neighbor_graph(
    gallery: Gallery, k: int = K, on_progress: ProgressCallback = ignore_progress
) -> NeighborGraph:
    """Return the exact neighbor graph of a gallery, by its metric.

    Raises:
        InputError: it has fewer than two rows, or fewer than two with an embedding but zeros.
        ArtifactError: an embedding is not finite.
    """
    gallery = gallery.snapshot()
    ids = tuple(gallery.store.ids())
    if len(ids) < 2:
        rows = format_count(len(ids), "row")
        raise InputError(f"{gallery.path}: has {rows}, at least 2 are needed")
    index, numbers = row_index(gallery.store), gallery.store.row_numbers(ids)
    view = VectorView(index.at, numbers, gallery.store.dim)
    places = np.flatnonzero(_has_neighbors(gallery, ids, view))
    if len(places) < 2:
        raise InputError(
            f"{gallery.path}: all but {format_count(len(places), 'row')} have an embedding of "
            "zeros, which has no neighbors; use another encoder"
        )
    zero = np.setdiff1d(np.arange(len(ids)), places, assume_unique=True).tolist()
    subset = np.sort(numbers[places]) if zero else None
    searched = _SearchedRows(index, numbers[places], view.select(places), gallery.metric, subset)
    graph = searched.graph(tuple(ids[place] for place in places.tolist()), k, on_progress)
    return replace(graph, state=gallery.state, zero_embeddings=tuple(ids[place] for place in zero))


def _has_neighbors(
    gallery: Gallery, ids: Sequence[str], embeddings: VectorView
) -> NDArray[np.bool_]:
    """Return which rows are near others: none of zeros, where the metric is cosine.

    Raises:
        ArtifactError: an embedding is not finite.
    """
    defined = np.ones(len(ids), np.bool_)
    for part, block in embeddings.blocks():
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            raise ArtifactError(
                f"{gallery.path}: the embedding of {ids[part][int(finite.argmin())]!r} has numbers "
                "that are not finite; remove that row, and index its source again"
            )
        if gallery.metric is Metric.COSINE:
            defined[part] = has_direction(block)
    return defined


def graph_from_embeddings(
    ids: tuple[str, ...],
    embeddings: Embeddings,
    k: int = K,
    on_progress: ProgressCallback = ignore_progress,
) -> NeighborGraph:
    """Return the exact neighbor graph of embeddings ``(n, dim)``, by Euclidean distance."""
    view = VectorView.of(embeddings)
    searched = _SearchedRows(ExactIndex(embeddings), np.arange(len(ids)), view, Metric.L2)
    return searched.graph(ids, k, on_progress)


@dataclass(frozen=True, slots=True)
class _SearchedRows:
    """Rows whose neighbors among each other are searched.

    Args:
        index: of all rows.
        numbers: of these rows in the index, in the order of their ids.
        embeddings: of these rows.
        metric: of the search.
        subset: their numbers, ascending, if the index has others, too.
    """

    index: RowIndex
    numbers: NDArray[np.int64]
    embeddings: VectorView
    metric: Metric
    subset: NDArray[np.int64] | None = None

    def graph(self, ids: tuple[str, ...], k: int, on_progress: ProgressCallback) -> NeighborGraph:
        """Return the neighbor graph."""
        count = len(ids)
        k = min(k, count - 1)
        place_of = np.empty(int(self.numbers.max()) + 1, np.int64)
        place_of[self.numbers] = np.arange(count)
        rows = np.empty((count, k), np.int64)
        distances = np.empty((count, k))
        for part, block in self.embeddings.blocks(_CHUNK):
            nearest = self.index.search_with_ties(block, k + 1, self.metric, self.subset)
            for place, each in enumerate(nearest, part.start):
                rows[place], distances[place] = _others(
                    place_of[each.rows], each.distances, place, k
                )
            on_progress(Progress("neighbors", part.stop, count, "images"))
        if self.metric is Metric.COSINE:
            distances = np.sqrt(2 * np.maximum(distances, 0))
        view = self.embeddings
        view = view.of_unit_length() if self.metric is Metric.COSINE else view
        return NeighborGraph(ids, view, rows, distances)


def _others(
    places: NDArray[np.int64], distances: NDArray[np.float64], own: int, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the ``k`` nearest places but the own one, equal distances by place."""
    is_other = places != own
    places, distances = places[is_other], distances[is_other]
    order = np.lexsort((places, distances))[:k]
    return places[order], distances[order]


def propagate_seeds(affinity: sparse.csr_array, seeds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scores ``(n, c)`` of label propagation from seeds ``(n, c)``.

    Iterates ``F = a S F + (1 - a) Y`` (Zhou et al. 2004, section 2) with ``a = .9``. scikit-learn's
    LabelSpreading builds the graph in each fit, supports one label per image only, and returns
    rows scaled to 1, which does not suit images with several labels.
    """
    scores = seeds.copy()
    for _ in range(_PROPAGATION_STEPS):
        check_cancelled()
        scores = np.float32(_ALPHA) * (affinity @ scores) + np.float32(1 - _ALPHA) * seeds
    return scores
