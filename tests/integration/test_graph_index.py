"""The graph index of a folder's rows: built, used, behind, damaged, missing, killed."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lookalike.encoders.base import Encoder
from lookalike.errors import BusyError, CancelledError, InputError, StorageError
from lookalike.filters import as_filter
from lookalike.gallery import ann_index
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.recall import measure_recall
from lookalike.search.search import APPROXIMATE_NOTE
from lookalike.sources import Source
from lookalike.stores.base import Rows
from lookalike.stores.embedded import graph, graph_building, graph_search, snapshot
from lookalike.stores.embedded.check import examine
from lookalike.stores.embedded.graph_records import LOCK
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.types import Embeddings, Hit, Metric, Progress
from tests.conftest import Require
from tests.integration.test_readonly import make_readonly, make_writable, unprivileged

DIM = 16
COUNT = 4_000


def rows(count: int, seed: int, prefix: str) -> Rows:
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(7).normal(size=(40, DIM))
    vectors = centers[rng.integers(0, 40, count)] + 0.3 * rng.normal(size=(count, DIM))
    ids = [f"{prefix}:{i:05}" for i in range(count)]
    metadata = [{"part": i % 10, "rare": i % 100 == 0} for i in range(count)]
    return Rows(ids, ids, vectors.astype(np.float32), metadata, ids)


def queries(count: int = 30) -> Embeddings:
    return rows(count, 2, "q").embeddings


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a graph for each metric, which tests copy."""
    folder = tmp_path_factory.mktemp("graph") / "g.gallery"
    folder.mkdir()
    store = EmbeddedStore.create(folder / "store", DIM)
    store.upsert(rows(COUNT, 1, "r"))
    for metric in Metric:
        assert store.build_graph(metric)
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "g.gallery"
    shutil.copytree(built, copied)
    return copied / "store"


@pytest.fixture
def store(folder: Path) -> EmbeddedStore:
    return EmbeddedStore.open(folder)


@pytest.fixture(autouse=True)
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of candidates that graphs were asked for."""
    counts: list[int] = []
    search = graph.GraphIndex.search

    def counting(self: graph.GraphIndex, query: Embeddings, count: int) -> object:
        counts.append(count)
        return search(self, query, count)

    monkeypatch.setattr(graph.GraphIndex, "search", counting)
    return counts


@pytest.fixture
def notices(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "lookalike.notice"):
        yield caplog


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("index-*"))


def recall(
    store: EmbeddedStore, metric: Metric, k: int = 10, where: str | None = None, least: int = 1
) -> float:
    """Compare hits with those of an exact search, and return the recall."""
    condition = None if where is None else as_filter(where)
    shared = total = 0
    for query in queries():
        [hits] = store.search(query[None], k, metric, condition)
        [truth] = store.search(query[None], k, metric, condition, exact=True)
        assert len(hits) == len(truth) >= least
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
        by_id = {hit.id: hit for hit in truth}
        common = [hit for hit in hits if hit.id in by_id]
        assert all(hit.distance == by_id[hit.id].distance for hit in common)
        assert all(hit.metadata == by_id[hit.id].metadata for hit in common)
        shared, total = shared + len(common), total + len(truth)
    return shared / total


def nearest(store: EmbeddedStore, query: Embeddings, k: int = 1) -> list[Hit]:
    [hits] = store.search(query.reshape(1, DIM), k, Metric.COSINE)
    return hits


@pytest.mark.parametrize("metric", Metric)
def test_a_graph_answers_as_exact_search_does(
    store: EmbeddedStore, metric: Metric, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.search(queries(1), 10, metric)
    assert first == store.search(queries(1), 10, metric, exact=True)
    assert not used  # the first search of a process does not wait for a file to be verified
    for k in (1, 10, 100):
        assert recall(store, metric, k) > 0.98
    assert len(used) == 90
    many = store.search(queries(), 10, metric)
    assert many == store.search(queries(), 10, metric, exact=True)
    assert len(used) == 90  # a batch is scanned for, unless there are very many rows
    monkeypatch.setattr(graph_search, "_BATCH_ROWS", 0)
    many = store.search(queries(), 10, metric)
    assert many == [hits for query in queries() for hits in store.search(query[None], 10, metric)]
    assert len(used) == 150
    state = store.graph_state(metric)
    assert state is not None
    assert (state.rows, state.newer, state.problem, state.is_due) == (COUNT, 0, None, False)


@pytest.mark.parametrize("beside", [False, True])
def test_a_graph_is_searched_with_the_effort_that_its_rows_need(
    tmp_path: Path, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if beside:
        monkeypatch.setattr(snapshot, "_MEASURED_AT_ONCE", 0)
    efforts: list[int] = []
    search_with = graph.GraphIndex.search_with

    def recording(self: graph.GraphIndex, effort: int, query: Embeddings, count: int) -> object:
        efforts.append(effort)
        return search_with(self, effort, query, count)

    monkeypatch.setattr(graph.GraphIndex, "search_with", recording)
    chosen = []
    for links in (16, 3):
        monkeypatch.setattr(graph, "CONNECTIVITY", links)
        store = EmbeddedStore.create(tmp_path / str(links), DIM)
        store.upsert(rows(2_000, 1, "r"))
        store.build_graph(Metric.COSINE)
        before = set(threading.enumerate())
        nearest(store, queries()[0])
        for thread in set(threading.enumerate()) - before:
            thread.join()
        searched = len(efforts)
        nearest(store, queries()[1])
        assert len(efforts) == searched + 1  # it is measured once
        chosen.append(efforts[-1])
    assert chosen[0] == graph.EFFORTS[0] < chosen[1]


def test_many_hits_are_found_by_a_scan(store: EmbeddedStore, used: list[int]) -> None:
    for k, query in zip((COUNT // 2, COUNT, 16_384), queries(), strict=False):
        hits = store.search(query[None], k, Metric.COSINE)
        assert hits == store.search(query[None], k, Metric.COSINE, exact=True)
        assert len(hits[0]) == min(k, COUNT)
    assert not used


@pytest.mark.parametrize(
    ("where", "by_graph"),
    [("part >= 0", True), ("part in (1, 2, 3)", True), ("part = 3", False), ("rare = true", False)],
)
def test_filters_are_exact_for_few_rows(
    store: EmbeddedStore, where: str, by_graph: bool, used: list[int]
) -> None:
    share = recall(store, Metric.COSINE, 10, where, least=10)
    assert share > 0.98 if by_graph else share == 1
    assert bool(used) == by_graph


def test_a_filter_far_from_the_query_is_searched_exactly(tmp_path: Path, used: list[int]) -> None:
    one, other = rows(3_000, 1, "a"), rows(1_000, 2, "b")
    vectors = np.concatenate([one.embeddings, other.embeddings - 40])
    ids = [*one.ids, *other.ids]
    sides = [{"side": row_id[0]} for row_id in ids]
    store = EmbeddedStore.create(tmp_path / "store", DIM)
    store.upsert(Rows(ids, ids, vectors, sides, ids))
    store.build_graph(Metric.L2)
    assert recall(store, Metric.L2, 10, "side = 'b'", least=10) == 1
    assert max(used) > 400  # more and more candidates, none of which matched


def test_newer_rows_are_found_at_once(store: EmbeddedStore, used: list[int]) -> None:
    new = rows(300, 3, "new")
    store.upsert(new)
    for place in (0, 150, 299):
        assert nearest(store, new.embeddings[place])[0].id == new.ids[place]
    assert used
    assert recall(store, Metric.COSINE) > 0.98
    state = store.graph_state(Metric.COSINE)
    assert state is not None
    assert (state.newer, state.is_due) == (300, False)


def test_many_newer_rows_are_scanned(
    store: EmbeddedStore, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_search, "_MAX_GATHERED", 100)
    store.upsert(rows(COUNT, 3, "new"))
    assert recall(store, Metric.COSINE) > 0.98
    assert recall(store, Metric.COSINE, 10, "part in (1, 2, 3)") > 0.98
    assert used
    state = store.graph_state(Metric.COSINE)
    assert state is not None
    assert state.is_due


def test_removed_and_replaced_rows_are_not_found_where_they_were(
    store: EmbeddedStore, used: list[int]
) -> None:
    old = rows(COUNT, 1, "r")
    removed = old.ids[::3]
    store.delete(removed)
    moved = old.take(list(range(1, COUNT, 3)))
    store.upsert(Rows(moved.ids, moved.uris, -moved.embeddings, moved.metadata, moved.hashes))
    assert recall(store, Metric.COSINE) > 0.98
    for place in range(0, 60, 3):
        hits = nearest(store, old.embeddings[place], 50)
        assert not {hit.id for hit in hits} & set(removed)
        assert nearest(store, -old.embeddings[place + 1])[0].id == old.ids[place + 1]
    assert used


def test_copies_are_ordered_by_id(tmp_path: Path) -> None:
    some = rows(2_000, 1, "r")
    vectors = some.embeddings.copy()
    vectors[:1_500] = vectors[0]
    store = EmbeddedStore.create(tmp_path / "store", DIM)
    order = np.random.default_rng(0).permutation(2_000).tolist()
    store.upsert(Rows(some.ids, some.uris, vectors, some.metadata, some.hashes).take(order))
    store.build_graph(Metric.COSINE)
    for _ in range(2):
        assert [hit.id for hit in nearest(store, vectors[0], 20)] == list(some.ids[:20])


@pytest.mark.parametrize("metric", Metric)
def test_vectors_that_16_bits_do_not_hold(tmp_path: Path, metric: Metric, used: list[int]) -> None:
    some = rows(1_000, 1, "r")
    vectors = some.embeddings * np.float32(1e7)
    vectors[::100] = 0
    vectors[1::100] *= 1e-12
    store = EmbeddedStore.create(tmp_path / "store", DIM)
    store.upsert(Rows(some.ids, some.uris, vectors, some.metadata, some.hashes))
    store.build_graph(metric)
    larger = rows(20, 5, "large")
    store.upsert(
        Rows(larger.ids, larger.ids, larger.embeddings * 1e12, larger.metadata, larger.ids)
    )
    store.build_graph(metric)
    state = store.graph_state(metric)
    assert state is not None
    assert state.rows == (1_010 if metric is Metric.COSINE else 1_020)
    for query in (
        *vectors[:3],
        *(larger.embeddings[:3] * 1e12),
        *queries(5) * 1e7,
        1e30 * vectors[5],
    ):
        for k in (1, 30):
            [hits] = store.search(query[None], k, metric)
            [truth] = store.search(query[None], k, metric, exact=True)
            assert [hit.id for hit in hits] == [hit.id for hit in truth]
    assert used


def test_too_many_zero_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_building, "_MAX_LEFT_OUT", 50)
    some = rows(100, 1, "r")
    store = EmbeddedStore.create(tmp_path / "store", DIM)
    zeros = np.zeros_like(some.embeddings)
    store.upsert(Rows(some.ids, some.uris, zeros, some.metadata, some.hashes))
    with pytest.raises(StorageError, match="over 50 rows have zero vectors"):
        store.build_graph(Metric.COSINE)
    assert files(tmp_path / "store") == []


def test_rows_are_added_to_a_graph(store: EmbeddedStore, folder: Path) -> None:
    store.upsert(rows(1_000, 3, "new"))
    before = files(folder)
    progress: list[Progress] = []
    assert store.build_graph(Metric.COSINE, progress.append)
    assert (progress[0].total, progress[-1].done) == (1_000, 1_000)
    state = store.graph_state(Metric.COSINE)
    assert state is not None
    assert (state.rows, state.newer) == (COUNT + 1_000, 0)
    assert len(set(files(folder)) & set(before)) == 1  # that of the other metric
    assert len(files(folder)) == 2
    assert recall(EmbeddedStore.open(folder), Metric.COSINE) > 0.98


def test_a_graph_is_built_again_after_a_compaction(
    store: EmbeddedStore, folder: Path, used: list[int], notices: pytest.LogCaptureFixture
) -> None:
    store.delete(rows(COUNT, 1, "r").ids[: COUNT // 2])
    store.optimize(Metric.COSINE)
    assert files(folder) == []
    assert recall(store, Metric.COSINE) == 1
    assert not used
    [message] = notices.messages
    assert "the rows were compacted since" in message
    assert f"lookalike index {folder.parent} --ann" in message
    ann_index.update(store, Metric.COSINE, lambda _: None)  # although there are few rows
    assert len(files(folder)) == 1
    assert recall(store, Metric.COSINE) > 0.98
    assert used


def test_rows_compacted_while_a_graph_is_built(store: EmbeddedStore, folder: Path) -> None:
    store.drop_graph(Metric.COSINE)
    store.delete(rows(COUNT, 1, "r").ids[: COUNT // 2])

    def compact(progress: Progress) -> None:
        if progress.done == 1_000:
            EmbeddedStore.open(folder).optimize(Metric.COSINE)

    assert not store.build_graph(Metric.COSINE, compact)
    assert files(folder) == []
    assert store.graph_state(Metric.COSINE) is None
    assert store.build_graph(Metric.COSINE, compact)


def test_others_write_while_a_graph_is_built(store: EmbeddedStore, folder: Path) -> None:
    new = rows(10, 3, "new")
    other = EmbeddedStore.open(folder)

    def write(progress: Progress) -> None:
        if progress.done == 1_000:
            other.upsert(new)
            other.delete(["r:00000"])
            other.optimize(Metric.COSINE)
            with pytest.raises(BusyError, match="another process"):
                other.build_graph(Metric.L2)

    store.drop_graph(Metric.COSINE)
    assert store.build_graph(Metric.COSINE, write)
    for reader in (store, other):
        state = reader.graph_state(Metric.COSINE)
        assert state is not None
        assert (state.rows, state.newer) == (COUNT, 10)
        nearest(reader, new.embeddings[3])
        assert nearest(reader, new.embeddings[3])[0].id == new.ids[3]
        assert recall(reader, Metric.COSINE) > 0.98


def test_a_snapshot_of_before_a_graph_has_no_newer_rows(
    store: EmbeddedStore, used: list[int]
) -> None:
    before = store.snapshot()
    new = rows(500, 2, "q")
    store.upsert(new)
    store.build_graph(Metric.COSINE)
    for query in new.embeddings[:30]:
        [hits] = before.search(query[None], 10, Metric.COSINE)
        assert hits == before.search(query[None], 10, Metric.COSINE, exact=True)[0]
        assert nearest(store, query)[0].id in new.ids
    assert len(used) == 60


_DAMAGE = """
import json, sys
from pathlib import Path
import numpy as np
from lookalike.stores.embedded import graph
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.types import Metric

folder, background = Path(sys.argv[1]), sys.argv[2] == "background"
if background:
    graph._SMALL_FILE = 0
[file] = folder.glob("index-*")
data = file.read_bytes()
rng = np.random.default_rng(3)
queries = rng.normal(size=(5, 16)).astype(np.float32)
truth = EmbeddedStore.open(folder).search(queries, 10, Metric.COSINE, exact=True)
for number in range(40):
    damaged = bytearray(data)
    if number % 4 == 0:
        damaged = damaged[: rng.integers(0, len(data))]
    elif number % 4 == 1:
        start = rng.integers(0, len(data) - 4096)
        damaged[start : start + 4096] = bytes(4096)
    else:
        at = rng.integers(0, len(data) if number % 4 == 2 else 200)
        damaged[at] ^= 1 << rng.integers(0, 8)
    if damaged == data:
        continue
    file.write_bytes(damaged)
    store = EmbeddedStore.open(folder)
    for _ in range(3):
        assert store.search(queries, 10, Metric.COSINE) == truth
    state = store.graph_state(Metric.COSINE)
    assert state.problem, number
    print(state.problem)
"""


@pytest.mark.slow
@pytest.mark.parametrize("verified", ["at once", "background"])
def test_damaged_files_are_not_used(
    folder: Path, store: EmbeddedStore, verified: str, notices: pytest.LogCaptureFixture
) -> None:
    store.drop_graph(Metric.L2)
    command = [sys.executable, "-c", _DAMAGE, str(folder), verified]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    problems = done.stdout.splitlines()
    assert len(problems) >= 35
    assert set(problems) == {"its size is wrong", "its checksum is wrong"}
    assert any("checksum" in problem for problem in examine(folder, deep=True).problems)
    store = EmbeddedStore.open(folder)
    assert recall(store, Metric.COSINE) == 1
    assert store.build_graph(Metric.COSINE)
    assert recall(store, Metric.COSINE) > 0.98
    assert examine(folder, deep=True).problems == ()
    [message] = notices.messages
    assert "is wrong), so search is exact" in message


def test_a_missing_file(
    store: EmbeddedStore, folder: Path, notices: pytest.LogCaptureFixture
) -> None:
    for path in folder.glob("index-*"):
        path.unlink()
    assert recall(store, Metric.COSINE) == 1
    [message] = notices.messages
    assert "its file is missing" in message


@pytest.mark.parametrize(
    "change",
    [
        "file = '../secret'",
        "file = x'00'",
        "slots = -1",
        "slots = 'many'",
        "bytes = 1e300",
        "left_out = x'00'",
        "left_out = x'FFFFFFFFFFFFFFFF'",
        "left_out = 'text'",
        "scale = 0",
        "metric = 'dot'",
    ],
)
def test_damaged_records_are_ignored(
    store: EmbeddedStore, folder: Path, change: str, used: list[int]
) -> None:
    with sqlite3.connect(folder / "rows.db") as connection:
        connection.execute(f"UPDATE graphs SET {change} WHERE metric = 'cosine'")
    assert store.graph_state(Metric.COSINE) is None
    assert recall(store, Metric.COSINE) == 1
    assert not used


def test_a_graph_of_another_library_version(
    store: EmbeddedStore, folder: Path, notices: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(folder / "rows.db") as connection:
        connection.execute("UPDATE graphs SET library = '2.0.0'")
    assert recall(store, Metric.COSINE) == 1
    assert "built by usearch 2.0.0" in notices.messages[0]


_UNINSTALLED = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path
class Installed:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "usearch" else PathFinder.find_spec(name, path)
sys.meta_path = [Installed() if each is PathFinder else each for each in sys.meta_path]
import logging, numpy as np
from lookalike.errors import MissingDependencyError
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.types import Metric
logging.basicConfig(level=logging.INFO, format="%(message)s")
store = EmbeddedStore.open(Path(sys.argv[1]))
queries = np.ones((2, 16), np.float32)
truth = store.search(queries, 10, Metric.COSINE, exact=True)
for _ in range(3):
    assert store.search(queries, 10, Metric.COSINE) == truth
try:
    store.build_graph(Metric.COSINE)
except MissingDependencyError as error:
    print(error)
"""


def test_without_usearch_search_is_exact(folder: Path) -> None:
    command = [sys.executable, "-c", _UNINSTALLED, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("usearch is not installed: pip install 'lookalike[ann]'") == 1
    assert done.stdout == (
        "an approximate index needs the package 'usearch': pip install 'lookalike[ann]'\n"
    )


_KILLED = """
import os, signal, sys
from pathlib import Path
from lookalike.stores.embedded import graph_building
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.types import Metric
graph_building._CHECKPOINT = 1_000
def kill(progress):
    if progress.done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
EmbeddedStore.open(Path(sys.argv[1])).build_graph(Metric.COSINE, kill)
"""


@pytest.mark.parametrize("done", [1_000, 3_000])
def test_a_killed_build_goes_on_where_it_was(
    store: EmbeddedStore, folder: Path, done: int, used: list[int]
) -> None:
    store.drop_graph(Metric.COSINE)
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(folder), str(done)], check=False)
    assert killed.returncode < 0
    assert recall(store, Metric.COSINE) > 0.98
    assert bool(used) == (done > 1_000)
    progress: list[Progress] = []
    assert store.build_graph(Metric.COSINE, progress.append)
    assert progress[0].total == (COUNT if done == 1_000 else COUNT - 2_000)
    assert len(files(folder)) == 2
    assert recall(store, Metric.COSINE) > 0.98


def test_a_build_that_is_interrupted_leaves_the_old_graph(
    store: EmbeddedStore, folder: Path
) -> None:
    before = files(folder)
    store.upsert(rows(2_000, 3, "new"))

    def interrupt(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.build_graph(Metric.COSINE, interrupt)
    assert files(folder) == before
    assert recall(store, Metric.COSINE) > 0.98


def test_a_signal_while_usearch_works_is_an_interrupt(folder: Path) -> None:
    vectors = rows(50_000, 3, "new").embeddings
    index = graph.new_index(Metric.COSINE, DIM, writable=True)
    index.add(np.arange(1_000), vectors[:1_000])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupted(work: Callable[[], object]) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with graph.raising_interrupts():
            work()

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted(lambda: index.search(vectors, 100, threads=1))
        with pytest.raises(KeyboardInterrupt):
            interrupted(lambda: index.add(np.arange(1_000, 51_000), vectors, threads=1))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


_READONLY = """
import sys
from pathlib import Path
import numpy as np
from lookalike.errors import StorageError
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.types import Metric
store = EmbeddedStore.open(Path(sys.argv[1]))
for _ in range(2):
    store.search(np.ones((2, 16), np.float32), 10, Metric.COSINE)
print(store.graph_state(Metric.COSINE).problem)
for write in (store.build_graph, store.drop_graph):
    try:
        write(Metric.COSINE)
    except StorageError as error:
        print(type(error).__name__)
"""


def test_a_folder_that_may_only_be_read(
    require: Require, store: EmbeddedStore, folder: Path
) -> None:
    del store
    (folder / LOCK).unlink()
    make_readonly(folder.parent)
    try:
        shown = unprivileged(require, _READONLY, folder, cwd=folder.parent.parent)
    finally:
        make_writable(folder.parent)
    assert shown.split() == ["None", "StorageError", "StorageError"]


def test_a_large_file_is_verified_in_a_thread(
    store: EmbeddedStore, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "_SMALL_FILE", 0)
    threads = threading.active_count()
    until = time.monotonic() + 60
    while not used and time.monotonic() < until:
        hits = nearest(store, queries(1), 10)
        assert hits == store.search(queries(1), 10, Metric.COSINE, exact=True)[0]
    assert used
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == threads


def test_searches_of_several_threads(store: EmbeddedStore, used: list[int]) -> None:
    nearest(store, queries(1))
    alone = [nearest(store, query, 10) for query in queries()]
    with ThreadPoolExecutor(4) as pool:
        for hits in (pool.map(lambda query: nearest(store, query, 10), queries()) for _ in "abc"):
            assert list(hits) == alone
    assert len(used) == 4 * len(alone)


def test_a_cancelled_build(store: EmbeddedStore) -> None:
    from lookalike.cancellation import Cancellation, cancellable

    cancellation = Cancellation()
    store.drop_graph(Metric.COSINE)

    def cancel(progress: Progress) -> None:
        if progress.done:
            cancellation.cancel()

    with cancellable(cancellation), pytest.raises(CancelledError):
        store.build_graph(Metric.COSINE, cancel)
    assert store.graph_state(Metric.COSINE) is None


def test_a_gallery_keeps_its_index_up_to_date(
    tmp_path: Path,
    pixels: Encoder,
    digits: Source,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gallery = Gallery.create(tmp_path / "g", encoder=pixels)
    gallery.sync(digits)
    with pytest.raises(InputError, match="exact search is as fast in"):
        gallery.build_ann_index()
    assert "index" not in gallery.info()
    monkeypatch.setattr(ann_index, "MIN_ROWS", 10)
    facts = gallery.build_ann_index(progress=False)
    assert facts["rows"] == len(gallery)
    assert gallery.info()["index"] == facts
    with pytest.raises(InputError, match="snapshot"):
        gallery.snapshot().build_ann_index()
    [row_id] = gallery.store.ids_after("", 1)
    assert gallery.search(id=row_id).note == APPROXIMATE_NOTE
    image = gallery.image(row_id)
    assert gallery.search(image, multi_crop=True).note == APPROXIMATE_NOTE
    assert gallery.search(id=row_id, rerank="dba").note is None  # of 200 hits, found by a scan
    assert gallery.search(id=row_id, exact=True).note is None
    assert gallery.search(image, multi_crop=True, exact=True).note is None
    measured = measure_recall(gallery, queries=20)
    assert measured["recall@10"] > 0.98
    gallery.remove_rows(list(gallery.store.ids()[::2]))
    gallery.sync(digits, progress=False)  # half of the slots are newer than the index
    assert gallery.info()["index"]["newer_rows"] == 0
    with caplog.at_level("INFO", "lookalike.notice"):
        gallery.remove_rows(list(gallery.store.ids()[::2]), purge=True)
    assert files(tmp_path / "g" / "store") == []
    [record] = caplog.records
    assert "the approximate index is not used (the rows were compacted" in record.message
    assert f"lookalike index {tmp_path / 'g'} --ann" in record.message
    assert gallery.drop_ann_index()
    assert not gallery.drop_ann_index()
    assert "index" not in gallery.info()


@pytest.mark.slow
def test_the_command_line(
    tmp_path: Path,
    pixels: Encoder,
    digits: Source,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lookalike.cli import main

    def run(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["lookalike", *arguments])
        main()
        return capsys.readouterr()

    path = str(tmp_path / "g")
    gallery = Gallery.create(path, encoder=pixels)
    gallery.sync(digits)
    assert "no approximate index: exact search is as fast" in run("index", path, "--ann")[1]
    monkeypatch.setattr(ann_index, "MIN_ROWS", 10)
    shown = run("index", path, "--ann")[1]
    assert "building an approximate index of" in shown
    assert "recall@10 1.000 at p50" in shown
    lines = run("index", path, "--ann", "--json")[0].splitlines()
    assert json.loads(lines[-1])["index"]["rows"] == len(gallery)
    assert json.loads(run("info", path, "--json")[0])["index"]["type"] == "HNSW"
    assert "approximate index deleted" in run("index", path, "--no-ann")[1]
    assert "index" not in json.loads(run("info", path, "--json")[0])
