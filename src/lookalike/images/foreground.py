"""Foreground segmentation of images that show one object, without a network.

The background is what resembles the border of the image and is connected to it without crossing the
object (boundary prior, Wei et al. 2012, "Geodesic saliency"). Nearly exact for product images on a
plain background, a rough estimate for photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError
from lookalike.images.decode import resize_image, shrink_image, to_channels
from lookalike.images.pixel_filters import gaussian_blur, label_components
from lookalike.types import ImageArray

Mask = NDArray[np.float32]
"""``(H, W)`` float32 in [0, 1]: 1 on the object."""

FOREGROUND_MARGIN = 0.1
"""Default margin around an object, as a share of its longer side."""

_WORKING_SIDE = 160
"""Pixels on the longer side of the image that is segmented."""

_PLAIN_TOLERANCE = 14.0
"""Largest difference of pixel values within a plain background."""

_PLAIN_SHARE = 0.9
"""Share of the border that a plain background must cover; the object may touch the rest."""

_BORDER_COLORS = 8
_MAX_STEPS = 100
"""Clusters of the border's colors, and steps to find them."""

_MIN_SHARE, _MAX_SHARE = 0.005, 0.98
"""Limits of the object's share of the image; beyond them nothing is detected."""


class Box(NamedTuple):
    """A rectangle of an image in pixels: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def from_sequence(cls, values: Sequence[int]) -> Box:
        """Build a box from four numbers.

        Raises:
            InputError: not four numbers.
        """
        if len(values) != len(cls._fields):
            raise InputError(
                "{box} must be x, y, width and height in pixels", box=",".join(map(str, values))
            )
        return cls(*(int(value) for value in values))

    @classmethod
    def parse(cls, text: str) -> Box:
        """Parse ``x,y,w,h``.

        Raises:
            InputError: not four whole numbers.
        """
        try:
            x, y, width, height = (int(number) for number in text.split(","))
        except ValueError:
            raise InputError(
                "{box} must be x,y,w,h in whole pixels, as in 40,20,200,180", box=text
            ) from None
        return cls(x, y, width, height)

    def crop(self, image: ImageArray) -> ImageArray:
        """Return the rectangle of an image, contiguous in memory.

        Raises:
            InputError: the box is empty, or not entirely inside the image.
        """
        height, width = image.shape[:2]
        inside = 0 <= self.x < self.x + self.width <= width
        inside &= 0 <= self.y < self.y + self.height <= height
        if not inside:
            raise InputError(
                "{box} must have a width and a height of at least 1 and lie inside the image, "
                f"which is {width}x{height} pixels",
                box=",".join(map(str, self)),
            )
        part = image[self.y : self.y + self.height, self.x : self.x + self.width]
        return np.ascontiguousarray(part)


@dataclass(frozen=True, slots=True)
class Foreground:
    """The mask of an image's main object; 1 everywhere if no object was ``detected``."""

    mask: Mask
    detected: bool

    def box(self, margin: float = 0.0) -> Box:
        """Return the bounding box of the object, enlarged on all sides within the image.

        ``margin`` is a share of the object's longer side.
        """
        rows, columns = (np.flatnonzero((self.mask > 0.5).any(axis=axis)) for axis in (1, 0))
        height, width = self.mask.shape
        if not len(rows):
            return Box(0, 0, width, height)
        pixels = round(margin * max(np.ptp(rows), np.ptp(columns)))
        left, top = max(0, int(columns[0]) - pixels), max(0, int(rows[0]) - pixels)
        right, bottom = min(width, int(columns[-1]) + pixels + 1), int(rows[-1]) + pixels + 1
        return Box(left, top, right - left, min(height, bottom) - top)


def find_foreground(image: ImageArray) -> Foreground:
    """Segment the main object of an image ``(H, W)`` or ``(H, W, 3)`` uint8.

    If the border or all four corners have one color, the background is all of that color that is
    connected to the border. Otherwise the border's colors are clustered into eight, pixels are
    split by their distance to these (Otsu 1979), and the object is the largest distant component.
    """
    small = shrink_image(to_channels(image, 3), _WORKING_SIDE).astype(np.float32)
    border = _border_pixels(small)
    color = _plain_background(small, border)
    if color is not None:
        mask = ~_connected_to_border(np.abs(small - color).max(axis=2) <= _PLAIN_TOLERANCE)
    else:
        distances = gaussian_blur(_border_distances(small, border), (2, 2))
        largest = _largest_component(distances > _otsu_threshold(distances))
        mask = ~_connected_to_border(~largest)  # holes are filled
    shape = image.shape[:2]
    if not _MIN_SHARE <= float(mask.mean()) <= _MAX_SHARE:
        return Foreground(np.ones(shape, np.float32), detected=False)
    return Foreground(_resized_mask(mask, shape), detected=True)


def _border_pixels(image: NDArray[np.float32]) -> NDArray[np.float32]:
    sides = (image[0], image[-1], image[1:-1, 0], image[1:-1, -1])
    return np.concatenate([side.reshape(-1, 3) for side in sides])


def _plain_background(
    image: NDArray[np.float32], border: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """Return the color of a plain background, or None."""
    median = np.median(border, axis=0)
    if (np.abs(border - median).max(axis=1) <= _PLAIN_TOLERANCE).mean() >= _PLAIN_SHARE:
        return np.asarray(median)
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
    if np.ptp(corners, axis=0).max() <= _PLAIN_TOLERANCE:
        return np.asarray(np.median(corners, axis=0))
    return None


def _connected_to_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask that are connected to the border within it."""
    components, _ = label_components(np.pad(mask, 1, constant_values=True))
    return np.asarray((components == components[0, 0])[1:-1, 1:-1])


def _largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    components, count = label_components(mask)
    if count == 0:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return np.asarray(components == sizes.argmax())


def _border_distances(
    image: NDArray[np.float32], border: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return each pixel's distance ``(H, W)`` to the nearest of eight colors of the border."""
    centers = _cluster_colors(border, _BORDER_COLORS)
    pixels = image.reshape(-1, 1, 3)
    nearest = np.linalg.norm(pixels - centers[None], axis=2).min(axis=1)
    return np.asarray(nearest.reshape(image.shape[:2]), np.float32)


def _cluster_colors(colors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return the means of ``count`` clusters of colors ``(n, 3)``, or of fewer, by k-means.

    Begins with colors drawn in proportion to their squared distance to those drawn before (Arthur
    and Vassilvitskii 2007).
    """
    rng = np.random.default_rng(0)
    centers = colors[rng.integers(len(colors))][None]
    while len(centers) < count:
        squares = _squared_distances(colors, centers).min(axis=1).astype(np.float64)
        if not squares.any():
            break
        drawn = rng.choice(len(colors), p=squares / squares.sum())
        centers = np.concatenate([centers, colors[drawn][None]])
    members = None
    for _ in range(_MAX_STEPS):
        nearest_center = _squared_distances(colors, centers).argmin(axis=1)
        if members is not None and (members == nearest_center).all():
            break
        members = nearest_center
        sizes = np.bincount(members, minlength=len(centers))
        sums = np.stack([np.bincount(members, plane, len(centers)) for plane in colors.T], axis=1)
        means = sums / np.maximum(sizes, 1)[:, None]
        centers = np.where(sizes[:, None] > 0, means, centers).astype(np.float32)
    return np.asarray(centers)


def _squared_distances(
    colors: NDArray[np.float32], centers: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the squared distances ``(n, count)`` of colors to centers."""
    return np.asarray(((colors[:, None] - centers[None]) ** 2).sum(axis=2))


def _otsu_threshold(values: NDArray[np.float32]) -> float:
    """Return the threshold with the largest between-class variance (Otsu 1979)."""
    counts, edges = np.histogram(values, 64)
    centers = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centers)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(centers[np.nan_to_num(variance).argmax()])


def _resized_mask(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> Mask:
    height, width = shape[:2]
    values = resize_image((mask * 255).astype(np.uint8), height, width)
    return np.asarray(values / np.float32(255), np.float32)
