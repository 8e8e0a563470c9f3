"""Rows in Milvus, on a server or a cluster: for collections that outgrow one machine."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import Cancellation, cancellable, holding
from lookalike.errors import ArtifactError, InputError, StorageError
from lookalike.filters import Columns, Filter, MetadataColumns, RowFilter
from lookalike.filters.facets import Facet, FacetCounter, checked_names, facets
from lookalike.metadata import parse_metadata
from lookalike.stores.base import (
    MAX_K,
    ApproximateHits,
    Record,
    RowReader,
    Rows,
    check_queries,
    check_rows,
    ids_after,
    ids_near,
    places_in,
    replaced_error,
    sample_places,
)
from lookalike.stores.exact import ExactIndex
from lookalike.stores.milvus.address import CONSISTENCIES, Address
from lookalike.stores.milvus.client import PAGE_SIZE, STRONG, call_in_parts
from lookalike.stores.milvus.collection import (
    TEXTS,
    TOLERANCE,
    VECTOR,
    Collection,
    create_collection,
    embedding_matrix,
    find_collection,
    may_tie,
    open_collection,
    read_identity,
    require_entity,
    to_distance,
    to_entity,
    to_hits,
    to_record,
    to_rows,
)
from lookalike.stores.milvus.filters import (
    FIELD,
    ZERO,
    has_value_expression,
    ids_expression,
    places_expression,
    prefix_expression,
)
from lookalike.stores.milvus.sidecar import ColumnCatalog, SidecarCollection, Snapshot, is_open
from lookalike.types import Embeddings, Hit, Metric

_EXTRA_HITS = 16
"""Additional hits per search: Milvus returns equal distances in any order."""

_FILTER_EFFORT = 4
"""Factor of the search effort with a filter: rows that do not match are dead ends of the graph."""

_MORE_IDS, _LEAST_IDS = 4, 100
"""Ids that are read to choose random rows from: this many per row, and at least."""

_FEW_COLUMNS = 20
"""Columns up to which only rows with values in them are read, for facets."""

_REQUEST_BYTES = 16 << 20
_ID_BATCH = 1_000
_MAX_UNINDEXED = 10_000

_MAX_IDS = 20_000
"""Rows of a collection up to which all ids are read to suggest one."""
"""Rows outside the index that :meth:`MilvusStore.optimize` tolerates; searching them is slow."""


class MilvusStore:
    """A collection of a Milvus server; ``metric`` is the metric of its index.

    Search uses the index, which is approximate above a thousand rows unless it is ``flat``. Exact
    search, and search by the other metric, reads all rows. Milvus computes distances in 32 bits.

    An upsert is sent in requests of at most 16 MB. Each is retried until it is acknowledged or the
    address's timeout has passed. If a later request fails, the rows of the earlier ones are stored,
    and repeating the upsert replaces them. Acknowledged rows are in Milvus' log.

    After every read, and before and after every write, the collection's identity is read: it may
    have been dropped and created again under the same name.
    """

    def __init__(self, collection: Collection) -> None:
        self.address = collection.connection.address
        self.metric = collection.metric
        self.description = collection.description
        self.sidecar = SidecarCollection(collection.connection)
        self._connection = collection.connection
        self._name = self.address.name
        self._dim = collection.dim
        self._kind = collection.kind
        self._identity = collection.identity
        self._columns = ColumnCatalog(self.sidecar, self._pages, self.count)
        self._snapshots = _Snapshots()
        self._fixed: Snapshot | None = None
        self._fixed_revision: str | None = None
        self._is_fixed = False
        self._latest: _Translated | None = None

    @classmethod
    def create(
        cls,
        address: Address,
        dim: int,
        metric: Metric,
        description: Mapping[str, Any] | None = None,
    ) -> Self:
        """Create an empty collection.

        ``description`` has JSON values that are stored with it.

        Raises:
            ArtifactError: the collection exists.
            UnreachableError: the server does not answer.
            StorageError: the server refuses.
        """
        create_collection(address, dim, metric, description or {})
        return cls.open(address)

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open a collection.

        Raises:
            ArtifactError: it does not exist, or was not created by lookalike.
            UnreachableError: the server does not answer.
        """
        return cls(open_collection(address))

    @classmethod
    def find(cls, address: Address) -> Self | None:
        """Open a collection; None if it does not exist or was not completed.

        Raises:
            ArtifactError: it was not created by lookalike.
            UnreachableError: the server does not answer.
        """
        collection = find_collection(address)
        return None if collection is None else cls(collection)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._dim

    @property
    def identity(self) -> str:
        """A text that no other collection has, nor a later one of this name."""
        return self._identity

    @property
    def revision(self) -> str:
        """A text that changes with every write, and once more when the write is complete."""
        if self._fixed_revision is not None:
            return self._fixed_revision
        with self._same_collection():
            revision = self.sidecar.revision()
        if self._is_fixed:
            self._fixed_revision = revision
        return revision

    def snapshot(self) -> RowReader:
        """Return a view whose revision, ids and columns, once read, stay as they are."""
        view = copy(self)
        view._is_fixed, view._latest = True, None
        return view

    @contextlib.contextmanager
    def _same_collection(self) -> Iterator[None]:
        """Check after a request that it went to the collection that was opened.

        No later collection has its identity. So if it is still there, so it was at the request.

        Raises:
            ReplacedError: the collection was dropped and created again.
            ArtifactError: it was dropped.
        """
        try:
            yield
        except (StorageError, ArtifactError, InputError):
            self._check_identity()  # explains an error about other dimensions or fields
            raise
        self._check_identity()

    def _check_identity(self) -> None:
        if read_identity(self._connection) != self._identity:
            raise replaced_error(self.address)

    @property
    def index(self) -> Mapping[str, Any]:
        """The index's type, its build parameters, and its search parameters for k = 10."""
        search_params = self.address.search_params(10, self._kind)
        return {"type": self._kind.type, **self._kind.build, **search_params}

    @property
    def facts(self) -> Mapping[str, Any]:
        """The index."""
        return {"index": self.index}

    def files(self) -> list[str]:
        """Return the names of the files in the sidecar."""
        return self.sidecar.files()

    def read_file(self, name: str) -> bytes:
        """Return the content of a file in the sidecar."""
        return self.sidecar.read(name)

    def write_file(self, name: str, data: bytes) -> None:
        """Write or replace a file in the sidecar."""
        self.sidecar.write(name, data)

    def drop(self) -> None:
        """Delete the collection and its sidecar."""
        for name in (self._name, self.sidecar.name):
            self._connection.call("drop_collection", name)

    def __repr__(self) -> str:
        return f"MilvusStore({str(self.address)!r}, dim={self.dim})"

    def count(self, where: Filter | None = None) -> int:
        """Return the number of rows, of those that a filter matches; the server counts them."""
        with self._same_collection():
            if isinstance(where, _Translated):
                where = where.where
            if where is None:
                return self._count("", STRONG)
            expression = self._columns.translate(where)
            if expression is None:  # not of a kind that the server evaluates
                return int(np.count_nonzero(where.mask(self._read_snapshot().columns)))
            return self._count(expression, STRONG) if expression else 0

    def sample(self, k: int, seed: int = 0) -> Rows:
        """Return random rows; of rows of older versions, all ids are read.

        Milvus has no random order, so each row is stored with its place in one. Ids from a random
        part of that order are read, and rows chosen from them: several times as many ids as rows,
        so that each row is nearly as likely as any other.
        """
        with self._same_collection():
            ids = self._sample_ids(k, seed)
            entities = self._entities(ids, [*TEXTS, VECTOR])
        return to_rows([entities[row_id] for row_id in ids if row_id in entities], self.dim)

    def _sample_ids(self, k: int, seed: int) -> list[str]:
        count = self._count("", STRONG)
        order = random.Random(seed)
        start = order.random()
        share = (_MORE_IDS * k + _LEAST_IDS) / max(1, count)
        if share < 1 and self._count(places_expression(0, 1), STRONG) != count:
            share = 1
        where = places_expression(start, share) if share < 1 else ""
        ids = [entity["id"] for page in self._pages(where, []) for entity in page]
        return [ids[place] for place in sample_places(len(ids), k, seed)]

    def facets(self, columns: Sequence[str] | None = None) -> list[Facet]:
        """Describe columns of the metadata; cached until rows are written.

        Milvus neither groups rows by a value nor returns parts of a JSON field, and counts kept
        beside the rows would be wrong as soon as two writers replace the same row. So the metadata
        of all rows with a value in the columns is read once, page by page, and only the counts are
        held in memory.
        """
        if self._fixed is not None:
            return facets(self._fixed.columns, columns)
        with self._same_collection():
            existing = sorted(self._columns.types(fresh=True).kinds)
            if not self._count("", STRONG):
                return []
            names = checked_names(columns, existing)
            # As for snapshots: what is read serves later requests too.
            with holding(self._snapshots.lock), cancellable(Cancellation()):
                described = self._described()
                if missing := [name for name in names if name not in described]:
                    described |= self._count_values(missing)
        return [facet for name in names if (facet := described[name]) is not None]

    def _described(self) -> dict[str, Facet | None]:
        """Return the facets that are known of the current revision, by column, to add others."""
        revision, shared = self.revision, self._snapshots
        if shared.described_at != revision or is_open(revision):
            shared.described, shared.described_at = {}, revision
        return shared.described

    def _count_values(self, names: Sequence[str]) -> dict[str, Facet | None]:
        """Describe columns from the rows that have values in them."""
        counters = {name: FacetCounter(name) for name in names}
        few = len(names) <= _FEW_COLUMNS
        where = " or ".join(map(has_value_expression, names)) if few else ""
        for page in self._pages(where, ["metadata"]):
            part = MetadataColumns([parse_metadata(entity["metadata"]) for entity in page])
            for counter in counters.values():
                counter.add(part)
        return {name: counter.facet() for name, counter in counters.items()}

    def upsert(self, rows: Rows) -> None:
        """Insert or replace rows by id.

        Raises:
            InputError: wrong dimensions, values that are not finite, a duplicate id, or a text
                longer than Milvus allows.
            UnreachableError: the server does not answer.
            StorageError: the server refuses.
        """
        embeddings = check_rows(rows, self.dim)
        if not len(rows):
            return
        columns = (rows.ids, rows.uris, rows.metadata, rows.hashes, rows.signatures)
        records = [Record(*fields) for fields in zip(*columns, strict=True)]
        entities = [to_entity(*pair) for pair in zip(records, embeddings, strict=True)]
        step = max(1, _REQUEST_BYTES // (4 * self.dim + 1_000))
        send = partial(self._connection.call, "upsert", self._name)
        self._check_identity()
        with self._same_collection():
            self._columns.add(rows, embeddings)
            with self.sidecar.writing():
                for start in range(0, len(entities), step):
                    call_in_parts(entities[start : start + step], send)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many existed."""
        unique, count = sorted(set(ids)), 0
        self._check_identity()
        with self._same_collection():
            for start in range(0, len(unique), _ID_BATCH):
                expression = ids_expression(unique[start : start + _ID_BATCH])
                existing = len(self._query(expression, ["id"], STRONG))
                if existing:
                    with self.sidecar.writing():
                        self._connection.call("delete", self._name, filter=expression)
                count += existing
        return count

    def optimize(self, metric: Metric, *, purge: bool = False) -> None:
        """Have Milvus index rows that are outside the index, if there are many.

        With ``purge``, have it delete removed rows from its files.
        """
        del metric
        self._check_identity()
        if is_open(self.sidecar.revision()):  # a writer was killed
            self.sidecar.bump_revision()
        sealed = self._connection.call("get_collection_stats", self._name)["row_count"]
        if self.count() - int(sealed) >= _MAX_UNINDEXED:
            self._connection.call("flush", self._name)
        if purge:
            self._connection.call("compact", self._name)

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
        with self._same_collection():
            return self._search(queries, k, metric, where, exact=exact)

    def _search(
        self, queries: Embeddings, k: int, metric: Metric, where: Filter | None, *, exact: bool
    ) -> list[list[Hit]]:
        expression = self._translate(where)
        if expression is None:
            return [[] for _ in queries]
        if metric is not self.metric or (exact and self._kind.type != "FLAT"):
            return self._search_all(queries, k, metric, expression)
        # A zero query has the same cosine distance to every row: all rows are read for it.
        indexed = np.asarray(queries.any(axis=1) | (metric is Metric.L2))
        limit = min(MAX_K, k + _EXTRA_HITS)
        step = max(1, min(MAX_K, _REQUEST_BYTES // (4 * self.dim + 500)) // limit)
        results: list[list[Hit]] = []
        for start in range(0, int(indexed.sum()), step):
            batch = queries[indexed][start : start + step]
            results += self._search_index(batch, k, limit, expression)
        if indexed.all():
            return results
        zeros = iter(self._search_all(queries[~indexed], k, metric, expression))
        others = iter(results)
        return [next(others if each else zeros) for each in indexed.tolist()]

    def _search_index(self, queries: Embeddings, k: int, limit: int, where: str) -> list[list[Hit]]:
        """Return the ``k`` nearest rows among ``limit`` hits of the index.

        Where the last hit is as near as the k-th, there may be more of that distance, and the limit
        is raised. Filtered or replaced rows can disconnect the graph: if hits are missing, all
        matching rows are read.
        """
        search = partial(
            self._connection.call,
            "search",
            self._name,
            limit=limit,
            filter=where,
            output_fields=["uri", "metadata"],
            search_params={
                "params": self.address.search_params(
                    limit, self._kind, _FILTER_EFFORT if where else 1
                )
            },
            consistency_level=CONSISTENCIES[self.address.consistency],
        )
        responses = call_in_parts(list(queries), lambda part: search(data=part))
        zeros = self._zeros(where)
        hits = []
        for query, response in zip(queries, responses, strict=True):
            last = [hit["distance"] for hit in response][k - 1 :: max(1, limit - k)]
            if len(response) == limit < MAX_K and may_tie(last):
                hits += self._search_index(query[None], k, min(MAX_K, 4 * limit), where)
                continue
            candidates = {
                hit["id"]: (to_distance(hit["distance"], self.metric), hit["entity"])
                for hit in response
            }
            nearest = self._sorted_hits(query, candidates | zeros)[:k]
            hits.append(nearest if self._kind.type == "FLAT" else ApproximateHits(nearest))
        short = [q for q, query_hits in enumerate(hits) if len(query_hits) < k]
        if short and min(len(hits[q]) for q in short) < self._count(where):
            complete = self._search_all(queries[short], k, self.metric, where)
            for q, query_hits in zip(short, complete, strict=True):
                hits[q] = query_hits
        return hits

    def _sorted_hits(
        self, query: NDArray[np.float32], candidates: Mapping[str, tuple[float, Mapping[str, Any]]]
    ) -> list[Hit]:
        """Return sorted hits; distances near 0 are computed again, exactly."""
        distances = {row_id: distance for row_id, (distance, _) in candidates.items()}
        same = [row_id for row_id, distance in distances.items() if distance < TOLERANCE]
        if same:
            index = ExactIndex(self._embeddings(same))
            exact = index.search(query[None], len(same), self.metric)
            for row, distance in zip(exact.rows[0], exact.distances[0].tolist(), strict=True):
                distances[same[row]] = distance
        order = sorted((distance, row_id) for row_id, distance in distances.items())
        return to_hits(order, {row_id: entity for row_id, (_, entity) in candidates.items()})

    def _zeros(self, where: str) -> dict[str, tuple[float, Mapping[str, Any]]]:
        """Return the rows with zero vectors, which Milvus omits from cosine searches, by id."""
        if self.metric is not Metric.COSINE or not self._columns.types().zeros:
            return {}
        zero = f'(exists {FIELD}["{ZERO}"])'
        expression = f"{zero} and ({where})" if where else zero
        entities = self._query(expression, ["id", "uri", "metadata"], limit=MAX_K)
        return {entity["id"]: (1.0, entity) for entity in entities}

    def _search_all(
        self, queries: Embeddings, k: int, metric: Metric, where: str
    ) -> list[list[Hit]]:
        """Return the exact ``k`` nearest rows, by reading all rows that an expression matches."""
        best: list[list[tuple[float, str]]] = [[] for _ in queries]
        for page in self._pages(where, [VECTOR]):
            near = ExactIndex(embedding_matrix(page, self.dim)).search(queries, k, metric)
            for q, (rows, distances) in enumerate(zip(near.rows, near.distances, strict=True)):
                more = zip(distances.tolist(), [page[row]["id"] for row in rows], strict=True)
                best[q] = sorted([*best[q], *more])[:k]
        entities = self._entities({row_id for pairs in best for _, row_id in pairs}, TEXTS[:2])
        return [
            to_hits([pair for pair in pairs if pair[1] in entities], entities) for pairs in best
        ]

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted; cached until rows are written."""
        return self._read_snapshot().ids

    def ids_after(self, row_id: str, count: int) -> Sequence[str]:
        """Return the first ids, sorted, that come after a text."""
        return ids_after(self.ids(), row_id, count)

    def ids_near(self, row_id: str, count: int) -> Sequence[str]:
        """Return ids that come before and after a text, sorted; none of a large collection."""
        return ids_near(self.ids(), row_id, count) if self.count() <= _MAX_IDS else []

    def row_numbers(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the numbers of rows: their places among the sorted ids."""
        return places_in(self.ids(), ids)

    def ids_at(self, numbers: NDArray[np.int64]) -> list[str]:
        """Return the ids of rows by their numbers."""
        ids = self.ids()
        return [ids[number] for number in numbers.tolist()]

    def vectors(self) -> Embeddings:
        """Return the embeddings of all rows; all are read from the server."""
        return self.embeddings(self.ids())

    def columns(self) -> Columns:
        """Return the metadata of all rows by column; cached until rows are written."""
        return self._read_snapshot().columns

    def resolve_filter(self, where: Filter) -> Filter:
        """Return a filter with its expression, which the server evaluates."""
        latest = self._latest
        if latest is None or latest.where is not where:
            with self._same_collection():
                latest = self._latest = _Translated(where, self._translate(where))
        return latest

    def records(self, prefix: str = "") -> Iterator[Record]:
        """Iterate over rows sorted by id, page by page."""
        for page in self._checked_pages(prefix_expression(prefix), TEXTS):
            yield from map(to_record, page)

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows, at most ``count`` at a time."""
        page_size = min(count, max(1, _REQUEST_BYTES // (4 * self.dim + 1_000)))
        for page in self._checked_pages("", [*TEXTS, VECTOR], page_size):
            yield to_rows(page, self.dim)

    def embeddings(self, ids: Sequence[str]) -> Embeddings:
        """Return the embeddings of rows."""
        with self._same_collection():
            return self._embeddings(ids)

    def _embeddings(self, ids: Sequence[str]) -> Embeddings:
        entities = self._entities(ids, [VECTOR])
        return embedding_matrix([require_entity(entities, row_id) for row_id in ids], self.dim)

    def get(self, ids: Sequence[str]) -> Rows:
        """Return the rows of these ids."""
        with self._same_collection():
            entities = self._entities(ids, [*TEXTS, VECTOR])
        return to_rows([require_entity(entities, row_id) for row_id in ids], self.dim)

    def _entities(self, ids: Sequence[str] | set[str], names: Sequence[str]) -> dict[str, Any]:
        """Return fields of existing rows, by id."""
        unique, fields = sorted(set(ids)), ["id", *names]
        entities: dict[str, Any] = {}
        for start in range(0, len(unique), _ID_BATCH):
            batch = unique[start : start + _ID_BATCH]
            response = call_in_parts(batch, lambda part: self._query(ids_expression(part), fields))
            entities |= {entity["id"]: entity for entity in response}
        return entities

    def _pages(
        self, where: str, names: Sequence[str], page_size: int = PAGE_SIZE
    ) -> Iterator[list[dict[str, Any]]]:
        return self._connection.iter_pages(self._name, "id", where, names, page_size)

    def _checked_pages(
        self, where: str, names: Sequence[str], page_size: int = PAGE_SIZE
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield pages, each after a check that it is of the collection that was opened."""
        pages = self._pages(where, names, page_size)
        while True:
            with self._same_collection():
                page = next(pages, None)
            if page is None:
                return
            yield page

    def _query(
        self, where: str, names: Sequence[str], consistency: str = "", limit: int | None = None
    ) -> list[dict[str, Any]]:
        level = CONSISTENCIES[consistency or self.address.consistency]
        options: dict[str, Any] = {} if limit is None else {"limit": limit}
        options |= {"filter": where, "output_fields": list(names), "consistency_level": level}
        return list(self._connection.call("query", self._name, **options))

    def _count(self, where: str, consistency: str = "") -> int:
        return int(self._query(where, ["count(*)"], consistency)[0]["count(*)"])

    def _read_snapshot(self) -> Snapshot:
        """Return ids and metadata, current or fixed; if several threads need them, one reads."""
        if self._fixed is not None:
            return self._fixed
        # What is read serves later requests too, so it is read to the end even if this one is not.
        with holding(self._snapshots.lock), cancellable(Cancellation()):
            revision = self.revision
            newest = self._snapshots.newest
            if newest is None or newest.revision != revision or is_open(revision):
                fields = [(record.id, record.metadata) for record in self.records()]
                ids = tuple(row_id for row_id, _ in fields)
                columns = MetadataColumns([metadata for _, metadata in fields])
                newest = self._snapshots.newest = Snapshot(revision, ids, columns)
        if self._is_fixed:
            self._fixed = newest
        return newest

    def _translate(self, where: Filter | None) -> str | None:
        """Return a filter as an expression, empty without filter; None if no row can match."""
        if where is None:
            return ""
        if isinstance(where, _Translated):
            return where.expression
        expression = self._columns.translate(where)
        if expression is not None:
            return expression or None
        snapshot = self._read_snapshot()
        mask = where.mask(snapshot.columns)
        rows = where.rows if isinstance(where, RowFilter) else np.flatnonzero(mask)
        ids = [snapshot.ids[row] for row in rows[:MAX_K].tolist()]
        return ids_expression(ids) if ids else None


@dataclass(frozen=True, slots=True)
class _Translated:
    """A filter with its expression; None if no row can match."""

    where: Filter
    expression: str | None

    def mask(self, columns: Columns) -> NDArray[np.bool_]:
        """Return which rows match."""
        return self.where.mask(columns)


class _Snapshots:
    """The newest snapshot of a store, and its facets, shared with its views."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.newest: Snapshot | None = None
        self.described: dict[str, Facet | None] = {}
        self.described_at = ""
