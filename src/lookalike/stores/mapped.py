"""Memory of files that are mapped."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


def release_pages(array: NDArray[Any]) -> None:
    """Give back the memory of an array that is mapped from a file, if it is one.

    The array stays as it is: what is used of it is read again, from the system's cache of files.
    So the process takes less memory of the machine, at the cost of a microsecond per 64 KiB when
    they are used the next time.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if not isinstance(base, mmap.mmap) or not array.flags.c_contiguous or not array.size:
        return
    whole = np.frombuffer(base, np.uint8)
    start = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, start + array.nbytes
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is not None and end > start:
        with contextlib.suppress(OSError, ValueError):
            base.madvise(advice, start, end - start)
