"""Two families of label propagation: along the neighbor graph, and k-nearest-neighbor votes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import MissingDependencyError, is_installed
from lookalike.gallery.neighbors import NeighborGraph, propagate_seeds
from lookalike.sources.labels import LabelSet
from lookalike.stores.exact import ExactIndex
from lookalike.types import Metric

if TYPE_CHECKING:
    from scipy import sparse

DEFAULT = "graph-10"
_GRAPH_NEIGHBORS = (10, 5, 20)
_VOTERS = (1, 3, 5)

_CHUNK_VALUES = 1 << 22
"""Scores that are computed at a time, beside the result (16 MiB)."""

_VOTES = 4_096
"""Rows whose nearest labeled rows are searched at a time."""

RowNumbers = NDArray[np.int64]
Scores = NDArray[np.float32]
"""``(n, classes)``, in [0, 1]: the support for each class; NaN where there is none for any."""


def check_installed() -> None:
    """Check that the packages that labeling needs are installed.

    Raises:
        MissingDependencyError: they are not.
    """
    if not is_installed("sklearn"):
        raise MissingDependencyError("scikit-learn", "labeling", "label")


@dataclass(frozen=True, slots=True)
class LabelMatrix:
    """A label set as arrays.

    ``labeled`` is ``(m,)`` row numbers in the graph, and ``indicators`` ``(m, classes)`` tells
    which of the ``classes`` each of them has.
    """

    graph: NeighborGraph
    classes: tuple[str, ...]
    labeled: RowNumbers
    indicators: NDArray[np.bool_]
    multi_label: bool

    @classmethod
    def of(cls, graph: NeighborGraph, labels: LabelSet) -> LabelMatrix:
        """Encode a label set."""
        classes = tuple(sorted({label for each in labels.by_id.values() for label in each}))
        column = {label: place for place, label in enumerate(classes)}
        labeled = [row for row, row_id in enumerate(graph.ids) if row_id in labels.by_id]
        indicators = np.zeros((len(labeled), len(classes)), np.bool_)
        for place, row in enumerate(labeled):
            indicators[place, [column[label] for label in labels.by_id[graph.ids[row]]]] = True
        return cls(graph, classes, np.array(labeled, np.int64), indicators, labels.multi_label)

    def indicators_of(self, rows: RowNumbers) -> NDArray[np.bool_]:
        """Return the indicators of some labeled rows, ``(len(rows), classes)``."""
        return np.asarray(self.indicators[np.searchsorted(self.labeled, rows)])

    def predict(self, scores: Scores) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return the predicted classes ``(n, classes)`` and their raw confidence ``(n,)``.

        A single-label prediction is the class of the highest score. A multi-label one is that and
        every class above 0.5, as confident as its least certain class. Without scores (NaN) there
        is no prediction, and the confidence is NaN.
        """
        predicted = np.zeros(scores.shape, np.bool_)
        confidence = np.empty(len(scores), np.float64)
        step = max(1, _CHUNK_VALUES // max(1, len(self.classes)))
        for start in range(0, len(scores), step):
            check_cancelled()
            part, marks = scores[start : start + step], predicted[start : start + step]
            best = part.argmax(axis=1)
            every_row = np.arange(len(part))
            highest = part[every_row, best]
            marks[every_row, best] = np.isfinite(highest)
            if self.multi_label:
                marks |= part > 0.5
                highest = np.where(marks, part, 1 - part).min(axis=1)
            confidence[start : start + step] = highest
        return predicted, confidence

    def names(self, predicted: NDArray[np.bool_]) -> list[tuple[str, ...]]:
        """Return the labels of each row of ``(n, classes)`` by name."""
        return [tuple(self.classes[i] for i in np.flatnonzero(row)) for row in predicted]


class GraphPropagation:
    """Label propagation along the graph of the ``k`` nearest neighbors."""

    def __init__(self, graph: NeighborGraph, k: int) -> None:
        self._graph, self._k = graph, k
        self._affinity: sparse.csr_array | None = None

    def __call__(self, labels: LabelMatrix, train: RowNumbers, test: RowNumbers) -> Scores:
        """Score the ``test`` rows by the labels of the ``train`` rows; NaN if none reaches them."""
        if self._affinity is None:
            self._affinity = self._graph.affinity(self._k)
        indicators = labels.indicators_of(train).astype(np.float32)
        # What ones propagate to is reached by any label.
        total = self._propagate(np.ones((len(train), 1), np.float32), train, test)
        unreached = total[:, 0] <= 0
        total[unreached] = 1
        scores = np.empty((len(test), len(labels.classes)), np.float32)
        step = max(1, _CHUNK_VALUES // max(1, len(labels.graph)))
        for start in range(0, len(labels.classes), step):
            part = indicators[:, start : start + step]
            scores[:, start : start + step] = self._propagate(part, train, test) / total
        scores[unreached] = np.nan
        return scores

    def _propagate(
        self, values: NDArray[np.float32], train: RowNumbers, test: RowNumbers
    ) -> NDArray[np.float32]:
        """Return what values ``(train, c)`` propagate to, ``(test, c)``."""
        assert self._affinity is not None
        seeds = np.zeros((len(self._graph), values.shape[1]), np.float32)
        seeds[train] = values
        return propagate_seeds(self._affinity, seeds)[test]


class NeighborVote:
    """A vote of the ``k`` nearest labeled rows, weighted by the inverse squared distance."""

    def __init__(self, graph: NeighborGraph, k: int) -> None:
        self._graph, self._k = graph, k

    def __call__(self, labels: LabelMatrix, train: RowNumbers, test: RowNumbers) -> Scores:
        """Score the ``test`` rows by the labels of the ``train`` rows."""
        index = ExactIndex(self._graph.embeddings[train])
        indicators = labels.indicators_of(train).astype(np.float32)
        scores = np.empty((len(test), len(labels.classes)), np.float32)
        step = max(1, min(_VOTES, _CHUNK_VALUES // max(1, self._k * len(labels.classes))))
        for part, block in self._graph.embeddings.select(test).blocks(step):
            neighbors = index.search(block, self._k, Metric.L2)
            weights = 1 / np.maximum(neighbors.distances**2, 1e-12)
            weights /= weights.sum(axis=1, keepdims=True)
            votes = indicators[neighbors.rows]
            scores[part] = np.einsum("nk,nkc->nc", weights.astype(np.float32), votes)
        return scores


Method = GraphPropagation | NeighborVote


def methods_for(graph: NeighborGraph) -> dict[str, Method]:
    """Return every method by name, in order of preference."""
    methods: dict[str, Method] = {
        f"graph-{k}": GraphPropagation(graph, k) for k in _GRAPH_NEIGHBORS
    }
    return methods | {f"nearest-{k}": NeighborVote(graph, k) for k in _VOTERS}
