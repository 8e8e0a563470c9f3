"""Memory of one training step kept for the next."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULTS = {_TRIM_THRESHOLD: 128 << 10, _MMAP_MAX: 65536}
_KEEP = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep glibc from giving memory back to the system while the block runs.

    Activations of some 50 MB are freed and asked for again at every step. Each time the system
    hands out zeroed pages one by one, which on virtual machines took 45 % of a step. Where the C
    library is another, or the environment sets these options, nothing changes. The C library does
    not tell what a program has set by ``mallopt``: afterwards its defaults hold.
    """
    mallopt = _function("mallopt")
    if mallopt is None or _chosen_by_user():
        yield
        return
    for name, value in _KEEP.items():
        mallopt(name, value)
    try:
        yield
    finally:
        for name, value in _DEFAULTS.items():
            mallopt(name, value)
        trim = _function("malloc_trim")
        if trim is not None:
            trim(0)


def _chosen_by_user() -> bool:
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")
    return any(name in os.environ for name in names) or "glibc.malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    )


def _function(name: str) -> ctypes._NamedFuncPointer | None:
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
