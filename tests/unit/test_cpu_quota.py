"""Threads follow the CPU quota of a container: given files, and a real control group."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike import cpu_quota as module
from lookalike.config import settings
from lookalike.cpu_quota import cpu_quota, usable_cores

V2 = "36 25 0:31 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:29 {mounted} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
CPUSET = "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"


def machine(root: Path, groups: str, mounts: str, **files: str) -> Path:
    """Write what a process of Linux sees of its control groups below ``root``."""
    written = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}
    written |= {f"sys/fs/cgroup/{path}": text for path, text in files.items()}
    for path, text in written.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "broken\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_version_2(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    assert cpu_quota(machine(tmp_path, "0::/\n", V2, **files)) == cores


def test_the_least_quota_of_nested_groups_counts(tmp_path: Path) -> None:
    """A service in a slice: its own group allows four cores, the slice above it one and a half."""
    files = {
        "cpu.max": "max 100000\n",
        "a.slice/cpu.max": "150000 100000\n",
        "a.slice/b.service/cpu.max": "400000 100000\n",
        "other/cpu.max": "1000 100000\n",
    }
    assert cpu_quota(machine(tmp_path, "0::/a.slice/b.service\n", V2, **files)) == 1.5


@pytest.mark.parametrize(
    ("mounted", "path"),
    [
        ("/", "/docker/abc"),  # the whole tree is mounted
        ("/docker", "/docker/abc"),  # a part of it
        ("/docker/abc", "/docker/abc"),  # a container's group alone, its path that of the host
    ],
)
def test_the_quota_of_version_1(tmp_path: Path, mounted: str, path: str) -> None:
    below = Path(path).relative_to(mounted)
    files = {
        f"cpu,cpuacct/{below}/cpu.cfs_quota_us": "300000\n",
        f"cpu,cpuacct/{below}/cpu.cfs_period_us": "100000\n",
        "cpuset/cpu.cfs_quota_us": "1000\n",
        "cpuset/cpu.cfs_period_us": "100000\n",
    }
    groups = f"5:cpuset:/\n4:cpu,cpuacct:{path}\n0::/\n"
    mounts = CPUSET + V1.format(mounted=mounted)
    assert cpu_quota(machine(tmp_path, groups, mounts, **files)) == 3
    files[f"cpu,cpuacct/{below}/cpu.cfs_quota_us"] = "-1\n"
    assert cpu_quota(machine(tmp_path, groups, mounts, **files)) is None


@pytest.mark.parametrize("path", ["/../../elsewhere", "/docker/other"])
def test_a_path_outside_the_mount_falls_back_to_what_is_mounted(tmp_path: Path, path: str) -> None:
    mounts = V2.replace(" / /sys", " /docker/abc /sys")
    quota = {"cpu.max": "100000 100000\n"}
    assert cpu_quota(machine(tmp_path, f"0::{path}\n", mounts, **quota)) == 1


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 4), (0.2, 1), (1.5, 2), (2.0, 2), (64.0, 4)])
def test_threads_are_the_lesser_of_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    monkeypatch.delenv("LOOKALIKE_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(module, "_own_quota", lambda: quota)
    assert usable_cores() == cores
    assert settings().threads == cores


_REPORT = """
import os, sys
from pathlib import Path
(Path(sys.argv[1]) / "cgroup.procs").write_text(str(os.getpid()))
os.sched_getaffinity = lambda _: {0, 1, 2, 3}
from lookalike.config import settings
print(settings().threads)
sys.argv = ["lookalike", "recipes", "--json"]
from lookalike.cli import console, main
def report(*_: object, **__: object) -> None:
    print(os.environ["OPENBLAS_NUM_THREADS"], os.environ["OMP_NUM_THREADS"])
console.print_json = report
main()
"""


def test_a_process_in_a_real_group_has_its_quota_of_threads() -> None:
    """Pools and the libraries behind numpy get two threads where the group allows two cores."""
    parent = Path("/sys/fs/cgroup/cpu")
    parent = parent if parent.is_dir() else Path("/sys/fs/cgroup")
    group = parent / f"lookalike-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("this user cannot create control groups")
    try:
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text("150000 100000")
        else:
            (group / "cpu.cfs_quota_us").write_text("150000")
        free = {"LOOKALIKE_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}
        environment = {name: value for name, value in os.environ.items() if name not in free}
        done = subprocess.run(
            [sys.executable, "-c", _REPORT, str(group)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        group.rmdir()
    assert done.stdout.split() == ["2", "2", "2"]
