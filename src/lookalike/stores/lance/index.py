"""Approximate search through Lance's index, for tables too large to be held and searched exactly.

An inverted file (Sivic and Zisserman 2003) with product quantization (Jégou et al. 2011): the rows
in the partitions nearest to a query are ranked by compressed vectors, and the best of them by their
own. Rows that are newer than the index are always searched, by Lance itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.types import Metric

EXACT_VALUES = 400_000_000
"""Rows times dimensions up to which a table is searched exactly, from memory: 2 GB, and about 30 ms
a query on two slow cores (``docs/benchmarks.md``)."""

_PARTITION = 1_000
_PROBES = 30
_REFINE = 10
_STALE = 0.3
"""The index is made anew when it lacks this share of the rows; before that, it is added to."""

_NAMES = {Metric.L2: "l2", Metric.COSINE: "cosine"}


def serves(dataset: Any, metric: Metric) -> bool:
    """Tell whether a table is searched through its index, since it is large and has one."""
    return _large(dataset) and _index_name(metric) in _indices(dataset)


def optimize(dataset: Any, metric: Metric) -> bool:
    """Make a large table's index for a metric, or bring it up to date; tell whether it did."""
    if not _large(dataset):
        return False
    name = _index_name(metric)
    rows = dataset.count_rows()
    if name in _indices(dataset):
        behind = int(dataset.stats.index_stats(name)["num_unindexed_rows"])
        if behind == 0:
            return False
        if behind < _STALE * rows:
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
    """Return the table of about the ``k`` nearest rows."""
    wanted = {"column": "embedding", "q": query, "k": k, "metric": _NAMES[metric]}
    return dataset.to_table(
        columns=columns,
        nearest={**wanted, "nprobes": _PROBES, "refine_factor": _REFINE},
        with_row_id=True,
    )


def _large(dataset: Any) -> bool:
    dim = int(dataset.schema.field("embedding").type.list_size)
    return int(dataset.count_rows()) * dim > EXACT_VALUES


def _index_name(metric: Metric) -> str:
    return f"embedding_{metric.value}"


def _indices(dataset: Any) -> set[str]:
    return {index.name for index in dataset.describe_indices()}
