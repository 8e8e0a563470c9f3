"""What a person browsing a gallery is shown: its columns, some of its images, paper to draw on."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from lookalike.errors import ImageError, LookalikeError
from lookalike.gallery.facets import Facet, facets
from lookalike.server.service import GalleryHandle, Service
from lookalike.server.sketch import Paper, paper_of
from lookalike.server.thumbnails import read

_LOOKED_AT = 32
_LISTED = 200
"""Columns that are shown at most; the rest can still be filtered by."""


@dataclass(slots=True)
class _Known:
    """What was found out about a gallery, and from which of its metadata."""

    columns: Any = None
    facets: tuple[Facet, ...] = ()
    rows: int = 0
    paper: Paper | None = None


class Browsing:
    """Looks at galleries for the page, and remembers what it saw."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: dict[str, _Known] = {}
        self._looking = asyncio.Lock()

    async def warm(self) -> None:
        """Read what first requests would wait for; what is wrong they will be told."""
        with contextlib.suppress(LookalikeError):
            await self._service.check_ready()
            for served in self._service:
                await self.facets(served)
                await self.paper(served)

    async def facets(self, served: GalleryHandle) -> tuple[Facet, ...]:
        """Return the columns of a gallery's metadata."""
        known = self._known.setdefault(served.name, _Known())
        columns = await self._service.thread(served.gallery.store.columns)
        if known.columns is not columns:
            known.facets = tuple(await self._service.thread(facets, columns))[:_LISTED]
            known.columns = columns
        return known.facets

    async def paper(self, served: GalleryHandle) -> Paper | None:
        """Return what drawings for a gallery are like; None if its images are no such."""
        known = self._known.setdefault(served.name, _Known())
        async with self._looking:
            rows = await self._service.thread(lambda: len(served.gallery))
            if rows and not known.rows:
                known.paper = await self._look(served)
                known.rows = rows
        return known.paper

    async def _look(self, served: GalleryHandle) -> Paper | None:
        sample = await self._service.sample(served, _LOOKED_AT, 0)
        found = []
        for uri, row_id in zip(sample.uris, sample.ids, strict=True):
            try:
                data = await self._service.thread(read, uri, row_id)
                if isinstance(data, bytes):
                    data = await self._service.decoders.image(data, row_id)
            except ImageError:
                continue
            found.append(data)
            if paper_of([data]) is None and data.ndim != 2:
                return None
        return paper_of(found)
