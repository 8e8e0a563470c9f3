"""Synthetic queries of a collection: its images turned into street photos or drawings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lookalike.images.compositing import DEFAULT_PHOTO, cluttered_background, compose_photo
from lookalike.images.foreground import Mask, find_foreground
from lookalike.images.stylization import restyle
from lookalike.sources.sampling import thread_map
from lookalike.types import ImageArray

QUERY_DOMAINS: Mapping[str, str] = {
    "street": "photos of the item on other backgrounds, in other light, rotated, partly occluded",
    "drawn": "drawings of the item in other styles: flat colors, outlines, other palettes",
}
"""What the queries of a collection look like: name and description."""

_PHOTO = replace(DEFAULT_PHOTO, side=224, blur=(0.0, 1.0))
"""Photos at the input size of most networks."""


@dataclass(frozen=True, slots=True)
class ViewGenerator:
    """Generates views of images; each is determined by seed, view number and image index.

    ``domain`` is a name in :data:`QUERY_DOMAINS`. Without ``backgrounds``, items are put on
    cluttered backgrounds composed of the images themselves.
    """

    images: Sequence[ImageArray]
    masks: Sequence[Mask]
    backgrounds: Sequence[ImageArray]
    domain: str
    seed: int

    @classmethod
    def of(
        cls, images: Sequence[ImageArray], domain: str, seed: int, backgrounds: Sequence[ImageArray]
    ) -> ViewGenerator:
        """Segment the items in the images and return their generator."""
        masks = [foreground.mask for foreground in thread_map(find_foreground, images)]
        return cls(images, masks, backgrounds, domain, seed)

    def views(self, number: int) -> Iterator[ImageArray]:
        """Yield the view of this number of each image."""
        return thread_map(partial(self._view, number), range(len(self.images)))

    def _view(self, number: int, index: int) -> ImageArray:
        rng = np.random.default_rng([self.seed, number, index])
        image, mask = self.images[index], self.masks[index]
        if self.domain == "drawn":
            return restyle(image, rng, mask=mask)
        if self.backgrounds:
            background = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
        else:
            background = cluttered_background(self.images, self.masks, rng, side=_PHOTO.side)
        return compose_photo(image, background, rng, mask=mask, params=_PHOTO).image
