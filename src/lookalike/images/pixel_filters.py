"""Filters of pixels and masks: blur, edges, morphology, connected components, sampling.

numpy alone, in the conventions of ``scipy.ndimage``: values beyond the border mirror those within
(``reflect``), and pixels are connected to the four beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RADIUS = 4
"""Standard deviations at which a Gaussian is cut off."""


def gaussian_blur(values: NDArray[np.float32], deviations: Sequence[float]) -> NDArray[np.float32]:
    """Blur an array by a Gaussian, with a standard deviation in pixels for each axis; 0: none."""
    for axis, deviation in enumerate(deviations):
        radius = int(_RADIUS * deviation + 0.5)
        if radius:
            weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
            values = _correlate(values, weights / weights.sum(), axis)
    return values


def sobel(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return the derivative along an axis, smoothed along all others (Sobel and Feldman 1968)."""
    for other in range(values.ndim):
        weights = np.array([-1.0, 0, 1] if other == axis else [1.0, 2, 1])
        values = _correlate(values, weights, other)
    return values


def _correlate(
    values: NDArray[np.float32], weights: NDArray[np.float64], axis: int
) -> NDArray[np.float32]:
    radius, length = len(weights) // 2, values.shape[axis]
    padding = [(radius * (other == axis),) * 2 for other in range(values.ndim)]
    padded = np.moveaxis(np.pad(values, padding, mode="symmetric"), axis, 0)
    total = np.zeros(padded[:length].shape)
    for shift, weight in enumerate(weights):
        total += weight * padded[shift : shift + length]
    return np.moveaxis(total, 0, axis).astype(np.float32)


def dilate(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Grow a mask ``(H, W)`` by ``pixels`` to all four sides."""
    for _ in range(pixels):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def erode(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Take the outermost pixels from a mask ``(H, W)``; beyond the border is none of it."""
    return ~dilate(~np.pad(mask, 1), 1)[1:-1, 1:-1]


def label_components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Return the number of each pixel's connected component, ``(H, W)``, and how many there are.

    0 is beside the mask, 1 the component of its first pixel. Components of neighbors are merged
    under the lower number, and numbers replaced by those that they were merged under, until no
    neighbors differ.
    """
    numbers = np.arange(mask.size).reshape(mask.shape)
    beside, below = mask[:, 1:] & mask[:, :-1], mask[1:] & mask[:-1]
    one = np.concatenate([numbers[:, 1:][beside], numbers[1:][below]])
    other = np.concatenate([numbers[:, :-1][beside], numbers[:-1][below]])
    parents = numbers.ravel()
    while (differ := parents[one] != parents[other]).any():
        one, other = one[differ], other[differ]
        ends = parents[one], parents[other]
        np.minimum.at(parents, np.maximum(*ends), np.minimum(*ends))
        while (parents != (grandparents := parents[parents])).any():
            parents = grandparents
    roots, components = np.unique(parents[mask.ravel()], return_inverse=True)
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = components + 1
    return labels, len(roots)


def sample_bilinear(
    image: NDArray[np.uint8], x: NDArray[Any], y: NDArray[Any], outside: int
) -> NDArray[np.uint8]:
    """Return an image ``(H, W, C)`` at places ``(h, w)`` in pixels, between its pixels bilinearly.

    Args:
        image: uint8.
        x: columns.
        y: rows.
        outside: the value beyond the centers of the outermost pixels.
    """
    height, width = image.shape[:2]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = np.where(inside, x, 0).astype(np.float64), np.where(inside, y, 0).astype(np.float64)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[..., None], (y - top)[..., None]
    above = image[top, left] * (1 - across) + image[top, right] * across
    below = image[bottom, left] * (1 - across) + image[bottom, right] * across
    values = np.floor(above * (1 - down) + below * down + 0.5)
    return np.where(inside[..., None], values, outside).astype(np.uint8)
