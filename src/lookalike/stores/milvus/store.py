"""Milvus: rows on a server, or a cluster of them, for collections that outgrow one machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.filters import Columns, Filter, MetadataColumns
from lookalike.stores.base import MAX_K, Record, Rows, check_queries, check_rows
from lookalike.stores.exact import ExactIndex
from lookalike.stores.milvus.address import CONSISTENCIES, Address
from lookalike.stores.milvus.client import PAGE, STRONG, in_parts
from lookalike.stores.milvus.collection import (
    CLOSE,
    TEXTS,
    VECTOR,
    Collection,
    as_far,
    distance_of,
    entity_of,
    find_collection,
    hits_of,
    make_collection,
    matrix,
    open_collection,
    record_of,
    rows_of,
    there,
)
from lookalike.stores.milvus.filters import FIELD, ZERO, among, within_source
from lookalike.stores.milvus.sidecar import ColumnCatalog, SidecarCollection, Snapshot
from lookalike.types import Embeddings, Hit, Metric

_SPARE = 16
"""Hits that are asked for besides, since Milvus orders equal distances by no rule."""

_WIDER = 4
"""Times as far that a search with a filter looks, since rows it passes over lead nowhere."""

_REQUEST_BYTES = 16 << 20
_IDS_AT_ONCE = 1_000
_UNSEALED = 10_000
"""Rows outside the index, compared one by one, from which :meth:`MilvusStore.optimize` seals
them."""


class MilvusStore:
    """A collection of a Milvus server; ``metric`` is that of its index.

    Search goes through the index, which above a thousand rows is approximate unless it is
    ``flat``; ``exact``, and a search by the other metric, read all rows. Its distances are computed
    by Milvus, in 32 bits.

    An upsert is sent in requests of at most 16 MB, and each is repeated until it is acknowledged or
    the address's timeout is over; where a later one fails, rows of those before are there, and the
    same upsert again replaces them. Acknowledged rows are in Milvus' log.
    """

    def __init__(self, collection: Collection) -> None:
        self.address = collection.connection.address
        self.metric = collection.metric
        self.described = collection.described
        self.notes = SidecarCollection(collection.connection)
        self._connection = collection.connection
        self._name = self.address.name
        self._dim = collection.dim
        self._kind = collection.kind
        self._columns = ColumnCatalog(self.notes, self._pages, self.count)
        self._snapshot: Snapshot | None = None
        self._lock = threading.Lock()

    @classmethod
    def create(
        cls, address: Address, dim: int, metric: Metric, described: Mapping[str, Any] | None = None
    ) -> Self:
        """Make an empty collection.

        ``described`` are JSON values that stay with it.

        Raises:
            ArtifactError: there is one of that name.
            UnreachableError: the server does not answer.
            StorageError: the server refuses.
        """
        make_collection(address, dim, metric, described or {})
        return cls.open(address)

    @classmethod
    def open(cls, address: Address) -> Self:
        """Open a collection.

        Raises:
            ArtifactError: there is none, or it is not one of lookalike's.
            UnreachableError: the server does not answer.
        """
        return cls(open_collection(address))

    @classmethod
    def find(cls, address: Address) -> Self | None:
        """Open a collection; None if there is none of that name, or an unfinished one.

        Raises:
            ArtifactError: it is not one of lookalike's.
            UnreachableError: the server does not answer.
        """
        found = find_collection(address)
        return None if found is None else cls(found)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._dim

    @property
    def index(self) -> Mapping[str, Any]:
        """The index's type, how it is built, and how far a search for 10 rows looks."""
        return {"type": self._kind.type, **self._kind.build, **self.address.looking(10, self._kind)}

    def drop(self) -> None:
        """Remove the collection and what is beside it."""
        for name in (self._name, self.notes.name):
            self._connection.ask("drop_collection", name)

    def count(self) -> int:
        """Return the number of rows."""
        return self._matching("", STRONG)

    def upsert(self, rows: Rows) -> None:
        """Insert or replace rows by id.

        Raises:
            InputError: embeddings of another length, not finite, an id twice, or a row with a text
                longer than Milvus holds.
            UnreachableError: the server does not answer.
            StorageError: the server refuses.
        """
        embeddings = check_rows(rows, self.dim)
        if not len(rows):
            return
        columns = (rows.ids, rows.uris, rows.metadata, rows.hashes, rows.signatures, embeddings)
        sent = [entity_of(*fields) for fields in zip(*columns, strict=True)]
        self._columns.learn(rows, embeddings)
        step = max(1, _REQUEST_BYTES // (4 * self.dim + 1_000))
        send = partial(self._connection.ask, "upsert", self._name)
        for start in range(0, len(sent), step):
            in_parts(sent[start : start + step], send)
        self.notes.renew_stamp()

    def delete(self, ids: Sequence[str]) -> int:
        """Delete rows by id and return how many there were."""
        unique, count = sorted(set(ids)), 0
        for start in range(0, len(unique), _IDS_AT_ONCE):
            chosen = among(unique[start : start + _IDS_AT_ONCE])
            count += len(self._query(chosen, ["id"], STRONG))
            self._connection.ask("delete", self._name, filter=chosen)
        if count:
            self.notes.renew_stamp()
        return count

    def optimize(self, metric: Metric) -> None:
        """Have Milvus seal rows that are outside the index, if there are many; it indexes them."""
        del metric
        sealed = self._connection.ask("get_collection_stats", self._name)["row_count"]
        if self.count() - int(sealed) >= _UNSEALED:
            self._connection.ask("flush", self._name)

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
        chosen = self._expression(where)
        if chosen is None:
            return [[] for _ in queries]
        if metric is not self.metric or (exact and self._kind.type != "FLAT"):
            return self._compared(queries, k, metric, chosen)
        # A query without direction is as far by cosine from every row: all are read for it.
        plain = np.asarray(queries.any(axis=1) | (metric is Metric.L2))
        asked = min(MAX_K, k + _SPARE)
        step = max(1, min(MAX_K, _REQUEST_BYTES // (4 * self.dim + 500)) // asked)
        near: list[list[Hit]] = []
        for start in range(0, int(plain.sum()), step):
            near += self._through_index(queries[plain][start : start + step], k, asked, chosen)
        if plain.all():
            return near
        hits, rest = iter(near), iter(self._compared(queries[~plain], k, metric, chosen))
        return [next(hits if each else rest) for each in plain.tolist()]

    def _through_index(
        self, queries: Embeddings, k: int, asked: int, where: str
    ) -> list[list[Hit]]:
        """Return the ``k`` nearest rows by the index, of ``asked`` that Milvus is asked for.

        Where the last of those is as far as the n-th, more may be, and more are asked for. A graph
        with many rows filtered out, or replaced, can lead nowhere: then all that match are read.
        """
        search = partial(
            self._connection.ask,
            "search",
            self._name,
            limit=asked,
            filter=where,
            output_fields=["uri", "metadata"],
            search_params={
                "params": self.address.looking(asked, self._kind, _WIDER if where else 1)
            },
            consistency_level=CONSISTENCIES[self.address.consistency],
        )
        answers = in_parts(list(queries), lambda few: search(data=few))
        zeros = self._zeros(where)
        hits = []
        for query, answer in zip(queries, answers, strict=True):
            last = [hit["distance"] for hit in answer][k - 1 :: max(1, asked - k)]
            if len(answer) == asked < MAX_K and as_far(last):
                hits += self._through_index(query[None], k, min(MAX_K, 4 * asked), where)
                continue
            found = {
                hit["id"]: (distance_of(hit["distance"], self.metric), hit["entity"])
                for hit in answer
            }
            hits.append(self._ordered(query, found | zeros)[:k])
        short = [q for q, near in enumerate(hits) if len(near) < k]
        if short and min(len(hits[q]) for q in short) < self._matching(where):
            read = self._compared(queries[short], k, self.metric, where)
            for q, near in zip(short, read, strict=True):
                hits[q] = near
        return hits

    def _ordered(
        self, query: NDArray[np.float32], found: Mapping[str, tuple[float, Mapping[str, Any]]]
    ) -> list[Hit]:
        """Return hits in order; distances next to 0 are computed anew, as of a row to itself."""
        distances = {row_id: distance for row_id, (distance, _) in found.items()}
        same = [row_id for row_id, distance in distances.items() if distance < CLOSE]
        if same:
            index = ExactIndex(self.embeddings(same))
            exact = index.search(query[None], len(same), self.metric)
            for row, distance in zip(exact.rows[0], exact.distances[0].tolist(), strict=True):
                distances[same[row]] = distance
        order = sorted((distance, row_id) for row_id, distance in distances.items())
        return hits_of(order, {row_id: row for row_id, (_, row) in found.items()})

    def _zeros(self, where: str) -> dict[str, tuple[float, Mapping[str, Any]]]:
        """Return the rows that Milvus does not find by cosine, having no direction; by id."""
        if self.metric is not Metric.COSINE or not self._columns.known().zeros:
            return {}
        zero = f'(exists {FIELD}["{ZERO}"])'
        chosen = f"{zero} and ({where})" if where else zero
        found = self._query(chosen, ["id", "uri", "metadata"], limit=MAX_K)
        return {row["id"]: (1.0, row) for row in found}

    def _compared(self, queries: Embeddings, k: int, metric: Metric, where: str) -> list[list[Hit]]:
        """Return the ``k`` nearest rows by reading all that an expression matches."""
        best: list[list[tuple[float, str]]] = [[] for _ in queries]
        for page in self._pages(where, [VECTOR]):
            found = ExactIndex(matrix(page, self.dim)).search(queries, k, metric)
            for q, (rows, distances) in enumerate(zip(found.rows, found.distances, strict=True)):
                more = zip(distances.tolist(), [page[row]["id"] for row in rows], strict=True)
                best[q] = sorted([*best[q], *more])[:k]
        wanted = self._rows_of({row_id for near in best for _, row_id in near}, TEXTS[:2])
        return [hits_of([each for each in near if each[1] in wanted], wanted) for near in best]

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, in order; kept until rows are written."""
        return self._read().ids

    def columns(self) -> Columns:
        """Return the metadata of all rows by column; kept until rows are written."""
        return self._read().columns

    def records(self, prefix: str = "") -> Iterator[Record]:
        """Iterate over rows in order of id, without holding them."""
        for page in self._pages(within_source(prefix), TEXTS):
            yield from map(record_of, page)

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows, at most ``count`` at a time, without holding more."""
        page = min(count, max(1, _REQUEST_BYTES // (4 * self.dim + 1_000)))
        for rows in self._pages("", [*TEXTS, VECTOR], page):
            yield rows_of(rows, self.dim)

    def embeddings(self, ids: Sequence[str]) -> Embeddings:
        """Return the embeddings of rows."""
        found = self._rows_of(ids, [VECTOR])
        return matrix([there(found, row_id) for row_id in ids], self.dim)

    def get(self, ids: Sequence[str]) -> Rows:
        """Return the rows of these ids."""
        found = self._rows_of(ids, [*TEXTS, VECTOR])
        return rows_of([there(found, row_id) for row_id in ids], self.dim)

    def _rows_of(self, ids: Sequence[str] | set[str], names: Sequence[str]) -> dict[str, Any]:
        """Return fields of rows by id, of those that are there."""
        unique, wanted = sorted(set(ids)), ["id", *names]
        found: dict[str, Any] = {}
        for start in range(0, len(unique), _IDS_AT_ONCE):
            part = unique[start : start + _IDS_AT_ONCE]
            rows = in_parts(part, lambda few: self._query(among(few), wanted))
            found |= {row["id"]: row for row in rows}
        return found

    def _pages(
        self, where: str, names: Sequence[str], page: int = PAGE
    ) -> Iterator[list[dict[str, Any]]]:
        return self._connection.pages(self._name, "id", where, names, page)

    def _query(
        self, where: str, names: Sequence[str], consistency: str = "", limit: int | None = None
    ) -> list[dict[str, Any]]:
        level = CONSISTENCIES[consistency or self.address.consistency]
        more: dict[str, Any] = {} if limit is None else {"limit": limit}
        more |= {"filter": where, "output_fields": list(names), "consistency_level": level}
        return list(self._connection.ask("query", self._name, **more))

    def _matching(self, where: str, consistency: str = "") -> int:
        return int(self._query(where, ["count(*)"], consistency)[0]["count(*)"])

    def _read(self) -> Snapshot:
        """Return ids and metadata as they are now; of several threads, one reads them."""
        with self._lock:
            stamp = self.notes.stamp()
            if self._snapshot is None or self._snapshot.stamp != stamp:
                read = [(record.id, record.metadata) for record in self.records()]
                ids = tuple(row_id for row_id, _ in read)
                self._snapshot = Snapshot(
                    stamp, ids, MetadataColumns([fields for _, fields in read])
                )
            return self._snapshot

    def _expression(self, where: Filter | None) -> str | None:
        """Return a filter as an expression, empty for none; None where no row can match."""
        if where is None:
            return ""
        chosen = self._columns.expression(where)
        if chosen is not None:
            return chosen or None
        mask = where.mask(self.columns())
        ids = np.array(self.ids(), dtype=np.object_)[mask].tolist()
        return among(ids) if ids else None
