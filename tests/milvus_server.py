"""A real Milvus server for tests: the standalone one of the package ``milvus``.

It locks a file in ``/run/milvus``, so that there could be one on a machine; each is started in a
mount namespace of its own instead, where that folder is its own. That takes root.
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
"""What it takes and sends at once: a quarter of the usual, so that it takes less to exceed it."""

_READY_S = 120
_TRIES = 4
"""Starts that are tried: others may take a port between its choice and its use."""


def missing() -> str:
    """Return why no server can be started here; empty if one can."""
    if find_spec("milvus") is None or find_spec("pymilvus") is None:
        return "the packages milvus and pymilvus are not installed"
    if os.name != "posix" or os.geteuid() != 0:
        return "a Milvus server of one's own needs root"
    if shutil.which("unshare") is None:
        return "unshare is not there, which gives a Milvus server a /run of its own"
    return ""


class MilvusServer:
    """One server on loopback, which asks for :data:`TOKEN`; it can be killed and started again."""

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
        """Its process, which has the mounts that it sees."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers; its ports stay what they were."""
        lock = self.folder.parent / "milvus.lock"
        new = not self.port
        with FileLock(os.environ.get("LOOKALIKE_TEST_MILVUS_LOCK", str(lock))):
            for left in reversed(range(_TRIES)):
                if new:
                    shutil.rmtree(self.folder / "data", ignore_errors=True)
                    self._configure()
                    self._health = _free_port()
                    self._move_etcd()
                try:
                    self._launch()
                except RuntimeError:
                    self.kill()
                    if not left:
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
            warnings.simplefilter("ignore", ResourceWarning)  # sockets it tries ports with
            package = Package()
            package.set_base_dir(str(self.folder))
            package.config.set("authorization_enabled", True)
            package.config.set("proxy.timeTickInterval", 50)  # ms; what strong reads wait for
            package.config.set("common.session.ttl", 10)  # s; a killed one is waited for as long
            for limit in ("serverMaxRecvSize", "serverMaxSendSize"):
                package.config.set(f"proxy.grpc.{limit}", MESSAGE_BYTES)
            package.config.resolve()
            _initialize_data_files(str(self.folder))
            self.port = package.listen_port

    def _move_etcd(self) -> None:
        """Give the etcd within it ports of its own, which its settings say in a file only."""
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
        whole = self.folder / "configs" / "milvus.yaml"
        moved = f"etcd:\n  config:\n    path: {file}\n"
        whole.write_text(whole.read_text().replace("\netcd:\n", f"\n{moved}", 1))

    def _wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + _READY_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{self._health}/healthz", timeout=5
                ) as answer:
                    if b"OK" in answer.read():
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.2)
        lines = (self.folder / "stdout.log").read_text(errors="replace").splitlines()
        said = next((line for line in lines if line.startswith("panic:")), " ".join(lines[-3:]))
        raise RuntimeError(f"Milvus did not start: {said[:500]}")

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    stop = kill


def emptied(store: MilvusStore) -> MilvusStore:
    """Return a store of the same collection without rows: quicker than making another."""
    connection = Connection(store.address)
    connection.ask("delete", store.address.name, filter='id >= ""')
    connection.ask("delete", store.notes.name, filter='key >= ""')
    return MilvusStore.open(store.address)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
