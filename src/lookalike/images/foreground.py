"""What of an image is the item and what is ground: for images of one item, without a network.

The ground is what the border of the image is made of, as far as it can be reached from there
without crossing the item (the boundary prior of Wei et al. 2012, Geodesic saliency). That is
nearly exact for shop images on plain ground, and a guess for photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError
from lookalike.images.decode import shrink_image, to_channels
from lookalike.types import ImageArray

Mask = NDArray[np.float32]
"""``(H, W)`` float32 in [0, 1]: 1 where the item is."""

_LOOKED_AT = 160
"""Pixels on the longer side at which the ground is looked for."""

_PLAIN = 14.0
"""Levels by which pixels of plain ground differ, at most."""

_PLAIN_SHARE = 0.9
"""Of the border, where the item may touch it."""

FOREGROUND_MARGIN = 0.1
"""Share of an item's longer side that is left around it."""

_LEAST, _MOST = 0.005, 0.98
"""Shares of the image between which a mask is believed."""


class Box(NamedTuple):
    """A part of an image in pixels: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Box:
        """Make one of four numbers.

        Raises:
            InputError: they are not four.
        """
        if len(values) != len(cls._fields):
            raise InputError(f"box {tuple(values)}: must be x, y, width and height in pixels")
        return cls(*(int(value) for value in values))

    @classmethod
    def parse(cls, text: str) -> Box:
        """Read ``x,y,w,h``.

        Raises:
            InputError: it is not four whole numbers.
        """
        try:
            x, y, width, height = (int(part) for part in text.split(","))
        except ValueError:
            raise InputError(
                f"--box {text}: must be x,y,w,h in whole pixels, as in --box 40,20,200,180"
            ) from None
        return cls(x, y, width, height)

    def crop(self, image: ImageArray) -> ImageArray:
        """Return the part of an image.

        Raises:
            InputError: it is empty, or not wholly inside the image.
        """
        height, width = image.shape[:2]
        inside = 0 <= self.x < self.x + self.width <= width
        inside &= 0 <= self.y < self.y + self.height <= height
        if not inside:
            raise InputError(
                f"--box {','.join(map(str, self))}: must have a width and a height of at least 1 "
                f"and lie inside the image, which is {width}x{height} pixels"
            )
        part = image[self.y : self.y + self.height, self.x : self.x + self.width]
        return np.ascontiguousarray(part)


@dataclass(frozen=True, slots=True)
class Foreground:
    """A mask of an image, and whether it was found: otherwise it is 1 everywhere."""

    mask: Mask
    detected: bool

    def box(self, margin: float = 0.0) -> Box:
        """Return the smallest part that holds the item, and a share of its longer side around."""
        rows, columns = (np.flatnonzero((self.mask > 0.5).any(axis=axis)) for axis in (1, 0))
        height, width = self.mask.shape
        if not len(rows):
            return Box(0, 0, width, height)
        around = round(margin * max(np.ptp(rows), np.ptp(columns)))
        left, top = max(0, int(columns[0]) - around), max(0, int(rows[0]) - around)
        right, bottom = min(width, int(columns[-1]) + around + 1), int(rows[-1]) + around + 1
        return Box(left, top, right - left, min(height, bottom) - top)


def find_foreground(image: ImageArray) -> Foreground:
    """Find the item of an image ``(H, W)`` or ``(H, W, 3)`` uint8.

    Where the border or all four corners are of one color, ground is what has it and can be
    reached from the border.
    Otherwise the colors of the border are gathered into eight, and ground is what is nearer to
    them than half of what is not; the largest piece of the rest is the item.
    """
    from scipy import ndimage

    small = shrink_image(to_channels(image, 3), _LOOKED_AT).astype(np.float32)
    rim = _border(small)
    ground = _plain_ground(small, rim)
    if ground is not None:
        alike = np.abs(small - ground).max(axis=2) <= _PLAIN
        item = ~_reached(alike)
    else:
        far = _distance_to(small, rim)
        far = ndimage.gaussian_filter(far, 2)
        item = _largest(far > _otsu(far))
        item = ndimage.binary_fill_holes(item)
    share = float(item.mean())
    shape = image.shape[:2]
    if not _LEAST <= share <= _MOST:
        return Foreground(np.ones(shape, np.float32), detected=False)
    return Foreground(_enlarged(item, shape), detected=True)


def _border(image: NDArray[np.float32]) -> NDArray[np.float32]:
    sides = (image[0], image[-1], image[1:-1, 0], image[1:-1, -1])
    return np.concatenate([side.reshape(-1, 3) for side in sides])


def _plain_ground(
    image: NDArray[np.float32], rim: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """Return the color of plain ground, if it is plain."""
    common = np.median(rim, axis=0)
    if (np.abs(rim - common).max(axis=1) <= _PLAIN).mean() >= _PLAIN_SHARE:
        return np.asarray(common)
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
    if np.ptp(corners, axis=0).max() <= _PLAIN:
        return np.asarray(np.median(corners, axis=0))
    return None


def _reached(alike: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of the pixels that are alike can be reached from the border over such ones."""
    from scipy import ndimage

    pieces, _ = ndimage.label(np.pad(alike, 1, constant_values=True))
    return np.asarray((pieces == pieces[0, 0])[1:-1, 1:-1])


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    pieces, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == sizes.argmax())


def _distance_to(image: NDArray[np.float32], rim: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how far each pixel's color is from the nearest of eight that the border has."""
    from sklearn.cluster import KMeans

    kinds = min(8, len(np.unique(rim, axis=0)))
    centers = KMeans(kinds, n_init=1, random_state=0).fit(rim).cluster_centers_
    pixels = image.reshape(-1, 1, 3)
    nearest = np.linalg.norm(pixels - centers[None], axis=2).min(axis=1)
    return np.asarray(nearest.reshape(image.shape[:2]), np.float32)


def _otsu(values: NDArray[np.float32]) -> float:
    """Return the threshold with the largest variance between the classes (Otsu 1979)."""
    counts, edges = np.histogram(values, 64)
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(middles[np.nan_to_num(between).argmax()])


def _enlarged(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> Mask:
    from lookalike.images.decode import resize_image

    height, width = shape[:2]
    values = resize_image((mask * 255).astype(np.uint8), height, width)
    return np.asarray(values / np.float32(255), np.float32)
