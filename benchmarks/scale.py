"""Beyond one machine: Milvus against a folder, Ray against threads, and the cost per image.

    python benchmarks/scale.py store [WORK] [ROWS]     default: 500,000 rows of 256 dimensions
    python benchmarks/scale.py ray [WORK] [IMAGES]     default: 2,000 JPEGs of 640x427
    python benchmarks/scale.py cost [WORK]             CPU time of decoding and encoding

`store` starts the standalone server of the package milvus, as root. For a store in a folder (exact,
and by its graph index if usearch is installed) and Milvus it prints: seconds to write and to index,
bytes on disk, memory, recall@10, and the latency of single queries, of queries with a filter that
matches one row in ten, and of a batch. With an existing WORK it measures searches only. Vectors are
those of `clusters.py`.
`ray` starts Ray on this machine with one actor per core.
"""

from __future__ import annotations

import importlib.util
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

from clusters import DIM, K, clusters
from index import jpegs
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
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.stores.milvus.address import Address
from lookalike.stores.milvus.store import MilvusStore
from lookalike.types import Metric, Progress

BATCH = 10_000
SINGLE_QUERIES = 200
BATCH_QUERIES = 1_000
EFFORTS = (64, 128, 256)
TENTH = "tenth = 3"


@contextmanager
def milvus(folder: Path) -> Iterator[tuple[str, int]]:
    """Start the standalone server; yield its address and its process id."""
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


def ground_truth(
    rows: NDArray[np.float32], queries: NDArray[np.float32], tenth: bool
) -> list[set[str]]:
    """Return the ids of the exact neighbors of each query."""
    neighbors = []
    for query in queries:
        scores = rows @ query
        if tenth:
            scores[np.arange(len(rows)) % 10 != 3] = -np.inf
        neighbors.append({f"p:{row:08}.jpg" for row in np.argpartition(-scores, K)[:K]})
    return neighbors


def measure(
    name: str, store: VectorStore, rows: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    """Print recall and latency of a store."""
    single = queries[:SINGLE_QUERIES]
    lines = []
    for where in (None, TENTH):
        truth = ground_truth(rows, single, where is not None)
        condition = None if where is None else parse(where)
        for query in single[:3]:
            store.search(query[None], K, Metric.COSINE, condition)
        times, correct = [], 0
        for query, ids in zip(single, truth, strict=True):
            start = time.perf_counter()
            [hits] = store.search(query[None], K, Metric.COSINE, condition)
            times.append(1000 * (time.perf_counter() - start))
            correct += len(ids & {hit.id for hit in hits})
        p50, p95 = np.percentile(times, [50, 95])
        recall = correct / K / len(single)
        lines.append(f"p50 {p50:6.1f} ms  p95 {p95:6.1f}  recall@{K} {recall:.3f}")
    start = time.perf_counter()
    store.search(queries, K, Metric.COSINE)
    rate = len(queries) / (time.perf_counter() - start)
    print(f"  {name:24} {lines[0]}   batch {rate:6.0f}/s   one in ten: {lines[1]}", flush=True)


def stores(work: Path, count: int) -> None:
    """Compare the stores."""
    print(f"{count:,} x {DIM}, {settings().threads} threads")
    rows, queries = clusters(count, 1), clusters(BATCH_QUERIES, 2)
    exists = (work / "milvus").exists()
    if not exists:
        EmbeddedStore.create(work / "store", DIM)
    folder = EmbeddedStore.open(work / "store")
    if not exists:
        seconds = write(folder, rows)
        print(
            f"  folder: written in {seconds:.0f} s ({1e6 * seconds / count:.0f} us per row), ",
            end="",
        )
        print(f"{size(work / 'store') / count:,.0f} bytes per row on disk")
    measure("folder, exact", folder, rows, queries)
    if importlib.util.find_spec("usearch") is None:
        print("  folder, graph: skipped, usearch is not installed")
    else:
        start, cpu = time.perf_counter(), time.process_time()
        folder.build_graph(Metric.COSINE)
        if not exists:
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            print(f"  folder: graph built in {seconds:.0f} s, {cpu:.0f} s of CPU; ", end="")
            print(f"{size(work / 'store') / count:,.0f} bytes per row on disk")
        measure("folder, graph", folder, rows, queries)
    with milvus(work / "milvus") as (host, process):
        before = memory(process)
        address = Address.parse(f"milvus://{host}/scale")
        store = MilvusStore.find(address) or MilvusStore.create(address, DIM, Metric.COSINE)
        if not exists:
            seconds = write(store, rows)
            print(f"  Milvus: written in {seconds:.0f} s ({1e6 * seconds / count:.0f} us per row)")
        start, cpu = time.perf_counter(), cpu_of(process)
        store.optimize(Metric.COSINE)
        wait_for_index(store, count)
        if not exists:
            seconds, cpu = time.perf_counter() - start, cpu_of(process) - cpu
            print(f"  Milvus: HNSW built in {seconds:.0f} s, {cpu:.0f} s of CPU; ", end="")
            print(f"{size(work / 'milvus' / 'data') / count:,.0f} bytes per row on disk, ", end="")
            print(f"{(memory(process) - before) / count:,.0f} per row in memory")
        for effort in EFFORTS:
            chosen = Address.parse(f"milvus://{host}/scale?effort={effort}")
            measure(f"Milvus, HNSW, ef {effort}", MilvusStore.open(chosen), rows, queries)


def wait_for_index(store: MilvusStore, count: int) -> None:
    """Wait until the server has indexed all rows and is idle."""
    last = 0.0
    while True:
        facts = store._connection.call("describe_index", store.address.name, "embedding")
        idle = facts.get("pending_index_rows") == 0 or time.monotonic() - last > 60
        if facts.get("indexed_rows", 0) >= count:
            last = last or time.monotonic()
            if idle and last:
                return
        time.sleep(2)


def runners(work: Path, count: int) -> None:
    """Compare indexing with threads and with Ray."""
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
            print(f"  {name:8} startup {start:5.1f} s, then {rate:6.1f} images/s", flush=True)
    ratio = np.median(rates["Ray"]) / np.median(rates["threads"])
    print(f"  Ray at {ratio:.2f} of the rate of threads (medians of three)")


def indexed(gallery: Gallery, source: Source, runner: Runner | None) -> tuple[float, float]:
    """Index; return the seconds until the first images, and the rate from then on."""
    start = time.perf_counter()
    first: list[tuple[float, int]] = []

    def record(progress: Progress) -> None:
        if progress.done and not first:
            first.append((time.perf_counter(), progress.done))

    gallery.sync(source, runner=runner, progress=record)
    [(began, done)] = first
    return began - start, (len(source) - done) / (time.perf_counter() - began)


def cost(work: Path) -> None:
    """Print the cost of decoding and encoding one image, on one core."""
    folder = work / "sample"
    jpegs(folder, 200)
    data = [path.read_bytes() for path in sorted(folder.iterdir())]
    images = [decode(each) for each in data]
    print(f"one JPEG of 640x427, {np.mean([len(each) for each in data]) / 1000:.0f} kB, one core:")
    print(f"  decode {1000 * cpu_seconds(lambda: [decode(d) for d in data], len(data)):.1f} ms")
    for name in ("efficientnet-lite0", "hog-fine", "color"):
        encoder = open_encoder(name, images[:50])
        seconds = cpu_seconds(lambda encoder=encoder: encoder.encode(images), len(images))
        print(f"  encode, {name:20} {1000 * seconds:6.1f} ms, {encoder.dim} dimensions")


def cpu_seconds(work: Callable[[], object], count: int) -> float:
    """Return the CPU seconds per item, the minimum of three runs."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) / count)
    return min(times)


def size(folder: Path) -> int:
    """Return the bytes of a folder on disk."""
    return int(subprocess.check_output(["du", "-sb", folder]).split()[0])


def memory(process: int) -> int:
    """Return the memory of a process in bytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def cpu_of(process: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run one of the benchmarks."""
    what, *more = sys.argv[1:] or ["store"]
    count = int(more[1]) if len(more) > 1 else 0
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(more[0]) if more else Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        if what == "store":
            stores(work, count or 500_000)
        elif what == "ray":
            runners(work, count or 2_000)
        else:
            cost(work)


if __name__ == "__main__":
    main()
