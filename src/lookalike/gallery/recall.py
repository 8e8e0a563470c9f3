"""Recall of approximate search, measured against exact search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from lookalike.gallery.gallery import Gallery
from lookalike.types import Embeddings, Hit


def measure_recall(gallery: Gallery, queries: int = 100, k: int = 10) -> dict[str, Any]:
    """Ask about so many rows, evenly spread, for their nearest; compare with looking at all rows.

    Returns the number of queries, recall@k, and the median milliseconds of a search as usual and
    of an exact one.
    """
    ids = gallery.store.ids()
    asked = gallery.store.get(ids[:: max(1, len(ids) // queries)]).embeddings
    found, usual = _timed(gallery, asked, k, exact=False)
    if gallery.address is None:
        true, exact_one = _timed(gallery, asked, k, exact=True)
    else:  # a look at all rows is one at the whole collection: one for all queries
        true = gallery.store.search(asked, k, gallery.metric, exact=True)
        _, exact_one = _timed(gallery, asked[:1], k, exact=True)
    return {
        "queries": len(asked),
        f"recall@{k}": recall(found, true),
        "p50_ms": round(usual, 2),
        "p50_ms_exact": round(exact_one, 2),
    }


def recall(found: Sequence[Sequence[Hit]], true: Sequence[Sequence[Hit]]) -> float:
    """Return the share of the true hits of each query that were found."""
    shared = sum(
        len({hit.id for hit in one} & {hit.id for hit in other})
        for one, other in zip(found, true, strict=True)
    )
    return shared / max(1, sum(map(len, true)))


def _timed(
    gallery: Gallery, queries: Embeddings, k: int, *, exact: bool
) -> tuple[list[list[Hit]], float]:
    """Return the hits of queries asked one by one, and the median milliseconds of one."""
    hits, times = [], []
    for query in queries:
        start = time.perf_counter()
        hits += gallery.store.search(query[None], k, gallery.metric, exact=exact)
        times.append(time.perf_counter() - start)
    return hits, 1000 * float(np.median(times))
