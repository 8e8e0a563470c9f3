"""Recall of approximate search, measured against exact search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from lookalike.gallery import ann_index
from lookalike.gallery.gallery import Gallery
from lookalike.types import Embeddings, Hit


def measure_recall(gallery: Gallery, queries: int = 100, k: int = 10) -> dict[str, Any]:
    """Search for the nearest neighbors of random rows, approximately and exactly.

    Returns the number of queries, recall@k, and the median latency of both searches in
    milliseconds, as JSON values; all but the first are None if there are no rows.
    """
    gallery = gallery.snapshot()
    ann_index.facts(gallery.store, gallery.metric)  # verified now, so that all searches use it
    vectors = gallery.store.sample(queries).embeddings
    if not len(vectors):
        return {"queries": 0, f"recall@{k}": None, "p50_ms": None, "p50_ms_exact": None}
    results, latency = _timed_search(gallery, vectors, k, exact=False)
    if gallery.address is None:
        exact_hits, exact_latency = _timed_search(gallery, vectors, k, exact=True)
    else:  # an exact search reads the whole collection: once for all queries
        exact_hits = gallery.store.search(vectors, k, gallery.metric, exact=True)
        _, exact_latency = _timed_search(gallery, vectors[:1], k, exact=True)
    return {
        "queries": len(vectors),
        f"recall@{k}": search_recall(results, exact_hits),
        "p50_ms": round(latency, 2),
        "p50_ms_exact": round(exact_latency, 2),
    }


def search_recall(results: Sequence[Sequence[Hit]], exact_hits: Sequence[Sequence[Hit]]) -> float:
    """Return the share of the exact hits of all queries that are among their results.

    There must be exact hits.
    """
    overlap = sum(
        len({hit.id for hit in hits} & {hit.id for hit in exact})
        for hits, exact in zip(results, exact_hits, strict=True)
    )
    return overlap / sum(map(len, exact_hits))


def _timed_search(
    gallery: Gallery, queries: Embeddings, k: int, *, exact: bool
) -> tuple[list[list[Hit]], float]:
    """Return the hits of queries searched one by one, and the median latency in milliseconds."""
    hits, times = [], []
    for query in queries:
        start = time.perf_counter()
        hits += gallery.store.search(query[None], k, gallery.metric, exact=exact)
        times.append(time.perf_counter() - start)
    return hits, 1000 * float(np.median(times))
