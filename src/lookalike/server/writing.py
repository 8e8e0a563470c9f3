"""Writes of single items, one at a time for each gallery."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import BusyError, FingerprintError, LookalikeError, ReplacedError
from lookalike.gallery import uploads
from lookalike.gallery.ids import upload_id
from lookalike.server.decoder_pool import DecoderPool
from lookalike.server.handles import GalleryHandle, OpenGallery
from lookalike.server.workers import Workers
from lookalike.types import Metadata

log = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPTS = 2
"""Attempts of a write during which the gallery is replaced."""

_OPTIMIZE_EVERY = 64
"""Writes between optimizations of the store."""


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
