"""A real Milvus server for tests: the standalone server of the package ``milvus``.

It locks a file in ``/run/milvus``, which would allow one per machine. Each server is started in its
own mount namespace, with its own ``/run/milvus``; that needs root.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import warnings
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from lookalike.stores.milvus.client import Connection
from lookalike.stores.milvus.store import MilvusStore

TOKEN = "root:Milvus"
MESSAGE_BYTES = 16 << 20
"""Its maximum message size: a quarter of the default, so that tests exceed it with less data."""

_READY_S = 120
_ATTEMPTS = 4
"""Attempts to start: another process may take a port after it was chosen."""


def missing() -> str:
    """Return why no server can be started; empty if one can."""
    if find_spec("milvus") is None or find_spec("pymilvus") is None:
        return "the packages milvus and pymilvus are not installed"
    if os.name != "posix" or os.geteuid() != 0:
        return "starting a Milvus server needs root"
    if shutil.which("unshare") is None:
        return "unshare is not installed; it gives a Milvus server its own /run"
    return ""


class MilvusServer:
    """A server on loopback that requires :data:`TOKEN`; it can be killed and restarted."""

    def __init__(self, folder: Path, disk: str = "") -> None:
        self.folder = folder
        self.disk = disk
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of its process, whose mount namespace it has."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers; a restart keeps its ports."""
        lock = self.folder.parent / "milvus.lock"
        new = not self.port
        with FileLock(os.environ.get("LOOKALIKE_TEST_MILVUS_LOCK", str(lock))):
            for attempts_left in reversed(range(_ATTEMPTS)):
                if new:
                    shutil.rmtree(self.folder / "data", ignore_errors=True)
                    self._configure()
                    self._health = _free_port()
                    self._move_etcd()
                try:
                    self._launch()
                except RuntimeError:
                    self.kill()
                    if not attempts_left:
                        raise
                    time.sleep(random.uniform(0.5, 3))
                else:
                    return

    def _launch(self) -> None:
        binary = self.folder / "bin" / "milvus"
        setup = "mkdir -p /run/milvus && mount -t tmpfs none /run/milvus"
        if self.disk:
            setup += f" && mkdir -p {self.folder}/data && {self.disk}"
        with (self.folder / "stdout.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", f"{setup} && exec {binary} run standalone"],
                cwd=self.folder,
                env={
                    **os.environ,
                    "DEPLOY_MODE": "STANDALONE",
                    "METRICS_PORT": str(self._health),
                    "MILVUS_RUN_DIR": str(self.folder / "run"),
                    "LD_LIBRARY_PATH": str(binary.parent),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait()

    def _configure(self) -> None:
        from milvus import MilvusServer as Package
        from milvus import _initialize_data_files

        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ResourceWarning
            )  # it leaves sockets open when it probes ports
            package = Package()
            package.set_base_dir(str(self.folder))
            package.config.set("authorization_enabled", True)
            package.config.set("proxy.timeTickInterval", 50)  # ms; strong reads wait for a tick
            package.config.set(
                "common.session.ttl", 10
            )  # s; a restart waits for the killed session
            for limit in ("serverMaxRecvSize", "serverMaxSendSize"):
                package.config.set(f"proxy.grpc.{limit}", MESSAGE_BYTES)
            package.config.resolve()
            _initialize_data_files(str(self.folder))
            self.port = package.listen_port

    def _move_etcd(self) -> None:
        """Give the embedded etcd free ports, which can be configured in a file only."""
        peer, client = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
        settings = {
            "name": "default",
            "data-dir": f"{self.folder}/data/etcd.data",
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "listen-client-urls": client,
            "advertise-client-urls": client,
        }
        file = self.folder / "configs" / "etcd.yaml"
        file.write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
        config = self.folder / "configs" / "milvus.yaml"
        section = f"etcd:\n  config:\n    path: {file}\n"
        config.write_text(config.read_text().replace("\netcd:\n", f"\n{section}", 1))

    def _wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + _READY_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{self._health}/healthz", timeout=5
                ) as response:
                    if b"OK" in response.read():
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.2)
        lines = (self.folder / "stdout.log").read_text(errors="replace").splitlines()
        reason = next((line for line in lines if line.startswith("panic:")), " ".join(lines[-3:]))
        raise RuntimeError(f"Milvus did not start: {reason[:500]}")

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has already exited
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    stop = kill


def emptied(store: MilvusStore) -> MilvusStore:
    """Return a store of the same collection without rows: faster than creating another."""
    connection = Connection(store.address)
    connection.call("delete", store.address.name, filter='id >= ""')
    connection.call("delete", store.sidecar.name, filter='key >= ""')
    return MilvusStore.open(store.address)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
