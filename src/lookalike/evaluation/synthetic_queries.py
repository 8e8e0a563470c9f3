"""Queries made of a gallery's own images: an item in a street view is to find itself.

So a gallery without labels, judgements or photographs of customers can be judged on how well it
bridges the gap between shop and street, as far as :mod:`lookalike.images.compositing` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from lookalike.errors import InputError
from lookalike.evaluation.relevance import RelevanceCriterion, ColumnRelevance
from lookalike.gallery.gallery import Gallery
from lookalike.images.compositing import collage, street_view
from lookalike.images.decode import within
from lookalike.images.foreground import foreground
from lookalike.sources import Item, ItemSource, Source, open_items, open_source
from lookalike.sources.sampling import sample_images
from lookalike.types import ImageArray, ProgressCallback, ignore_progress

CONTENT = "content"
QUERIES = 500
_SIDE = 512
_GROUNDS, _GROUND_SIDE = 200, 480


def make_synthetic_queries(
    gallery: Gallery,
    backgrounds: str | Path | Source | None = None,
    *,
    queries: int = QUERIES,
    seed: int = 1,
    on_progress: ProgressCallback = ignore_progress,
) -> tuple[ItemSource, ColumnRelevance]:
    """Return street views of at most so many distinct images, and what is right for each.

    Rows with the same content as the original are right too.

    Args:
        gallery: at least two rows.
        backgrounds: photographs to put items on; collages of the gallery's items unless given.
        queries: as many distinct images are drawn.
        seed: of the draw and the views; not that of adapting, whose views must not come again.
        on_progress: told of the grounds' listing.

    Raises:
        InputError: fewer than two distinct images.
        SourceError: not one image can be read.
    """
    groups: dict[str, set[str]] = {}
    first: dict[str, str] = {}
    for record in gallery.store.records():
        content = record.content_hash or record.id
        groups.setdefault(content, set()).add(record.id)
        first.setdefault(content, record.uri)
    if len(first) < 2:
        raise InputError(
            f"{gallery.path}: judging by street views needs at least 2 distinct images, one alone "
            f"is always found; here are {len(first)}: index more images"
        )
    contents = list(first)
    drawn = sorted(np.random.default_rng(seed).permutation(len(contents))[:queries].tolist())
    items = open_items([first[contents[number]] for number in drawn])
    view = _Views(_grounds(gallery, backgrounds, on_progress), seed)
    asked = [
        replace(
            item,
            id=f"street:{number}",
            metadata={CONTENT: contents[number]},
            read=partial(view, item, number),
        )
        for number, item in zip(drawn, items, strict=True)
    ]
    right = {content: frozenset(ids) for content, ids in groups.items()}
    source = ItemSource("street", f"street views of {gallery.path}", asked)
    return source, ColumnRelevance(RelevanceCriterion(CONTENT, labeled=False), right)


class _Views:
    """Makes an item's street view and keeps it, 300 kB each: queries are read several times."""

    def __init__(self, backgrounds: Sequence[ImageArray], seed: int) -> None:
        self._grounds = backgrounds
        self._seed = seed
        self._made: dict[int, ImageArray] = {}

    def __call__(self, item: Item, number: int) -> ImageArray:
        if number not in self._made:
            self._made[number] = self._make(item, number)
        return self._made[number]

    def _make(self, item: Item, number: int) -> ImageArray:
        rng = np.random.default_rng([self._seed, number])
        ground = self._grounds[int(rng.integers(len(self._grounds)))]
        return street_view(within(item.image(), _SIDE), ground, rng).image


def _grounds(
    gallery: Gallery, backgrounds: str | Path | Source | None, on_progress: ProgressCallback
) -> list[ImageArray]:
    if backgrounds is not None:
        opened = (
            open_source(backgrounds, on_progress)
            if isinstance(backgrounds, str | Path)
            else backgrounds
        )
        return sample_images(opened, _GROUNDS, _GROUND_SIDE)
    images = sample_images(gallery.items(), _GROUNDS)
    masks = [foreground(image).mask for image in images]
    rng = np.random.default_rng(len(images))
    return [collage(images, masks, rng) for _ in range(_GROUNDS // 2)]
