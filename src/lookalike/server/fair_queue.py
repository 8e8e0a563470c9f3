"""A queue in which nobody's work waits for all the work of somebody else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Waiting items of several clients; next is the client that was given the least time so far.

    That is start-time fair queuing (Goyal et al. 1996) with costs that are known afterwards. Of one
    client, items of a lower ``rank`` come first, then the ones that wait longest.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[int, deque[tuple[int, T]]]] = {}
        self._used: dict[str, float] = {}
        self._now = 0.0
        self._numbers = count()

    def __len__(self) -> int:
        return sum(len(items) for ranks in self._waiting.values() for items in ranks.values())

    def put(self, client: str, rank: int, item: T) -> None:
        """Add an item; a client without any begins where the others are.

        Where nothing waits, nobody has been kept waiting, so all begin alike.
        """
        if not self._waiting:
            self._now = max(self._used.values(), default=self._now)
            self._used = {}
        if client not in self._waiting:
            self._used[client] = max(self._used.get(client, 0.0), self._now)
        ranks = self._waiting.setdefault(client, {})
        ranks.setdefault(rank, deque()).append((next(self._numbers), item))

    def take(self, fits: Callable[[T], bool]) -> tuple[str, T] | None:
        """Remove and return the next item for which there is room, and its client; None without."""
        best: tuple[float, int, str, int] | None = None
        for client, ranks in self._waiting.items():
            for rank in sorted(ranks):
                number, item = ranks[rank][0]
                if fits(item):
                    candidate = (self._used[client], number, client, rank)
                    best = candidate if best is None else min(best, candidate)
                    break
        if best is None:
            return None
        self._now = max(self._now, best[0])
        _, _, client, rank = best
        _, item = self._waiting[client][rank].popleft()
        self._drop_empty(client, rank)
        return client, item

    def remove(self, client: str, rank: int, item: T) -> None:
        """Remove an item that waits no longer; nothing happens if it was taken."""
        items = self._waiting.get(client, {}).get(rank, deque())
        for entry in items:
            if entry[1] is item:
                items.remove(entry)
                self._drop_empty(client, rank)
                return

    def charge(self, client: str, cost: float) -> None:
        """Count work that was done for a client."""
        self._used[client] = max(self._used.get(client, 0.0), self._now) + cost
        self._used = {
            name: used
            for name, used in self._used.items()
            if used > self._now or name in self._waiting
        }

    def _drop_empty(self, client: str, rank: int) -> None:
        ranks = self._waiting[client]
        if not ranks[rank]:
            del ranks[rank]
        if not ranks:
            del self._waiting[client]
