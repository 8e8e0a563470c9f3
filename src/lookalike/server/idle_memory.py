"""Memory that the process no longer uses is returned to the system while there are no requests."""

from __future__ import annotations

import contextlib
import ctypes
import sys


def release_free_memory() -> None:
    """Return what the C library keeps of freed memory, which it does only with glibc.

    Loading a model or decoding leaves much of it behind, and nothing else would return it. Takes
    some milliseconds, during which other threads wait only if they allocate memory.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
