"""Open connections: a bounded number, of which one address has no more than half."""

from __future__ import annotations

import contextlib
import select
import sys
from collections import OrderedDict
from typing import Any, Protocol

from lookalike.server.admission import network_of
from lookalike.server.limits import Limits

_RESERVED = 384
"""File descriptors for galleries, libraries, decoders, and connections that are being closed."""

_MIN_CONNECTIONS = 32


class Connection(Protocol):
    """What is needed of a connection here; ``client`` is its peer's address and port."""

    client: tuple[str, int] | None

    def drop(self) -> None:
        """Close it at once."""


class ConnectionTable:
    """The open connections of a service.

    When there are too many, the one that has waited longest without a complete request is closed,
    of the address that has most of them. So a newcomer gets in, unless all others are at work.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._per_address = max(1, limit // 2)
        self._open: dict[Connection, str] = {}
        self._counts: dict[str, int] = {}
        self._waiting: dict[str, OrderedDict[Connection, None]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in; return False if there is no room for it."""
        address = network_of(connection.client[0] if connection.client else "")
        victim = None
        if self._counts.get(address, 0) >= self._per_address:
            victim = self._waiting.get(address)
        elif len(self._open) >= self.limit:
            victim = max(self._waiting.values(), key=len, default=None)
        else:
            victim = OrderedDict()
        if victim is None:
            return False
        if victim:
            oldest = next(iter(victim))
            self.remove(oldest)
            oldest.drop()
        self._open[connection] = address
        self._counts[address] = self._counts.get(address, 0) + 1
        self.wait(connection)
        return True

    def wait(self, connection: Connection) -> None:
        """Note that a connection waits for a request."""
        if connection in self._open:
            waiting = self._waiting.setdefault(self._open[connection], OrderedDict())
            waiting[connection] = None
            waiting.move_to_end(connection)

    def work(self, connection: Connection) -> None:
        """Note that a request of a connection is complete."""
        address = self._open.get(connection)
        if address is None or address not in self._waiting:
            return
        self._waiting[address].pop(connection, None)
        if not self._waiting[address]:
            del self._waiting[address]

    def remove(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self.work(connection)
        address = self._open.pop(connection, None)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]


def raise_file_limit(limits: Limits) -> None:
    """Allow this process as many file descriptors as the limits need, as far as it may."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = limits.connections + _reserved(limits)
        if hard != resource.RLIM_INFINITY:
            needed = min(needed, hard)
        if soft != resource.RLIM_INFINITY and soft < needed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def connection_limit(limits: Limits) -> int:
    """Return how many connections may be open, with the file descriptors of this process."""
    with contextlib.suppress(ImportError, OSError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            available = max(_MIN_CONNECTIONS, soft - _reserved(limits))
            return min(limits.connections, available)
    return limits.connections


def _reserved(limits: Limits) -> int:
    return _RESERVED + 4 * limits.files


def has_hung_up(transport: Any) -> bool:
    """Return whether the client has closed its side, also if not all was read that it sent."""
    if sys.platform != "linux":
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
