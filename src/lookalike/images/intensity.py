"""One rule that maps integers wider than 8 bits and floats to 8 bits.

A window (low, high) is mapped linearly to 0..255 and clipped; NaN is shown as low. The window is,
in this order: the one that is given; the one that the file states (its smallest and largest sample
value, fewer significant bits than are stored, or a color profile, which covers the whole range); or
else the 0.1 and 99.9 percentiles of the image. A window of integers spans at least 255, so that no
step between two values becomes more than a level: noise in an empty image stays dark noise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.types import ImageArray

Values = NDArray[Any]
"""``(H, W)`` or ``(H, W, C)``, integers or floats."""

Window = tuple[float, float]
"""The values shown as 0 and as 255."""

PERCENTILES = (0.1, 99.9)
_LEVELS = 255
_SAMPLE = 1 << 20
"""Values of which percentiles are computed; of larger images every n-th row and column counts."""

_STRIP = 1 << 22
_FLAT = 1e-6
"""Floats are constant if they spread less than this share of their size."""


def percentile_window(values: Values) -> Window:
    """Return the window of an image by its percentiles.

    Raises:
        ValueError: no value is finite.
    """
    sample = _sample(values)
    if sample.dtype.kind == "f":
        sample = sample[np.isfinite(sample)]
    if not sample.size:
        raise ValueError("no pixel has a finite value")
    low, high = (float(value) for value in np.percentile(sample.astype(np.float64), PERCENTILES))
    if values.dtype.kind == "f":
        narrowest = _FLAT * max(abs(low), abs(high), float(np.finfo(np.float32).tiny))
        return (low, high) if high - low > narrowest else _widened(low, high, narrowest)
    if high - low >= _LEVELS:
        return low, high
    low, high = _widened(low, high, _LEVELS)
    limits = np.iinfo(values.dtype)
    shift = max(float(limits.min) - low, 0.0) - max(high - float(limits.max), 0.0)
    return low + shift, high + shift


def to_8_bits(values: Values, window: Window) -> ImageArray:
    """Return values mapped to uint8 by a window; NaN becomes 0."""
    low, high = window
    out = np.empty(values.shape, np.uint8)
    rows = max(1, _STRIP // max(1, math.prod(values.shape[1:])))
    for top in range(0, len(values), rows):  # in strips: float64 takes four times the memory
        levels = values[top : top + rows].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            levels = (levels - low) * (_LEVELS / (high - low))
        levels = np.nan_to_num(levels, nan=0, posinf=_LEVELS, neginf=0)
        out[top : top + rows] = np.rint(np.clip(levels, 0, _LEVELS))
    return out


def full_range(values: Values, bits: int) -> Window:
    """Return the window of all values that so many bits can hold; floats range from 0 to 1."""
    if values.dtype.kind == "f":
        return 0.0, 1.0
    if values.dtype.kind == "i":
        return -float(2 ** (bits - 1)), float(2 ** (bits - 1) - 1)
    return 0.0, float(2**bits - 1)


def _widened(low: float, high: float, width: float) -> Window:
    middle = (low + high) / 2
    return middle - width / 2, middle + width / 2


def _sample(values: Values) -> Values:
    step = max(1, math.ceil(math.sqrt(values.size / _SAMPLE)))
    if min(values.shape[:2]) < step:  # a line of pixels: every n-th value
        return values.reshape(-1)[:: step * step]
    return values[::step, ::step].reshape(-1)
