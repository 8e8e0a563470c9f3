"""Batched encoding: images of concurrent requests are encoded together."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from lookalike.encoders.base import Encoder
from lookalike.errors import LookalikeError, ReplacedError
from lookalike.server.admission import current_client
from lookalike.types import Embeddings, ImageArray

MAX_BATCH = 16
"""Images per batch, unless a single request has more."""

_CLOSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Job:
    images: Sequence[ImageArray]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Embeddings]

    @property
    def is_cancelled(self) -> bool:
        return self.future.cancelled()


def _resolve(jobs: Sequence[_Job], results: Sequence[Embeddings | BaseException]) -> None:
    """Resolve the futures of jobs from an encoder thread, which wakes their event loop up once."""

    def resolve() -> None:
        for job, result in zip(jobs, results, strict=True):
            if job.future.done():  # the request was cancelled
                continue
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)

    jobs[0].loop.call_soon_threadsafe(resolve)


class Batcher:
    """Encodes images of concurrent requests in batches, with ``threads`` threads.

    A free thread takes all queued images, up to 16, as one batch: no request waits for a batch to
    fill, and batches grow with the load. Clients take turns; jobs of cancelled requests are
    dropped.
    """

    def __init__(self, encoder: Encoder, threads: int) -> None:
        self.encoder = encoder
        self._queued: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._changed = threading.Condition()
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
        with self._changed:
            if self._closed:
                raise ReplacedError("the gallery of this encoder was replaced")
            self._queued.setdefault(current_client(), deque()).append(_Job(images, loop, future))
            self._changed.notify()
        return await future

    def close(self, *, wait: bool = True) -> None:
        """Finish the queued jobs and end the threads; wait for that at most 0.5 s each."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads if wait else ():
            thread.join(_CLOSE_SECONDS)

    def _work(self) -> None:
        while jobs := self._take():
            self._encode(jobs)
            del jobs  # with their images, while there is nothing to do

    def _take(self) -> list[_Job]:
        """Wait for the jobs of one batch; none when the batcher is closed."""
        with self._changed:
            jobs: list[_Job] = []
            while not jobs:
                self._changed.wait_for(lambda: self._queued or self._closed)
                if not self._queued:
                    return []
                jobs = self._take_batch()
            return jobs

    def _take_batch(self) -> list[_Job]:
        """Return queued jobs of up to 16 images, of each client in turn."""
        jobs: list[_Job] = []
        count = 0
        while self._queued and count < MAX_BATCH:
            client, queued = next(iter(self._queued.items()))
            self._queued.move_to_end(client)
            job = queued.popleft()
            if not queued:
                del self._queued[client]
            if not job.is_cancelled:
                jobs.append(job)
                count += len(job.images)
        return jobs

    def _encode(self, jobs: list[_Job]) -> None:
        """Encode a batch; if it fails, encode job by job, so that only invalid jobs fail."""
        try:
            embeddings = self.encoder.encode_batch([image for job in jobs for image in job.images])
        except Exception as error:  # noqa: BLE001 - passed on to the request
            if len(jobs) > 1 and isinstance(error, LookalikeError):
                for job in jobs:
                    self._encode([job])
                return
            _resolve(jobs, [error] * len(jobs))
            return
        ends = itertools.accumulate(len(job.images) for job in jobs)
        rows = [
            embeddings[end - len(job.images) : end] for job, end in zip(jobs, ends, strict=True)
        ]
        _resolve(jobs, rows)
