"""All pairs of rows that are nearer to each other than some distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError
from lookalike.types import Embeddings, Progress, ProgressCallback, ignore_progress

_BLOCK = 2_048
_EACH = 50
"""Pairs for each row, on average, above which they say nothing of copies."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """``(p,)`` row numbers of both sides, ``first < second``, and their Euclidean distances."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distances: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)

    def at(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Pairs:
        """Return some of them."""
        return Pairs(self.first[places], self.second[places], self.distances[places])


def pairs_within(
    embeddings: Embeddings, within: float, on_progress: ProgressCallback = ignore_progress
) -> Pairs:
    """Return all pairs of ``(n, dim)`` rows at most ``within`` apart, exactly, nearest first.

    Each pair is looked at once, in blocks: half the work of finding everybody's neighbors.

    Raises:
        InputError: there are more than 50 pairs for each row.
    """
    count = len(embeddings)
    half = (np.einsum("nd,nd->n", embeddings, embeddings) / 2).astype(np.float32)
    # What float32 may be off by; what it lets through is computed again in float64.
    slack = 4e-6 * float(half.max(initial=0)) * embeddings.shape[1] ** 0.5
    limit = np.float32(-(within**2) / 2 - slack)
    found: list[NDArray[np.int64]] = []
    total = 0
    for top in range(0, count, _BLOCK):
        rows = embeddings[top : top + _BLOCK]
        for left in range(top, count, _BLOCK):
            scores = rows @ embeddings[left : left + _BLOCK].T
            scores -= half[top : top + _BLOCK, None]
            scores -= half[None, left : left + _BLOCK]
            near = np.argwhere(scores >= limit) + np.array([top, left])
            found.append(near[near[:, 0] < near[:, 1]])
            total += len(found[-1])
        if total > _EACH * count:
            raise InputError(
                f"more than {_EACH} pairs for each image lie within {within:.4g}: that is how near "
                "this encoder puts different images, so it does not tell copies from these; give a "
                "smaller --within, or use a gallery of another encoder"
            )
        on_progress(Progress("pairs", min(top + _BLOCK, count), count, "images"))
    near = np.concatenate([np.empty((0, 2), np.int64), *found])
    distances = np.empty(len(near))
    for start in range(0, len(near), _BLOCK):
        part = near[start : start + _BLOCK]
        apart = embeddings[part[:, 0]].astype(np.float64) - embeddings[part[:, 1]]
        distances[start : start + _BLOCK] = np.sqrt(np.einsum("pd,pd->p", apart, apart))
    order = np.lexsort((near[:, 1], near[:, 0], distances))
    every = Pairs(near[order, 0], near[order, 1], distances[order])
    return every.at(every.distances <= within)
