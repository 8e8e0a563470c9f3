"""Batched encoding: images of concurrent requests are encoded together."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lookalike.encoders.base import Encoder
from lookalike.errors import LookalikeError, ReplacedError
from lookalike.types import Embeddings, ImageArray

MAX_BATCH = 16
"""Images per batch, unless a single request has more."""


@dataclass(frozen=True, slots=True)
class _Job:
    images: Sequence[ImageArray]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Embeddings]

    def resolve(self, result: Embeddings | BaseException) -> None:
        """Resolve the future from an encoder thread; the request may be cancelled by then."""
        self.loop.call_soon_threadsafe(partial(_resolve, self.future, result))


def _resolve(future: asyncio.Future[Embeddings], result: Embeddings | BaseException) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


class Batcher:
    """Encodes images of concurrent requests in batches, with ``threads`` threads.

    A free thread takes all queued images, up to 16, as one batch: no request waits for a batch to
    fill, and batches grow with the load.
    """

    def __init__(self, encoder: Encoder, threads: int) -> None:
        self.encoder = encoder
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._put_lock = threading.Lock()
        self._take_lock = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"lookalike-encode-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def encode(self, images: Sequence[ImageArray]) -> Embeddings:
        """Return ``(n, dim)`` embeddings of ``n`` images.

        Raises:
            ImageError: the encoder does not accept one of the images.
            ReplacedError: the batcher is closed, since its gallery was replaced.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Embeddings] = loop.create_future()
        with self._put_lock:
            if self._closed:
                raise ReplacedError("the gallery of this encoder was replaced")
            self._jobs.put(_Job(images, loop, future))
        return await future

    def close(self, *, wait: bool = True) -> None:
        """Finish the queued jobs and end the threads."""
        with self._put_lock:
            self._closed = True
            for _ in self._threads:
                self._jobs.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while (jobs := self._take()) is not None:
            self._encode(jobs)

    def _take(self) -> list[_Job] | None:
        """Return the queued jobs of one batch; None when the batcher is closed."""
        with self._take_lock:
            job = self._jobs.get()
            if job is None:
                return None
            jobs, count = [job], len(job.images)
            while count < MAX_BATCH:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    self._jobs.put(None)
                    break
                jobs.append(job)
                count += len(job.images)
            return jobs

    def _encode(self, jobs: list[_Job]) -> None:
        """Encode a batch; if it fails, encode job by job, so that only invalid jobs fail."""
        try:
            embeddings = self.encoder.encode([image for job in jobs for image in job.images])
        except Exception as error:  # noqa: BLE001 - passed on to the request
            if len(jobs) > 1 and isinstance(error, LookalikeError):
                for job in jobs:
                    self._encode([job])
                return
            for job in jobs:
                job.resolve(error)
            return
        start = 0
        for job in jobs:
            job.resolve(embeddings[start : start + len(job.images)])
            start += len(job.images)
