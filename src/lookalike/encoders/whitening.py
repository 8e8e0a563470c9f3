"""Linear projections of embeddings: PCA whitening and the discriminant of augmented views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lookalike.vectors import principal_axes

RIDGE = 0.1
"""Ridge added to the within-item covariance, as a share of its mean variance."""

MIN_DEVIATION = 1e-3
"""Smallest standard deviation of the leading component, relative to the rows' root mean square
length, that is whitened. Rounding errors of float32 are about 1e-7 of the length in each component,
and whitening and scaling to unit length would raise them above one hundredth."""

_MAX_COMPONENTS = 1024


@dataclass(frozen=True, slots=True)
class LinearProjection:
    """``(values - mean) @ projection``: ``mean`` ``(d,)``, ``projection`` ``(d, dim)`` float32."""

    mean: NDArray[np.float32]
    projection: NDArray[np.float32]

    @classmethod
    def fit(cls, values: NDArray[np.float32], dim: int, strength: float = 0.5) -> Self | None:
        """Fit partial PCA whitening to ``(n, d)`` float32.

        Full whitening gives all components equal variance, so that noise counts as much as
        structure (Jégou and Chum 2012). Halfway, the few dominant components no longer hide the
        others, and noise stays small. Each of the ``dim`` leading components is divided by its
        standard deviation (with 1e-4 of the largest variance added to its variance) to
        the power ``strength``: 0 keeps the scale, 1 whitens.

        Returns None for fewer than ``2 * dim`` rows, or if they are nearly equal
        (:data:`MIN_DEVIATION`).
        """
        if len(values) < 2 * dim or np.ptp(values, axis=0).max() == 0:
            return None
        mean, axes, variances = principal_axes(values, min(dim, values.shape[1]))
        length = float(np.sqrt(np.einsum("ij,ij->i", values, values).mean(dtype=np.float64)))
        if np.sqrt(variances[0]) < MIN_DEVIATION * length:
            return None
        scale = (variances + 1e-4 * variances[0]) ** (-strength / 2)
        return cls(mean, np.ascontiguousarray(axes.T * scale, np.float32))

    @classmethod
    def fit_shrunk(cls, values: NDArray[np.float32], dim: int, shrinkage: float) -> Self:
        """Fit PCA whitening with a shrunk spectrum to ``(n, d)`` float32.

        A share of ``shrinkage`` of each variance is replaced by the mean of the ``dim`` variances
        (Ledoit and Wolf 2004). Needs more than ``dim`` rows that are not all equal.
        """
        mean, axes, variances = principal_axes(values, dim)
        variances = (1 - shrinkage) * variances + shrinkage * variances.mean()
        projection = axes.T / np.sqrt(np.maximum(variances, 1e-12 * variances[0]))
        return cls(mean, np.ascontiguousarray(projection, np.float32))


def fit_discriminant(
    rows: NDArray[np.float32], views: NDArray[np.float32], dim: int
) -> LinearProjection:
    """Fit the projection that keeps views of one item together and different items apart.

    Whitens by the covariance of views around their item, then keeps the components with the
    largest variance between items: the linear discriminant projection of Mikolajczyk and Matas
    2007, section 3, known as learned whitening from Radenović et al. 2018, section 3.4. Here
    augmented views take the place of matching pairs, and :data:`RIDGE` regularizes.

    Args:
        rows: ``(n, d)`` float32, embeddings of n > ``dim`` items.
        views: ``(n, v, d)`` float32, embeddings of v views of each item.
        dim: output dimensions, at most d.
    """
    differences = (views - rows[:, None]).reshape(-1, rows.shape[1]).astype(np.float64)
    within_item = differences.T @ differences / len(differences)
    within_item += RIDGE * np.trace(within_item) / len(within_item) * np.eye(len(within_item))
    variances, directions = np.linalg.eigh(within_item)
    whiten = directions / np.sqrt(variances)
    mean = rows.mean(axis=0, dtype=np.float64)
    whitened = (rows - mean) @ whiten
    _, directions = np.linalg.eigh(whitened.T @ whitened)
    projection = whiten @ directions[:, ::-1][:, :dim]
    return LinearProjection(mean.astype(np.float32), np.ascontiguousarray(projection, np.float32))


@dataclass(frozen=True, slots=True)
class PrincipalComponents:
    """The leading principal components of embeddings, at most 1,024.

    ``mean`` is ``(d,)`` and ``components`` ``(d, k)`` float32.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    @classmethod
    def fit(cls, rows: NDArray[np.float32]) -> Self:
        """Fit to ``(n, d)`` float32 rows that are not all equal."""
        count = min(_MAX_COMPONENTS, rows.shape[1], len(rows) - 1)
        mean, axes, variances = principal_axes(rows, count)
        return cls(mean, np.ascontiguousarray(axes[variances > 1e-9 * variances[0]].T))

    def transform(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``(n, k)`` float32 for ``(n, d)`` rows."""
        return np.asarray((rows - self.mean) @ self.components, np.float32)

    def compose(self, projection: LinearProjection) -> LinearProjection:
        """Return the one projection that applies these components, then ``projection``."""
        mean = self.mean + self.components @ projection.mean
        return LinearProjection(mean, np.ascontiguousarray(self.components @ projection.projection))
