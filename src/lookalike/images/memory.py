"""The memory that decoding may use: half of what the machine has to spare, for all threads.

Small images are not counted. A large one waits while others take its share, and is refused only if
it alone needs more than there is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from lookalike.cpu_quota import control_groups
from lookalike.files import open_regular

COUNTED_BYTES = 128 << 20
"""Bytes from which an image is counted; less is always there."""

_SHARE = 2
_UNKNOWN = 4 << 30
"""Assumed where the system does not tell."""

_ROOT = Path("/")


class MemoryBudget:
    """Memory shared by threads; ``limit`` in bytes, default half of what is available.

    ``before_large`` is called before a large image is decoded; other processes may do that too.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.before_large: Callable[[], None] = lambda: None
        self._fixed = limit
        self._reserved = 0
        self._changed = threading.Condition()
        self._large_file = threading.Lock()

    def limit(self) -> int:
        """Return the most bytes that one image may take."""
        if self._fixed is not None:
            return self._fixed
        with self._changed:
            return (available_memory() + self._reserved) // _SHARE

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Hold so many bytes during the block; wait until others have left enough.

        More than the limit is let through when nothing else is held.
        """
        if size < COUNTED_BYTES:
            yield
            return
        self.before_large()
        limit = self.limit()
        with self._changed:
            self._changed.wait_for(lambda: not self._reserved or self._reserved + size <= limit)
            self._reserved += size
        try:
            yield
        finally:
            with self._changed:
                self._reserved -= size
                self._changed.notify_all()

    @contextlib.contextmanager
    def hold_file(self, size: int) -> Iterator[None]:
        """Let no other large file be read or decoded during the block; small ones may be.

        The bytes of a file stay in memory while it is decoded, beside what :meth:`reserve` counts.
        """
        if size < COUNTED_BYTES:
            yield
            return
        with self._large_file:
            yield


BUDGET = MemoryBudget()
"""The memory of this process."""


def read_file(path: str | Path) -> bytes:
    """Return the bytes of a regular file that fits into memory.

    Raises:
        OSError: it is not a regular file, cannot be read, or is too large; ``strerror`` says so.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        limit = COUNTED_BYTES if size < COUNTED_BYTES else BUDGET.limit()
        data = b"" if size > limit else file.read(size)
        if size <= limit and (more := file.read(1)):  # of a system file whose size is not known
            data += more + file.read(COUNTED_BYTES)
        if size > limit or len(data) > limit:
            size = max(size, len(data))
            raise OSError(
                errno.EFBIG,
                f"the file has {size / 1e9:.1f} GB, more than the {limit / 1e9:.1f} GB of memory "
                "that may be used",
                str(path),
            )
        return data


def available_memory(root: Path = _ROOT) -> int:
    """Return the bytes that the system and the control groups of this process leave unused.

    Args:
        root: the folder with ``proc`` and ``sys``.
    """
    free = [_UNKNOWN]
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = [int(line.split()[1]) * 1024]
    if free == [_UNKNOWN] and hasattr(os, "sysconf"):
        with contextlib.suppress(ValueError, OSError):
            free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    for folder in control_groups(root, "memory"):
        free += [left for names in _FILES if (left := _left(folder, *names)) is not None]
    return min(free)


_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)
"""Of a control group of version 2 and 1: limit, use, and the parts of it that are files.

Those of a mapped gallery are active ones. The system takes them back for whatever else is needed.
"""


def _left(folder: Path, limit: str, used: str, cached: tuple[str, ...]) -> int | None:
    """Return the bytes that a control group has left, None if it has no limit."""
    try:
        left = int((folder / limit).read_text()) - int((folder / used).read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None
    for line in _lines(folder / "memory.stat"):
        name, _, size = line.partition(" ")
        if name in cached:
            left += int(size)
    return max(0, left)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
