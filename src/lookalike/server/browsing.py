"""What the page needs to know about a gallery: metadata columns and the style of drawings."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from lookalike.errors import FetchError, ImageError, LookalikeError
from lookalike.filters.facets import Facet
from lookalike.gallery.state import GalleryState
from lookalike.server.decoder_pool import Priority
from lookalike.server.handles import OpenGallery
from lookalike.server.service import Service
from lookalike.server.sketch import MAX_SIDE, SketchStyle, sketch_style

_SAMPLE = 32
"""Images that are read to measure the style of drawings."""

_COVERS = 4

_MAX_COLUMNS = 200
"""Columns in the form; the advanced filter accepts any."""


@dataclass(slots=True)
class _Entry:
    """Cached facts of a gallery in one state."""

    state: GalleryState
    facets: tuple[Facet, ...] | None = None
    style: SketchStyle | None = None
    covers: tuple[str, ...] | None = None
    style_is_measured: bool = False


class Browsing:
    """Facts of galleries for the page, cached."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._cache: dict[str, _Entry] = {}
        self._style_lock = asyncio.Lock()

    async def warm_up(self) -> None:
        """Compute the facts before the first request; requests report errors again."""
        await self._service.readiness.check()
        for handle in self._service:
            with contextlib.suppress(LookalikeError):
                opened = await self._service.open(handle)
                await self.facets(opened)
                await self.sketch_style(opened)

    def _entry(self, opened: OpenGallery) -> _Entry:
        """Return the cached facts of a gallery, empty if it is in another state than they are."""
        entry = self._cache.get(opened.name)
        if entry is None or entry.state != opened.state:
            entry = self._cache[opened.name] = _Entry(opened.state)
        return entry

    async def facets(self, opened: OpenGallery) -> tuple[Facet, ...]:
        """Return the columns of a gallery's metadata."""
        entry = self._entry(opened)
        if entry.facets is None:
            described = await self._service.read(
                opened, lambda each: each.store.facets(), long=True
            )
            entry.facets = tuple(described)[:_MAX_COLUMNS]
        return entry.facets

    async def covers(self, opened: OpenGallery) -> tuple[str, ...]:
        """Return the ids of some images that stand for a gallery in a list of them."""
        entry = self._entry(opened)
        if entry.covers is None:
            entry.covers = tuple((await self._service.sample(opened, _COVERS, 0)).ids)
        return entry.covers

    async def sketch_style(self, opened: OpenGallery) -> SketchStyle | None:
        """Return the style of a gallery of drawings; None for other galleries."""
        entry = self._entry(opened)
        async with self._style_lock:
            if not entry.style_is_measured:
                entry.style = await self._measure_style(opened)
                entry.style_is_measured = True
        return entry.style

    async def _measure_style(self, opened: OpenGallery) -> SketchStyle | None:
        sample = await self._service.sample(opened, _SAMPLE, 0)
        images = []
        for place in range(len(sample)):
            row = sample.take([place])
            try:
                image = await self._service.item_images.image(
                    opened.gallery, row, side=2 * MAX_SIDE, priority=Priority.BATCH
                )
            except (ImageError, FetchError):
                continue
            images.append(image)
            if sketch_style([image]) is None and image.ndim != 2:
                return None
        return sketch_style(images)
