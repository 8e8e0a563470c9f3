"""Images of many requests encoded together, as many as are waiting when a thread is free."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lookalike.encoders.base import Encoder
from lookalike.errors import LookalikeError
from lookalike.types import Embeddings, ImageArray

MOST = 16
"""Images that are encoded together at most, unless one request has more."""


@dataclass(frozen=True, slots=True)
class _Job:
    images: Sequence[ImageArray]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Embeddings]

    def tell(self, found: Embeddings | BaseException) -> None:
        """Answer from another thread; whoever asked may be gone."""
        self.loop.call_soon_threadsafe(partial(_settle, self.answer, found))


def _settle(answer: asyncio.Future[Embeddings], found: Embeddings | BaseException) -> None:
    if answer.done():
        return
    if isinstance(found, BaseException):
        answer.set_exception(found)
    else:
        answer.set_result(found)


class Batcher:
    """An encoder for many requests at a time, in ``threads`` threads.

    A thread takes what waits, at most 16 images, and encodes it at once: nobody waits for a batch
    to fill, and batches grow with the load.
    """

    def __init__(self, encoder: Encoder, threads: int) -> None:
        self.encoder = encoder
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._taking = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"lookalike-encode-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def encode(self, images: Sequence[ImageArray]) -> Embeddings:
        """Return ``(n, dim)`` embeddings.

        Raises:
            ImageError: the encoder does not take one of them.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Embeddings] = loop.create_future()
        self._jobs.put(_Job(images, loop, answer))
        return await answer

    def close(self) -> None:
        """End the threads, after what waits."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (jobs := self._take()) is not None:
            self._encode(jobs)

    def _take(self) -> list[_Job] | None:
        """Return what waits; None when it is time to end."""
        with self._taking:
            job = self._jobs.get()
            if job is None:
                return None
            jobs, count = [job], len(job.images)
            while count < MOST:
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
        """Encode together; where that fails, one by one, so that only who is wrong is told."""
        try:
            rows = self.encoder.encode([image for job in jobs for image in job.images])
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            if len(jobs) > 1 and isinstance(error, LookalikeError):
                for job in jobs:
                    self._encode([job])
                return
            for job in jobs:
                job.tell(error)
            return
        start = 0
        for job in jobs:
            job.tell(rows[start : start + len(job.images)])
            start += len(job.images)
