"""Linear discriminant analysis with every image as a class of its views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.whitening import Whitening

RIDGE = 0.1
"""Share of the mean variance within items that is added in all directions."""

_COMPONENTS = 1024


def learnt(rows: NDArray[np.float32], views: NDArray[np.float32], dim: int) -> Whitening:
    """Return the projection in which views of one row differ little and rows much.

    Args:
        rows: ``(n, d)``, n above ``dim``.
        views: ``(n, v, d)``, of each row.
        dim: at most d.
    """
    differences = (views - rows[:, None]).reshape(-1, rows.shape[1]).astype(np.float64)
    within = differences.T @ differences / len(differences)
    within += RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    variances, directions = np.linalg.eigh(within)
    whiten = directions / np.sqrt(variances)
    mean = rows.mean(axis=0, dtype=np.float64)
    between = (rows - mean) @ whiten
    _, directions = np.linalg.eigh(between.T @ between)
    projection = whiten @ directions[:, ::-1][:, :dim]
    return Whitening(mean.astype(np.float32), np.ascontiguousarray(projection, np.float32))


@dataclass(frozen=True, slots=True)
class Basis:
    """The leading principal components of embeddings: rows ``(n, d)`` to ``(n, components)``."""

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    @classmethod
    def of(cls, rows: NDArray[np.float32]) -> Basis:
        """Find the components of ``(n, d)`` rows that are not all alike."""
        mean = rows.mean(axis=0)
        centred = rows - mean
        count = min(_COMPONENTS, rows.shape[1], len(rows) - 1)
        if rows.shape[1] <= len(rows):
            _, directions = np.linalg.eigh(centred.T @ centred)
            return cls(mean, np.ascontiguousarray(directions[:, ::-1][:, :count]))
        # Of few rows of many dimensions, the components are combinations of the rows.
        variances, weights = np.linalg.eigh((centred @ centred.T).astype(np.float64))
        there = variances[::-1][:count] > 1e-9 * max(variances[-1], 1e-30)
        weights = weights[:, ::-1][:, :count][:, there]
        components = centred.T @ (weights / np.sqrt(variances[::-1][:count][there]))
        return cls(mean, np.ascontiguousarray(components, np.float32))

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``(n, components)``."""
        return np.asarray((rows - self.mean) @ self.components, np.float32)

    def followed_by(self, after: Whitening) -> Whitening:
        """Return both as one projection."""
        mean = self.mean + self.components @ after.mean
        return Whitening(mean, np.ascontiguousarray(self.components @ after.projection))
