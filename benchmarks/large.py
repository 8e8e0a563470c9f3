"""Search among many rows: ours, exact, beside a plain product with numpy and a flat faiss index.

    python benchmarks/large.py [ROWS...]
    python benchmarks/large.py --index ROWS

Clustered vectors of 256 dimensions and unit length (2,000 centers, noise of .7), queries of the
same kind, cosine, n = 10, in turn in one run: median and 95th percentile in ms a query, recall@10
against the true neighbors, the same with a filter that a tenth of the rows match, how long the
rows take to be laid out, and the memory at its peak. faiss is used where it is installed.

With --index, a table of more than 400 million values: how long Lance's index takes to be made, and
what searching through it finds.
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
PART = 200_000
N = 10

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def clusters(count: int, seed: int) -> NDArray[np.float32]:
    """Return rows of unit length around centers that do not depend on the seed."""
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
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(rows: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    """Time each way of searching, in turn, and print what it finds."""
    start = time.perf_counter()
    index = ExactIndex(rows)
    for query in queries[:2]:  # the second lays the rows out in 8 bits
        index.search(query[None], N, Metric.COSINE)
    built = time.perf_counter() - start
    print(
        f"  rows laid out in {built:.1f} s, peak {megabytes():,.0f} MB with the {_size(rows)} here"
    )
    some = np.sort(np.random.default_rng(3).permutation(len(rows))[: len(rows) // 10])
    ways: dict[str, tuple[Search, NDArray[np.int64] | None]] = {
        "ours": (lambda q: index.search(q[None], N, Metric.COSINE).rows[0], None),
        "ours, filter of 10 %": (
            lambda q: index.search(q[None], N, Metric.COSINE, some).rows[0],
            some,
        ),
        "numpy product": (lambda q: _best(rows @ q), None),
    }
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(settings().threads)
        flat = faiss.IndexFlatIP(DIM)
        flat.add(rows)
        ways["faiss flat"] = (lambda q: flat.search(q[None], N)[1][0], None)
    times: dict[str, list[float]] = {name: [] for name in ways}
    right = dict.fromkeys(ways, 0)
    for query in queries:
        scores = rows @ query
        for name, (search, among) in ways.items():
            search(query)
            start = time.perf_counter()
            found = search(query)
            times[name].append(1000 * (time.perf_counter() - start))
            true = _best(scores) if among is None else among[_best(scores[among])]
            right[name] += len(set(found.tolist()) & set(true.tolist()))
    base = np.median(times["ours"])
    for name, each in times.items():
        p50, p95 = np.percentile(each, [50, 95])
        print(
            f"  {name:22} p50 {p50:7.2f} ms  p95 {p95:7.2f}  {p50 / base:5.1f} times ours  "
            f"recall@{N} {right[name] / N / len(queries):.3f}"
        )


def _best(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.argpartition(-scores, N)[:N]


def _size(rows: NDArray[np.float32]) -> str:
    return f"{rows.nbytes / 1e6:,.0f} MB of rows"


def indexed(count: int) -> None:
    """Write a table, have its index made, and search through it, with and without a filter."""
    rows, queries = clusters(count, 1), clusters(QUERIES, 2)
    with tempfile.TemporaryDirectory() as folder:
        store = LanceStore.create(Path(folder) / "table", DIM)
        for start in range(0, count, PART):
            part = rows[start : start + PART]
            ids = [f"r:{number:08}" for number in range(start, start + len(part))]
            tenths = [{"tenth": number % 10} for number in range(len(part))]
            store.upsert(Rows(ids, ids, part, tenths, [""] * len(part)))
        start_s, start_cpu = time.perf_counter(), time.process_time()
        store.optimize(Metric.COSINE)
        seconds, cpu = time.perf_counter() - start_s, time.process_time() - start_cpu
        print(f"  index made in {seconds:.0f} s, {cpu:.0f} s of CPU time")
        for name, where in (("all rows", None), ("filter of 10 %", parse("tenth = 3"))):
            times, right = [], 0
            for query in queries:
                start_s = time.perf_counter()
                [hits] = store.search(query[None], N, Metric.COSINE, where)
                times.append(1000 * (time.perf_counter() - start_s))
                scores = rows @ query
                if where is not None:
                    scores[np.arange(count) % PART % 10 != 3] = -np.inf
                true = {f"r:{number:08}" for number in _best(scores)}
                right += len(true & {hit.id for hit in hits})
            p50, p95 = np.percentile(times[1:], [50, 95])
            print(
                f"  {name:22} p50 {p50:7.1f} ms  p95 {p95:7.1f}  first {times[0]:,.0f}  "
                f"recall@{N} {right / N / len(queries):.3f}"
            )
        print(f"  peak {megabytes():,.0f} MB, with the {_size(rows)} here")


def main() -> None:
    """Compare at each size."""
    if "--index" in sys.argv:
        count = int(sys.argv[-1])
        print(f"{count:,} x {DIM} through Lance's index, {settings().threads} threads")
        indexed(count)
        return
    for count in [int(text) for text in sys.argv[1:]] or [60_000, 500_000]:
        print(f"{count:,} x {DIM}, {settings().threads} threads")
        compare(clusters(count, 1), clusters(QUERIES, 2))


if __name__ == "__main__":
    main()
