"""Scoped changes of warning filters, loggers and environment variables.

All three belong to the whole process: to the program that uses the library and to its threads.
``warnings.catch_warnings`` and ``Logger.setLevel`` act on all threads, and where the blocks of two
threads overlap, the last one to end restores what the other one had set.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

_MATCH_NOTHING = r"(?!)"


class _ThreadState(threading.local):
    """State of the current thread, which also serves as the regular expression of a warning filter.

    It matches nothing in threads outside the block. Matching runs in C code only, so that no other
    thread can change the filters while the interpreter iterates over them.
    """

    depth = 0
    match = staticmethod(re.compile(_MATCH_NOTHING).match)

    def __reduce__(self) -> tuple[Any, ...]:
        return re.compile, (_MATCH_NOTHING,)  # some libraries send the filters to other processes


class _SharedBlock(ABC):
    """A reentrant context that several threads may be in at once.

    Something is installed while any thread is in it, and takes effect in these threads only.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._state = _ThreadState()

    def __enter__(self) -> None:
        with self._lock:
            self._install()
            self._active += 1
        self._state.depth += 1

    def __exit__(self, *_: object) -> None:
        self._state.depth -= 1
        with self._lock:
            self._active -= 1
            if not self._active:
                self._remove()

    @abstractmethod
    def _install(self) -> None:
        """Install it, unless it is installed."""

    @abstractmethod
    def _remove(self) -> None:
        """Remove it, if it is installed."""


class IgnoreWarnings(_SharedBlock):
    """Ignore some warnings in the threads inside the block, whatever other filters say.

    Filters that the program adds or removes meanwhile stay: this filter is inserted into the list
    and removed from it, and the list is not replaced. Unlike ``catch_warnings``, this does not
    reset the registry of warnings that are shown once.

    Args:
        category: category of the warnings, with its subclasses.
        message: regular expression that matches the beginning of the message.
        module: regular expression that matches the beginning of the module's name.
    """

    def __init__(self, category: type[Warning], message: str = "", module: str = "") -> None:
        super().__init__()
        self._match = re.compile(message, re.IGNORECASE).match
        self._filter = ("ignore", self._state, category, re.compile(module), 0)
        self._lists: list[list[Any]] = []

    def __enter__(self) -> None:
        super().__enter__()
        self._state.match = self._match

    def __exit__(self, *details: object) -> None:
        if self._state.depth == 1:
            del self._state.match
        super().__exit__(*details)

    def _install(self) -> None:
        filters: Any = warnings.filters
        if filters and filters[0] is self._filter:
            return
        filters.insert(0, self._filter)
        with contextlib.suppress(ValueError):
            del filters[filters.index(self._filter, 1)]
        if not any(each is filters for each in self._lists):
            self._lists.append(filters)

    def _remove(self) -> None:
        filters: Any = warnings.filters  # another list inside a catch_warnings block
        for each in (*self._lists, filters):
            with contextlib.suppress(ValueError):
                while True:
                    each.remove(self._filter)
        self._lists.clear()


class MuteLoggers(_SharedBlock):
    """Drop the records of a logger and its descendants in the threads inside the block.

    Args:
        name: the logger.
        level: records of this level and above pass.
    """

    def __init__(self, name: str, level: int = logging.CRITICAL) -> None:
        super().__init__()
        self._name = name
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record passes."""
        return not self._state.depth or record.levelno >= self._level

    def _install(self) -> None:
        for logger in self._loggers():
            logger.addFilter(self)

    def _remove(self) -> None:
        for logger in self._loggers():
            logger.removeFilter(self)

    def _loggers(self) -> list[logging.Logger]:
        logging.getLogger(self._name)  # its library may make it only inside the block
        loggers = list(logging.root.manager.loggerDict.items())
        return [
            logger
            for name, logger in loggers
            if isinstance(logger, logging.Logger) and f"{name}.".startswith(f"{self._name}.")
        ]


@contextlib.contextmanager
def default_environment(**values: str) -> Iterator[None]:
    """Set environment variables, unless they are set, while the block runs.

    For libraries that read them once, when they are imported or started.
    """
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in added.items():
            if os.environ.get(name) == value:
                del os.environ[name]
