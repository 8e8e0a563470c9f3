"""Search in many rows: exact search, a numpy product, a flat faiss index; and Lance's index.

    python benchmarks/large.py [ROWS...]
    python benchmarks/large.py --index ROWS

Clustered unit vectors of 256 dimensions (2,000 centers, noise .7), queries from the same
distribution, cosine, k = 10, alternating in one run: median and 95th percentile of the latency in
ms, recall@10, the same with a filter that matches one row in ten, build time and peak memory.
faiss is included if it is installed.

With --index, a table of more than 400 million values: build time and recall of Lance's index.
"""

from __future__ import annotations

import importlib.util
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.config import settings
from lookalike.filters import parse
from lookalike.stores.base import Rows
from lookalike.stores.exact import ExactIndex
from lookalike.stores.lance.store import LanceStore
from lookalike.types import Metric

DIM = 256
QUERIES = 100
BATCH = 200_000
K = 10

SearchFunction = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def clusters(count: int, seed: int) -> NDArray[np.float32]:
    """Return unit rows around centers that do not depend on the seed."""
    centers = np.random.default_rng(0).normal(size=(2_000, DIM)).astype(np.float32)
    rng = np.random.default_rng(seed)
    rows = np.empty((count, DIM), np.float32)
    for start in range(0, count, 50_000):
        part = rows[start : start + 50_000]
        part[:] = centers[rng.integers(0, len(centers), len(part))]
        part += rng.normal(size=part.shape).astype(np.float32) * np.float32(0.7)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def megabytes() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(rows: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    """Time all search methods alternately, and print latency and recall."""
    start = time.perf_counter()
    index = ExactIndex(rows)
    for query in queries[:2]:  # the second one quantizes the rows
        index.search(query[None], K, Metric.COSINE)
    built = time.perf_counter() - start
    print(f"  built in {built:.1f} s, peak {megabytes():,.0f} MB including {_size(rows)}")
    subset = np.sort(np.random.default_rng(3).permutation(len(rows))[: len(rows) // 10])
    methods: dict[str, tuple[SearchFunction, NDArray[np.int64] | None]] = {
        "exact": (lambda q: index.search(q[None], K, Metric.COSINE).rows[0], None),
        "exact, filter of 10 %": (
            lambda q: index.search(q[None], K, Metric.COSINE, subset).rows[0],
            subset,
        ),
        "numpy product": (lambda q: _best(rows @ q), None),
    }
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(settings().threads)
        flat = faiss.IndexFlatIP(DIM)
        flat.add(rows)
        methods["faiss flat"] = (lambda q: flat.search(q[None], K)[1][0], None)
    times: dict[str, list[float]] = {name: [] for name in methods}
    correct = dict.fromkeys(methods, 0)
    for query in queries:
        scores = rows @ query
        for name, (search, searched) in methods.items():
            search(query)
            start = time.perf_counter()
            result = search(query)
            times[name].append(1000 * (time.perf_counter() - start))
            truth = _best(scores) if searched is None else searched[_best(scores[searched])]
            correct[name] += len(set(result.tolist()) & set(truth.tolist()))
    base = np.median(times["exact"])
    for name, each in times.items():
        p50, p95 = np.percentile(each, [50, 95])
        print(
            f"  {name:22} p50 {p50:7.2f} ms  p95 {p95:7.2f}  {p50 / base:5.1f} x exact  "
            f"recall@{K} {correct[name] / K / len(queries):.3f}"
        )


def _best(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.argpartition(-scores, K)[:K]


def _size(rows: NDArray[np.float32]) -> str:
    return f"{rows.nbytes / 1e6:,.0f} MB of rows"


def indexed(count: int) -> None:
    """Write a table, build its index, and search with and without a filter."""
    rows, queries = clusters(count, 1), clusters(QUERIES, 2)
    with tempfile.TemporaryDirectory() as folder:
        store = LanceStore.create(Path(folder) / "table", DIM)
        for start in range(0, count, BATCH):
            part = rows[start : start + BATCH]
            ids = [f"r:{number:08}" for number in range(start, start + len(part))]
            tenths = [{"tenth": number % 10} for number in range(len(part))]
            store.upsert(Rows(ids, ids, part, tenths, [""] * len(part)))
        start_s, start_cpu = time.perf_counter(), time.process_time()
        store.optimize(Metric.COSINE)
        seconds, cpu = time.perf_counter() - start_s, time.process_time() - start_cpu
        print(f"  index built in {seconds:.0f} s, {cpu:.0f} s of CPU time")
        for name, where in (("all rows", None), ("filter of 10 %", parse("tenth = 3"))):
            times, correct = [], 0
            for query in queries:
                start_s = time.perf_counter()
                [hits] = store.search(query[None], K, Metric.COSINE, where)
                times.append(1000 * (time.perf_counter() - start_s))
                scores = rows @ query
                if where is not None:
                    scores[np.arange(count) % BATCH % 10 != 3] = -np.inf
                truth = {f"r:{number:08}" for number in _best(scores)}
                correct += len(truth & {hit.id for hit in hits})
            p50, p95 = np.percentile(times[1:], [50, 95])
            print(
                f"  {name:22} p50 {p50:7.1f} ms  p95 {p95:7.1f}  first {times[0]:,.0f}  "
                f"recall@{K} {correct / K / len(queries):.3f}"
            )
        print(f"  peak {megabytes():,.0f} MB including {_size(rows)}")


def main() -> None:
    """Compare at each size."""
    if "--index" in sys.argv:
        count = int(sys.argv[-1])
        print(f"{count:,} x {DIM} by Lance's index, {settings().threads} threads")
        indexed(count)
        return
    for count in [int(text) for text in sys.argv[1:]] or [60_000, 500_000]:
        print(f"{count:,} x {DIM}, {settings().threads} threads")
        compare(clusters(count, 1), clusters(QUERIES, 2))


if __name__ == "__main__":
    main()
