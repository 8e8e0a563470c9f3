"""Ways of labeling all images from some: along the neighbor graph, or by the nearest labeled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lookalike.gallery.neighbors import Graph, spread_over
from lookalike.labels.label_set import LabelSet
from lookalike.stores.exact import ExactIndex
from lookalike.types import Metric

DEFAULT = "spread-10"
_NEAR = (10, 5, 20)
_VOTES = (1, 3, 5)

Numbers = NDArray[np.int64]
Shares = NDArray[np.float32]
"""``(n, labels)``: how much speaks for each label, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Problem:
    """``labeled`` row numbers ``(m,)``, and which of the ``names`` each has: ``(m, labels)``."""

    graph: Graph
    names: tuple[str, ...]
    labeled: NDArray[np.int64]
    has: NDArray[np.bool_]
    several: bool

    @classmethod
    def of(cls, graph: Graph, given: LabelSet) -> Problem:
        """Put given labels into arrays."""
        names = tuple(sorted({label for labels in given.of.values() for label in labels}))
        column = {name: place for place, name in enumerate(names)}
        labeled = [row for row, row_id in enumerate(graph.ids) if row_id in given.of]
        has = np.zeros((len(labeled), len(names)), np.bool_)
        for place, row in enumerate(labeled):
            has[place, [column[label] for label in given.of[graph.ids[row]]]] = True
        return cls(graph, names, np.array(labeled, np.int64), has, given.several)

    def seeds(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return ``(n, labels + 1)``: 1 for each label of these rows, and for being labeled."""
        found = np.zeros((len(self.graph), len(self.names) + 1), np.float32)
        places = np.searchsorted(self.labeled, rows)
        found[rows, :-1] = self.has[places]
        found[rows, -1] = 1
        return found

    def read(self, shares: Shares) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return which labels are likeliest, ``(n, labels)``, and how sure that is, ``(n,)``.

        Of several, all that more than half speaks for, as sure as the least sure of all labels.
        """
        best = shares.argmax(axis=1)
        every = np.arange(len(shares))
        guesses = np.zeros(shares.shape, np.bool_)
        guesses[every, best] = True
        if not self.several:
            return guesses, shares[every, best].astype(np.float64)
        guesses |= shares > 0.5
        return guesses, np.where(guesses, shares, 1 - shares).min(axis=1).astype(np.float64)

    def named(self, guesses: NDArray[np.bool_]) -> list[tuple[str, ...]]:
        """Return the labels of each row by name."""
        return [tuple(self.names[i] for i in np.flatnonzero(row)) for row in guesses]


class OnGraph:
    """Spreading along the graph of so many neighbors."""

    def __init__(self, graph: Graph, k: int) -> None:
        self._graph, self._k = graph, k
        self._affinity: sparse.csr_array | None = None

    def __call__(self, problem: Problem, shown: Numbers, asked: Numbers) -> Shares:
        """Return what the ``shown`` rows say of the ``asked`` ones."""
        if self._affinity is None:
            self._affinity = self._graph.affinity(self._k)
        found = spread_over(self._affinity, problem.seeds(shown))[asked]
        reached = found[:, -1:] > 0
        # What nothing reaches could be anything.
        even = np.float32(1 / len(problem.names))
        return np.where(reached, found[:, :-1] / np.where(reached, found[:, -1:], 1), even)


class Vote:
    """A vote of so many nearest labeled rows, each with the inverse of its squared distance."""

    def __init__(self, graph: Graph, k: int) -> None:
        self._graph, self._k = graph, k

    def __call__(self, problem: Problem, shown: Numbers, asked: Numbers) -> Shares:
        """Return what the ``shown`` rows say of the ``asked`` ones."""
        values = self._graph.embeddings
        near = ExactIndex(values[shown]).search(values[asked], self._k, Metric.L2)
        weights = 1 / np.maximum(near.distances**2, 1e-12)
        weights /= weights.sum(axis=1, keepdims=True)
        has = problem.has[np.searchsorted(problem.labeled, shown)].astype(np.float32)
        found: Shares = np.einsum("nk,nkl->nl", weights.astype(np.float32), has[near.rows])
        return found


def methods_for(graph: Graph) -> dict[str, OnGraph | Vote]:
    """Return every method by name."""
    found: dict[str, OnGraph | Vote] = {f"spread-{k}": OnGraph(graph, k) for k in _NEAR}
    return found | {f"nearest-{k}": Vote(graph, k) for k in _VOTES}
