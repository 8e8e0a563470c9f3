"""The cores that this process may use: its CPU affinity and the quota of its control groups.

A container limited to two cores of a large machine still sees all of them: its quota lets it run
for some time of each period, and more threads than that are stopped together until the next one.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def usable_cores() -> int:
    """Return the number of cores for this process: its affinity, or its CPU quota if that is less.

    A fraction of a core counts as one: a quota of 1.5 cores gives 2.
    """
    cores, quota = affinity(), _own_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def affinity() -> int:
    """Return the number of cores that the scheduler may run this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _own_quota() -> float | None:
    return cpu_quota()


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the CPU quota of this process in cores, None if it has none.

    It is the least of its control group and the groups above it, of version 2 (``cpu.max``) and
    version 1 (``cpu.cfs_quota_us`` of ``cpu.cfs_period_us``).

    Args:
        root: the folder with ``proc`` and the mounted control groups.
    """
    quotas = [
        quota for folder in control_groups(root, "cpu") if (quota := _quota(folder)) is not None
    ]
    return min(quotas, default=None)


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups for a resource, and those above them.

    Args:
        root: the folder with ``proc`` and the mounted control groups.
        controller: of the resource: ``cpu`` or ``memory``.
    """
    paths = dict(_memberships(root, controller))
    for version, mounted_group, mount_point in _mounts(root, controller):
        if version not in paths:
            continue
        top = root / mount_point.relative_to("/")
        folder = top / _below(paths[version], mounted_group)
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(top))


def _memberships(root: Path, controller: str) -> Iterator[tuple[int, PurePosixPath]]:
    """Yield version and path of the control groups for a resource of this process."""
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, PurePosixPath(path)
        elif controller in controllers.split(","):
            yield 1, PurePosixPath(path)


def _mounts(root: Path, controller: str) -> Iterator[tuple[int, PurePosixPath, PurePosixPath]]:
    """Yield mounts of control groups: version, the group that is mounted, and where."""
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, system = line.partition(" - ")
        fields, kind = mount.split(), system.split()
        if len(fields) < 5 or not kind:
            continue
        if kind[0] == "cgroup2":
            version = 2
        elif kind[0] == "cgroup" and controller in kind[-1].split(","):
            version = 1
        else:
            continue
        yield version, PurePosixPath(fields[3]), PurePosixPath(fields[4])


def _below(path: PurePosixPath, mounted: PurePosixPath) -> PurePosixPath:
    """Return a group's path below the one that is mounted.

    Where it is not below, only the mounted group can be seen: in a container, the path may be that
    of the host.
    """
    if ".." in path.parts or not path.is_relative_to(mounted):
        return PurePosixPath()
    return path.relative_to(mounted)


def _quota(folder: Path) -> float | None:
    """Return the quota of one control group in cores."""
    words = " ".join(_lines(folder / "cpu.max")).split()
    if not words:
        words = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
    with contextlib.suppress(ValueError, ZeroDivisionError):
        quota, period = map(int, words)  # "max" and a missing file have no two numbers
        return quota / period if quota > 0 else None  # version 1 writes -1 for none
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):  # not Linux, or not allowed
        return []
