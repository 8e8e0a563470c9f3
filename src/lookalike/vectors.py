"""Vector arithmetic shared by encoders and stores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit_rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row of ``(n, dim)`` to unit length; zero rows stay zero."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(norms > 0, norms, 1), dtype=np.float32)


def has_direction(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which rows of ``(n, dim)`` are not zero, ``(n,)``: the others have no direction."""
    return np.asarray(values.any(axis=1))
