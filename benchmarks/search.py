"""Latency of exact search, compared with the report's Python loop over np.linalg.norm.

60,000 x 196 embeddings of MNIST by an untrained convolutional encoder (speed does not depend on the
values), queries from the test set, in one run; then whole processes of the command line.

    python benchmarks/search.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.sources import ArraySource, open_source
from lookalike.stores.exact import ExactIndex
from lookalike.types import Metric

LOOP_QUERIES = 30
SINGLE_QUERIES = 300
K = 7


def report_loop(query: np.ndarray, features: np.ndarray) -> list[int]:
    """Return the nearest rows as the report does: one distance at a time, then a sort."""
    results = []
    for i in range(len(features)):
        distance = np.linalg.norm(query - features[i])
        results.append((distance, i))
    results = sorted(results)[:K]
    return [i for _, i in results]


def milliseconds(start: float) -> float:
    """Return the time since ``start``."""
    return 1000 * (time.perf_counter() - start)


def in_process(features: np.ndarray, queries: np.ndarray) -> None:
    """Time the loop, single queries and a batch; count equal results."""
    index = ExactIndex(features)
    index.search(queries[:9], K, Metric.L2)
    loop, single, batch = [], [], []
    expected = []
    for i in range(LOOP_QUERIES):
        start = time.perf_counter()
        expected.append(report_loop(queries[i], features))
        loop.append(milliseconds(start))
        for query in queries[: SINGLE_QUERIES // LOOP_QUERIES]:
            start = time.perf_counter()
            index.search(query[None], K, Metric.L2)
            single.append(milliseconds(start))
        start = time.perf_counter()
        results = index.search(queries[:1000], K, Metric.L2)
        batch.append(milliseconds(start) / 1000)
    same = sum(results.rows[i].tolist() == rows for i, rows in enumerate(expected))
    base = statistics.median(loop)
    print(f"{len(features):,} x {features.shape[1]}, l2, k = {K}, median ms per query")
    print(f"  report's loop    {base:9.3f}")
    for name, times in (("single queries", single), ("batch of 1,000", batch)):
        ms = statistics.median(times)
        print(f"  {name:20} {ms:6.3f}   {base / ms:6.0f} times faster")
    print(f"  same results: {same} of {LOOP_QUERIES} queries")


def whole_process(source: ArraySource) -> None:
    """Time `lookalike --help` and one search over all rows, including process start."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mnist.gallery"
        sample = [source[i].image() for i in range(0, len(source), 100)]
        Gallery.create(path, encoder=open_encoder("untrained", sample)).sync(source)
        commands = {
            "lookalike --help": ["--help"],
            "lookalike search, 60,000 rows": ["search", str(path), "dataset:mnist/test#17"],
        }
        print("whole processes, median of 7, seconds")
        for name, arguments in commands.items():
            times = []
            for _ in range(8):
                start = time.perf_counter()
                command = [sys.executable, "-m", "lookalike", *arguments]
                subprocess.run(command, capture_output=True, check=True)
                times.append(time.perf_counter() - start)
            print(f"  {name:30} {statistics.median(times[1:]):.2f}")


def main() -> None:
    """Run both benchmarks."""
    source, queries = open_source("dataset:mnist/train"), open_source("dataset:mnist/test")
    assert isinstance(source, ArraySource)
    assert isinstance(queries, ArraySource)
    encoder = open_encoder("untrained", [source[0].image()])
    in_process(encoder.encode(source.images), encoder.encode(queries.images[:1000]))
    whole_process(source)


if __name__ == "__main__":
    main()
