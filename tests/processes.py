"""Processes as the system lists them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

PROC = Path("/proc")


def children(of: int | None = None, *, named: str = "") -> set[int]:
    """Return the processes that a process started, this one unless told, zombies too."""
    of = os.getpid() if of is None else of
    return {pid for pid, (_, parent) in _stats().items() if parent == of and named in _command(pid)}


def alive(pid: int) -> bool:
    """Tell whether a process runs, which a zombie does not."""
    return _stats().get(pid, ("Z", 0))[0] != "Z"


def memory(pid: int) -> int:
    """Return the bytes of memory that a process has at present."""
    return int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _stats() -> dict[int, tuple[str, int]]:
    found = {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            found[int(folder.name)] = state, int(parent)
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_text().replace("\0", " ")
    return ""
