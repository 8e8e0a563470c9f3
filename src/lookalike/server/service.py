"""Galleries in service: a query from its bytes to its hits, many at a time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
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
from lookalike.server.decoder_pool import Decoders
from lookalike.server.metrics import Stages, Telemetry
from lookalike.server.problems import ProblemError, too_busy
from lookalike.server.settings import ServeSettings
from lookalike.server.thumbnails import Pictures, read
from lookalike.server.url_fetch import Fetching, fetch
from lookalike.stores.base import Rows
from lookalike.types import Hits, ImageArray, Metadata

T = TypeVar("T")

_READY_SECONDS = 2.0
_TEND_EVERY = 64
_AT_ONCE = 4
"""Queries of one batch that are worked on at a time."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A query as it came: just one of an image file's bytes, an id, words or an address."""

    image: bytes | None = None
    id: str | None = None
    text: str | None = None
    url: str | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is asked but, perhaps, words of the metadata."""
        return (self.image, self.id, self.text, self.url) == (None,) * 4

    def check(self, search: SearchOptions) -> None:
        """See that it is one; none where words of the metadata are searched for.

        Raises:
            InputError: it is none or several.
        """
        if self.empty and search.keywords is not None:
            return
        given = (self.image, self.id, self.text, self.url)
        if sum(each is not None for each in given) != 1:
            raise InputError("a search needs just one of image, id, text and url")


class GalleryHandle:
    """A gallery in service."""

    def __init__(self, name: str, gallery: Gallery, threads: int) -> None:
        self.name = name
        self.gallery = gallery
        self.batcher = Batcher(gallery.encoder, threads)
        self.writing = asyncio.Lock()
        self.writes = 0


class Service:
    """Searches galleries. Use as ``async with``.

    Decoding is done by processes, encoding in batches by threads of each gallery, searching by
    threads that all share. More than ``limits.waiting`` requests at a time are turned away.
    """

    def __init__(
        self, galleries: Mapping[str, Gallery], settings: ServeSettings, telemetry: Telemetry
    ) -> None:
        self.settings = settings
        self.telemetry = telemetry
        limits, threads = settings.limits, machine().threads
        self.decoders = Decoders(
            threads, seconds=limits.decode_seconds, memory=limits.decode_memory
        )
        self._served = {
            name: GalleryHandle(name, each, threads) for name, each in galleries.items()
        }
        remote = any(each.address is not None for each in galleries.values())
        most = limits.waiting if remote else 2 * threads  # who waits for a server needs no core
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="lookalike-search")
        self._waiting = 0
        self.pictures = Pictures(self.decoders, self.thread)
        self._ready_until = 0.0
        telemetry.restarts.set_function(lambda: self.decoders.restarts)

    async def __aenter__(self) -> Self:
        await self.decoders.__aenter__()
        for served in self._served.values():
            rows = await self.thread(lambda served=served: len(served.gallery))
            self.telemetry.rows.labels(served.name).set(rows)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.decoders.__aexit__()
        for served in self._served.values():
            await asyncio.to_thread(served.batcher.close)
        self._threads.shutdown()

    def __iter__(self) -> Any:
        return iter(self._served.values())

    def served(self, name: str) -> GalleryHandle:
        """Return a gallery by the name it is served under.

        Raises:
            ProblemError: there is none of that name.
        """
        if name in self._served:
            return self._served[name]
        known = ", ".join(self._served)
        raise ProblemError(
            404, "no-such-gallery", "There is no such gallery", f"served are {known}"
        )

    async def thread(self, work: Callable[..., T], *values: Any) -> T:
        """Do work that takes a while in a thread."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(work, *values)
        )

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Take one of the places for requests that work.

        Raises:
            ProblemError: all are taken.
        """
        if self._waiting >= self.settings.limits.waiting:
            raise too_busy(f"{self._waiting} requests are at work or waiting")
        self._waiting += 1
        self.telemetry.waiting.set(self._waiting)
        try:
            yield
        finally:
            self._waiting -= 1
            self.telemetry.waiting.set(self._waiting)

    async def search(
        self,
        served: GalleryHandle,
        ask: SearchQuery,
        look: QueryRegion,
        search: SearchOptions,
        stages: Stages,
    ) -> Hits:
        """Answer one query.

        Raises:
            LookalikeError: it cannot be answered.
            ProblemError: there is too much to do, or addresses are not fetched.
        """
        ask.check(search)
        async with self.turn():
            return await self._search(served, ask, look, search, stages)

    async def search_all(
        self,
        served: GalleryHandle,
        asks: list[SearchQuery],
        look: QueryRegion,
        search: SearchOptions,
        stages: Stages,
    ) -> list[Hits | LookalikeError]:
        """Answer several queries in their order; what is wrong with one is its answer.

        Raises:
            ProblemError: there is too much to do.
            UnreachableError: the server of the rows does not answer, to whichever query.
        """
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(ask: SearchQuery) -> Hits | LookalikeError:
            async with places:
                try:
                    ask.check(search)
                    return await self._search(served, ask, look, search, stages)
                except UnreachableError:
                    raise
                except LookalikeError as error:
                    return error

        async with self.turn():
            tasks = [asyncio.create_task(one(ask)) for ask in asks]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()  # else each would wait for a server that is away

    async def _search(
        self,
        served: GalleryHandle,
        ask: SearchQuery,
        look: QueryRegion,
        search: SearchOptions,
        stages: Stages,
    ) -> Hits:
        if ask.empty:
            views = look.without_image(str(search.keywords), served.gallery.store.dim)
        else:
            views = await self._views(served, ask, look, search.needs_image, stages)
        store = served.gallery.store
        rows = await self.thread(search.run, store, views, read_images, stages)
        return Hits(views.name, search.metric, rows, views.uri)

    async def _views(
        self,
        served: GalleryHandle,
        ask: SearchQuery,
        look: QueryRegion,
        needs_image: bool,
        stages: Stages,
    ) -> QueryVectors:
        encoder = served.gallery.encoder
        if ask.text is not None:
            with stages("encode"):
                return await self.thread(look.encode_text, ask.text, encoder)
        own, uri, kept = None, None, None
        if ask.id is not None:
            row = await self.thread(served.gallery.store.get, [ask.id])
            own, uri, kept = ask.id, row.uris[0], row.embeddings
            if look == QueryRegion() and not needs_image:
                return QueryVectors(ask.id, uri, kept, own)
            data = await self.thread(read, uri, ask.id)
            name = ask.id
        elif ask.url is not None:
            data, name = await self._fetch(ask.url, stages), ask.url
        else:
            assert ask.image is not None
            data, name = ask.image, "the image"
        with stages("decode"):
            image = await self._decode(data, name, look)
        rest = replace(look, box=None)
        crops = await self.thread(rest.crops, image) if rest != QueryRegion() else [image]
        if kept is None or look != QueryRegion():
            with stages("encode"):
                try:
                    kept = await served.batcher.encode(crops)
                except ImageError as error:
                    raise ImageError(f"{name}: {error}") from error
        return QueryVectors(name, uri, kept, own, crops[0])

    async def _decode(self, data: bytes | ImageArray, name: str, look: QueryRegion) -> ImageArray:
        if isinstance(data, bytes):
            return await self.decoders.image(data, name, look.box)
        return data if look.box is None else look.box.crop(data)

    async def _fetch(self, url: str, stages: Stages) -> bytes:
        if not self.settings.urls:
            raise ProblemError(
                403,
                "not-allowed",
                "Addresses are not fetched",
                "upload the image, or start the service with --allow-urls",
            )
        limits = self.settings.limits
        how = Fetching(limits.fetch_seconds, limits.upload_bytes, limits.redirects)
        with stages("fetch"):
            return await asyncio.to_thread(fetch, url, how)  # slow ones keep no search waiting

    async def row(self, served: GalleryHandle, row_id: str) -> Rows:
        """Return one row.

        Raises:
            MissingRowError: there is none of that id.
        """
        return await self.thread(served.gallery.store.get, [row_id])

    async def sample(self, served: GalleryHandle, count: int, seed: int) -> Rows:
        """Return rows drawn at random, the same ones for the same seed; all if there are fewer."""
        return await self.thread(_sample, served.gallery, count, seed)

    async def put(self, served: GalleryHandle, key: str, data: bytes, metadata: Metadata) -> bool:
        """Add an image or replace it; return whether it was there.

        Raises:
            LookalikeError: the image cannot be used, or the gallery not be written.
            ProblemError: there is too much to do.
        """
        row_id = uploads.row_id(key)
        async with self.turn():
            image = await self.decoders.image(data, row_id)
            embedding = await served.batcher.encode([image])
            gallery = served.gallery
            return await self._write(
                served, partial(uploads.put, gallery, row_id, data, embedding, metadata)
            )

    async def describe(
        self, served: GalleryHandle, row_id: str, metadata: Metadata
    ) -> dict[str, Any]:
        """Change metadata of a row; return what they are then."""
        work = partial(uploads.update_metadata, served.gallery, row_id, metadata)
        async with self.turn():
            return await self._write(served, work)

    async def remove(self, served: GalleryHandle, row_id: str) -> None:
        """Delete a row."""
        async with self.turn():
            await self._write(served, partial(uploads.remove, served.gallery, row_id))

    async def _write(self, served: GalleryHandle, work: Callable[[], T]) -> T:
        """Write, one after another; now and then see to the table's files."""
        async with served.writing:
            done = await self.thread(work)
            served.writes += 1
            if served.writes % _TEND_EVERY == 0:
                await self.thread(served.gallery.optimize)
            return done

    async def check_ready(self) -> None:
        """Encode an image and search with it in every gallery.

        Raises:
            LookalikeError: a gallery does not answer.
        """
        if time.monotonic() < self._ready_until:
            return
        for served in self:
            await self._try(served)
        self._ready_until = time.monotonic() + _READY_SECONDS

    async def _try(self, served: GalleryHandle) -> None:
        stages = Stages(self.telemetry)
        gallery = served.gallery
        rows = await self.thread(lambda: len(gallery))
        self.telemetry.rows.labels(served.name).set(rows)
        search = SearchOptions(k=1, metric=gallery.metric)
        blank = np.full((64, 64, 3), 255, np.uint8)
        try:
            embedding = await served.batcher.encode([blank])
        except ImageError:  # the encoder takes one size only, and has said so
            embedding = np.zeros((1, gallery.store.dim), np.float32)
        views = QueryVectors("ready", None, embedding)
        await self.thread(search.run, gallery.store, views, read_images, stages)

    def takes_words(self, served: GalleryHandle) -> bool:
        """Whether a gallery can be searched by words."""
        try:
            encode_text(served.gallery.encoder, [])
        except InputError:
            return False
        except Exception:  # noqa: BLE001 - it takes words, if not none at all
            return True
        return True


def _sample(gallery: Gallery, count: int, seed: int) -> Rows:
    ids = gallery.store.ids()
    chosen = random.Random(seed).sample(range(len(ids)), min(count, len(ids)))
    return gallery.store.get([ids[place] for place in chosen])
