"""The galleries of a service: from a query to its hits, for many requests at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar

from lookalike.config import settings as machine
from lookalike.errors import (
    ArtifactError,
    CancelledError,
    InputError,
    LookalikeError,
    UnreachableError,
)
from lookalike.filters import Where
from lookalike.gallery import uploads
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.lookup import row_of
from lookalike.gallery.state import GalleryState
from lookalike.search.hits import Hits, ImageReader
from lookalike.search.query import QueryVectors
from lookalike.search.request import Query, SearchRequest
from lookalike.search.search import search_rows
from lookalike.server.admission import Quota, current_client
from lookalike.server.decoder_pool import DecoderPool, decoding_batch
from lookalike.server.encoding import QueryEncoder
from lookalike.server.handles import IDLE_S, GalleryHandle, OpenGallery
from lookalike.server.idle_memory import release_free_memory
from lookalike.server.job_schemas import described
from lookalike.server.jobs import Jobs
from lookalike.server.limits import Limits
from lookalike.server.metrics import Metrics, Stages
from lookalike.server.problems import ProblemError, problem_of
from lookalike.server.queries import cost_of, is_long
from lookalike.server.readiness import Readiness
from lookalike.server.running import RunningRequests
from lookalike.server.settings import ServeSettings
from lookalike.server.shared_queries import (
    SHARING_DISABLED,
    SharedImage,
    SharedQueries,
    StoredQuery,
    without_metadata,
)
from lookalike.server.thumbnails import ItemImages
from lookalike.server.workers import Workers
from lookalike.server.writing import NewImage, Writer
from lookalike.stores.base import Rows
from lookalike.types import Metadata

T = TypeVar("T")

_ATTEMPTS = 2
"""Attempts of a request during which galleries are replaced."""

_BATCH_CONCURRENCY = 4
"""Queries of one batch that run at a time."""

_FIRST_RELEASE_S, _RELEASE_S = 5.0, 60.0
"""Seconds until free memory is returned to the system, after the start and again."""

_EXPIRY_S = 600.0
"""Seconds after which shared queries are looked through again."""

_CLOSE_SECONDS = 1.0
"""Time for work in threads to end when the service stops."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """What clients occupy; see :class:`~lookalike.server.limits.Limits`."""

    requests: Quota
    searches: Quota
    work: Quota
    bodies: Quota
    responses: Quota
    files: Quota

    @classmethod
    def of(cls, limits: Limits) -> Self:
        """Return unused quotas for some limits."""
        return cls(
            requests=Quota(limits.requests, "requests in progress"),
            searches=Quota(limits.concurrent_requests, "searches in progress"),
            work=Quota(limits.queued_work, "work of the searches in progress"),
            bodies=_memory(limits.buffered_bytes, "memory for uploads"),
            responses=_memory(limits.unsent_bytes, "memory for responses that are not read yet"),
            files=Quota(limits.files, "image files being sent"),
        )


def _memory(size: int, what: str) -> Quota:
    return Quota(size * 3 // 4, what, total=size, strict=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of one query, and the gallery in the state whose rows they are."""

    hits: Hits
    gallery: OpenGallery


class Service:
    """Searches and updates galleries. Use as ``async with``.

    Images are decoded in processes and encoded in batches by threads of each gallery; searches
    share threads. ``quotas`` limits what a client may occupy, ``running`` how long its requests
    may take.
    """

    def __init__(
        self, galleries: Mapping[str, Gallery], settings: ServeSettings, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        limits, threads = settings.limits, machine().threads
        self.quotas = Quotas.of(limits)
        self.running = RunningRequests(limits.request_seconds, metrics)
        self.decoders = DecoderPool(  # one client leaves one of them to others
            threads + 1, seconds=limits.decode_seconds, memory=limits.decode_memory
        )
        self._handles = {
            name: GalleryHandle(name, gallery, threads) for name, gallery in galleries.items()
        }
        remote = any(gallery.address is not None for gallery in galleries.values())
        self.workers = Workers(
            threads,
            remote=limits.concurrent_requests if remote else 0,
            fetches=limits.fetches,
        )
        self.item_images = ItemImages(self.decoders, self.workers, settings)
        self.readiness = Readiness(self, self.workers, metrics)
        self._encoder = QueryEncoder(settings, self.workers, self.decoders, self.item_images)
        self._writer = Writer(self.decoders, self.workers)
        self.shared_queries = SharedQueries.of(settings)
        self.jobs = Jobs(lambda job, handle: described(job, handle).model_dump_json().encode())
        metrics.restarts.set_function(lambda: self.decoders.restarts)
        metrics.requests_in_progress.set_function(lambda: self.quotas.searches.used)
        metrics.buffered_bytes.set_function(lambda: self.quotas.bodies.used)
        metrics.unsent_bytes.set_function(lambda: self.quotas.responses.used)

    async def __aenter__(self) -> Self:
        await self.decoders.__aenter__()
        for handle in self:
            rows = await self.in_thread(len, handle.gallery)
            self.metrics.rows.labels(handle.name).set(rows)
        self._releasing = asyncio.create_task(self._release_idle())
        return self

    async def _release_idle(self) -> None:
        """Drop snapshots of galleries that nobody searches, for as long as the service runs.

        Free memory is returned to the system from time to time, unless there are requests.
        """
        release_at = time.monotonic() + _FIRST_RELEASE_S
        while True:
            await asyncio.sleep(IDLE_S / 2)
            for handle in self:
                handle.release_idle()
            if time.monotonic() >= release_at and not self.quotas.requests.used:
                await asyncio.to_thread(release_free_memory)
                release_at = time.monotonic() + _RELEASE_S

    async def __aexit__(self, *_: object) -> None:
        self.running.stop()
        closing = asyncio.create_task(asyncio.to_thread(self.jobs.close))
        self._releasing.cancel()
        await self.decoders.__aexit__()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.finish()
        await self.workers.close(_CLOSE_SECONDS)
        await closing
        for handle in self:
            handle.close()

    def __iter__(self) -> Iterator[GalleryHandle]:
        return iter(self._handles.values())

    def handle(self, name: str) -> GalleryHandle:
        """Return a gallery by its name in the service.

        Raises:
            ProblemError: there is no gallery of that name.
        """
        if name in self._handles:
            return self._handles[name]
        available = ", ".join(self._handles)
        raise ProblemError(
            404,
            "gallery-not-found",
            f"available: {available}",
            about=("gallery",),
        )

    async def in_thread(self, work: Callable[..., T], *arguments: Any, long: bool = False) -> T:
        """Run blocking work in a thread; ``long`` if it may take seconds.

        Raises:
            CancelledError: the request was cancelled, or its time is over.
        """
        pool = self.workers.long if long else self.workers.short
        return await pool.run(work, *arguments)

    @contextlib.asynccontextmanager
    async def slot(self, cost: int = 1) -> AsyncIterator[None]:
        """Let a search or a write take part, as one of a limited number and cost.

        Raises:
            ProblemError: the client or the service is at its limits.
        """
        with self.quotas.searches.take(), self.quotas.work.take(cost):
            yield

    def problem_of(self, error: LookalikeError) -> ProblemError:
        """Return the problem that reports an error to clients, without locations of galleries."""
        return problem_of(error, hide=[handle.without_paths for handle in self])

    async def open(self, handle: GalleryHandle) -> OpenGallery:
        """Return a gallery as it is now; see :meth:`GalleryHandle.open`."""
        return await self.workers.opening.run(handle.open)

    async def read(
        self, opened: OpenGallery, work: Callable[[Gallery], T], *, long: bool = False
    ) -> T:
        """Return what ``work`` reads from a gallery; ``long`` if it may take seconds.

        If it cannot be read because it was replaced meanwhile, ``work`` reads from the other one.

        Raises:
            ArtifactError: the gallery is gone, or broken, or being replaced.
        """
        try:
            return await self.in_thread(work, opened.gallery, long=long)
        except ArtifactError:
            now = await self.open(opened.handle)
            if now is opened:
                raise
            return await self.in_thread(work, now.gallery, long=long)

    async def search(self, opened: OpenGallery, request: SearchRequest, stages: Stages) -> Answer:
        """Run a request of one query.

        Raises:
            LookalikeError: the query or its options are invalid, or the gallery is gone.
            ProblemError: the service is at its limits, or does not fetch URLs.
        """

        async def run(now: OpenGallery) -> Answer:
            for_metric = request.for_metric(now.gallery.metric)
            vectors = await self._encoder.vectors(now, for_metric, stages)
            [answer] = await self._search(now, for_metric, [vectors], stages)
            return answer

        async with self.slot(cost_of(request)):
            with decoding_batch(self.settings.limits.batch_decode_seconds):
                return await self._in_current(opened, run)

    async def search_all(
        self, opened: OpenGallery, request: SearchRequest, stages: Stages
    ) -> list[Answer | LookalikeError]:
        """Run all queries and return their results in order; an invalid query's is its error.

        Raises:
            ProblemError: the service is at its limits, or does not fetch URLs.
            ArtifactError: the gallery is gone, or broken, or being replaced.
            UnreachableError: the vector store does not respond.
            CancelledError: the request was cancelled, or its time is over.
        """
        async with self.slot(cost_of(request)):
            return await self._in_current(opened, lambda now: self._run_all(now, request, stages))

    async def _run_all(
        self, opened: OpenGallery, request: SearchRequest, stages: Stages
    ) -> list[Answer | LookalikeError]:
        """Encode queries, some at a time; search for plain ones together, for others one by one."""
        request = request.for_metric(opened.gallery.metric)
        semaphore = asyncio.Semaphore(_BATCH_CONCURRENCY)

        async def run(query: Query) -> QueryVectors | Answer:
            async with semaphore:
                one = request.for_query(query)
                vectors = await self._encoder.vectors(opened, one, stages)
                if request.is_plain:
                    return vectors
                [answer] = await self._search(opened, one, [vectors], stages)
                return answer

        with decoding_batch(self.settings.limits.batch_decode_seconds):
            tasks = [asyncio.create_task(_or_error(run(query))) for query in request.queries]
        try:
            results = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()  # or each would wait for an unavailable store
        encoded = [each for each in results if isinstance(each, QueryVectors)]
        answers: Iterator[Answer | LookalikeError] = iter(())
        if encoded:
            found = await _or_error(self._search(opened, request, encoded, stages, long=True))
            answers = iter([found] * len(encoded) if isinstance(found, LookalikeError) else found)
        return [next(answers) if isinstance(each, QueryVectors) else each for each in results]

    async def _search(
        self,
        opened: OpenGallery,
        request: SearchRequest,
        vectors: Sequence[QueryVectors],
        stages: Stages,
        *,
        long: bool = False,
    ) -> list[Answer]:
        """Search for encoded queries in a thread.

        The rows that are searched are those after encoding, if they are of the same gallery. A
        store on a server checks that itself.
        """
        reader = partial(self.item_images.reader, loop=asyncio.get_running_loop())
        run = partial(_search_now, opened, request, vectors, reader, stages)
        by_keywords = any(each.keywords is not None for each in vectors)
        return await self.in_thread(run, long=long or by_keywords or is_long(request))

    async def _in_current(
        self, opened: OpenGallery, work: Callable[[OpenGallery], Awaitable[T]]
    ) -> T:
        """Return what ``work`` does; do it again if the gallery was replaced meanwhile."""
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                return await work(opened)
            except ArtifactError:
                now = await self.open(opened.handle)
                if now.state == opened.state or not attempts_left:
                    raise
                opened = now
        raise AssertionError

    async def row(self, opened: OpenGallery, row_id: str) -> Rows:
        """Return one row.

        Raises:
            MissingRowError: there is no row with that id.
        """
        return await self.read(opened, lambda gallery: row_of(gallery.store, row_id))

    async def sample(self, opened: OpenGallery, count: int, seed: int) -> Rows:
        """Return a random sample of rows, at most ``count``, reproducible by ``seed``."""
        return await self.read(opened, lambda gallery: gallery.store.sample(count, seed))

    def open_shared(self, opened: OpenGallery) -> Callable[[str], SharedImage]:
        """Return what makes the image of an example of the ID of a shared query.

        It raises a ProblemError if the service does not store queries.
        """
        return lambda query_id: SharedImage(self.sharing(), opened.name, query_id)

    def sharing(self) -> SharedQueries:
        """Return the shared queries.

        Raises:
            ProblemError: the service does not store any.
        """
        if self.shared_queries is None:
            raise ProblemError(403, "forbidden", SHARING_DISABLED)
        return self.shared_queries

    async def share(self, opened: OpenGallery, data: bytes) -> StoredQuery:
        """Store a query image, without metadata.

        Raises:
            LookalikeError: the image is invalid, or cannot be stored.
            ProblemError: the service does not store queries, or is at its limits.
        """
        shared = self.sharing()
        async with self.slot():
            pixels = await self.decoders.image(data, "the image")
            image = await self.in_thread(without_metadata, data)
            if image is None:
                image = await self.decoders.png(pixels, "the image")
            return await self.workers.reading.run(shared.add, opened.name, image)

    async def remove_expired_queries(self) -> None:
        """Remove shared queries whose time is over, for as long as the service runs."""
        while self.shared_queries is not None:
            await asyncio.sleep(_EXPIRY_S)
            with contextlib.suppress(OSError):
                await self.workers.reading.run(self.shared_queries.remove_expired)

    async def put(self, opened: OpenGallery, key: str, data: bytes, metadata: Metadata) -> bool:
        """Add or replace an image; return whether it replaced one.

        Raises:
            LookalikeError: the image is invalid, or the gallery cannot be written.
            ProblemError: the service is at its limits.
        """
        async with self.slot():
            return await self._writer.put(opened, key, data, metadata)

    async def put_all(
        self, opened: OpenGallery, images: Sequence[NewImage]
    ) -> list[tuple[str, bool] | Exception]:
        """Add or replace images; return the id of each and whether it is new, or its error.

        Raises:
            LookalikeError: the gallery cannot be written.
            ProblemError: the service is at its limits.
        """
        uploads.check_takes_uploads(opened.gallery)
        limits, quota, client = self.settings.limits, self.quotas.bodies, current_client()
        held = 0

        async def fetch(url: str) -> bytes:
            nonlocal held
            content = await self._encoder.fetch(url)
            if held + len(content) > limits.batch_bytes:
                raise InputError(
                    f"{url[:200]}: the images at URLs of this request have more than "
                    f"{limits.batch_bytes / 1e6:g} MB together, the limit; send fewer at a time"
                )
            quota.add(client, len(content))
            held += len(content)
            return content

        try:
            async with self.slot(len(images)):
                with decoding_batch(limits.batch_decode_seconds):
                    return await self._writer.put_all(opened, images, fetch)
        finally:
            quota.remove(client, held)

    async def remove_all(
        self, opened: OpenGallery, ids: Sequence[str] | None, where: Where | None, limit: int
    ) -> uploads.Removal:
        """Delete rows by ids or by a filter; return what became of them."""
        work = partial(uploads.remove_all, opened.handle.gallery, ids, where, limit=limit)
        async with self.slot():
            return await self._writer.write(opened.handle, work)

    async def update_all(
        self,
        opened: OpenGallery,
        metadata: Metadata,
        ids: Sequence[str] | None,
        where: Where | None,
        limit: int,
    ) -> uploads.Update:
        """Update columns of rows by ids or by a filter; return what became of them."""
        work = partial(uploads.update_all, opened.handle.gallery, metadata, ids, where, limit=limit)
        async with self.slot():
            return await self._writer.write(opened.handle, work)

    async def update_metadata(
        self, opened: OpenGallery, row_id: str, metadata: Metadata
    ) -> dict[str, Any]:
        """Update columns of a row's metadata; return all of its metadata."""
        work = partial(uploads.update_metadata, opened.handle.gallery, row_id, metadata)
        async with self.slot():
            return await self._writer.write(opened.handle, work)

    async def remove(self, opened: OpenGallery, row_id: str) -> None:
        """Delete a row."""
        work = partial(uploads.remove, opened.handle.gallery, row_id)
        async with self.slot():
            await self._writer.write(opened.handle, work)


async def _or_error(work: Awaitable[T]) -> T | LookalikeError:
    """Return the result of one of several queries, or what is wrong with that one."""
    try:
        return await work
    except (UnreachableError, ArtifactError, CancelledError):
        raise
    except LookalikeError as error:
        return error


def _search_now(
    opened: OpenGallery,
    request: SearchRequest,
    vectors: Sequence[QueryVectors],
    reader: Callable[[Gallery, GalleryState], ImageReader],
    stages: Stages,
) -> list[Answer]:
    """Search the rows as they are now.

    Raises:
        ReplacedError: they are those of another gallery.
    """
    now = opened.now()
    read = reader(now.gallery, now.state)
    results = search_rows(request, now.gallery.store, vectors, read, stages)
    return [Answer(hits, now) for hits in results]
