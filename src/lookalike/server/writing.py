"""Writes of items, one at a time for each gallery."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import (
    ArtifactError,
    BusyError,
    CancelledError,
    FingerprintError,
    InputError,
    LookalikeError,
    ReplacedError,
    UnreachableError,
)
from lookalike.gallery import uploads
from lookalike.gallery.ids import upload_id, upload_ids
from lookalike.images.decode import content_hash
from lookalike.server.decoder_pool import DecoderPool, Priority
from lookalike.server.handles import GalleryHandle, OpenGallery
from lookalike.server.problems import ProblemError
from lookalike.server.workers import Workers
from lookalike.types import Metadata

log = logging.getLogger(__name__)

T = TypeVar("T")

_CONCURRENCY = 4
"""Images of one batch that are decoded and encoded at a time."""

_ATTEMPTS = 2
"""Attempts of a write during which the gallery is replaced."""

_OPTIMIZE_EVERY = 64
"""Writes between optimizations of the store."""


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to add or replace.

    Args:
        key: of its id; None to make one of the content.
        read: returns the file, unless there is a URL.
        url: where to fetch it.
        metadata: JSON values.
    """

    key: str | None
    read: Callable[[], bytes]
    url: str | None
    metadata: Metadata


class Writer:
    """Adds, changes and removes items. A write that has begun is finished, whoever waits for it."""

    def __init__(self, decoders: DecoderPool, workers: Workers) -> None:
        self._decoders = decoders
        self._workers = workers
        self._writing: set[asyncio.Task[Any]] = set()

    async def put(self, opened: OpenGallery, key: str, data: bytes, metadata: Metadata) -> bool:
        """Add or replace an image; return whether it replaced one.

        Raises:
            LookalikeError: the image is invalid, or the gallery cannot be written.
        """
        row_id = upload_id(key)
        image = await self._decoders.image(data, row_id)
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                embedding = await opened.batcher.encode([image])
                row = (row_id, data, embedding, metadata, opened.gallery.fingerprint)
                return await self.write(
                    opened.handle, partial(uploads.put, opened.handle.gallery, *row)
                )
            except (ReplacedError, FingerprintError):  # encoded for the gallery before
                if not attempts_left:
                    raise
                opened = await self._workers.opening.run(opened.handle.open)
        raise AssertionError

    async def put_all(
        self,
        opened: OpenGallery,
        images: Sequence[NewImage],
        fetch: Callable[[str], Awaitable[bytes]],
    ) -> list[tuple[str, bool] | Exception]:
        """Add or replace images; return the id of each and whether it is new, or its error.

        Images are decoded and encoded a few at a time; what is valid is written together.

        Raises:
            LookalikeError: the gallery cannot be written.
        """
        for attempts_left in reversed(range(_ATTEMPTS)):
            encoded = await self._encode_all(opened, images, fetch)
            uploads_by_id = {each.id: each for each in encoded if isinstance(each, uploads.Upload)}
            work = partial(
                uploads.put_all,
                opened.handle.gallery,
                list(uploads_by_id.values()),
                opened.gallery.fingerprint,
            )
            try:
                replaced = set(await self.write(opened.handle, work)) if uploads_by_id else set()
            except (ReplacedError, FingerprintError):  # encoded for the gallery before
                if not attempts_left:
                    raise
                opened = await self._workers.opening.run(opened.handle.open)
                continue
            return [
                (each.id, each.id not in replaced) if isinstance(each, uploads.Upload) else each
                for each in encoded
            ]
        raise AssertionError

    async def _encode_all(
        self,
        opened: OpenGallery,
        images: Sequence[NewImage],
        fetch: Callable[[str], Awaitable[bytes]],
    ) -> list[uploads.Upload | Exception]:
        """Return the images encoded, in their order; the error of those that are invalid."""
        semaphore = asyncio.Semaphore(_CONCURRENCY)

        async def run(image: NewImage) -> uploads.Upload | Exception:
            async with semaphore:
                try:
                    return await self._encode(opened, image, fetch)
                except (UnreachableError, ArtifactError, CancelledError):
                    raise
                except (LookalikeError, ProblemError) as error:
                    return error

        tasks = [asyncio.create_task(run(image)) for image in images]
        try:
            encoded = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        taken: set[str] = set()
        for place, each in enumerate(encoded):
            if isinstance(each, uploads.Upload):
                if each.id in taken:
                    encoded[place] = InputError(f"{each.id}: another image before it has that id")
                taken.add(each.id)
        return encoded

    async def _encode(
        self,
        opened: OpenGallery,
        image: NewImage,
        fetch: Callable[[str], Awaitable[bytes]],
    ) -> uploads.Upload:
        """Return an image encoded; one of a URL stays in memory.

        Raises:
            LookalikeError: it is invalid.
            ProblemError: the service is at its limits, or does not fetch URLs.
        """
        known = None if image.key is None else upload_id(image.key)
        read = image.read
        if image.url is not None:
            content = await fetch(image.url)
            read = partial(bytes, content)
        data = await self._workers.short.run(read)
        pixels = await self._decoders.image(data, known or "the image", priority=Priority.BATCH)
        digest = await self._workers.short.run(content_hash, data)
        [embedding] = await opened.batcher.encode([pixels])
        [row_id] = [known] if known is not None else upload_ids(None, [digest])
        return uploads.Upload(row_id, digest, read, embedding, image.metadata)

    async def write(self, handle: GalleryHandle, work: Callable[[], T]) -> T:
        """Run one write at a time, and optimize the store now and then.

        Raises:
            LookalikeError: the gallery cannot be written.
        """
        async with contextlib.AsyncExitStack() as lock:
            await lock.enter_async_context(handle.write_slot.slot())
            with cancellable(Cancellation()):
                task = asyncio.create_task(self._write(handle, work, lock.pop_all()))
        self._writing.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def _write(
        self, handle: GalleryHandle, work: Callable[[], T], lock: contextlib.AsyncExitStack
    ) -> T:
        async with lock:
            result = await self._workers.long.run(work)
            handle.writes += 1
            if handle.writes % _OPTIMIZE_EVERY == 0:
                await self._optimize(handle)
            return result

    async def _optimize(self, handle: GalleryHandle) -> None:
        """Optimize the store, unless another process writes; the write before it is done anyway."""
        try:
            await self._workers.long.run(partial(handle.gallery.optimize, wait=0))
        except BusyError:
            pass
        except LookalikeError as error:
            log.warning("%s: not optimized: %s", handle.name, error)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it

    async def finish(self) -> None:
        """Wait for the writes that have begun."""
        if self._writing:
            await asyncio.wait(self._writing)
