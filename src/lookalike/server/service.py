"""The galleries of a service: from a query to its hits, for many requests at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np

from lookalike.config import settings as machine
from lookalike.errors import (
    ArtifactError,
    FingerprintError,
    ImageError,
    InputError,
    LookalikeError,
    ReplacedError,
    StorageError,
    UnreachableError,
)
from lookalike.fetching import FetchOptions, fetch
from lookalike.gallery import uploads
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.state import GalleryState
from lookalike.search.query import QueryRegion, QueryVectors, encode_text
from lookalike.search.search import SearchOptions
from lookalike.server.batching import Batcher
from lookalike.server.decoder_pool import DecoderPool
from lookalike.server.metrics import Metrics, Stages
from lookalike.server.problems import ProblemError, too_many_requests
from lookalike.server.settings import ServeSettings
from lookalike.server.thumbnails import ItemImages, read_item_image
from lookalike.stores.base import Rows, replaced_error
from lookalike.types import Embeddings, Hits, ImageArray, Metadata

T = TypeVar("T")
E = TypeVar("E", bound=LookalikeError)

log = logging.getLogger(__name__)

_READY_SECONDS = 2.0
"""How long a successful readiness check is reused."""

_ATTEMPTS = 2
"""Attempts of a request during which galleries are replaced."""

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


@dataclass(frozen=True, slots=True)
class OpenGallery:
    """A gallery of the service in one state: a snapshot of its rows, and its encoder in batches."""

    handle: GalleryHandle
    gallery: Gallery
    state: GalleryState
    batcher: Batcher

    @property
    def name(self) -> str:
        """The gallery's name in the service."""
        return self.handle.name


class GalleryHandle:
    """A gallery with its name in the service, and its write lock.

    ``gallery`` is the gallery itself, which follows writes and replacements; :meth:`open` returns
    its current state.
    """

    def __init__(self, name: str, gallery: Gallery, threads: int) -> None:
        self.name = name
        self.gallery = gallery
        self.write_lock = asyncio.Lock()
        self.writes = 0
        self._threads = threads
        self._opening = threading.Lock()
        view = gallery.snapshot()
        self.last = OpenGallery(self, view, view.state, Batcher(view.encoder, threads))
        """The state that was opened last."""

    def open(self) -> OpenGallery:
        """Return the gallery as it is now.

        Another gallery in its place is opened, with its encoder. Whatever is cached for a state is
        used only for that state.

        Raises:
            ArtifactError: the gallery is gone, or broken, or being replaced.
            UnreachableError: the vector store does not respond.
        """
        state = self.gallery.state
        if state == self.last.state:
            return self.last
        with self._opening:
            view = self.gallery.snapshot()
            last, state = self.last, view.state
            if state == last.state:
                return last
            batcher = last.batcher
            if view.fingerprint != last.gallery.fingerprint:
                batcher = Batcher(view.encoder, self._threads)
                last.batcher.close(wait=False)
            if state.identity != last.state.identity:
                log.warning("%s: another gallery is in its place, which is served now", self.name)
            self.last = OpenGallery(self, view, state, batcher)
            return self.last

    def close(self) -> None:
        """End the threads of the encoder."""
        self.last.batcher.close()


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
        self._ready_states: list[GalleryState] = []
        metrics.restarts.set_function(lambda: self.decoders.restarts)

    async def __aenter__(self) -> Self:
        await self.decoders.__aenter__()
        for handle in self:
            await self._count_rows(handle.last)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.decoders.__aexit__()
        for handle in self:
            await asyncio.to_thread(handle.close)
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

    async def open(self, handle: GalleryHandle) -> OpenGallery:
        """Return a gallery as it is now; see :meth:`GalleryHandle.open`."""
        try:
            return await self.in_thread(handle.open)
        except ArtifactError as error:
            raise _without_paths(handle, error) from error

    async def read(self, opened: OpenGallery, work: Callable[[Gallery], T]) -> T:
        """Return what ``work`` reads from a gallery.

        If it cannot be read because it was replaced meanwhile, ``work`` reads from the other one.

        Raises:
            ArtifactError: the gallery is gone, or broken, or being replaced.
        """
        try:
            return await self.in_thread(work, opened.gallery)
        except ArtifactError as error:
            now = await self.open(opened.handle)
            if now is opened:
                raise _without_paths(opened.handle, error) from error
            return await self.in_thread(work, now.gallery)

    async def search(
        self,
        opened: OpenGallery,
        query: SearchQuery,
        region: QueryRegion,
        search: SearchOptions,
        stages: Stages,
    ) -> Hits:
        """Run one query.

        Raises:
            LookalikeError: the query or its options are invalid, or the gallery is gone.
            ProblemError: the service is at its limits, or does not fetch URLs.
        """
        query.validate(search)
        async with self.slot():
            return await self._search(opened, query, region, search, stages)

    async def search_all(
        self,
        opened: OpenGallery,
        queries: list[SearchQuery],
        region: QueryRegion,
        search: SearchOptions,
        stages: Stages,
    ) -> list[Hits | LookalikeError]:
        """Run several queries and return their results in order; an invalid query's is its error.

        Raises:
            ProblemError: the service is at its limits, or does not fetch URLs.
            ArtifactError: the gallery is gone, or broken, or being replaced.
            UnreachableError: the vector store does not respond.
        """
        semaphore = asyncio.Semaphore(_BATCH_CONCURRENCY)

        async def run(query: SearchQuery) -> Hits | LookalikeError:
            async with semaphore:
                try:
                    query.validate(search)
                    return await self._search(opened, query, region, search, stages)
                except (UnreachableError, ArtifactError):
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
        opened: OpenGallery,
        query: SearchQuery,
        region: QueryRegion,
        search: SearchOptions,
        stages: Stages,
    ) -> Hits:
        """Run one query; run it again if the gallery was replaced meanwhile.

        The rows that are searched are those after encoding, if they are of the same gallery. A
        store on a server checks that itself.
        """
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                vectors = await self._vectors(opened, query, region, search, stages)
                now = opened
                if opened.gallery.address is None:
                    now = await self.open(opened.handle)
                if now.state.identity != opened.state.identity:
                    raise replaced_error(opened.name)
                run = partial(search.run, now.gallery.store, vectors, now.gallery.read_images)
                hits = await self.in_thread(run, stages)
                return Hits(vectors.name, search.metric, hits, vectors.uri)
            except ArtifactError as error:
                now = await self.open(opened.handle)
                if now.state == opened.state or not attempts_left:
                    raise _without_paths(opened.handle, error) from error
                opened = now
        raise AssertionError

    async def _vectors(
        self,
        opened: OpenGallery,
        query: SearchQuery,
        region: QueryRegion,
        search: SearchOptions,
        stages: Stages,
    ) -> QueryVectors:
        if query.is_empty:
            return region.without_image(str(search.keywords), opened.gallery.store.dim)
        return await self._encode(opened, query, region, search.needs_image, stages)

    async def _encode(
        self,
        opened: OpenGallery,
        query: SearchQuery,
        region: QueryRegion,
        needs_image: bool,
        stages: Stages,
    ) -> QueryVectors:
        """Return the embeddings of a query, and its image where it has one."""
        if query.text is not None:
            with stages("encode"):
                return await self.in_thread(region.encode_text, query.text, opened.batcher.encoder)
        if query.id is not None:
            return await self._encode_item(opened, query.id, region, needs_image, stages)
        if query.url is not None:
            data, name = await self._fetch(query.url, stages), query.url
        else:
            assert query.image is not None
            data, name = query.image, "the image"
        with stages("decode"):
            image = await self.decoders.image(data, name, region.box)
        crops = await self._crops(image, region)
        embeddings = await _encode_crops(opened, crops, name, stages)
        return QueryVectors(name, None, embeddings, None, crops[0])

    async def _encode_item(
        self,
        opened: OpenGallery,
        row_id: str,
        region: QueryRegion,
        needs_image: bool,
        stages: Stages,
    ) -> QueryVectors:
        """Use an item as the query: its stored embedding unless a part of its image is searched."""
        row = await self.in_thread(opened.gallery.store.get, [row_id])
        uri, embeddings = row.uris[0], row.embeddings
        if region == QueryRegion() and not needs_image:
            return QueryVectors(row_id, uri, embeddings, row_id)
        stored = await self.in_thread(read_item_image, opened.gallery, row)
        with stages("decode"):
            if isinstance(stored.content, bytes):
                image = await self.decoders.image(
                    stored.content, row_id, region.box, options=stored.options, page=stored.page
                )
            else:
                image = stored.content if region.box is None else region.box.crop(stored.content)
        crops = await self._crops(image, region)
        if region != QueryRegion():
            embeddings = await _encode_crops(opened, crops, row_id, stages)
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

    async def row(self, opened: OpenGallery, row_id: str) -> Rows:
        """Return one row.

        Raises:
            MissingRowError: there is no row with that id.
        """
        return await self.read(opened, lambda gallery: gallery.store.get([row_id]))

    async def sample(self, opened: OpenGallery, count: int, seed: int) -> Rows:
        """Return a random sample of rows, at most ``count``, reproducible by ``seed``."""
        return await self.read(opened, lambda gallery: _sample(gallery, count, seed))

    async def put(self, opened: OpenGallery, key: str, data: bytes, metadata: Metadata) -> bool:
        """Add or replace an image; return whether it replaced one.

        Raises:
            LookalikeError: the image is invalid, or the gallery cannot be written.
            ProblemError: the service is at its limits.
        """
        row_id = uploads.row_id(key)
        async with self.slot():
            image = await self.decoders.image(data, row_id)
            for attempts_left in reversed(range(_ATTEMPTS)):
                try:
                    embedding = await opened.batcher.encode([image])
                    row = (row_id, data, embedding, metadata, opened.gallery.fingerprint)
                    work = partial(uploads.put, opened.handle.gallery, *row)
                    return await self._write(opened.handle, work)
                except (ReplacedError, FingerprintError):  # encoded for the gallery before
                    if not attempts_left:
                        raise
                    opened = await self.open(opened.handle)
        raise AssertionError

    async def update_metadata(
        self, opened: OpenGallery, row_id: str, metadata: Metadata
    ) -> dict[str, Any]:
        """Update columns of a row's metadata; return all of its metadata."""
        work = partial(uploads.update_metadata, opened.handle.gallery, row_id, metadata)
        async with self.slot():
            return await self._write(opened.handle, work)

    async def remove(self, opened: OpenGallery, row_id: str) -> None:
        """Delete a row."""
        async with self.slot():
            await self._write(opened.handle, partial(uploads.remove, opened.handle.gallery, row_id))

    async def _write(self, handle: GalleryHandle, work: Callable[[], T]) -> T:
        """Run one write at a time, and optimize the store now and then."""
        async with handle.write_lock:
            try:
                result = await self.in_thread(work)
                handle.writes += 1
                if handle.writes % _OPTIMIZE_EVERY == 0:
                    await self.in_thread(handle.gallery.optimize)
            except (ArtifactError, StorageError) as error:
                raise _without_paths(handle, error) from error
            return result

    async def check_ready(self) -> None:
        """Encode an image and search with it in every gallery.

        A successful check is reused for two seconds, as long as the galleries are in the same
        state.

        Raises:
            LookalikeError: a gallery cannot be searched.
        """
        opened = [await self.open(handle) for handle in self]
        states = [each.state for each in opened]
        if time.monotonic() < self._ready_until and states == self._ready_states:
            return
        for each in opened:
            await self._probe(each)
        self._ready_until, self._ready_states = time.monotonic() + _READY_SECONDS, states

    async def _probe(self, opened: OpenGallery) -> None:
        """Search a gallery with a blank image."""
        gallery = opened.gallery
        try:
            await self._count_rows(opened)
            search = SearchOptions(k=1, metric=gallery.metric)
            blank = np.full((64, 64, 3), 255, np.uint8)
            try:
                embedding = await opened.batcher.encode([blank])
            except ImageError:  # the encoder works, but only for images of one size
                embedding = np.zeros((1, gallery.store.dim), np.float32)
            vectors = QueryVectors("readiness probe", None, embedding)
            stages = Stages(self.metrics)
            images = gallery.read_images
            await self.in_thread(search.run, gallery.store, vectors, images, stages)
        except ArtifactError as error:
            raise _without_paths(opened.handle, error) from error

    async def _count_rows(self, opened: OpenGallery) -> None:
        rows = await self.in_thread(lambda: len(opened.gallery))
        self.metrics.rows.labels(opened.name).set(rows)

    def supports_text(self, opened: OpenGallery) -> bool:
        """Return whether a gallery's encoder accepts text queries."""
        try:
            encode_text(opened.batcher.encoder, [])
        except InputError:
            return False
        except Exception:  # noqa: BLE001 - it accepts texts, though not an empty list of them
            return True
        return True


async def _encode_crops(
    opened: OpenGallery, crops: list[ImageArray], name: str, stages: Stages
) -> Embeddings:
    with stages("encode"):
        try:
            return await opened.batcher.encode(crops)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error


def _sample(gallery: Gallery, count: int, seed: int) -> Rows:
    ids = gallery.store.ids()
    places = random.Random(seed).sample(range(len(ids)), min(count, len(ids)))
    return gallery.store.get([ids[place] for place in places])


def _without_paths(handle: GalleryHandle, error: E) -> E:
    """Return an error without the location of the gallery, which is not for clients."""
    message, path = str(error), handle.gallery.path
    for text in (str(path.absolute()), str(path)):
        message = message.replace(text, handle.name)
    return type(error)(message)
