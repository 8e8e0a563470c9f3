"""Past one machine: Milvus beside Lance, Ray beside threads, and the cost of each part.

    python benchmarks/scale.py store [WORK] [ROWS]     500,000 rows of 256 unless told
    python benchmarks/scale.py ray [WORK] [IMAGES]     2,000 JPEGs of 640x427 unless told
    python benchmarks/scale.py cost [WORK]             what one image costs, part by part

`store` starts the standalone server of the package milvus, as root, and prints for Lance (exact,
and through its index) and Milvus: seconds to write and to index, bytes on disk, memory, recall@10,
and how long a query takes alone, with a filter that a tenth of the rows match, and in a batch.
Run again with the same WORK it measures searches only.
Vectors are those of `large.py`. `ray` starts Ray on this machine with one actor for each core.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index import jpegs
from large import DIM, N, clusters
from lookalike.config import settings
from lookalike.encoders.registry import open_encoder
from lookalike.filters import parse
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.ingest import Runner
from lookalike.gallery.ray_runner import RayRunner
from lookalike.images.decode import decode
from lookalike.sources import Source, open_source
from lookalike.sources.sampling import sample_images
from lookalike.stores.base import Rows, VectorStore
from lookalike.stores.lance import index
from lookalike.stores.lance.store import LanceStore
from lookalike.stores.milvus.address import Address
from lookalike.stores.milvus.store import MilvusStore
from lookalike.types import Metric, Progress

BATCH = 10_000
ALONE = 200
TOGETHER = 1_000
EFFORTS = (64, 128, 256)
TENTH = "tenth = 3"


@contextmanager
def milvus(folder: Path) -> Iterator[tuple[str, int]]:
    """Start the standalone server and yield where it listens, and its process."""
    from milvus import MilvusServer

    server = MilvusServer()
    server.set_base_dir(str(folder))
    server.start()
    try:
        yield f"127.0.0.1:{server.listen_port}", server.server_proc.pid
    finally:
        server.stop()


def write(store: VectorStore, rows: NDArray[np.float32]) -> float:
    """Write all rows and return the seconds."""
    start = time.perf_counter()
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        numbers = range(first, first + len(part))
        ids = [f"p:{number:08}.jpg" for number in numbers]
        metadata = [{"tenth": number % 10, "label": f"l{number % 97}"} for number in numbers]
        store.upsert(Rows(ids, ids, part, metadata, [f"{number:064x}" for number in numbers]))
    return time.perf_counter() - start


def truth(rows: NDArray[np.float32], queries: NDArray[np.float32], tenth: bool) -> list[set[str]]:
    """Return the ids of the true neighbors of each query."""
    found = []
    for query in queries:
        scores = rows @ query
        if tenth:
            scores[np.arange(len(rows)) % 10 != 3] = -np.inf
        found.append({f"p:{row:08}.jpg" for row in np.argpartition(-scores, N)[:N]})
    return found


def ask(
    name: str, store: VectorStore, rows: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    """Print what searches of a store find, and what they take."""
    alone = queries[:ALONE]
    said = []
    for where, true in ((None, truth(rows, alone, False)), (TENTH, truth(rows, alone, True))):
        condition = None if where is None else parse(where)
        for query in alone[:3]:
            store.search(query[None], N, Metric.COSINE, condition)
        times, right = [], 0
        for query, ids in zip(alone, true, strict=True):
            start = time.perf_counter()
            [hits] = store.search(query[None], N, Metric.COSINE, condition)
            times.append(1000 * (time.perf_counter() - start))
            right += len(ids & {hit.id for hit in hits})
        p50, p95 = np.percentile(times, [50, 95])
        said.append(f"p50 {p50:6.1f} ms  p95 {p95:6.1f}  recall@{N} {right / N / len(alone):.3f}")
    start = time.perf_counter()
    store.search(queries, N, Metric.COSINE)
    rate = len(queries) / (time.perf_counter() - start)
    print(f"  {name:24} {said[0]}   batch {rate:6.0f}/s   a tenth: {said[1]}", flush=True)


def stores(work: Path, count: int) -> None:
    """Compare the stores."""
    print(f"{count:,} x {DIM}, {settings().threads} threads")
    rows, queries = clusters(count, 1), clusters(TOGETHER, 2)
    again = (work / "milvus").exists()
    if not again:
        LanceStore.create(work / "table", DIM)
    lance = LanceStore.open(work / "table")
    if not again:
        seconds = write(lance, rows)
        print(
            f"  Lance: written in {seconds:.0f} s ({1e6 * seconds / count:.0f} us a row), ", end=""
        )
        print(f"{size(work / 'table') / count:,.0f} bytes a row on disk")
    ask("Lance, exact", lance, rows, queries)
    index.EXACT_VALUES = 0
    start, cpu = time.perf_counter(), time.process_time()
    lance.optimize(Metric.COSINE)
    if not again:
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"  Lance: IVF_PQ made in {seconds:.0f} s, {cpu:.0f} s of CPU")
    ask("Lance, IVF_PQ", lance, rows, queries)
    with milvus(work / "milvus") as (host, process):
        before = memory(process)
        address = Address.parse(f"milvus://{host}/scale")
        store = MilvusStore.find(address) or MilvusStore.create(address, DIM, Metric.COSINE)
        if not again:
            seconds = write(store, rows)
            print(f"  Milvus: written in {seconds:.0f} s ({1e6 * seconds / count:.0f} us a row)")
        start, cpu = time.perf_counter(), cpu_of(process)
        store.optimize(Metric.COSINE)
        wait_for_index(store, count)
        if not again:
            seconds, cpu = time.perf_counter() - start, cpu_of(process) - cpu
            print(f"  Milvus: HNSW made in {seconds:.0f} s, {cpu:.0f} s of CPU; ", end="")
            print(f"{size(work / 'milvus' / 'data') / count:,.0f} bytes a row on disk, ", end="")
            print(f"{(memory(process) - before) / count:,.0f} a row in memory")
        for effort in EFFORTS:
            chosen = Address.parse(f"milvus://{host}/scale?effort={effort}")
            ask(f"Milvus, HNSW, ef {effort}", MilvusStore.open(chosen), rows, queries)


def wait_for_index(store: MilvusStore, count: int) -> None:
    """Wait until the server has indexed all rows and is at rest."""
    last = 0.0
    while True:
        told = store._connection.ask("describe_index", store.address.name, "embedding")
        quiet = told.get("pending_index_rows") == 0 or time.monotonic() - last > 60
        if told.get("indexed_rows", 0) >= count:
            last = last or time.monotonic()
            if quiet and last:
                return
        time.sleep(2)


def runners(work: Path, count: int) -> None:
    """Compare indexing by threads with indexing by Ray."""
    folder = work / "jpegs"
    if not folder.exists():
        jpegs(folder, count)
    source = open_source(folder)
    encoder = open_encoder("efficientnet-lite0", sample_images(source))
    print(f"{count:,} JPEGs of 640x427, efficientnet-lite0, {settings().threads} cores")
    rates: dict[str, list[float]] = {}
    for turn in range(3):
        for name, runner in (("threads", None), ("Ray", RayRunner())):
            gallery = Gallery.create(work / f"{name}{turn}.gallery", encoder=encoder)
            start, rate = indexed(gallery, source, runner)
            rates.setdefault(name, []).append(rate)
            print(f"  {name:8} start-up {start:5.1f} s, then {rate:6.1f} images/s", flush=True)
    ratio = np.median(rates["Ray"]) / np.median(rates["threads"])
    print(f"  Ray at {ratio:.2f} of the rate of threads (medians of three)")


def indexed(gallery: Gallery, source: Source, runner: Runner | None) -> tuple[float, float]:
    """Index, and return the seconds until the first images were done, and the rate from then on."""
    start = time.perf_counter()
    first: list[tuple[float, int]] = []

    def told(progress: Progress) -> None:
        if progress.done and not first:
            first.append((time.perf_counter(), progress.done))

    gallery.sync(source, runner=runner, on_progress=told)
    [(began, done)] = first
    return began - start, (len(source) - done) / (time.perf_counter() - began)


def cost(work: Path) -> None:
    """Print what one image costs in each part, on one core."""
    folder = work / "some"
    jpegs(folder, 200)
    data = [path.read_bytes() for path in sorted(folder.iterdir())]
    images = [decode(each) for each in data]
    print(f"one JPEG of 640x427, {np.mean([len(each) for each in data]) / 1000:.0f} kB, one core:")
    print(f"  decode {1000 * each_takes(lambda: [decode(d) for d in data], len(data)):.1f} ms")
    for name in ("efficientnet-lite0", "hog-fine", "color"):
        encoder = open_encoder(name, images[:50])
        seconds = each_takes(lambda encoder=encoder: encoder.encode(images), len(images))
        print(f"  encode, {name:20} {1000 * seconds:6.1f} ms, {encoder.dim} dimensions")


def each_takes(work: Callable[[], object], count: int) -> float:
    """Return the CPU seconds of one of so many, the least of three times."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) / count)
    return min(times)


def size(folder: Path) -> int:
    """Return the bytes on disk below a folder."""
    return int(subprocess.check_output(["du", "-sb", folder]).split()[0])


def memory(process: int) -> int:
    """Return the bytes of memory that a process has."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def cpu_of(process: int) -> float:
    """Return the CPU seconds that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Do what was asked for."""
    what, *more = sys.argv[1:] or ["store"]
    count = int(more[1]) if len(more) > 1 else 0
    with tempfile.TemporaryDirectory() as made:
        work = Path(more[0]) if more else Path(made)
        work.mkdir(parents=True, exist_ok=True)
        if what == "store":
            stores(work, count or 500_000)
        elif what == "ray":
            runners(work, count or 2_000)
        else:
            cost(work)


if __name__ == "__main__":
    main()
