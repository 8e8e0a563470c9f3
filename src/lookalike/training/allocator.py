"""Reuse freed memory from one training step to the next."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULTS = {_TRIM_THRESHOLD: 128 << 10, _MMAP_MAX: 65536}
_RETAIN = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}


@contextmanager
def retain_memory() -> Iterator[None]:
    """Keep glibc from returning freed memory to the system during the block.

    Every step frees and allocates activations of some 50 MB. By default each allocation gets fresh
    zeroed pages from the system, which took 45 % of a step on a virtual machine. Has no effect with
    another C library, or if the environment configures malloc. glibc cannot report the values that
    a program has set with ``mallopt``, so its defaults are restored afterwards.
    """
    mallopt = _libc_function("mallopt")
    if mallopt is None or _configured_by_user():
        yield
        return
    for name, value in _RETAIN.items():
        mallopt(name, value)
    try:
        yield
    finally:
        for name, value in _DEFAULTS.items():
            mallopt(name, value)
        trim = _libc_function("malloc_trim")
        if trim is not None:
            trim(0)


def _configured_by_user() -> bool:
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")
    return any(name in os.environ for name in names) or "glibc.malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    )


def _libc_function(name: str) -> ctypes._NamedFuncPointer | None:
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
