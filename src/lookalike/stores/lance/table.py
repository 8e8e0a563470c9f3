"""Rows as Arrow tables: their columns, and one version of a table held in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lookalike.filters import MetadataColumns
from lookalike.stores.exact import ExactIndex, Neighbors
from lookalike.types import Embeddings, Hit

SIGNATURE = "signature"
"""A column that tables of format 1 lack; it is added on the first write."""

ROW = "_rowid"
"""What Lance calls its own numbers of rows."""

_PRIMARY_KEY = {b"lance-schema:unenforced-primary-key": b"true"}
"""Without it, two concurrent merges can both insert an id."""


def schema(dim: int) -> Any:
    """Return the columns of a table of embeddings of that many dimensions."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata=_PRIMARY_KEY),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("metadata", pa.string(), nullable=False),
            pa.field("content_hash", pa.string(), nullable=False),
            pa.field(SIGNATURE, pa.string()),
        ]
    )


@dataclass(frozen=True)
class Loaded:
    """One version of the table in memory, in order of id."""

    version: int
    table: Any
    dataset: Any

    @cached_property
    def index(self) -> ExactIndex:
        """The embeddings, to be searched."""
        table = self.dataset.to_table(columns=["id", "embedding"])
        table = table.take(pc.sort_indices(table["id"]))
        return ExactIndex(matrix(table, table.schema.field("embedding").type.list_size))

    @cached_property
    def ids(self) -> NDArray[np.object_]:
        """The ids as Python's texts, in their order, which is Arrow's."""
        return np.array(self.table["id"].to_pylist(), dtype=np.object_)

    def places(self, ids: Sequence[str]) -> NDArray[np.int64] | None:
        """Return the numbers of rows by their ids; None if one is not there."""
        wanted = np.array(ids, dtype=np.object_)
        places = np.searchsorted(self.ids, wanted)
        there = places < len(self.ids)
        there[there] = self.ids[places[there]] == wanted[there]
        return places if there.all() else None

    def holds(self, rows: NDArray[np.uint64], among: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which of Lance's row numbers are among rows of the table."""
        own, order = self._numbers
        wanted = np.zeros(len(own), np.bool_)
        wanted[among] = True
        return np.asarray(wanted[order[np.searchsorted(own, rows)]])

    @cached_property
    def _numbers(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Lance's row numbers in their own order, and the rows of the table that they are of."""
        numbers = self.table[ROW].to_numpy()
        order = np.argsort(numbers)
        return numbers[order], order

    @cached_property
    def columns(self) -> MetadataColumns:
        """The metadata, for filters."""
        return MetadataColumns([json.loads(text) for text in self.table["metadata"].to_pylist()])


def signed(table: Any) -> Any:
    """Return a table with its column of signatures, which those of format 1 lack."""
    if SIGNATURE in table.column_names:
        return table
    return table.append_column(SIGNATURE, pa.array([""] * len(table), pa.string()))


def hits_of(found: Neighbors, table: Any) -> list[list[Hit]]:
    """Return the hits of each query from the numbers of a table's rows."""
    taken = table.select(["id", "uri", "metadata"]).take(pa.array(found.rows.ravel()))
    ids, uris, metadata = (column.to_pylist() for column in taken.columns)
    fields = zip(
        ids, uris, found.distances.ravel().tolist(), map(json.loads, metadata), strict=True
    )
    count = found.rows.shape[1]
    return [
        [Hit(rank, *next(fields)) for rank in range(1, count + 1)] for _ in range(len(found.rows))
    ]


def matrix(table: Any, dim: int) -> Embeddings:
    """Return the embeddings of a table, ``(rows, dim)``."""
    values = table["embedding"].combine_chunks().flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(-1, dim)
