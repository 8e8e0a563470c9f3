"""One version of a Lance table: reading and searching it, whatever is written meanwhile."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled, holding
from lookalike.errors import ArtifactError, MissingRowError, is_panic
from lookalike.filters import Columns, Filter
from lookalike.filters.facets import Facet, facets
from lookalike.metadata import parse_metadata
from lookalike.stores.base import (
    Record,
    Rows,
    check_queries,
    count_matching,
    is_identity,
    matching_rows,
    sample_places,
    selected_rows,
)
from lookalike.stores.exact import ExactIndex
from lookalike.stores.lance import index
from lookalike.stores.lance.table import (
    IDENTITY,
    ROW,
    SIGNATURE,
    LoadedTable,
    embedding_matrix,
    schema,
    to_hits,
    with_signatures,
)
from lookalike.types import Embeddings, Hit, Metric

_MAX_DIRECT = 5_000
"""Rows that match a filter up to which they are read and searched exactly."""


class LanceSnapshot:
    """The rows of one version of a table; they are read into memory on the first search.

    ``loading`` is held meanwhile, so that the versions of one store are not all read at a time.
    What is read serves all later searches, so it is read to the end, even if the search that began
    is cancelled; those that wait for it can be cancelled.
    """

    def __init__(self, dataset: Any, path: Path, loading: threading.RLock | None = None) -> None:
        self.dataset = dataset
        self._path = path
        self._loaded: LoadedTable | None = None
        self._loading = loading or threading.RLock()

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.dataset.schema.field("embedding").type.list_size)

    @property
    def is_named(self) -> bool:
        """Whether the table has an identity of its own; tables before format 4 do not."""
        return IDENTITY in (self.dataset.schema.metadata or {})

    @cached_property
    def identity(self) -> str:
        """The table's identity; for tables without, one of this version."""
        if not self.is_named:
            return f"version-{self.revision}"
        identity = str(self.dataset.schema.metadata[IDENTITY].decode(errors="replace"))
        if not is_identity(identity):
            raise unreadable(self._path, ValueError("its identity is damaged"))
        return identity

    @cached_property
    def revision(self) -> str:
        """The number of the version and the first digits of its transaction's id."""
        with reading(self._path):
            transaction = self.dataset.read_transaction(self.dataset.version)
        digits = "".join(filter(str.isalnum, str(transaction.uuid)))
        return f"{self.dataset.version}-{digits[:12]}"

    def __repr__(self) -> str:
        return f"LanceSnapshot({str(self._path)!r}, dim={self.dim}, version={self.dataset.version})"

    def count(self, where: Filter | None = None) -> int:
        """Return the number of rows, of those that a filter matches."""
        if where is not None:
            return count_matching(where, self.columns())
        return int(self.dataset.count_rows())

    def sample(self, k: int, seed: int = 0) -> Rows:
        """Return random rows, taken by their places in the table."""
        places = sample_places(self.count(), k, seed)
        names = [name for name in schema(self.dim).names if name in self.dataset.schema.names]
        with reading(self._path):
            table = self.dataset.take(places, columns=names)
        return self._rows(with_signatures(table))

    def facets(self, columns: Sequence[str] | None = None) -> list[Facet]:
        """Describe columns of the metadata."""
        return facets(self.columns(), columns)

    def search(
        self,
        queries: Embeddings,
        k: int,
        metric: Metric,
        where: Filter | None = None,
        *,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Return the ``k`` nearest rows to each query."""
        queries = check_queries(queries, k, self.dim)
        if not exact and index.is_indexed(self.dataset, metric):
            subset = None if where is None else matching_rows(where, self.columns())
            return [self._search_index(query, k, metric, subset) for query in queries]
        loaded = self._load()
        exact_index = self._index(loaded)
        subset = None if where is None else matching_rows(where, self.columns())
        return to_hits(exact_index.search(queries, k, metric, subset), loaded.table)

    def _search_index(
        self,
        query: NDArray[np.float32],
        k: int,
        metric: Metric,
        subset: NDArray[np.int64] | None,
    ) -> list[Hit]:
        """Return the ``k`` nearest rows to a query, in a subset of the rows, by the index.

        With a filter, the number of candidates grows until ``k`` of them match. If few rows match,
        they are searched exactly, which is faster.
        """
        check_cancelled()
        loaded = self._load()
        rows = len(loaded.table)
        if subset is not None and len(subset) <= max(_MAX_DIRECT, k):
            table = loaded.table.take(subset)
            condition = pc.field("id").isin(table["id"].combine_chunks())
            table = self._table(["id", "uri", "metadata", "embedding"], condition)
        else:
            count = k if subset is None else 2 * k * rows // len(subset)
            table = self._nearest(query, count, metric, subset)
            while len(table) < k and count < rows:
                check_cancelled()
                count = min(4 * count, rows)
                table = self._nearest(query, count, metric, subset)
        nearest = ExactIndex(embedding_matrix(table, self.dim)).search(query[None], k, metric)
        return to_hits(nearest, table)[0]

    def _nearest(
        self,
        query: NDArray[np.float32],
        k: int,
        metric: Metric,
        subset: NDArray[np.int64] | None,
    ) -> Any:
        """Return the approximate nearest rows that are in a subset, sorted by id."""
        names = ["id", "uri", "metadata", "embedding"]
        with reading(self._path):
            table = index.nearest(self.dataset, query, k, metric, names)
        if subset is not None:
            table = table.filter(pa.array(self._load().contains(table[ROW].to_numpy(), subset)))
        return table.take(pc.sort_indices(table["id"]))

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted."""
        ids: list[str] = self._load().ids.tolist()
        return ids

    def columns(self) -> Columns:
        """Return the metadata of all rows by column."""
        loaded = self._load()
        if "columns" in vars(loaded):
            return loaded.columns
        with holding(self._loading):  # only one thread parses them
            return loaded.columns

    def resolve_filter(self, where: Filter) -> Filter:
        """Return a filter evaluated."""
        return selected_rows(where, self.columns())

    def records(self, prefix: str = "") -> Iterator[Record]:
        """Iterate over rows sorted by id."""
        names = ["id", "uri", "metadata", "content_hash", SIGNATURE]
        table = self._table(names)
        if prefix:
            table = table.filter(pc.starts_with(table["id"], prefix))
        columns = (table[name].to_pylist() for name in names)
        for row_id, uri, metadata, *rest in zip(*columns, strict=True):
            yield Record(row_id, uri, parse_metadata(metadata), *rest)

    def embeddings(self, ids: Sequence[str]) -> Embeddings:
        """Return the embeddings of rows, from memory if they are loaded."""
        if self._loaded is not None and "index" in vars(self._loaded):
            places = self._loaded.places(ids)
            if places is not None:
                return self._loaded.index.at(places)
        return self.get(ids).embeddings

    def get(self, ids: Sequence[str]) -> Rows:
        """Return rows by id."""
        wanted = pa.array(list(ids), pa.string())
        table = self._table(schema(self.dim).names, pc.field("id").isin(wanted))
        positions = pc.index_in(wanted, table["id"])
        if positions.null_count:
            missing = ids[positions.to_pylist().index(None)]
            raise MissingRowError(f"there is no row with the id {missing!r}")
        return self._rows(table.take(positions))

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows, at most ``count`` at a time."""
        names = [name for name in schema(self.dim).names if name in self.dataset.schema.names]
        with reading(self._path):
            batches = iter(self.dataset.to_batches(columns=names, batch_size=count))
        while True:
            check_cancelled()
            with reading(self._path):
                batch = next(batches, None)
            if batch is None:
                return
            if len(batch):
                yield self._rows(with_signatures(pa.Table.from_batches([batch])))

    def _rows(self, table: Any) -> Rows:
        return Rows(
            ids=table["id"].to_pylist(),
            uris=table["uri"].to_pylist(),
            embeddings=embedding_matrix(table, self.dim),
            metadata=[parse_metadata(text) for text in table["metadata"].to_pylist()],
            hashes=table["content_hash"].to_pylist(),
            signatures=table[SIGNATURE].to_pylist(),
        )

    def _load(self) -> LoadedTable:
        """Return the rows in memory; only one thread reads them."""
        if self._loaded is not None:
            return self._loaded
        with holding(self._loading):
            if self._loaded is None:
                table = self._table(["id", "uri", "metadata"], row_ids=True)
                self._loaded = LoadedTable(table, self.dataset)
            return self._loaded

    def _index(self, loaded: LoadedTable) -> ExactIndex:
        """Return the index of the rows; only one thread builds it."""
        if "index" in vars(loaded):
            return loaded.index
        with reading(self._path), holding(self._loading):
            return loaded.index

    def _table(self, names: Sequence[str], where: Any = None, *, row_ids: bool = False) -> Any:
        """Return columns, sorted by id; ``row_ids`` adds Lance's row ids.

        Raises:
            ArtifactError: files of the table are missing or broken.
        """
        columns = [name for name in names if name in self.dataset.schema.names]
        with reading(self._path):
            table = self.dataset.to_table(columns=columns, filter=where, with_row_id=row_ids)
        table = with_signatures(table) if SIGNATURE in names else table
        return table.take(pc.sort_indices(table["id"]))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise ArtifactError for whatever Lance raises in the block about a table that is broken."""
    try:
        yield
    except (OSError, ValueError) as error:
        check_interrupted(error)
        raise unreadable(path, error) from error
    except BaseException as error:
        if not is_panic(error):
            raise
        raise unreadable(path, error) from error


def check_interrupted(error: Exception) -> None:
    """Raise KeyboardInterrupt if that is what an error of Lance is about: it may wrap it."""
    if "error: KeyboardInterrupt" in str(error):
        raise KeyboardInterrupt from error


def unreadable(path: Path, error: BaseException) -> ArtifactError:
    """Return the error that a table cannot be read, with Lance's reason and the next command."""
    return ArtifactError(
        f"{path}: the table of the gallery is missing or broken ({first_line(error)}); to see what "
        f"can be done: lookalike doctor {shlex.quote(str(path.parent))}"
    )


def first_line(error: BaseException) -> str:
    """Return Lance's message of an error, without the location in its source."""
    return (str(error).splitlines() or [type(error).__name__])[0].partition(", /")[0]
