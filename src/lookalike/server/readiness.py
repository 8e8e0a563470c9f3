"""Readiness of a service: each gallery is searched, and a row of it is read."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lookalike.errors import ImageError, LookalikeError, UnreachableError
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.state import GalleryState
from lookalike.search.query import QueryVectors
from lookalike.search.request import Query, SearchRequest
from lookalike.search.search import search_rows
from lookalike.server.handles import GalleryHandle, OpenGallery
from lookalike.server.metrics import Metrics
from lookalike.server.workers import Workers
from lookalike.types import ImageArray

_VALID_SECONDS = 2.0
"""How long a successful check is reused."""

_PROBE_SECONDS = 10.0
"""Time for the check of one gallery."""


@dataclass(frozen=True, slots=True)
class _Success:
    state: GalleryState
    valid_until: float


class Readiness:
    """Checks galleries, each once at a time."""

    def __init__(
        self, handles: Iterable[GalleryHandle], workers: Workers, metrics: Metrics
    ) -> None:
        self._handles = tuple(handles)
        self._workers = workers
        self._metrics = metrics
        self._successes: dict[str, _Success] = {}
        self._checking = asyncio.Lock()

    async def check(self) -> dict[str, LookalikeError | None]:
        """Return what is wrong with each gallery, None if it can be searched.

        A success is reused for two seconds, as long as the gallery is in the same state.
        """
        async with self._checking:
            errors = await asyncio.gather(*(self._check(handle) for handle in self._handles))
        return {handle.name: error for handle, error in zip(self._handles, errors, strict=True)}

    async def _check(self, handle: GalleryHandle) -> LookalikeError | None:
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                opened = await self._workers.opening.run(handle.open)
                last = self._successes.get(handle.name)
                fresh = last is not None and time.monotonic() < last.valid_until
                if not (fresh and last is not None and last.state == opened.state):
                    await self._probe(opened)
                    until = time.monotonic() + _VALID_SECONDS
                    self._successes[handle.name] = _Success(opened.state, until)
        except LookalikeError as error:
            self._metrics.ready.labels(handle.name).set(0)
            return error
        except TimeoutError:
            self._metrics.ready.labels(handle.name).set(0)
            return UnreachableError(
                f"{handle.name}: no answer within {_PROBE_SECONDS:g} s to a search"
            )
        self._metrics.ready.labels(handle.name).set(1)
        return None

    async def _probe(self, opened: OpenGallery) -> None:
        """Search a gallery with a blank image, and read the row of the first hit."""
        blank = np.full((64, 64, 3), 255, np.uint8)
        embedding = np.zeros((1, opened.gallery.store.dim), np.float32)
        if opened.batcher.encoder.is_available:  # others are searched by vector and id
            with contextlib.suppress(ImageError):  # it works, but only for images of one size
                embedding = await opened.batcher.encode([blank])
        rows = await self._workers.short.run(
            _search_and_read, opened.gallery, QueryVectors("readiness probe", None, embedding)
        )
        self._metrics.rows.labels(opened.name).set(rows)


def _search_and_read(gallery: Gallery, vectors: QueryVectors) -> int:
    """Return the number of rows, after a search and reading a row."""
    example = Query.of(vector=vectors.embeddings[0])
    request = SearchRequest(queries=(example,), k=1, metric=gallery.metric)
    [hits] = search_rows(request, gallery.store, [vectors], _no_images)
    for hit in hits:
        gallery.store.get([hit.id])
    return len(gallery)


def _no_images(_: object) -> list[ImageArray | None]:
    raise AssertionError("a search without re-ranking reads no images")
