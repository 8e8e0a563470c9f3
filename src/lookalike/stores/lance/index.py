"""Approximate search with Lance's IVF-PQ index, for tables too large for exact search in memory.

An inverted file (Sivic and Zisserman 2003) with product quantization (Jégou et al. 2011): rows in
the partitions nearest to a query are ranked by quantized vectors, and the best by their original
vectors. Lance always searches rows that are newer than the index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.types import Metric

EXACT_VALUES = 400_000_000
"""Rows times dimensions up to which search is exact, in memory: 2 GB, and about 30 ms per query on
two slow cores (``docs/benchmarks.md``)."""

_PARTITION = 1_000
_PROBES = 30
_REFINE = 10
_REBUILD_SHARE = 0.3
"""The index is rebuilt when it lacks this share of the rows; below, rows are added to it."""

_NAMES = {Metric.L2: "l2", Metric.COSINE: "cosine"}


def is_indexed(dataset: Any, metric: Metric) -> bool:
    """Return whether search uses the index: the table is large and has one."""
    return _is_large(dataset) and _index_name(metric) in _indices(dataset)


def optimize(dataset: Any, metric: Metric) -> bool:
    """Build or update the index of a large table for a metric; return whether anything was done."""
    if not _is_large(dataset):
        return False
    name = _index_name(metric)
    rows = dataset.count_rows()
    if name in _indices(dataset):
        missing = int(dataset.stats.index_stats(name)["num_unindexed_rows"])
        if missing == 0:
            return False
        if missing < _REBUILD_SHARE * rows:
            dataset.optimize.optimize_indices()
            return True
    dim = dataset.schema.field("embedding").type.list_size
    dataset.create_index(
        "embedding",
        index_type="IVF_PQ",
        name=name,
        metric=_NAMES[metric],
        replace=True,
        num_partitions=max(1, rows // _PARTITION),
        num_sub_vectors=next(parts for parts in range(max(1, dim // 4), 0, -1) if dim % parts == 0),
    )
    return True


def nearest(
    dataset: Any, query: NDArray[np.float32], k: int, metric: Metric, columns: list[str]
) -> Any:
    """Return the approximate ``k`` nearest rows as a table."""
    query_options = {"column": "embedding", "q": query, "k": k, "metric": _NAMES[metric]}
    return dataset.to_table(
        columns=columns,
        nearest={**query_options, "nprobes": _PROBES, "refine_factor": _REFINE},
        with_row_id=True,
    )


def _is_large(dataset: Any) -> bool:
    dim = int(dataset.schema.field("embedding").type.list_size)
    return int(dataset.count_rows()) * dim > EXACT_VALUES


def _index_name(metric: Metric) -> str:
    return f"embedding_{metric.value}"


def _indices(dataset: Any) -> set[str]:
    return {index.name for index in dataset.describe_indices()}
