"""Synthetic queries: street photos composed from a gallery's images, each to find its original.

They measure retrieval from street photos to shop images without labels, judgements or customers'
photographs, as far as :mod:`lookalike.images.compositing` imitates such photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from lookalike.errors import ImageError, InputError
from lookalike.evaluation.relevance import ColumnRelevance, RelevanceCriterion
from lookalike.explore.copy_threshold import has_content
from lookalike.gallery.gallery import Gallery
from lookalike.images.compositing import cluttered_background, compose_photo
from lookalike.images.decode import shrink_image
from lookalike.images.foreground import find_foreground
from lookalike.sources import Item, ItemSource
from lookalike.sources.inputs import SourceLike, as_source
from lookalike.sources.sampling import sample_images
from lookalike.types import ImageArray, ProgressCallback, ignore_progress

CONTENT = "content"
QUERIES = 500
_SIDE = 512
_BACKGROUNDS, _BACKGROUND_SIDE = 200, 480


def make_synthetic_queries(
    gallery: Gallery,
    backgrounds: SourceLike | None = None,
    *,
    queries: int = QUERIES,
    seed: int = 1,
    on_progress: ProgressCallback = ignore_progress,
) -> tuple[ItemSource, ColumnRelevance]:
    """Return synthetic queries of distinct images, and their relevance.

    The original is relevant, and so are rows with the same content. A query of an image that is
    blank or nearly of one color raises an ImageError when it is read.

    Args:
        gallery: with at least two distinct images.
        backgrounds: photographs to put items on; by default, collages of the gallery's items.
        queries: maximum number of queries.
        seed: of the sample and of the compositions; differs from the default of adapting, so that
            its training views do not recur.
        on_progress: called while backgrounds are listed.

    Raises:
        InputError: fewer than two distinct images.
        SourceError: no image can be read.
    """
    gallery = gallery.snapshot()
    groups: dict[str, set[str]] = {}
    rows: dict[str, str] = {}
    for record in gallery.store.records():
        content = record.content_hash or record.id
        groups.setdefault(content, set()).add(record.id)
        rows.setdefault(content, record.id)
    if len(rows) < 2:
        raise InputError(
            f"{gallery.path}: synthetic queries need at least 2 distinct images, the gallery has "
            f"{len(rows)}; index more images"
        )
    contents = list(rows)
    drawn = sorted(np.random.default_rng(seed).permutation(len(contents))[:queries].tolist())
    originals = gallery.store.get([rows[contents[number]] for number in drawn])
    items = gallery.open_rows(originals.records())
    compose = _Composer(_open_backgrounds(gallery, backgrounds, on_progress), seed)
    composed = [
        replace(
            item,
            id=f"street:{number}",
            metadata={CONTENT: contents[number]},
            read=partial(compose, item, number),
        )
        for number, item in zip(drawn, items, strict=True)
    ]
    ids = {content: frozenset(group) for content, group in groups.items()}
    source = ItemSource("street", f"synthetic queries from {gallery.path}", composed)
    return source, ColumnRelevance(RelevanceCriterion(CONTENT, labeled=False), ids)


class _Composer:
    """Composes street views and caches them, 300 kB each: queries are read several times."""

    def __init__(self, backgrounds: Sequence[ImageArray], seed: int) -> None:
        self._backgrounds = backgrounds
        self._seed = seed
        self._cache: dict[int, ImageArray] = {}

    def __call__(self, item: Item, number: int) -> ImageArray:
        if number not in self._cache:
            self._cache[number] = self._compose(item, number)
        return self._cache[number]

    def _compose(self, item: Item, number: int) -> ImageArray:
        rng = np.random.default_rng([self._seed, number])
        background = self._backgrounds[int(rng.integers(len(self._backgrounds)))]
        image = shrink_image(item.image(), _SIDE)
        if not has_content(image):
            raise ImageError(f"{item.uri}: has no content, it is blank or nearly of one color")
        return compose_photo(image, background, rng).image


def _open_backgrounds(
    gallery: Gallery, backgrounds: SourceLike | None, on_progress: ProgressCallback
) -> list[ImageArray]:
    if backgrounds is not None:
        source = as_source(backgrounds, on_progress, argument="backgrounds")
        return sample_images(source, _BACKGROUNDS, _BACKGROUND_SIDE)
    images = sample_images(gallery.items(), _BACKGROUNDS)
    masks = [find_foreground(image).mask for image in images]
    rng = np.random.default_rng(len(images))
    return [cluttered_background(images, masks, rng) for _ in range(_BACKGROUNDS // 2)]
