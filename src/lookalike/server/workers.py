"""Threads for blocking work, which clients take in turns."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from lookalike.cancellation import check_cancelled
from lookalike.errors import CancelledError
from lookalike.server.admission import FairSlots

T = TypeVar("T")

_POLL = 0.02
_READERS = 8
_SHORT = 3
"""Threads for searches, at least. One client leaves one to others, so it has one for each core:
more searches at a time only wait for each other."""


class WorkerThreads:
    """A fixed number of threads. Work that waits for one is dropped if its request is cancelled.

    A thread counts as occupied until its work ends, also if nobody waits for that any more.
    """

    def __init__(self, count: int, name: str) -> None:
        self._slots = FairSlots(count)
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=f"lookalike-{name}")

    @property
    def used(self) -> int:
        """Threads that work."""
        return self._slots.used

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run blocking work in a thread, with the request's cancellation and time limit.

        Raises:
            CancelledError: the request was cancelled, or its time is over, or the service stops.
        """
        slot = await self._slots.acquire()
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def finish(future: Future[T]) -> None:
            self._slots.release(slot)
            if not result.done():
                _copy_result(future, result)

        def wake(future: Future[T]) -> None:  # the loop, once: each time is a system call
            with contextlib.suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(finish, future)

        try:
            check_cancelled()
            future = self._executor.submit(contextvars.copy_context().run, work, *arguments)
        except BaseException as error:
            self._slots.release(slot)
            if isinstance(error, RuntimeError):
                raise CancelledError("the service stops") from error
            raise
        future.add_done_callback(wake)
        try:
            return await result
        except asyncio.CancelledError:
            future.cancel()
            raise

    async def close(self, seconds: float) -> None:
        """Wait for running work, at most some seconds; nothing new is begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._slots.used:
                    await asyncio.sleep(_POLL)


def _copy_result(future: Future[T], result: asyncio.Future[T]) -> None:
    if future.cancelled():
        result.cancel()
    elif (error := future.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(future.result())


class Workers:
    """The threads of a service, apart by how long their work may take.

    Args:
        threads: cores to use.
        remote: threads to wait for a remote store with, which need no core; 0 without one.
        fetches: images that are fetched at a time.

    Attributes:
        opening: galleries, before it is known what a request asks for.
        short: searches and rows; work of milliseconds.
        long: work that may take seconds, so that it does not hold up ``short`` work.
        reading: image files and what is sent of them, which may be on a slow disk.
        fetching: images from URLs.
        parsing: large bodies in JSON.
    """

    def __init__(self, threads: int, *, remote: int, fetches: int) -> None:
        self.opening = WorkerThreads(max(4, remote), "open")
        self.short = WorkerThreads(max(_SHORT, threads + 1, remote), "search")
        self.long = WorkerThreads(max(3, threads, remote // 2), "work")
        self.reading = WorkerThreads(_READERS, "read")
        self.fetching = WorkerThreads(fetches, "fetch")
        self.parsing = WorkerThreads(1, "parse")

    async def close(self, seconds: float) -> None:
        """Wait for running work, at most some seconds together."""
        pools = (self.opening, self.short, self.long, self.reading, self.fetching, self.parsing)
        await asyncio.gather(*(pool.close(seconds) for pool in pools))
