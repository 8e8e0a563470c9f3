"""Rows as Arrow tables: the schema, and one version of a table in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.filters import MetadataColumns
from lookalike.metadata import parse_metadata
from lookalike.stores.exact import ExactIndex, Neighbors
from lookalike.types import Embeddings, Hit

SIGNATURE = "signature"
"""A column that tables of format 1 lack; it is added on the first write."""

IDENTITY = b"lookalike:identity"
"""Key of the table's identity in the metadata of its schema; tables before format 4 lack it."""

ROW = "_rowid"
"""Lance's column of internal row ids."""

_PRIMARY_KEY = {b"lance-schema:unenforced-primary-key": b"true"}
"""Without it, two concurrent merges could both insert an id."""


def schema(dim: int) -> Any:
    """Return the schema of a table of embeddings with ``dim`` dimensions."""
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
class LoadedTable:
    """One version of a table in memory, sorted by id."""

    table: Any
    dataset: Any

    @cached_property
    def index(self) -> ExactIndex:
        """The embeddings, for exact search."""
        table = self.dataset.to_table(columns=["id", "embedding"])
        places = np.empty(len(table), np.int64)
        places[pc.sort_indices(table["id"]).to_numpy()] = np.arange(len(table))
        column = table["embedding"]
        matrix = np.empty((len(table), column.type.list_size), np.float32)
        start = 0
        for chunk in column.chunks:  # straight to their places: Arrow takes lists slowly
            values = chunk.flatten().to_numpy(zero_copy_only=False)
            matrix[places[start : start + len(chunk)]] = values.reshape(len(chunk), -1)
            start += len(chunk)
        return ExactIndex(matrix)

    @cached_property
    def ids(self) -> NDArray[np.object_]:
        """The sorted ids as Python strings; Arrow sorts them alike."""
        return np.array(self.table["id"].to_pylist(), dtype=np.object_)

    def places(self, ids: Sequence[str]) -> NDArray[np.int64] | None:
        """Return the row numbers of ids; None if one does not exist."""
        wanted = np.array(ids, dtype=np.object_)
        places = np.searchsorted(self.ids, wanted)
        exists = places < len(self.ids)
        exists[exists] = self.ids[places[exists]] == wanted[exists]
        return places if exists.all() else None

    def contains(self, row_ids: NDArray[np.uint64], subset: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of Lance's row ids belong to a subset of the row numbers."""
        sorted_ids, order = self._row_ids
        mask = np.zeros(len(sorted_ids), np.bool_)
        mask[subset] = True
        return np.asarray(mask[order[np.searchsorted(sorted_ids, row_ids)]])

    @cached_property
    def _row_ids(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Lance's row ids, sorted, and the row numbers they belong to."""
        row_ids = self.table[ROW].to_numpy()
        order = np.argsort(row_ids)
        return row_ids[order], order

    @cached_property
    def columns(self) -> MetadataColumns:
        """The metadata, for filters."""
        return MetadataColumns([*map(parse_metadata, self.table["metadata"].to_pylist())])


def with_signatures(table: Any) -> Any:
    """Return a table with a column of signatures, which tables of format 1 lack."""
    if SIGNATURE in table.column_names:
        return table
    return table.append_column(SIGNATURE, pa.array([""] * len(table), pa.string()))


def to_hits(nearest: Neighbors, table: Any) -> list[list[Hit]]:
    """Return the hits of each query for row numbers of a table."""
    rows, places = np.unique(nearest.rows, return_inverse=True)  # several queries may share them
    taken = table.select(["id", "uri", "metadata"]).take(pa.array(rows))
    ids, uris, texts = (column.to_pylist() for column in taken.columns)
    metadata = list(map(parse_metadata, texts))
    grid: Any = places.reshape(nearest.rows.shape).tolist()
    hits: list[list[Hit]] = []
    for row_places, distances in zip(grid, nearest.distances.tolist(), strict=True):
        check_cancelled()
        fields = enumerate(zip(row_places, distances, strict=True), 1)
        hits.append(
            [
                Hit(rank, ids[place], uris[place], distance, metadata[place])
                for rank, (place, distance) in fields
            ]
        )
    return hits


def embedding_matrix(table: Any, dim: int) -> Embeddings:
    """Return the embeddings of a table, ``(rows, dim)``."""
    values = table["embedding"].combine_chunks().flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(-1, dim)
