"""The region of a query image that is searched for: a box, its main object, or many crops."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lookalike.arguments import as_flag
from lookalike.errors import InputError
from lookalike.types import ImageArray

if TYPE_CHECKING:
    from lookalike.images.foreground import Box

_CROPS = ((2 / 3, 2), (1 / 2, 3))
"""Crops of a multi-crop query: the share of each side, and crops per side."""


@dataclass(frozen=True, slots=True)
class QueryRegion:
    """The region of a query image to search for.

    Args:
        box: crop to this box first.
        foreground: crop to the main object, if one is detected.
        multi_crop: also search with 13 overlapping crops (2 x 2 of two thirds of each side, 3 x 3
            of one half); each row counts with its nearest crop. Finds small objects in cluttered
            photos.
    """

    box: Box | None = None
    foreground: bool = False
    multi_crop: bool = False

    @classmethod
    def of(
        cls, box: Sequence[int] | None, *, foreground: bool = False, multi_crop: bool = False
    ) -> QueryRegion:
        """Return the region of a box of four numbers and the other options.

        Raises:
            InputError: ``box`` is not four whole numbers.
            SettingError: another option is neither True nor False.
        """
        if box is None and foreground is False and multi_crop is False:
            return WHOLE_IMAGE
        if box is not None:
            if isinstance(box, str) or not isinstance(box, Sequence | np.ndarray):
                raise InputError("{box} must be x, y, width and height in pixels", box=box)
            try:
                from lookalike.images.foreground import Box

                box = Box.from_sequence([operator.index(value) for value in box])
            except TypeError:
                raise InputError(
                    "{box} must be x, y, width and height in whole pixels", box=list(box)
                ) from None
        return cls(box, as_flag("foreground", foreground), as_flag("multi_crop", multi_crop))

    @property
    def is_whole_image(self) -> bool:
        """Whether the query is the image as it is."""
        return self is WHOLE_IMAGE or self == WHOLE_IMAGE

    def crops(self, image: ImageArray) -> list[ImageArray]:
        """Return the crops of an image to encode; the first holds all the others."""
        region = image if self.box is None else self.box.crop(image)
        if self.foreground:
            from lookalike.images.foreground import FOREGROUND_MARGIN, find_foreground

            region = find_foreground(region).box(FOREGROUND_MARGIN).crop(region)
        if not self.multi_crop:
            return [region]
        return [region, *(box.crop(region) for box in multi_crop_boxes(region))]

    def refuse_for(self, what: str) -> None:
        """Check that there is no region, for a query that has no image to crop.

        Raises:
            InputError: a region is set; ``what`` names the query.
        """
        if not self.is_whole_image:
            raise InputError(
                f"{what} has no image to crop; remove {{box}}, {{foreground}} and {{multi_crop}}",
                box=None,
                foreground=None,
                multi_crop=None,
            )


WHOLE_IMAGE = QueryRegion()


def multi_crop_boxes(image: ImageArray) -> list[Box]:
    """Return 2 x 2 boxes of two thirds of the sides and 3 x 3 of one half."""
    from lookalike.images.foreground import Box

    height, width = image.shape[:2]
    boxes = []
    for share, count in _CROPS:
        high, wide = max(1, round(height * share)), max(1, round(width * share))
        tops, lefts = (
            [round(step * (whole - part) / (count - 1)) for step in range(count)]
            for whole, part in ((height, high), (width, wide))
        )
        boxes += [Box(left, top, wide, high) for top in tops for left in lefts]
    return boxes
