"""What a client may occupy: quotas, slots, threads, batches and connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any, cast

import numpy as np
import pytest

from lookalike.cancellation import Cancellation, cancellable, check_cancelled
from lookalike.encoders.base import Encoder
from lookalike.errors import CancelledError
from lookalike.server.admission import (
    FairSlots,
    Quota,
    SharedBytes,
    address_of,
    client_of,
    current_client,
    identify,
)
from lookalike.server.batching import Batcher
from lookalike.server.connections import ConnectionTable
from lookalike.server.problems import ProblemError
from lookalike.server.workers import WorkerThreads


def scope(address: str, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    return {"type": "http", "client": (address, 1), "headers": headers}


def start(client: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start work for a client."""

    async def identified() -> Any:
        identify(scope(client), client)
        return await work

    return asyncio.create_task(identified())


async def settled() -> None:
    """Let all tasks run as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


# ---- clients -------------------------------------------------------------------------------------


def test_clients_are_addresses_or_networks() -> None:
    assert address_of(scope("192.0.2.7")) == "192.0.2.7"
    assert address_of(scope("::ffff:192.0.2.7")) == "192.0.2.7"
    assert address_of(scope("2001:db8:1:2:3::4")) == "2001:db8:1:2::/64"
    assert address_of(scope("fe80::1%eth0")) == "fe80::/64"
    assert address_of({"type": "http", "client": None, "headers": []}) == "unknown"


def test_forwarded_addresses_are_believed_from_trusted_proxies_only() -> None:
    sent = scope("10.0.0.1", "6.6.6.6, 192.0.2.7", "10.0.0.2")
    assert address_of(sent) == "10.0.0.1"
    assert address_of(sent, ["10.0.0.1"]) == "10.0.0.2"
    assert address_of(sent, ["10.0.0.1", "10.0.0.2"]) == "192.0.2.7"
    assert address_of(scope("10.0.0.1", "nonsense"), ["10.0.0.1"]) == "nonsense"
    assert address_of(scope("10.0.0.1"), ["10.0.0.1"]) == "10.0.0.1"


def test_the_name_of_a_key_comes_before_an_address() -> None:
    request = scope("192.0.2.7")
    assert client_of(request) == "192.0.2.7"
    identify(request, "shop")
    assert client_of(request) == current_client() == "shop"


# ---- quotas --------------------------------------------------------------------------------------


def test_a_quota_is_limited_per_client_and_for_all_but_newcomers() -> None:
    quota = Quota(2, "things", total=3)
    quota.add("a", 2)
    with pytest.raises(ProblemError, match="things") as refused:
        quota.add("a", 1)
    assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "1")
    quota.add("b", 1)
    with pytest.raises(ProblemError):
        quota.add("b", 1)  # all three are taken
    quota.add("c", 1)  # a newcomer is not refused because of others
    assert quota.used == 4
    for client, amount in (("a", 2), ("b", 1), ("c", 1)):
        quota.remove(client, amount)
    assert quota.used == 0
    quota.add("b", 2)


def test_newcomers_are_bounded_too() -> None:
    quota = Quota(1, "things", total=3)
    accepted = 0
    for number in range(50):
        try:
            quota.add(f"client {number}", 1)
        except ProblemError:
            continue
        accepted += 1
    assert accepted == 6


def test_one_request_that_costs_more_than_a_client_may_occupy_runs_alone() -> None:
    quota = Quota(10, "work")
    with quota.take(500):
        assert quota.used == 10
        with pytest.raises(ProblemError), quota.take(1):
            pass
    assert quota.used == 0
    with pytest.raises(ProblemError), Quota(0, "nothing").take():
        pass


def test_memory_is_never_exceeded() -> None:
    quota = Quota(75, "memory", total=100, strict=True)
    with ExitStack() as stack:
        for client in ("a", "b"):
            identify(scope(client), client)
            stack.enter_context(quota.take(50))
        identify(scope("c"), "c")
        with pytest.raises(ProblemError), quota.take(1):
            pass
    with pytest.raises(ProblemError), quota.take(76):
        pass


# ---- slots and threads ---------------------------------------------------------------------------


def test_a_client_leaves_a_slot_and_newcomers_do_not_wait_for_its_queue() -> None:
    async def main() -> list[str]:
        slots, order, release = FairSlots(3), [], asyncio.Event()

        async def work(name: str) -> None:
            async with slots.slot():
                order.append(name)
                await release.wait()

        tasks = [start("many", work(f"many {n}")) for n in range(6)]
        await settled()
        assert (slots.used, slots.waiting) == (2, 4)
        tasks.append(start("one", work("one")))
        await settled()
        assert order == ["many 0", "many 1", "one"]
        release.set()
        await asyncio.gather(*tasks)
        assert (slots.used, slots.waiting) == (0, 0)
        return order

    assert len(asyncio.run(main())) == 7


def test_the_only_slot_goes_to_the_client_that_had_least() -> None:
    async def main() -> list[str]:
        slots, order = FairSlots(1), []

        async def work(name: str) -> None:
            async with slots.slot():
                order.append(name)
                await asyncio.sleep(0)

        held = await slots.acquire()
        tasks = [start("many", work("many")) for n in range(5)]
        await settled()
        tasks.append(start("one", work("one")))
        await settled()
        slots.release(held)
        await asyncio.gather(*tasks)
        return order

    order = asyncio.run(main())
    assert order.index("one") <= 1
    assert len(order) == 6


def test_cancelled_requests_leave_the_queue_of_a_slot() -> None:
    async def main() -> None:
        slots = FairSlots(1)
        held = await slots.acquire()
        waiting = [start("a", slots.acquire()) for _ in range(3)]
        await settled()
        waiting[0].cancel()
        await settled()
        assert slots.waiting == 2
        slots.release(held)  # to the second, which is cancelled before it can use it
        waiting[1].cancel()
        await settled()
        assert (slots.used, slots.waiting) == (1, 0)
        slots.release(await waiting[2])
        assert slots.used == 0

    asyncio.run(main())


def test_queued_work_of_cancelled_requests_never_runs() -> None:
    async def main() -> list[str]:
        pool, ran, release = WorkerThreads(1, "test"), [], threading.Event()

        def work(name: str) -> None:
            ran.append(name)
            release.wait()

        running = start("a", pool.run(work, "first"))
        queued = [start("a", pool.run(work, f"queued {n}")) for n in range(5)]
        last = start("b", pool.run(work, "last"))
        await settled()
        for task in (running, *queued):
            task.cancel()
        await settled()
        assert pool.used == 1  # the thread still works, though nobody waits for it
        release.set()
        await last
        await pool.close(5)
        return ran

    assert asyncio.run(main()) == ["first", "last"]


def test_work_in_threads_sees_the_cancellation_of_its_request() -> None:
    async def main() -> None:
        pool, cancellation = WorkerThreads(2, "test"), Cancellation()
        started, ended = threading.Event(), threading.Event()

        def work() -> None:
            started.set()
            try:
                while True:
                    check_cancelled()
            except CancelledError:
                ended.set()
                raise

        with cancellable(cancellation):
            running = start("a", pool.run(work))
        await asyncio.to_thread(started.wait)
        cancellation.cancel()
        with pytest.raises(CancelledError):
            await running
        assert ended.is_set()
        with cancellable(cancellation), pytest.raises(CancelledError):
            await pool.run(started.clear)
        assert started.is_set()  # it was not begun
        await pool.close(5)
        with pytest.raises(CancelledError):
            await pool.run(work)

    asyncio.run(main())


# ---- batches -------------------------------------------------------------------------------------


class Recorder:
    """An encoder that waits, and records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered, self.release = threading.Semaphore(0), threading.Event()

    def encode_batch(self, images: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        self.batches.append([int(image[0, 0]) for image in images])
        self.entered.release()
        self.release.wait()
        return np.zeros((len(images), 1), np.float32)


def image(number: int) -> np.ndarray[Any, Any]:
    return np.full((1, 1), number, np.uint8)


def test_cancelled_images_are_not_encoded_and_clients_take_turns() -> None:
    async def main() -> list[list[int]]:
        encoder = Recorder()
        batcher = Batcher(cast(Encoder, encoder), 1)
        first = start("a", batcher.encode([image(0)]))
        await asyncio.to_thread(encoder.entered.acquire)
        many = [start("a", batcher.encode([image(n)] * 8)) for n in range(1, 5)]
        await settled()
        other = start("b", batcher.encode([image(9)]))
        await settled()
        for task in many[1:3]:
            task.cancel()
        await settled()
        encoder.release.set()
        await asyncio.gather(first, other, many[0], many[3])
        batcher.close()
        return encoder.batches

    batches = asyncio.run(main())
    assert batches == [[0], [1] * 8 + [9] + [4] * 8]


# ---- connections ---------------------------------------------------------------------------------


class Fake:
    """A connection of the table."""

    def __init__(self, address: str) -> None:
        self.client: tuple[str, int] | None = (address, 1)
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True


def test_the_longest_idle_connection_of_the_largest_client_makes_room() -> None:
    table = ConnectionTable(8)
    many = [Fake("192.0.2.1") for _ in range(4)]
    others = [Fake(f"192.0.2.{n}") for n in range(2, 6)]
    assert all(table.admit(each) for each in (*many, *others))
    table.work(many[0])
    newcomer = Fake("192.0.2.99")
    assert table.admit(newcomer)
    assert [each.dropped for each in many] == [False, True, False, False]
    assert not any(each.dropped for each in others)
    assert len(table) == 8
    table.work(many[2])
    table.wait(many[2])  # answered: it waits for less time than the last one
    again = Fake("192.0.2.98")
    assert table.admit(again)
    assert [each.dropped for each in many] == [False, True, False, True]


def test_one_address_has_half_of_the_connections() -> None:
    table = ConnectionTable(8)
    many = [Fake("2001:db8::1"), *(Fake(f"2001:db8::{n}") for n in range(2, 7))]
    assert all(table.admit(each) for each in many)
    assert [each.dropped for each in many] == [True, True, False, False, False, False]
    for each in many[2:]:
        table.work(each)
    assert not table.admit(Fake("2001:db8::9"))  # all are at work
    assert table.admit(Fake("2001:db8:0:1::1"))
    for each in many:
        table.remove(each)
    assert len(table) == 1
    assert table.admit(Fake("2001:db8::9"))


def test_who_holds_memory_keeps_only_itself_waiting() -> None:
    memory = SharedBytes(100)
    assert memory.fits("a", 500)  # alone, also more than there is
    memory.add("a", 40)
    assert memory.fits("a", 10)
    assert not memory.fits("a", 11)
    memory.add("a", 40)
    assert memory.fits("a", 0)
    memory.add("a", -40)
    for client in ("b", "c"):
        assert memory.fits(client, 50)
        memory.add(client, 50)
    assert memory.total == 140
    assert memory.fits("d", 100)
    memory.add("d", 60)
    assert not memory.fits("e", 1)
    memory.add("b", -50)
    assert memory.fits("e", 1)
    assert memory.fits("b", 1)


def test_the_service_itself_may_hold_all_memory() -> None:
    memory = SharedBytes(100)
    memory.add("", 60)
    assert memory.fits("", 40)
    assert not memory.fits("", 41)
