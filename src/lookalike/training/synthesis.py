"""Views of a collection's images, as queries may show them: street photographs, drawings."""

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
    "street": "photographs of the item on other ground, in other light, turned and partly covered",
    "drawn": "drawings of the item by other hands: flat colors, outlines, other palettes",
}
"""What a collection's queries will be like, by name."""

_STREET = replace(DEFAULT_PHOTO, side=224, blur=(0.0, 1.0))
"""Street views no larger than most networks see them."""


@dataclass(frozen=True, slots=True)
class ViewGenerator:
    """Makes views of a collection's images; the same of the same seed, pass and image."""

    images: Sequence[ImageArray]
    masks: Sequence[Mask]
    backgrounds: Sequence[ImageArray]
    kind: str
    seed: int

    @classmethod
    def of(
        cls, images: Sequence[ImageArray], kind: str, seed: int, backgrounds: Sequence[ImageArray]
    ) -> ViewGenerator:
        """Find the items of the images; ``kind`` is a name in :data:`QUERY_DOMAINS`."""
        masks = [found.mask for found in thread_map(find_foreground, images)]
        return cls(images, masks, backgrounds, kind, seed)

    def views(self, number: int) -> Iterator[ImageArray]:
        """Yield a view of each image."""
        return thread_map(partial(self._view, number), range(len(self.images)))

    def _view(self, number: int, index: int) -> ImageArray:
        rng = np.random.default_rng([self.seed, number, index])
        image, mask = self.images[index], self.masks[index]
        if self.kind == "drawn":
            return restyle(image, rng, mask=mask)
        if self.backgrounds:
            ground = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
        else:
            ground = cluttered_background(self.images, self.masks, rng, side=_STREET.side)
        return compose_photo(image, ground, rng, mask=mask, params=_STREET).image
