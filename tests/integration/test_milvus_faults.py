"""Acknowledged rows survive when the Milvus server is killed or its disk is full."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import LookalikeError, StorageError, UnreachableError
from lookalike.stores.base import Rows
from lookalike.stores.milvus.address import Address
from lookalike.stores.milvus.store import MilvusStore
from lookalike.types import Metric
from tests.milvus_server import MilvusServer

log = logging.getLogger(__name__)

ROUNDS = int(os.environ.get("LOOKALIKE_TEST_ROUNDS", "2"))
"""Each round kills the server at a random moment; a longer run had 20 rounds."""

DIM = 8


def rows_of(ids: list[str], embeddings: np.ndarray, uri: str = "") -> Rows:
    return Rows(ids, [uri] * len(ids), embeddings, [{"tag": row_id[-1]} for row_id in ids], ids)


class Writer(threading.Thread):
    """Inserts, replaces and deletes rows in a loop, and records what was acknowledged."""

    def __init__(self, store: MilvusStore) -> None:
        super().__init__()
        self.store = store
        self.rows: dict[str, np.ndarray] = {}
        self.acknowledged = 0
        self.slowest = 0.0
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self.between = threading.Lock()

    def run(self) -> None:
        rng = np.random.default_rng(0)
        try:
            while not self.ended.is_set():
                with self.between:
                    start = time.monotonic()
                    self.write(rng)
                    self.acknowledged += 1
                    self.slowest = max(self.slowest, time.monotonic() - start)
                time.sleep(0.01)
        except BaseException as error:  # noqa: BLE001 - it is raised by the test
            self.error = error

    def write(self, rng: np.random.Generator) -> None:
        ids = sorted(self.rows)
        if self.acknowledged % 4 == 3:
            deleted = [ids[i] for i in rng.choice(len(ids), 10, replace=False)]
            self.store.delete(deleted)
            self.rows = {row_id: row for row_id, row in self.rows.items() if row_id not in deleted}
            return
        replaced = [ids[i] for i in rng.choice(len(ids), min(len(ids), 15), replace=False)]
        ids = [*replaced, *(f"{self.acknowledged:06}-{i:02}" for i in range(25))]
        embeddings = rng.normal(size=(len(ids), DIM)).astype(np.float32)
        self.store.upsert(rows_of(ids, embeddings))
        self.rows |= dict(zip(ids, embeddings, strict=True))

    def wait_for(self, batches: int) -> None:
        """Wait until this many more batches are acknowledged."""
        until = self.acknowledged + batches
        ends = time.monotonic() + 90
        while self.acknowledged < until:
            if self.error is not None:
                raise self.error
            assert time.monotonic() < ends
            time.sleep(0.01)


def check(store: MilvusStore, expected: dict[str, np.ndarray]) -> None:
    """Assert that a store has exactly these rows."""
    ids = [record.id for record in store.records()]
    assert len(ids) == len(set(ids)) == store.count()
    assert ids == sorted(expected)
    rows = store.get(ids)
    np.testing.assert_array_equal(rows.embeddings, np.stack([expected[row_id] for row_id in ids]))
    assert [row["tag"] for row in rows.metadata] == [row_id[-1] for row_id in ids]


def test_acknowledged_writes_survive_kills(milvus: MilvusServer) -> None:
    """An open writer and an open reader recover without being reopened."""
    rng = random.Random(0)
    address = Address.parse(f"milvus://{milvus.host}/killed?timeout=60")
    store = MilvusStore.create(address, DIM, Metric.COSINE)
    writer, reader = Writer(store), MilvusStore.open(address)
    writer.start()
    try:
        for number in range(ROUNDS):
            writer.wait_for(rng.randrange(3, 30))
            time.sleep(rng.random() * 0.05)
            before = writer.acknowledged
            try:
                milvus.kill()
            finally:
                milvus.start()
            writer.wait_for(3)
            with writer.between:
                for each in (store, reader, MilvusStore.open(address)):
                    check(each, writer.rows)
                row_id = rng.choice(sorted(writer.rows))
                hits = reader.search(writer.rows[row_id][None], 5, Metric.COSINE)[0]
                assert (hits[0].id, len(hits)) == (row_id, 5)
            log.info("%d: killed after %d, %d rows", number, before, len(writer.rows))
    finally:
        writer.ended.set()
        writer.join()
    assert writer.error is None
    check(store, writer.rows)
    log.info("%d rounds, slowest write %.1f s", ROUNDS, writer.slowest)


@pytest.mark.skipif(
    os.environ.get("LOOKALIKE_TEST_DISK") != "1", reason="slow: LOOKALIKE_TEST_DISK=1 runs it"
)
def test_a_full_disk_of_the_server_loses_nothing(milvus: MilvusServer, tmp_path: Path) -> None:
    """Writes fail at once, strong reads time out; with more space, writes succeed again."""
    disk = f"mount -t tmpfs -o size=300m none {tmp_path}/data"
    server = MilvusServer(tmp_path, disk=disk)
    server.start()
    try:
        address = Address.parse(f"milvus://{server.host}/full?timeout=10")
        store = MilvusStore.create(address, DIM, Metric.COSINE)
        rng = np.random.default_rng(0)
        expected: dict[str, np.ndarray] = {}

        def write() -> None:
            ids = [f"{len(expected) + i:06}" for i in range(50)]
            embeddings = rng.normal(size=(len(ids), DIM)).astype(np.float32)
            store.upsert(rows_of(ids, embeddings, "u" * 50_000))
            expected.update(zip(ids, embeddings, strict=True))

        def fill() -> None:
            for _ in range(200):
                start[0] = time.monotonic()
                write()

        start = [0.0]
        with pytest.raises(LookalikeError) as caught:
            fill()
        message, took = str(caught.value), time.monotonic() - start[0]
        log.info("%d rows; refused after %.1f s: %s", len(expected), took, message)
        assert isinstance(caught.value, StorageError | UnreachableError)
        assert took < 21
        assert "No space left on device" in message
        assert len(message.splitlines()) == 1
        with pytest.raises(StorageError, match="No space left on device"):
            write()
        start[0] = time.monotonic()
        with pytest.raises(UnreachableError, match="the server does not answer"):
            store.count()
        assert time.monotonic() - start[0] < 21

        remount = ("mount", "-o", "remount,size=900m", f"{tmp_path}/data")
        subprocess.run(["nsenter", "-t", str(server.pid), "-m", *remount], check=True)
        ends = time.monotonic() + 60
        while True:
            try:
                write()
                break
            except LookalikeError as error:
                log.info("after the remount: %s", error)
                assert time.monotonic() < ends
                time.sleep(1)
        check(store, expected)
    finally:
        server.kill()
