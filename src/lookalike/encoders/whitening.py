"""Principal components scaled on the way to whitening."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Whitening:
    """``(values - mean) @ projection``; ``mean`` is ``(d,)``, ``projection`` ``(d, dim)`` float32.

    Whitening gives every direction the same variance, which lets noise count as much as structure
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
        be learnt: then None.
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
    def shrunk(cls, values: NDArray[np.float32], dim: int, shrinkage: float) -> Self:
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
