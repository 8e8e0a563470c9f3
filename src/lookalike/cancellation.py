"""Cancellation and time limits of work in threads, checked by the work itself.

A thread cannot be ended from outside, so long loops call :func:`check_cancelled` between their
steps. Code that is not inside a :func:`cancellable` block is never cancelled.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

from lookalike.errors import CancelledError, TimeLimitError


class Cancellation:
    """Ends some work when it is cancelled, from any thread, or when its time is over.

    Args:
        seconds: time for the work from now on; None sets no limit.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._cancelled = False

    @property
    def remaining(self) -> float | None:
        """Seconds left, at least 0; None if there is no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether it was cancelled or its time is over."""
        return self._cancelled or self.remaining == 0

    def cancel(self) -> None:
        """End the work at its next check."""
        self._cancelled = True

    def check(self) -> None:
        """Return if the work may go on.

        Raises:
            CancelledError: it was cancelled.
            TimeLimitError: its time is over.
        """
        if self._cancelled:
            raise CancelledError("nobody waits for the result any more")
        if self.remaining == 0:
            raise TimeLimitError(f"it took longer than {self.seconds:g} s, the limit")


_current: ContextVar[Cancellation | None] = ContextVar("lookalike-cancellation", default=None)


@contextlib.contextmanager
def cancellable(cancellation: Cancellation) -> Iterator[None]:
    """Let the block be cancelled, and what it calls in this thread.

    Threads that it starts inherit that only with a copy of the context (``contextvars``).
    """
    token = _current.set(cancellation)
    try:
        yield
    finally:
        _current.reset(token)


def check_cancelled() -> None:
    """Return if the current work may go on, which takes less than a microsecond.

    Raises:
        CancelledError: it was cancelled.
        TimeLimitError: its time is over.
    """
    current = _current.get()
    if current is not None:
        current.check()


def is_cancelled() -> bool:
    """Return whether the current work may not go on, for callers that cannot raise."""
    current = _current.get()
    return current is not None and current.is_over


class Lock(Protocol):
    """A lock of :mod:`threading`."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Return whether it is held now, after waiting for at most ``timeout`` seconds."""
        ...

    def release(self) -> None:
        """Let another thread hold it."""


_WAIT_S = 0.02
"""Seconds that a lock is waited for between checks."""


@contextlib.contextmanager
def holding(lock: Lock) -> Iterator[None]:
    """Hold a lock, and wait for it only as long as the current work may go on.

    Raises:
        CancelledError: the work was cancelled while it waited.
        TimeLimitError: its time was over.
    """
    while not lock.acquire(timeout=_WAIT_S):
        check_cancelled()
    try:
        yield
    finally:
        lock.release()
