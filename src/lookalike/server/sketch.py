"""The style of drawings in a gallery of small grayscale images, for the drawing pad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.types import ImageArray

MAX_SIDE = 64
"""Galleries of larger images have no drawing pad."""


@dataclass(frozen=True, slots=True)
class SketchStyle:
    """How a drawing must look to be comparable with the images of a gallery.

    Attributes:
        side: width and height, in pixels.
        background: gray value of the background, 0 to 255.
        ink: gray value of the strokes, 0 to 255.
        extent: larger side of the drawn area, as a share of ``side``.
        stroke_width: width of the strokes, in pixels.
    """

    side: int
    background: int
    ink: int
    extent: float
    stroke_width: float


def sketch_style(images: Sequence[ImageArray]) -> SketchStyle | None:
    """Measure the drawing style of images; None unless they are small grayscale drawings."""
    if not images or any(i.ndim != 2 or max(i.shape) > MAX_SIDE for i in images):
        return None
    border = np.concatenate([_border(image) for image in images])
    background = int(np.median(border))
    if np.mean(np.abs(border.astype(int) - background) < _TOLERANCE) < _MIN_BACKGROUND:
        return None
    masks = [np.abs(image.astype(int) - background) > _TOLERANCE for image in images]
    masks = [mask for mask in masks if mask.any()]
    if not masks:
        return None
    return SketchStyle(
        side=int(np.median([max(image.shape) for image in images])),
        background=background,
        ink=255 if background < _MIDDLE_GRAY else 0,
        extent=float(np.median([_extent(mask) for mask in masks])),
        stroke_width=float(np.median([_stroke_width(mask) for mask in masks])),
    )


_TOLERANCE = 48
"""Gray values this close to the background belong to it."""
_MIN_BACKGROUND = 0.8
"""Share of border pixels that must be background, or the images are not drawings."""
_MIDDLE_GRAY = 128


def _border(image: ImageArray) -> ImageArray:
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def _extent(mask: NDArray[np.bool_]) -> float:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    sides = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    return max(sides) / float(max(mask.shape))


def _stroke_width(mask: NDArray[np.bool_]) -> float:
    """Estimate the width of lines as twice their area divided by the length of their outline."""
    inside = mask.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inside &= np.roll(mask, step, axis)
    return 2 * float(mask.sum()) / max(1.0, float((mask & ~inside).sum()))
