"""Who sends a request, and how much of the service one client may occupy.

A client that asks for much waits for itself: quotas and slots are per client, and clients take
turns at slots.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Collection, Iterator
from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.types import Scope

from lookalike.server.problems import too_many_requests

_client: ContextVar[str] = ContextVar("lookalike-client", default="")

_IPV6_PREFIX = 64
"""Bits of an IPv6 address that name a client: one machine has all addresses below them."""

_ALL_CLIENTS = 4
"""All clients together may occupy this many times what one may."""


def client_of(scope: Scope) -> str:
    """Return who sends a request: the name of its API key, or its address."""
    client: str = scope.get("state", {}).get("client", "") or address_of(scope)
    return client


def identify(scope: Scope, client: str) -> None:
    """Note who sends a request, for :func:`client_of` and for the work of this task."""
    scope.setdefault("state", {})["client"] = client
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
    peer = (scope.get("client") or ("unknown",))[0]
    if peer in proxies:
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
        hops = [hop.strip() for hop in forwarded if hop.strip()]
        peer = next((hop for hop in reversed(hops) if hop not in proxies), peer)
    return network_of(peer)


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


class FairSlots:
    """Slots that clients take in turns; of several slots, one client leaves one to others.

    A request that is cancelled while it waits leaves the queue.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._per_client = max(1, count - 1)
        self._running: Counter[str] = Counter()
        self.used = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Occupy a slot, once it is this client's turn."""
        client = await self.acquire()
        try:
            yield
        finally:
            self.release(client)

    async def acquire(self) -> str:
        """Wait for a slot, and return the client that it must be released for."""
        client = current_client()
        if self._may_run(client):
            self._take(client)
            return client
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(client)
            else:
                self._forget(client, turn)
            raise
        return client

    def release(self, client: str) -> None:
        """Release a slot, to whose turn it is."""
        self.used -= 1
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        while (following := next(filter(self._may_run, self._waiting), None)) is not None:
            turns = self._waiting[following]
            turn = turns.popleft()
            self._waiting.move_to_end(following)
            if not turns:
                del self._waiting[following]
            if not turn.done():
                self._take(following)
                turn.set_result(None)

    def _may_run(self, client: str) -> bool:
        return self.used < self.count and self._running[client] < self._per_client

    def _take(self, client: str) -> None:
        self.used += 1
        self._running[client] += 1

    def _forget(self, client: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(client)
        if turns is not None:
            with contextlib.suppress(ValueError):
                turns.remove(turn)
            if not turns:
                del self._waiting[client]
