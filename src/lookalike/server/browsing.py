"""What the page needs to know about a gallery: metadata columns and the style of drawings."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from lookalike.errors import ImageError, LookalikeError
from lookalike.gallery.facets import Facet, facets
from lookalike.server.service import GalleryHandle, Service
from lookalike.server.sketch import SketchStyle, sketch_style
from lookalike.server.thumbnails import read_item_image

_SAMPLE = 32
"""Images that are read to measure the style of drawings."""

_MAX_COLUMNS = 200
"""Columns in the form; the advanced filter accepts any."""


@dataclass(slots=True)
class _Entry:
    """Cached facts of a gallery; ``columns`` is the version of its metadata."""

    columns: Any = None
    facets: tuple[Facet, ...] = ()
    rows: int = 0
    style: SketchStyle | None = None


class Browsing:
    """Facts of galleries for the page, cached."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._cache: dict[str, _Entry] = {}
        self._style_lock = asyncio.Lock()

    async def warm_up(self) -> None:
        """Compute the facts before the first request; requests report errors again."""
        with contextlib.suppress(LookalikeError):
            await self._service.check_ready()
            for handle in self._service:
                await self.facets(handle)
                await self.sketch_style(handle)

    async def facets(self, handle: GalleryHandle) -> tuple[Facet, ...]:
        """Return the columns of a gallery's metadata."""
        entry = self._cache.setdefault(handle.name, _Entry())
        columns = await self._service.in_thread(handle.gallery.store.columns)
        if entry.columns is not columns:
            described = await self._service.in_thread(facets, columns)
            entry.facets = tuple(described)[:_MAX_COLUMNS]
            entry.columns = columns
        return entry.facets

    async def sketch_style(self, handle: GalleryHandle) -> SketchStyle | None:
        """Return the style of a gallery of drawings; None for other galleries."""
        entry = self._cache.setdefault(handle.name, _Entry())
        async with self._style_lock:
            rows = await self._service.in_thread(lambda: len(handle.gallery))
            if rows and not entry.rows:
                entry.style = await self._measure_style(handle)
                entry.rows = rows
        return entry.style

    async def _measure_style(self, handle: GalleryHandle) -> SketchStyle | None:
        sample = await self._service.sample(handle, _SAMPLE, 0)
        images = []
        for uri, row_id in zip(sample.uris, sample.ids, strict=True):
            try:
                stored = await self._service.in_thread(read_item_image, uri, row_id)
                data = stored.content
                if isinstance(data, bytes):
                    data = await self._service.decoders.image(
                        data, row_id, options=stored.options, page=stored.page
                    )
            except ImageError:
                continue
            images.append(data)
            if sketch_style([data]) is None and data.ndim != 2:
                return None
        return sketch_style(images)
