"""Vector arithmetic shared by encoders and stores."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_numbers(values: object) -> NDArray[Any]:
    """Return real numbers of any form as an array, of their own type and shape.

    Args:
        values: an array, a tensor of torch, a table, a sparse matrix, or lists of these; a column
            of vectors, as of a DataFrame, becomes ``(n, dim)``.

    Raises:
        ValueError: they are something else, or vectors of different lengths.
    """
    try:
        array = _array(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if array.dtype.kind not in "buif":
        raise ValueError(f"{array.dtype} are no real numbers")
    return array


def _array(values: Any) -> NDArray[Any]:
    if hasattr(values, "detach"):  # a tensor, wherever it is, also of types that numpy has not
        values = values.detach().cpu()
        return np.asarray((values.float() if values.is_floating_point() else values).numpy())
    if hasattr(values, "toarray"):
        values = values.toarray()
    if isinstance(values, list | tuple) and any(hasattr(each, "detach") for each in values):
        values = [_array(each) for each in values]
    array: NDArray[Any] = np.asarray(values)
    if array.dtype.kind != "O":
        return array
    if array.ndim == 1 and any(isinstance(each, list | tuple | np.ndarray) for each in array):
        return _array([_array(each) for each in array])
    is_real = all(isinstance(each, numbers.Real) for each in array.flat)
    return array.astype(np.float64) if is_real else array


def unit_rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row of ``(n, dim)`` to unit length; zero rows stay zero."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(norms > 0, norms, 1), dtype=np.float32)


def has_direction(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which rows of ``(n, dim)`` are not zero, ``(n,)``: the others have no direction."""
    return np.asarray(values.any(axis=1))
