"""Postpone Ctrl-C to a moment where it does no harm."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class DeferredInterrupt:
    """A block that postpones KeyboardInterrupt to its end; Ctrl-C sets ``requested`` at once.

    A second Ctrl-C raises at once, in case the block hangs. Only the main thread receives signals;
    in other threads this has no effect.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is not None:  # Python can restore it
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
        if self.requested and error is None:
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
