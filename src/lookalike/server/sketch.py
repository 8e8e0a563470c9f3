"""Galleries of small gray images, which a drawing can be a query for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lookalike.types import ImageArray

LARGEST_SIDE = 64


@dataclass(frozen=True, slots=True)
class Paper:
    """What a drawing must be like to look like the images of a gallery.

    ``side`` is theirs in pixels, ``ground`` their gray, 0 to 255, where nothing is drawn, ``pen``
    where something is. ``share`` is how much of the side the drawn part takes, and ``stroke`` how
    thick its lines are, in pixels.
    """

    side: int
    ground: int
    pen: int
    share: float
    stroke: float


def paper_of(images: Sequence[ImageArray]) -> Paper | None:
    """Return what drawings for these images are like; None if they are not small and gray."""
    if not images or any(i.ndim != 2 or max(i.shape) > LARGEST_SIDE for i in images):
        return None
    border = np.concatenate([_border(image) for image in images])
    ground = int(np.median(border))
    if np.mean(np.abs(border.astype(int) - ground) < _NEAR) < _EVEN:
        return None
    drawn = [np.abs(image.astype(int) - ground) > _NEAR for image in images]
    drawn = [mask for mask in drawn if mask.any()]
    if not drawn:
        return None
    return Paper(
        side=int(np.median([max(image.shape) for image in images])),
        ground=ground,
        pen=255 if ground < _MIDDLE else 0,
        share=float(np.median([_share(mask) for mask in drawn])),
        stroke=float(np.median([_stroke(mask) for mask in drawn])),
    )


_NEAR = 48
_EVEN = 0.8
"""At least this share of the border is ground, or the images are no drawings."""
_MIDDLE = 128


def _border(image: ImageArray) -> ImageArray:
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def _share(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return max(int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1) / max(mask.shape)


def _stroke(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
    """Return about how thick lines are: twice their area by the length of their outline."""
    inside = mask.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inside &= np.roll(mask, step, axis)
    return 2 * float(mask.sum()) / max(1.0, float((mask & ~inside).sum()))
