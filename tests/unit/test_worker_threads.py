"""Threads for blocking work: results, errors, cancelled requests, and how often the loop wakes."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from lookalike.errors import CancelledError
from lookalike.server.workers import WorkerThreads


def test_results_and_errors_arrive_and_the_thread_is_free_then() -> None:
    async def main() -> None:
        workers = WorkerThreads(2, "test")
        assert await workers.run(lambda a, b: a + b, 1, 2) == 3
        assert workers.used == 0
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 / 0)
        assert workers.used == 0
        results = await asyncio.gather(*(workers.run(str, number) for number in range(50)))
        assert results == [str(number) for number in range(50)]
        await workers.close(1)
        with pytest.raises(CancelledError):
            await workers.run(str, 1)
        assert workers.used == 0

    asyncio.run(main())


def test_a_thread_is_occupied_until_work_that_nobody_waits_for_ends() -> None:
    async def main() -> None:
        workers, begun, go_on = WorkerThreads(1, "test"), threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            go_on.wait(30)

        running = asyncio.create_task(workers.run(work))
        waiting = asyncio.create_task(workers.run(pytest.fail, "it was cancelled before"))
        assert await asyncio.to_thread(begun.wait, 30)
        waiting.cancel()
        running.cancel()
        results = await asyncio.gather(running, waiting, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in results)
        assert workers.used == 1
        go_on.set()
        assert await workers.run(lambda: "next") == "next"
        assert workers.used == 0
        await workers.close(1)

    asyncio.run(main())


def test_the_loop_is_woken_once_for_each_piece_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        workers, loop, calls = WorkerThreads(1, "test"), asyncio.get_running_loop(), 0
        wake = loop.call_soon_threadsafe

        def counted(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            return wake(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        for _ in range(5):
            await workers.run(time.sleep, 0.001)
        assert calls == 5
        await workers.close(1)

    asyncio.run(main())
