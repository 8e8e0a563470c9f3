"""Range search: all pairs of rows within a distance of each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError
from lookalike.formatting import format_distance
from lookalike.types import Progress, ProgressCallback, ignore_progress
from lookalike.vectors import VectorView

_BLOCK = 2_048
MAX_PAIRS_PER_ROW = 50
"""With more pairs than this, on average, the distance does not tell duplicates apart."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """``(p,)`` row numbers with ``first < second``, and the Euclidean distances ``(p,)``."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distances: NDArray[np.float64]

    @classmethod
    def none(cls) -> Pairs:
        """Return no pairs."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))

    def __len__(self) -> int:
        return len(self.first)

    def select(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Pairs:
        """Return the pairs at some places, or where a mask is true."""
        return Pairs(self.first[places], self.second[places], self.distances[places])

    def renumbered(self, numbers: NDArray[np.int64]) -> Pairs:
        """Return the pairs of a part of the rows, whose ``numbers`` in the whole are sorted."""
        return Pairs(numbers[self.first], numbers[self.second], self.distances)


def pairs_within(
    embeddings: VectorView, max_distance: float, on_progress: ProgressCallback = ignore_progress
) -> Pairs:
    """Return all pairs of rows up to ``max_distance`` apart, exactly, nearest first.

    Each pair is computed once, in blocks: half the work of a neighbor search for every row.

    Raises:
        InputError: there are more than 50 pairs per row.
    """
    count = len(embeddings)
    half_norms = np.empty(count, np.float32)
    for part, block in embeddings.blocks():
        half_norms[part] = np.einsum("nd,nd->n", block, block) / 2
    # The error bound of float32; pairs let through by it are computed again in float64.
    slack = 4e-6 * float(half_norms.max(initial=0)) * embeddings.dim**0.5
    with np.errstate(over="ignore"):  # then all pairs are within it
        limit = np.float32(-(np.float64(max_distance) ** 2) / 2 - slack)
    blocks: list[NDArray[np.int64]] = []
    total = 0
    for part, rows in embeddings.blocks(_BLOCK):
        top = part.start
        for left in range(top, count, _BLOCK):
            check_cancelled()
            scores = rows @ embeddings[left : left + _BLOCK].T
            scores -= half_norms[top : top + _BLOCK, None]
            scores -= half_norms[None, left : left + _BLOCK]
            pairs = np.argwhere(scores >= limit) + np.array([top, left])
            blocks.append(pairs[pairs[:, 0] < pairs[:, 1]])
            total += len(blocks[-1])
        if total > MAX_PAIRS_PER_ROW * count:
            raise InputError(
                f"more than {MAX_PAIRS_PER_ROW} pairs per image lie within a distance of "
                f"{format_distance(max_distance)}, too many to be duplicates; set a smaller "
                "{max_distance}, or use a gallery with another encoder",
                max_distance=None,
            )
        on_progress(Progress("pairs", part.stop, count, "images"))
    places = np.concatenate([np.empty((0, 2), np.int64), *blocks])
    distances = np.empty(len(places))
    for start in range(0, len(places), _BLOCK):
        pair = places[start : start + _BLOCK].T
        differences = embeddings[pair[0]].astype(np.float64) - embeddings[pair[1]]
        distances[start : start + _BLOCK] = np.linalg.norm(differences, axis=1)
    order = np.lexsort((places[:, 1], places[:, 0], distances))
    candidates = Pairs(places[order, 0], places[order, 1], distances[order])
    return candidates.select(candidates.distances <= max_distance)
