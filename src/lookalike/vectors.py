"""Vector arithmetic shared by encoders and stores."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled

_PART = 4_096
"""Rows, or columns, that are read or converted to float64 at a time."""

Places = slice | Sequence[int] | NDArray[np.int64] | NDArray[np.bool_]
"""Places of rows."""


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


def has_direction(values: NDArray[np.float32] | VectorView) -> NDArray[np.bool_]:
    """Return which rows of ``(n, dim)`` are not zero, ``(n,)``: the others have no direction."""
    if isinstance(values, VectorView):
        parts = [has_direction(block) for _, block in values.blocks()]
        return np.concatenate([np.empty(0, np.bool_), *parts])
    return np.asarray(values.any(axis=1))


class VectorView:
    """Embeddings that are read in parts, mapped from a file or in memory, in an order of their own.

    Args:
        read: returns rows ``(m, dim)`` float32 by their numbers.
        numbers: of the rows, in the order of this view.
        dim: length of a row.
        unit: rows are scaled to unit length; zero rows stay zero.
    """

    def __init__(
        self,
        read: Callable[[NDArray[np.int64]], NDArray[np.float32]],
        numbers: NDArray[np.int64],
        dim: int,
        *,
        unit: bool = False,
    ) -> None:
        self.dim = dim
        self._read, self._numbers, self._unit = read, numbers, unit

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Self:
        """Return a view of an array ``(n, dim)``."""
        return cls(values.__getitem__, np.arange(len(values)), values.shape[1])

    def __repr__(self) -> str:
        return f"VectorView({len(self):,} x {self.dim}{', of unit length' if self._unit else ''})"

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, places: Places) -> NDArray[np.float32]:
        """Return rows by their places, ``(m, dim)``; all with ``[:]``."""
        rows = self._read(self._numbers[places])
        return unit_rows(rows) if self._unit else np.asarray(rows)

    def blocks(self, size: int = _PART) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield the places and rows of each part, in order."""
        for start in range(0, len(self), size):
            check_cancelled()
            part = slice(start, min(start + size, len(self)))
            yield part, self[part]

    def select(self, places: Places) -> VectorView:
        """Return a view of some of the rows."""
        return VectorView(self._read, self._numbers[places], self.dim, unit=self._unit)

    def of_unit_length(self) -> VectorView:
        """Return a view of the rows, scaled to unit length."""
        return VectorView(self._read, self._numbers, self.dim, unit=True)


_EXACT_SIDE, _EXACT_SHARE = 1_500, 4
"""Principal axes are approximate beyond this many rows and columns, if less than a fourth of them
is wanted."""

_OVERSAMPLED, _POWER_STEPS = 10, 5
"""Directions beside those that are wanted, and iterations, of the approximate solution."""


def principal_axes(
    values: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Return the mean ``(d,)``, principal axes ``(count, d)`` and variances ``(count,)`` of rows.

    The largest variance is first, the largest number of each axis positive. Exact unless a few axes
    of over 1,500 rows and columns are wanted: then by randomized subspace iteration (Halko et al.
    2011, algorithms 4.4 and 5.1).

    Args:
        values: ``(n, d)``, at least two rows.
        count: at most n and d.
    """
    mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    centered = values - mean
    if min(values.shape) > max(_EXACT_SIDE, _EXACT_SHARE * count):
        axes, squares = _approximate_axes(centered, count)
    elif values.shape[1] <= len(values):
        squares, directions = np.linalg.eigh(_gram(centered.T))
        axes = directions.T
    else:  # the Gram matrix has the same eigenvalues, and is smaller
        squares, weights = np.linalg.eigh(_gram(centered))
        lengths = np.sqrt(np.maximum(squares, 1e-12 * max(squares[-1], 1e-30)))
        axes = (weights / lengths).astype(np.float32).T @ centered
        axes = np.linalg.qr(axes[::-1].T).Q.T[::-1]  # also where there is no variance
    return mean, *_leading(axes, squares, count, len(values))


def principal_axes_in_parts(
    values: VectorView, count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Return the same as :func:`principal_axes`, reading rows in parts unless they are very long.

    Args:
        values: at least two rows.
        count: at most the number of rows, and their length.
    """
    if values.dim > min(_EXACT_SIDE, len(values)):
        return principal_axes(values[:], count)
    total = np.zeros(values.dim)
    for _, part in values.blocks():
        total += part.sum(axis=0, dtype=np.float64)
    mean = (total / len(values)).astype(np.float32)
    gram = np.zeros((values.dim,) * 2)
    for _, part in values.blocks():
        gram += _gram((part - mean).T)
    squares, directions = np.linalg.eigh(gram)
    return mean, *_leading(directions.T, squares, count, len(values))


def _leading(
    axes: NDArray[Any], squares: NDArray[np.float64], count: int, rows: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the axes with the largest variances, and these."""
    largest = np.argsort(-squares, kind="stable")[:count]
    axes, squares = axes[largest], np.maximum(squares[largest], 0)
    signs = np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1))
    axes = np.ascontiguousarray(axes * np.where(signs < 0, -1, 1), np.float32)
    return axes, squares / (rows - 1)


def _gram(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ``rows @ rows.T`` in float64, ``(n, n)``."""
    total = np.zeros((len(rows),) * 2)
    for start in range(0, rows.shape[1], _PART):
        part = rows[:, start : start + _PART].astype(np.float64)
        total += part @ part.T
    return total


def _approximate_axes(
    centered: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the leading right singular vectors ``(count + 10, d)`` and their squared values."""
    width = min(count + _OVERSAMPLED, *centered.shape)
    start = np.random.default_rng(0).standard_normal((centered.shape[1], width), np.float32)
    basis = np.linalg.qr(centered @ start).Q
    for _ in range(_POWER_STEPS):
        basis = np.linalg.qr(centered.T @ basis).Q
        basis = np.linalg.qr(centered @ basis).Q
    _, singular, axes = np.linalg.svd(basis.T @ centered, full_matrices=False)
    return axes, singular.astype(np.float64) ** 2
