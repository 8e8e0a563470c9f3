"""What counts as a near-duplicate, calibrated on altered copies of the collection's own images."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.encoders.base import Encoder
from lookalike.formatting import format_distance
from lookalike.images.decode import resize_image, to_channels
from lookalike.types import Embeddings, ImageArray, Metric
from lookalike.vectors import has_direction, unit_rows

NearestDistances = Callable[[Embeddings, int], NDArray[np.float64]]
"""Returns the Euclidean distances ``(q, k)`` of queries ``(q, dim)`` to the ``k`` nearest rows of a
collection (to all, if there are fewer); rows and queries have unit length if its metric is cosine.
"""

THUMBNAIL_SIDE = 16
"""Pixels per side of the thumbnails that are correlated."""

TARGET_RECALL = 0.95
"""The share of copies within each of the two limits."""

MIN_CONTRAST = 2.0
"""An image has content if the values of its thumbnail deviate from the mean of their channel by
more than this, of 255 (root mean square)."""

MAX_CANDIDATES = 10
"""Images within the distance limit of an image, on average, at most."""

_SEARCH_FACTOR = 20
_JPEG_QUALITY = 60
_MIN_SIDE = 48
_BRIGHTNESS = 1.1


def _recompress(image: ImageArray) -> ImageArray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    with Image.open(buffer, formats=("JPEG",)) as saved:
        return np.asarray(saved)


def _rescale(image: ImageArray) -> ImageArray:
    """Scale an image down, and up again because some encoders accept one size only."""
    height, width = image.shape[:2]
    scale = max(3 / 4, min(1, _MIN_SIDE / min(height, width)))
    return resize_image(
        resize_image(image, round(height * scale), round(width * scale)), height, width
    )


def _brighten(image: ImageArray) -> ImageArray:
    return np.asarray(np.rint(np.minimum(image * _BRIGHTNESS, 255)), np.uint8)


ALTERATIONS: Mapping[str, Callable[[ImageArray], ImageArray]] = MappingProxyType(
    {
        f"JPEG quality {_JPEG_QUALITY}": _recompress,
        f"scaled to 75 %, at least {_MIN_SIDE} pixels": _rescale,
        f"{_BRIGHTNESS - 1:.0%} brighter": _brighten,
    }
)
"""Alterations that copies typically went through, by their description."""


@dataclass(frozen=True, slots=True)
class CopyThreshold:
    """When two images count as near-duplicates: both limits must be met.

    ``distance`` is the maximum Euclidean distance of their embeddings (of unit length where the
    metric is cosine), ``correlation`` the minimum correlation of their thumbnails. Calibrated on
    ``copies`` altered copies of ``images`` images, all with content, of which the share ``recall``
    meets both.
    """

    distance: float
    correlation: float
    images: int
    copies: int
    recall: float

    def describe(self) -> str:
        """Return the limits and how they were calibrated as one line of text."""
        return (
            f"distance up to {format_distance(self.distance)} and correlation of at least "
            f"{self.correlation:.4f}; finds {self.recall:.1%} of {self.copies:,} altered copies "
            f"of {self.images:,} images ({'; '.join(ALTERATIONS)})"
        )


def calibrate_threshold(
    images: Sequence[ImageArray],
    encoder: Encoder | None,
    metric: Metric,
    nearest: NearestDistances,
    max_distance: float | None = None,
) -> CopyThreshold | None:
    """Alter copies of some images and measure how far they move.

    Each limit is met by 95 % of the copies. The distance is also limited so that, on average, no
    more than ten other images lie within it: for an encoder that places copies farther away than
    other images, recall is lower instead.

    Images and copies without content are left out, for they have no correlation, and with the
    metric cosine those with an embedding of zeros, for they have no distance.

    Args:
        images: a sample of the collection.
        encoder: of the collection; None if there is only a ``max_distance``.
        metric: of the collection.
        nearest: searches the collection.
        max_distance: replaces the calibrated distance.

    Returns:
        None if no copy can be compared with its original.

    Raises:
        ImageError: the encoder rejects an image.
    """
    images = [image for image in images if has_content(image)]
    if not images:
        return None
    per_image = len(ALTERATIONS)
    copies = [alter(image) for image in images for alter in ALTERATIONS.values()]
    correlations = np.array(
        [
            correlation(thumbnail_vector(image), thumbnail_vector(copy))
            for place, image in enumerate(images)
            for copy in copies[place * per_image : (place + 1) * per_image]
        ]
    )
    distances = np.zeros(len(copies))
    if encoder is not None:
        originals = encoder.encode_batch(list(images))
        distances = copy_distances(originals, encoder.encode_batch(copies), per_image, metric)
    defined = np.isfinite(distances) & np.isfinite(correlations)
    if not defined.any():
        return None
    distances, correlations = distances[defined], correlations[defined]
    used = defined.reshape(-1, per_image).any(axis=1)
    if max_distance is None:
        assert encoder is not None
        max_distance = min(
            float(np.quantile(distances, TARGET_RECALL)),
            _crowding_distance(originals[used], metric, nearest),
        )
    min_correlation = float(np.quantile(correlations, 1 - TARGET_RECALL))
    recall = float(((distances <= max_distance) & (correlations >= min_correlation)).mean())
    return CopyThreshold(max_distance, min_correlation, int(used.sum()), int(defined.sum()), recall)


def _crowding_distance(originals: Embeddings, metric: Metric, nearest: NearestDistances) -> float:
    """Return the distance within which the originals have ten other rows on average."""
    if metric is Metric.COSINE:
        originals = unit_rows(originals)
    distances = nearest(originals, _SEARCH_FACTOR * MAX_CANDIDATES)
    count = (MAX_CANDIDATES + 1) * len(originals)  # each original is its own neighbor
    return float(np.sort(distances, axis=None)[count]) if count < distances.size else np.inf


def copy_distances(
    originals: Embeddings, copies: Embeddings, per_image: int, metric: Metric
) -> NDArray[np.float64]:
    """Return the distance of each copy to its original, ``per_image`` copies of each in turn.

    NaN where the metric is cosine and one of the two is zero.
    """
    originals = np.repeat(originals, per_image, axis=0)
    if metric is Metric.L2:
        return np.asarray(np.linalg.norm(originals.astype(np.float64) - copies, axis=1))
    differences = unit_rows(originals).astype(np.float64) - unit_rows(copies)
    defined = has_direction(originals) & has_direction(copies)
    return np.where(defined, np.linalg.norm(differences, axis=1), np.nan)


def thumbnail_vector(image: ImageArray) -> NDArray[np.float32] | None:
    """Return the 16 x 16 color thumbnail of an image, ``(768,)`` float32, mean 0 and length 1.

    None if the image has no content: its thumbnail is nearly of one color, so that its correlation
    with another is undefined, or due to noise. Blank pages are of this kind, and even textures.
    """
    small = resize_image(to_channels(image, 3), THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    values = small.astype(np.float32)
    if (values - values.mean(axis=(0, 1))).std() <= MIN_CONTRAST:
        return None
    values = values.ravel() - values.mean()
    return np.asarray(values / np.linalg.norm(values), np.float32)


def has_content(image: ImageArray) -> bool:
    """Return whether an image shows more than nearly one color; see :func:`thumbnail_vector`."""
    return thumbnail_vector(image) is not None


def correlation(one: NDArray[np.float32] | None, other: NDArray[np.float32] | None) -> float:
    """Return the correlation of two thumbnail vectors, from -1 to 1; NaN without one of them."""
    return float("nan") if one is None or other is None else float(one @ other)
