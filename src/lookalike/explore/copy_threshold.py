"""How far copies of a collection's own images lie from them: what a visual duplicate is."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.encoders.base import Encoder
from lookalike.images.decode import resized, with_channels
from lookalike.stores.exact import ExactIndex
from lookalike.types import Embeddings, ImageArray, Metric, format_distance
from lookalike.vectors import unit_rows

SIDE = 16
"""Pixels a side of the small version in which two images are compared point by point."""

SHARE = 0.95
"""Of the copies, so many are to be within each limit."""

CROWD = 10
"""An image is compared with no more others than this, on average."""

_DEPTH = 20
_QUALITY = 60
_LEAST = 48
_BRIGHTER = 1.1


def _saved(image: ImageArray) -> ImageArray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=_QUALITY)
    with Image.open(buffer, formats=("JPEG",)) as saved:
        return np.asarray(saved)


def _scaled(image: ImageArray) -> ImageArray:
    """Make an image smaller, and as large as before, since some encoders take one size only."""
    height, width = image.shape[:2]
    scale = max(3 / 4, min(1, _LEAST / min(height, width)))
    return resized(resized(image, round(height * scale), round(width * scale)), height, width)


def _brightened(image: ImageArray) -> ImageArray:
    return np.asarray(np.rint(np.minimum(image * _BRIGHTER, 255)), np.uint8)


COPIES: Mapping[str, Callable[[ImageArray], ImageArray]] = MappingProxyType(
    {
        f"saved as JPEG of quality {_QUALITY}": _saved,
        f"scaled to three quarters, where that leaves {_LEAST} pixels": _scaled,
        f"brightened by {_BRIGHTER - 1:.0%}": _brightened,
    }
)
"""What people and programs do to copies, by what it is called."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """What two images are at least like if one is a copy of the other.

    ``distance`` is how far apart their embeddings are at most, Euclidean, of unit length where the
    metric is cosine; ``likeness`` the least correlation of their small versions. ``copies`` of
    ``images`` images of the collection were made, and ``found`` is the share of them within both.
    """

    distance: float
    likeness: float
    images: int
    copies: int
    found: float

    def explained(self) -> str:
        """Return it in words."""
        return (
            f"distance at most {format_distance(self.distance)} and likeness at least "
            f"{self.likeness:.4f}: {self.found:.1%} of {self.copies:,} copies made of "
            f"{self.images:,} of these images ({'; '.join(COPIES)}) are so near"
        )


def threshold(
    images: Sequence[ImageArray],
    encoder: Encoder,
    embeddings: Embeddings,
    metric: Metric,
    within: float | None = None,
) -> Threshold:
    """Make copies of some images and see how far off they come.

    The distance is that of 95 % of them, but no more than one within which an image has 10 others
    on average: where an encoder puts copies further off than other images, fewer are found. The
    likeness is that of 95 % of them.

    Args:
        images: some of the collection.
        encoder: of the collection.
        embeddings: ``(n, dim)`` of the collection, of unit length where the metric is cosine.
        metric: of the collection.
        within: the distance, given.

    Raises:
        ImageError: the encoder refuses one.
    """
    ways = len(COPIES)
    copies = [copy(image) for image in images for copy in COPIES.values()]
    originals = encoder.encode(list(images))
    apart = distances(originals, encoder.encode(copies), ways, metric)
    alike = np.array(
        [
            likeness(small(image), small(copies[place * ways + way]))
            for place, image in enumerate(images)
            for way in range(ways)
        ]
    )
    if within is None:
        within = float(np.quantile(apart, SHARE))
        within = min(within, _crowded(originals, embeddings, metric))
    least = float(np.quantile(alike, 1 - SHARE))
    found = float(((apart <= within) & (alike >= least)).mean())
    return Threshold(within, least, len(images), len(copies), found)


def _crowded(originals: Embeddings, embeddings: Embeddings, metric: Metric) -> float:
    """Return the distance within which the originals have 10 other rows on average."""
    if metric is Metric.COSINE:
        originals = unit_rows(originals)
    found = ExactIndex(embeddings).search(originals, _DEPTH * CROWD, Metric.L2).distances
    count = (CROWD + 1) * len(originals)  # each is a neighbor of itself
    return float(np.sort(found, axis=None)[count]) if count < found.size else np.inf


def distances(
    originals: Embeddings, copies: Embeddings, each: int, metric: Metric
) -> NDArray[np.float64]:
    """Return how far each copy lies from its original, ``each`` of them for one."""
    if metric is Metric.COSINE:
        originals, copies = unit_rows(originals), unit_rows(copies)
    apart = np.repeat(originals.astype(np.float64), each, axis=0) - copies
    return np.asarray(np.linalg.norm(apart, axis=1))


def small(image: ImageArray) -> NDArray[np.float32]:
    """Return an image's small version in color, ``(16 * 16 * 3,)``, of mean 0 and length 1.

    Of an image in which nothing is to be seen, all are 0.
    """
    values = resized(with_channels(image, 3), SIDE, SIDE).astype(np.float32).ravel()
    values -= values.mean()
    length = float(np.linalg.norm(values))
    return values / length if length > len(values) ** 0.5 else np.zeros_like(values)


def likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the correlation of two small versions, from -1 to 1."""
    return float(one @ other)
