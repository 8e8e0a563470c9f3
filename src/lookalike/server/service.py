"""The galleries of a service: from a query to its hits, for many requests at a time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np

from lookalike.config import settings as machine
from lookalike.errors import ImageError, InputError, LookalikeError, UnreachableError
from lookalike.gallery import uploads
from lookalike.gallery.gallery import Gallery
from lookalike.search.query import QueryRegion, QueryVectors, encode_text, read_images
from lookalike.search.search import SearchOptions
from lookalike.server.batching import Batcher
from lookalike.server.decoder_pool import DecoderPool
from lookalike.server.metrics import Metrics, Stages
from lookalike.server.problems import ProblemError, too_many_requests
from lookalike.server.settings import ServeSettings
from lookalike.server.thumbnails import ItemImages, read_item_image
from lookalike.server.url_fetch import FetchOptions, fetch
from lookalike.stores.base import Rows
from lookalike.types import Embeddings, Hits, ImageArray, Metadata

T = TypeVar("T")

_READY_SECONDS = 2.0
"""How long a successful readiness check is reused."""

_OPTIMIZE_EVERY = 64
"""Writes between optimizations of the store."""

_BATCH_CONCURRENCY = 4
"""Queries of one batch that run at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """A query: the bytes of an image file, the id of an item, a text, or the URL of an image.

    Exactly one is set, or none for a search by keywords alone.
    """

    image: bytes | None = None
    id: str | None = None
    text: str | None = None
    url: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is neither image, id, text nor URL."""
        return (self.image, self.id, self.text, self.url) == (None,) * 4

    def validate(self, search: SearchOptions) -> None:
        """Check that there is exactly one query, or none for a search by keywords.

        Raises:
            InputError: there are several, or none.
        """
        if self.is_empty and search.keywords is not None:
            return
        values = (self.image, self.id, self.text, self.url)
        if sum(value is not None for value in values) != 1:
            raise InputError("a search needs exactly one of image, id, text and url, or keywords")


class GalleryHandle:
    """A gallery with its name in the service, its batched encoder and its write lock."""

    def __init__(self, name: str, gallery: Gallery, threads: int) -> None:
        self.name = name
        self.gallery = gallery
        self.batcher = Batcher(gallery.encoder, threads)
        self.write_lock = asyncio.Lock()
        self.writes = 0


class Service:
    """Searches and updates galleries. Use as ``async with``.

    Images are decoded in processes and encoded in batches by threads of each gallery; searches
    share one thread pool. More than ``limits.concurrent_requests`` requests at a time are refused.
    """

    def __init__(
        self, galleries: Mapping[str, Gallery], settings: ServeSettings, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        limits, threads = settings.limits, machine().threads
        self.decoders = DecoderPool(
            threads, seconds=limits.decode_seconds, memory=limits.decode_memory
        )
        self._handles = {
            name: GalleryHandle(name, gallery, threads) for name, gallery in galleries.items()
        }
        remote = any(gallery.address is not None for gallery in galleries.values())
        # Threads that wait for a remote store need no core.
        pool_size = limits.concurrent_requests if remote else 2 * threads
        self._threads = ThreadPoolExecutor(pool_size, thread_name_prefix="lookalike-search")
        self._in_progress = 0
        self.item_images = ItemImages(self.decoders, self.in_thread)
        self._ready_until = 0.0
        metrics.restarts.set_function(lambda: self.decoders.restarts)

    async def __aenter__(self) -> Self:
        await self.decoders.__aenter__()
        for handle in self:
            await self._count_rows(handle)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.decoders.__aexit__()
        for handle in self:
            await asyncio.to_thread(handle.batcher.close)
        self._threads.shutdown()

    def __iter__(self) -> Iterator[GalleryHandle]:
        return iter(self._handles.values())

    @property
    def in_progress(self) -> int:
        """Requests being processed or queued."""
        return self._in_progress

    def handle(self, name: str) -> GalleryHandle:
        """Return a gallery by its name in the service.

        Raises:
            ProblemError: there is no gallery of that name.
        """
        if name in self._handles:
            return self._handles[name]
        available = ", ".join(self._handles)
        raise ProblemError(404, "gallery-not-found", "Gallery not found", f"available: {available}")

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run blocking work in the thread pool."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(work, *arguments)
        )

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Occupy one of the slots for concurrent requests.

        Raises:
            ProblemError: all slots are occupied.
        """
        if self._in_progress >= self.settings.limits.concurrent_requests:
            raise too_many_requests(f"{self._in_progress} requests are in progress")
        self._in_progress += 1
        self.metrics.requests_in_progress.set(self._in_progress)
        try:
            yield
        finally:
            self._in_progress -= 1
            self.metrics.requests_in_progress.set(self._in_progress)

    async def search(
        self,
        handle: GalleryHandle,
        query: SearchQuery,
        region: QueryRegion,
        search: SearchOptions,
        stages: Stages,
    ) -> Hits:
        """Run one query.

        Raises:
            LookalikeError: the query or its options are invalid.
            ProblemError: the service is at its limits, or does not fetch URLs.
        """
        query.validate(search)
        async with self.slot():
            return await self._search(handle, query, region, search, stages)

    async def search_all(
        self,
        handle: GalleryHandle,
        queries: list[SearchQuery],
        region: QueryRegion,
        search: SearchOptions,
        stages: Stages,
    ) -> list[Hits | LookalikeError]:
        """Run several queries and return their results in order; an invalid query's is its error.

        Raises:
            ProblemError: the service is at its limits, or does not fetch URLs.
            UnreachableError: the vector store does not respond.
        """
        semaphore = asyncio.Semaphore(_BATCH_CONCURRENCY)

        async def run(query: SearchQuery) -> Hits | LookalikeError:
            async with semaphore:
                try:
                    query.validate(search)
                    return await self._search(handle, query, region, search, stages)
                except UnreachableError:
                    raise
                except LookalikeError as error:
                    return error

        async with self.slot():
            tasks = [asyncio.create_task(run(query)) for query in queries]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()  # or each would wait for an unavailable store

    async def _search(
        self,
        handle: GalleryHandle,
        query: SearchQuery,
        region: QueryRegion,
        search: SearchOptions,
        stages: Stages,
    ) -> Hits:
        store = handle.gallery.store
        if query.is_empty:
            vectors = region.without_image(str(search.keywords), store.dim)
        else:
            vectors = await self._encode(handle, query, region, search.needs_image, stages)
        hits = await self.in_thread(search.run, store, vectors, read_images, stages)
        return Hits(vectors.name, search.metric, hits, vectors.uri)

    async def _encode(
        self,
        handle: GalleryHandle,
        query: SearchQuery,
        region: QueryRegion,
        needs_image: bool,
        stages: Stages,
    ) -> QueryVectors:
        """Return the embeddings of a query, and its image where it has one."""
        if query.text is not None:
            with stages("encode"):
                return await self.in_thread(region.encode_text, query.text, handle.gallery.encoder)
        if query.id is not None:
            return await self._encode_item(handle, query.id, region, needs_image, stages)
        if query.url is not None:
            data, name = await self._fetch(query.url, stages), query.url
        else:
            assert query.image is not None
            data, name = query.image, "the image"
        with stages("decode"):
            image = await self.decoders.image(data, name, region.box)
        crops = await self._crops(image, region)
        embeddings = await _encode_crops(handle, crops, name, stages)
        return QueryVectors(name, None, embeddings, None, crops[0])

    async def _encode_item(
        self,
        handle: GalleryHandle,
        row_id: str,
        region: QueryRegion,
        needs_image: bool,
        stages: Stages,
    ) -> QueryVectors:
        """Use an item as the query: its stored embedding unless a part of its image is searched."""
        row = await self.row(handle, row_id)
        uri, embeddings = row.uris[0], row.embeddings
        if region == QueryRegion() and not needs_image:
            return QueryVectors(row_id, uri, embeddings, row_id)
        stored = await self.in_thread(read_item_image, uri, row_id)
        with stages("decode"):
            if isinstance(stored.content, bytes):
                image = await self.decoders.image(
                    stored.content, row_id, region.box, options=stored.options, page=stored.page
                )
            else:
                image = stored.content if region.box is None else region.box.crop(stored.content)
        crops = await self._crops(image, region)
        if region != QueryRegion():
            embeddings = await _encode_crops(handle, crops, row_id, stages)
        return QueryVectors(row_id, uri, embeddings, row_id, crops[0])

    async def _crops(self, image: ImageArray, region: QueryRegion) -> list[ImageArray]:
        """Return the crops to encode of an image, of which the box is cut out already."""
        rest = replace(region, box=None)
        return [image] if rest == QueryRegion() else await self.in_thread(rest.crops, image)

    async def _fetch(self, url: str, stages: Stages) -> bytes:
        if not self.settings.allow_urls:
            raise ProblemError(
                403,
                "forbidden",
                "Fetching URLs is disabled",
                "upload the image instead, or start the service with: lookalike serve --allow-urls",
            )
        limits = self.settings.limits
        options = FetchOptions(
            timeout=limits.fetch_seconds,
            max_bytes=limits.upload_bytes,
            max_redirects=limits.redirects,
        )
        with stages("fetch"):  # not in the pool: slow servers must not hold up searches
            return await asyncio.to_thread(fetch, url, options)

    async def row(self, handle: GalleryHandle, row_id: str) -> Rows:
        """Return one row.

        Raises:
            MissingRowError: there is no row with that id.
        """
        return await self.in_thread(handle.gallery.store.get, [row_id])

    async def sample(self, handle: GalleryHandle, count: int, seed: int) -> Rows:
        """Return a random sample of rows, at most ``count``, reproducible by ``seed``."""
        return await self.in_thread(_sample, handle.gallery, count, seed)

    async def put(self, handle: GalleryHandle, key: str, data: bytes, metadata: Metadata) -> bool:
        """Add or replace an image; return whether it replaced one.

        Raises:
            LookalikeError: the image is invalid, or the gallery cannot be written.
            ProblemError: the service is at its limits.
        """
        row_id = uploads.row_id(key)
        async with self.slot():
            image = await self.decoders.image(data, row_id)
            embedding = await handle.batcher.encode([image])
            gallery = handle.gallery
            return await self._write(
                handle, partial(uploads.put, gallery, row_id, data, embedding, metadata)
            )

    async def update_metadata(
        self, handle: GalleryHandle, row_id: str, metadata: Metadata
    ) -> dict[str, Any]:
        """Update columns of a row's metadata; return all of its metadata."""
        work = partial(uploads.update_metadata, handle.gallery, row_id, metadata)
        async with self.slot():
            return await self._write(handle, work)

    async def remove(self, handle: GalleryHandle, row_id: str) -> None:
        """Delete a row."""
        async with self.slot():
            await self._write(handle, partial(uploads.remove, handle.gallery, row_id))

    async def _write(self, handle: GalleryHandle, work: Callable[[], T]) -> T:
        """Run one write at a time, and optimize the store now and then."""
        async with handle.write_lock:
            result = await self.in_thread(work)
            handle.writes += 1
            if handle.writes % _OPTIMIZE_EVERY == 0:
                await self.in_thread(handle.gallery.optimize)
            return result

    async def check_ready(self) -> None:
        """Encode an image and search with it in every gallery.

        Raises:
            LookalikeError: a gallery cannot be searched.
        """
        if time.monotonic() < self._ready_until:
            return
        for handle in self:
            await self._probe(handle)
        self._ready_until = time.monotonic() + _READY_SECONDS

    async def _probe(self, handle: GalleryHandle) -> None:
        """Search a gallery with a blank image."""
        gallery = handle.gallery
        await self._count_rows(handle)
        search = SearchOptions(k=1, metric=gallery.metric)
        blank = np.full((64, 64, 3), 255, np.uint8)
        try:
            embedding = await handle.batcher.encode([blank])
        except ImageError:  # the encoder works, but only for images of one size
            embedding = np.zeros((1, gallery.store.dim), np.float32)
        vectors = QueryVectors("readiness probe", None, embedding)
        stages = Stages(self.metrics)
        await self.in_thread(search.run, gallery.store, vectors, read_images, stages)

    async def _count_rows(self, handle: GalleryHandle) -> None:
        rows = await self.in_thread(lambda: len(handle.gallery))
        self.metrics.rows.labels(handle.name).set(rows)

    def supports_text(self, handle: GalleryHandle) -> bool:
        """Return whether a gallery's encoder accepts text queries."""
        try:
            encode_text(handle.gallery.encoder, [])
        except InputError:
            return False
        except Exception:  # noqa: BLE001 - it accepts texts, though not an empty list of them
            return True
        return True


async def _encode_crops(
    handle: GalleryHandle, crops: list[ImageArray], name: str, stages: Stages
) -> Embeddings:
    with stages("encode"):
        try:
            return await handle.batcher.encode(crops)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error


def _sample(gallery: Gallery, count: int, seed: int) -> Rows:
    ids = gallery.store.ids()
    places = random.Random(seed).sample(range(len(ids)), min(count, len(ids)))
    return gallery.store.get([ids[place] for place in places])
