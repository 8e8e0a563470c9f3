"""How far copies of a collection's own images lie from them: what a visual duplicate is."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.encoders.base import Encoder, unit_rows
from lookalike.images import resized, with_channels
from lookalike.types import Embeddings, ImageArray, Metric

SIDE = 24
"""Pixels a side of the small version in which two images are compared point by point."""

SHARE = 0.95
"""Of the copies, so many are to be found."""

_QUALITY = 60
_MARGIN = 0.02
_BRIGHTER = 1.1


def _saved(image: ImageArray) -> ImageArray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=_QUALITY)
    with Image.open(buffer, formats=("JPEG",)) as saved:
        return np.asarray(saved)


def _scaled(image: ImageArray) -> ImageArray:
    height, width = image.shape[:2]
    small = resized(image, max(1, height * 3 // 4), max(1, width * 3 // 4))
    return resized(small, height, width)


def _trimmed(image: ImageArray) -> ImageArray:
    height, width = image.shape[:2]
    top, left = round(_MARGIN * height), round(_MARGIN * width)
    inner = image[top : height - top, left : width - left]
    return resized(np.ascontiguousarray(inner), height, width)


def _brightened(image: ImageArray) -> ImageArray:
    return np.asarray(np.rint(np.minimum(image * _BRIGHTER, 255)), np.uint8)


COPIES: Mapping[str, Callable[[ImageArray], ImageArray]] = MappingProxyType(
    {
        f"saved as JPEG of quality {_QUALITY}": _saved,
        "scaled to three quarters and back": _scaled,
        f"trimmed by {_MARGIN:.0%} at each edge": _trimmed,
        f"brightened by {_BRIGHTER - 1:.0%}": _brightened,
    }
)
"""What people and programs do to copies, by what it is called. The size stays."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """What two images are at least like if one is a copy of the other.

    ``distance`` is how far apart their embeddings are at most, in the graph's Euclidean distance;
    ``likeness`` the least correlation of their small versions; of ``images`` images of the
    collection, ``copies`` copies were made, and of these 95 % are within each.
    """

    distance: float
    likeness: float
    images: int
    copies: int

    def explained(self) -> str:
        """Return it in words."""
        if not self.copies:
            return f"distance at most {self.distance:.4g}, as given; likeness {self.likeness:.3f}"
        ways = ", ".join(COPIES)
        return (
            f"distance at most {self.distance:.4g} and likeness at least {self.likeness:.3f}: "
            f"{SHARE:.0%} of {self.copies:,} copies made of {self.images:,} of these images "
            f"({ways}) are so near"
        )


def threshold(images: Sequence[ImageArray], encoder: Encoder, metric: Metric) -> Threshold:
    """Make copies of some images and see how far off they come.

    Raises:
        ImageError: the encoder refuses one.
    """
    copies = [copy(image) for image in images for copy in COPIES.values()]
    apart = distances(encoder.encode(list(images)), encoder.encode(copies), len(COPIES), metric)
    alike = [
        likeness(small(image), small(copies[place * len(COPIES) + way]))
        for place, image in enumerate(images)
        for way in range(len(COPIES))
    ]
    return Threshold(
        distance=float(np.quantile(apart, SHARE)),
        likeness=float(np.quantile(alike, 1 - SHARE)),
        images=len(images),
        copies=len(copies),
    )


def distances(
    originals: Embeddings, copies: Embeddings, each: int, metric: Metric
) -> NDArray[np.float64]:
    """Return how far each copy lies from its original, ``each`` of them for one."""
    if metric is Metric.COSINE:
        originals, copies = unit_rows(originals), unit_rows(copies)
    apart = np.repeat(originals.astype(np.float64), each, axis=0) - copies
    return np.asarray(np.linalg.norm(apart, axis=1))


def small(image: ImageArray) -> NDArray[np.float32]:
    """Return an image's small version in colour, ``(24 * 24 * 3,)``, of mean 0 and length 1.

    Of an image in which nothing is to be seen, all are 0.
    """
    values = resized(with_channels(image, 3), SIDE, SIDE).astype(np.float32).ravel()
    values -= values.mean()
    length = float(np.linalg.norm(values))
    return values / length if length > len(values) ** 0.5 else np.zeros_like(values)


def likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the correlation of two small versions, from -1 to 1."""
    return float(one @ other)
