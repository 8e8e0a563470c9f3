"""Principal components scaled on the way to whitening."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LinearProjection:
    """``(values - mean) @ projection``; ``mean`` is ``(d,)``, ``projection`` ``(d, dim)`` float32.

    LinearProjection gives every direction the same variance, which lets noise count as much as structure
    (Jegou and Chum 2012). Halfway there, the few directions that dominate an embedding no longer
    drown the others, and noise stays small.
    """

    mean: NDArray[np.float32]
    projection: NDArray[np.float32]

    @classmethod
    def fit(cls, values: NDArray[np.float32], dim: int, strength: float = 0.5) -> Self | None:
        """Learn it from ``(n, d)`` float32.

        Each of the ``dim`` leading components is divided by its standard deviation (the largest
        one's hundredth is added to its square) to the power ``strength``: 0 leaves the scale
        alone, 1 whitens. From fewer than ``2 * dim`` rows, or rows that are all alike, nothing can
        be learned: then None.
        """
        if len(values) < 2 * dim or np.ptp(values, axis=0).max() == 0:
            return None
        from sklearn.decomposition import PCA

        dim = min(dim, values.shape[1])
        solver = "full" if dim == values.shape[1] else "randomized"
        found = PCA(dim, svd_solver=solver, random_state=0).fit(values)
        variances = found.explained_variance_
        scale = (variances + 1e-4 * variances[0]) ** (-strength / 2)
        projection = np.ascontiguousarray(found.components_.T * scale, np.float32)
        return cls(found.mean_.astype(np.float32), projection)

    @classmethod
    def fit_shrunk(cls, values: NDArray[np.float32], dim: int, shrinkage: float) -> Self:
        """Whiten ``(n, d)`` float32 to ``dim`` components; more than ``dim`` rows, not all alike.

        Of each variance a share of ``shrinkage`` is replaced by the mean of all of them.
        """
        from sklearn.decomposition import PCA

        solver = "full" if min(values.shape) <= _FULL else "randomized"
        found = PCA(dim, svd_solver=solver, random_state=0).fit(values)
        variances = found.explained_variance_.astype(np.float64)
        variances = (1 - shrinkage) * variances + shrinkage * variances.mean()
        projection = found.components_.T / np.sqrt(np.maximum(variances, 1e-12 * variances[0]))
        return cls(found.mean_.astype(np.float32), np.ascontiguousarray(projection, np.float32))


_FULL = 1500
"""Up to so many rows or columns all components are computed."""


RIDGE = 0.1
"""Share of the mean variance within items that is added in all directions."""

_COMPONENTS = 1024


def fit_discriminant(rows: NDArray[np.float32], views: NDArray[np.float32], dim: int) -> LinearProjection:
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
    return LinearProjection(mean.astype(np.float32), np.ascontiguousarray(projection, np.float32))


@dataclass(frozen=True, slots=True)
class PrincipalComponents:
    """The leading principal components of embeddings: rows ``(n, d)`` to ``(n, components)``."""

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    @classmethod
    def fit(cls, rows: NDArray[np.float32]) -> PrincipalComponents:
        """Find the components of ``(n, d)`` rows that are not all alike."""
        mean = rows.mean(axis=0)
        centered = rows - mean
        count = min(_COMPONENTS, rows.shape[1], len(rows) - 1)
        if rows.shape[1] <= len(rows):
            _, directions = np.linalg.eigh(centered.T @ centered)
            return cls(mean, np.ascontiguousarray(directions[:, ::-1][:, :count]))
        # Of few rows of many dimensions, the components are combinations of the rows.
        variances, weights = np.linalg.eigh((centered @ centered.T).astype(np.float64))
        there = variances[::-1][:count] > 1e-9 * max(variances[-1], 1e-30)
        weights = weights[:, ::-1][:, :count][:, there]
        components = centered.T @ (weights / np.sqrt(variances[::-1][:count][there]))
        return cls(mean, np.ascontiguousarray(components, np.float32))

    def transform(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``(n, components)``."""
        return np.asarray((rows - self.mean) @ self.components, np.float32)

    def compose(self, after: LinearProjection) -> LinearProjection:
        """Return both as one projection."""
        mean = self.mean + self.components @ after.mean
        return LinearProjection(mean, np.ascontiguousarray(self.components @ after.projection))
