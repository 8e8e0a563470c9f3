"""Doing two parts of a write at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def beside(work: Callable[[], T]) -> Iterator[Callable[[], T]]:
    """Do some work in a thread beside the block; yield what waits for its result.

    When the block ends, also by an error, the work has ended too. Python runs in one of the threads
    only, so one of them should do what does not need it: SQLite, numpy or files.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="lookalike-beside") as pool:
        yield pool.submit(copy_context().run, work).result
