"""A real Ray cluster of two nodes on one machine, with one core each."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.processes import children

RAY = str(Path(sys.executable).with_name("ray"))
_READY_S = 120

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_DISABLE_MEMORY_MONITOR": "1",
}
"""Environment variables of nodes and of drivers."""


class Node:
    """One node, run by ``ray start --block``."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        fixed = [
            "--block",
            "--node-ip-address=127.0.0.1",
            "--num-cpus=1",
            "--num-gpus=0",
            "--disable-usage-stats",
        ]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the node
        self._process = subprocess.Popen(
            [RAY, "start", *arguments, *fixed, "--object-store-memory=100000000"],
            env={**os.environ, **ENVIRONMENT, **environment},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def workers(self) -> set[int]:
        """Return the process ids of its actors."""
        return {pid for pid in self._descendants() if "ray::Worker" in _command(pid)}

    def kill(self) -> None:
        """Kill it and its descendants; harmless if it has exited."""
        pids = self._descendants()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _descendants(self) -> set[int]:
        pids, new = set(), {self._process.pid}
        while new:
            pids |= new
            new = {child for pid in new for child in children(pid)} - pids
        return pids - {self._process.pid}


class RayNodes:
    """A head and a second node."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = dict(environment or {})
        self.port = 0
        self.nodes: list[Node] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.port = _free_port()
        head = [f"--port={self.port}", "--include-dashboard=false", "--head"]
        self._add([*head, f"--temp-dir={self._folder}"], {})
        self.add()

    def add(self, environment: Mapping[str, str] | None = None) -> Node:
        return self._add([f"--address={self.address}"], environment or {})

    def _add(self, arguments: list[str], environment: Mapping[str, str]) -> Node:
        node = Node(arguments, {**self._environment, **environment})
        self.nodes.append(node)
        until = time.monotonic() + _READY_S
        while "runtime started" not in node.output():
            assert node.running(), node.output()
            assert time.monotonic() < until, node.output()
            time.sleep(0.1)
        return node

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.kill()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
