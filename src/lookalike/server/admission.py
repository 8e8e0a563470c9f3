"""Who sends a request, and how much of the service one client may occupy.

A client that asks for much waits for itself: quotas and slots are per client, and clients take
turns at slots.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import Scope

from lookalike.server.fair_queue import FairQueue
from lookalike.server.problems import too_many_requests

_client: ContextVar[str] = ContextVar("lookalike-client", default="")

_IPV6_PREFIX = 64
"""Bits of an IPv6 address that name a client: one machine has all addresses below them."""

_OVERDRAFT = 2
"""Memory may be held so many times by clients that hold nothing else."""

_ALL_CLIENTS = 4
"""All clients together may occupy this many times what one may."""


def client_of(scope: Scope) -> str:
    """Return who sends a request: the name of its API key, or its address."""
    client: str = scope.get("state", {}).get("client", "") or address_of(scope)
    return client


def identify(scope: Scope, client: str, *, key: str | None = None) -> None:
    """Note who sends a request, for :func:`client_of` and for the work of this task.

    Args:
        scope: of the request.
        client: name of its API key, or its address.
        key: the name of its API key, for the access log.
    """
    scope.setdefault("state", {}).update(client=client, key=key)
    _client.set(client)


def current_client() -> str:
    """Return the client that the current task or thread works for; empty for the service itself."""
    return _client.get()


def address_of(scope: Scope, proxies: Collection[str] = ()) -> str:
    """Return the IP address that a request comes from, of IPv6 the network of 64 bits.

    Args:
        scope: of the request.
        proxies: addresses of reverse proxies, whose ``X-Forwarded-For`` is believed.
    """
    return network_of(peer_of(scope, proxies))


def peer_of(scope: Scope, proxies: Collection[str] = ()) -> str:
    """Return the address that a request comes from, as the connection or a proxy has it."""
    peer: str = (scope.get("client") or ("unknown",))[0]
    if peer in proxies:
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
        hops = [hop.strip() for hop in forwarded if hop.strip()]
        peer = next((hop for hop in reversed(hops) if hop not in proxies), peer)
    return peer


@lru_cache(maxsize=1024)
def network_of(peer: str) -> str:
    """Return an IPv4 address, or the network of 64 bits of an IPv6 address."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer[:100]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address)


class Quota:
    """An amount that clients occupy, limited per client and for all of them together.

    A client that occupies nothing is not refused because of others, up to twice what all may
    occupy, unless ``strict``.
    """

    def __init__(
        self, limit: int, what: str, *, total: int | None = None, strict: bool = False
    ) -> None:
        self._limit = limit
        self._total = limit * _ALL_CLIENTS if total is None else total
        self._what = what
        self._strict = strict
        self._used: Counter[str] = Counter()
        self.used = 0
        """What all clients occupy together."""

    @contextlib.contextmanager
    def take(self, amount: int = 1) -> Iterator[None]:
        """Occupy an amount, at most the limit of a client.

        Raises:
            ProblemError: the client, or all of them, occupy too much.
        """
        client, amount = current_client(), amount if self._strict else min(amount, self._limit)
        self.add(client, amount)
        try:
            yield
        finally:
            self.remove(client, amount)

    def add(self, client: str, amount: int) -> None:
        """Occupy an amount until it is removed.

        Raises:
            ProblemError: the client, or all of them, occupy too much.
        """
        own = self._used[client]
        total = self._total if own or self._strict else 2 * self._total
        if self._limit < 1 or own + amount > self._limit or self.used + amount > total:
            raise too_many_requests(f"{self._what}: the limit is reached")
        self._used[client] += amount
        self.used += amount

    def remove(self, client: str, amount: int) -> None:
        """Release an amount that was added."""
        self.used -= amount
        self._used[client] -= amount
        if not self._used[client]:
            del self._used[client]


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """A request that waits for a slot."""

    client: str
    granted: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Slot:
    """An occupied slot: for whom, and since when (of ``time.monotonic``)."""

    client: str
    since: float


class FairSlots:
    """Slots that clients take in turns, by the time that they occupied slots so far.

    Of several slots, one client leaves one to others. A request that is cancelled while it waits
    leaves the queue.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._per_client = max(1, count - 1)
        self._running: Counter[str] = Counter()
        self._queue: FairQueue[_Turn] = FairQueue()
        self.used = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._queue)

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Occupy a slot, once it is this client's turn."""
        slot = await self.acquire()
        try:
            yield
        finally:
            self.release(slot)

    async def acquire(self) -> Slot:
        """Wait for a slot, which must be released."""
        turn = _Turn(current_client(), asyncio.get_running_loop().create_future())
        self._queue.put(turn.client, 0, turn)
        self._grant()
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.cancelled():
                self._queue.remove(turn.client, 0, turn)
            else:
                self.release(Slot(turn.client, time.monotonic()))
            raise
        return Slot(turn.client, time.monotonic())

    def release(self, slot: Slot) -> None:
        """Release a slot, for whose turn it is."""
        self.used -= 1
        self._running[slot.client] -= 1
        if not self._running[slot.client]:
            del self._running[slot.client]
        self._queue.charge(slot.client, time.monotonic() - slot.since)
        self._grant()

    def _grant(self) -> None:
        while self.used < self.count and (taken := self._queue.take(self._fits)) is not None:
            client, turn = taken
            if not turn.granted.done():
                self.used += 1
                self._running[client] += 1
                turn.granted.set_result(None)

    def _fits(self, turn: _Turn) -> bool:
        return self._running[turn.client] < self._per_client


class SharedBytes:
    """Memory of clients: half of it for one, and for each that has none also beyond it.

    Who holds much for long, such as a search that waits for others, keeps only itself waiting.
    What the service holds for itself, without a client, may be all of it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Bytes that all clients hold."""
        return self._held.total()

    def fits(self, client: str, size: int) -> bool:
        """Return whether a client may hold so many bytes more; alone, also more than there are."""
        own = self._held[client]
        if not size:
            return True
        if not own:
            return self.total < _OVERDRAFT * self._limit
        limit = self._limit // 2 if client else self._limit
        return own + size <= limit and self.total + size <= self._limit

    def add(self, client: str, size: int) -> None:
        """Count bytes that a client holds from now on, or releases if they are negative."""
        self._held[client] += size
        if not self._held[client]:
            del self._held[client]
