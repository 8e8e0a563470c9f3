"""The rows of one commit: reading and searching them, whatever is written meanwhile."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import lt, ne
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import ArtifactError, MissingRowError
from lookalike.metadata import parse_metadata
from lookalike.stores.base import (
    ApproximateHits,
    Record,
    Rows,
    TextSearch,
    check_queries,
    count_matching,
    matching_rows,
    sample_places,
    selected_rows,
)
from lookalike.stores.embedded.database import StoreFacts
from lookalike.stores.embedded.failures import unreadable
from lookalike.stores.embedded.graph import Graphs, GraphState
from lookalike.stores.embedded.packing import URI, unpack_hash, unpack_metadata
from lookalike.stores.embedded.reader import Reader
from lookalike.stores.embedded.verified_rows import VerifiedRow, read_verified, shared_names
from lookalike.types import Embeddings, Hit, Metric

if TYPE_CHECKING:
    from lookalike.filters import Columns, Filter
    from lookalike.filters.facets import Facet
    from lookalike.stores.embedded.graph_search import GraphResult
    from lookalike.stores.exact import ExactIndex, Nearest
    from lookalike.stores.full_text import LatestMatches
    from lookalike.stores.row_index import RowIndex

T = TypeVar("T")

_MANY_TIES = 5_000
_MEASURED_AT_ONCE = 50_000
"""Rows up to which the effort of a graph is measured while a search waits."""


class EmbeddedSnapshot:
    """The rows of one commit, read in one transaction of SQLite.

    A row's number is its place among the slots of the rows that exist.

    Args:
        reader: of the commit.
        graphs: what the snapshots of a store share of its graph indexes.
    """

    def __init__(self, reader: Reader, graphs: Graphs | None = None) -> None:
        self._reader = reader
        self._graphs = Graphs() if graphs is None else graphs
        self._columns: Columns | None = None

    @property
    def _facts(self) -> StoreFacts:
        return self._reader.facts

    @property
    def _database(self) -> Path:
        return self._reader.database

    @property
    def _vectors(self) -> Embeddings:
        """The embeddings of all slots."""
        return self._reader.mapped.vectors

    @property
    def _slots(self) -> NDArray[np.int64] | None:
        """The slots of the rows by number; None if no slot is dead."""
        return self._reader.slots

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._facts.dim

    @property
    def identity(self) -> str:
        """The store's identity."""
        return self._facts.identity

    @property
    def revision(self) -> str:
        """The number of the commit, and a random mark."""
        return self._facts.revision

    def __repr__(self) -> str:
        return f"EmbeddedSnapshot({str(self._database.parent)!r}, revision={self.revision!r})"

    def count(self, where: Filter | None = None) -> int:
        """Return the number of rows, of those that a filter matches."""
        return self._facts.rows if where is None else count_matching(where, self.columns())

    def sample(self, k: int, seed: int = 0) -> Rows:
        """Return random rows."""
        return self._at(self._slots_of(np.array(sample_places(self.count(), k, seed), np.int64)))

    def facets(self, columns: Sequence[str] | None = None) -> list[Facet]:
        """Describe columns of the metadata."""
        from lookalike.filters.facets import facets

        return facets(self.columns(), columns, self._reader.cached("facets", dict))

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
        subset = None if where is None else matching_rows(where, self.columns())
        if subset is not None:
            subset = self._slots_of(subset)
        shorten = partial(self._first, k)
        results = None if exact else self._search_graph(queries, k, metric, subset)
        if results is None:
            nearest = self._index.search_with_ties(queries, k, metric, subset, shorten=shorten)
            return self._hits(nearest, k)
        hits = self._hits([shorten(each.nearest) for each in results], k)
        return [
            ApproximateHits(each) if result.is_approximate else each
            for each, result in zip(hits, results, strict=True)
        ]

    def _first(self, k: int, nearest: Nearest) -> Nearest:
        """Return the first ``k`` of the nearest rows, those at the last distance by their ids."""
        slots, distances = nearest
        if len(slots) <= k:
            return nearest
        start = int(np.searchsorted(distances, distances[k - 1]))
        tied = slots[start:]
        if len(tied) > _MANY_TIES:  # the index of ids has their slots, and is read up to the last
            is_tied = set(tied.tolist())
            every = (slot for (slot,) in self._select("SELECT slot FROM rows ORDER BY id"))
            best = list(itertools.islice(filter(is_tied.__contains__, every), k - start))
        else:
            query = "SELECT id, slot FROM rows WHERE slot IN (?)"
            ids = self._select_many(query, tied.tolist())
            self._texts((row_id,) for row_id, _ in ids)
            best = [slot for _, slot in sorted(ids)[: k - start]]
        slots = np.concatenate([slots[:start], np.array(best, np.int64)])
        return nearest._replace(rows=slots, distances=distances[:k].copy())

    def _search_graph(
        self, queries: Embeddings, k: int, metric: Metric, subset: NDArray[np.int64] | None
    ) -> list[GraphResult] | None:
        """Return about the nearest rows, by the graph of a metric; None if it is of no use."""
        record = self._reader.graph_records.get(metric)
        if record is None:
            return None
        folder, facts = self._database.parent, self._facts
        graph = self._graphs.get(folder, record, facts.generation, facts.dim)
        if graph is None:
            return None
        from lookalike.stores.embedded.graph_search import GraphSearch, measured_effort

        index, living = self._index, self._slots
        search = GraphSearch(graph, index, living if subset is None else subset)
        if not search.is_apt(len(queries), k):
            return None
        measure = partial(measured_effort, graph, index, living, metric)
        graph.measure_effort(measure, beside=len(index) > _MEASURED_AT_ONCE)
        return search.search(queries, k, metric)

    @property
    def is_approximate(self) -> bool:
        """Whether searches that are not to be exact may use a graph."""
        return bool(self._reader.graph_records)

    def graph_state(self, metric: Metric, *, verify: bool = True) -> GraphState | None:
        """Return the state of the graph of a metric; None if there is none.

        Args:
            metric: that it searches by.
            verify: also verify its checksum, if this process has not used it.
        """
        record = self._reader.graph_records.get(metric)
        if record is None:
            return None
        folder, facts = self._database.parent, self._facts
        if verify:
            self._graphs.load(folder, record, facts.generation, facts.dim)
        is_current = record.generation == facts.generation
        return GraphState(
            rows=record.rows,
            newer=max(0, facts.slots - record.slots) if is_current else facts.rows,
            bytes=record.bytes,
            library=record.library,
            problem=self._graphs.refusal(folder, record, facts.generation),
        )

    def _hits(self, nearest: Sequence[Nearest], k: int) -> list[list[Hit]]:
        """Return the first ``k`` hits of each query, equal distances ordered by id."""
        slots = [each.rows.tolist() for each in nearest]
        rows = read_verified(self._reader, itertools.chain.from_iterable(slots))
        results = []
        for query_slots, (_, distances) in zip(slots, nearest, strict=True):
            ranked = list(zip(distances.tolist(), map(rows.__getitem__, query_slots), strict=True))
            ranked.sort(key=_by_distance_and_id)
            results.append(
                [
                    Hit(rank, row.id, row.uri, distance, row.metadata)
                    for rank, (distance, row) in enumerate(ranked[:k], 1)
                ]
            )
        return results

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted."""
        ids = self._texts(self._select("SELECT id FROM rows ORDER BY id"))
        if len(ids) != self.count() or not all(map(lt, ids, ids[1:])):
            raise self._damaged_index()
        return ids

    def _texts(self, rows: Iterable[tuple[Any]]) -> list[str]:
        """Return the ids of rows of nothing else.

        Raises:
            ArtifactError: one is no text.
        """
        ids = [row_id for (row_id,) in rows]
        if not all(type(row_id) is str for row_id in ids):
            raise unreadable(self._database, "an id is damaged")
        return ids

    def _damaged_index(self) -> ArtifactError:
        return unreadable(self._database, "the index of ids is damaged")

    def ids_after(self, row_id: str, count: int) -> Sequence[str]:
        """Return the first ids, sorted, that come after a text."""
        query = "SELECT id FROM rows WHERE id > ? ORDER BY id LIMIT ?"
        return self._texts(self._select(query, (row_id, count)))

    def ids_near(self, row_id: str, count: int) -> Sequence[str]:
        """Return ids that come before and after a text, sorted."""
        before = "SELECT id FROM rows WHERE id < ? ORDER BY id DESC LIMIT ?"
        after = "SELECT id FROM rows WHERE id >= ? ORDER BY id LIMIT ?"
        ids = self._texts(self._select(before, (row_id, count)))[::-1]
        return ids + self._texts(self._select(after, (row_id, count)))

    def row_numbers(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the numbers of rows; -1 where there is none with an id."""
        slots = self._slots_by_id(ids)
        chosen = np.array([slots.get(row_id, -1) for row_id in ids], np.int64)
        return self._reader.numbers_of(chosen)

    def numbers_by_id(self) -> NDArray[np.int64]:
        """Return the numbers of all rows in the order of their ids."""
        slots = [slot for (slot,) in self._select("SELECT slot FROM rows ORDER BY id")]
        if len(slots) != self.count() or not all(type(slot) is int for slot in slots):
            raise self._damaged_index()
        return self._reader.numbers_of(np.array(slots, np.int64))

    def signatures(self) -> list[str]:
        """Return the signatures of all rows by number; empty where there is none."""
        signatures = [text for (text,) in self._select("SELECT signature FROM rows ORDER BY slot")]
        if len(signatures) != self.count() or not all(type(each) is str for each in signatures):
            raise unreadable(self._database, "a signature is damaged")
        return signatures

    def ids_at(self, numbers: NDArray[np.int64]) -> list[str]:
        """Return the ids of rows by their numbers, in this order."""
        return self._ids_of(self._slots_of(numbers).tolist())

    def _ids_of(self, slots: Sequence[int]) -> list[str]:
        """Return the ids of rows by slot, from the rows themselves."""
        query = "SELECT slot, id FROM rows WHERE slot IN (?)"
        ids = dict(self._select_many(query, sorted(set(slots))))
        try:
            return [ids[slot] for slot in slots]
        except KeyError as error:
            raise unreadable(self._database, f"there is no row in slot {error}") from error

    def columns(self) -> Columns:
        """Return the metadata of all rows by column, by row number."""
        from lookalike.stores.embedded.column_reader import EmbeddedColumns

        self._columns = EmbeddedColumns.of(self._reader)  # with the filter evaluated last
        return self._columns

    def full_text(self) -> TextSearch:
        """Return the full-text search in names and metadata."""
        from lookalike.stores.full_text import Addressing, FullText

        addressing = Addressing(self._numbers_of, self._slots_of, _first_and_last_id)
        return FullText(self._run, addressing, self._latest_matches)

    def resolve_filter(self, where: Filter) -> Filter:
        """Return a filter evaluated."""
        return selected_rows(where, self.columns())

    def records(self, prefix: str = "") -> Iterator[Record]:
        """Iterate over rows sorted by id."""
        query = (
            f"SELECT id, {URI}, metadata, content_hash, signature FROM rows WHERE id >= ? "
            "ORDER BY id"
        )
        names, last = shared_names(self._reader), ""
        for row_id, uri, metadata, digest, signature in self._select(query, (prefix,)):
            if not all(isinstance(each, str) for each in (row_id, uri, signature)):
                raise unreadable(self._database, f"the row {row_id!r} is damaged")
            if not row_id.startswith(prefix):
                return
            if row_id < last:
                raise self._damaged_index()
            last = row_id
            try:
                text, content_hash = unpack_metadata(metadata, names), unpack_hash(digest)
            except sqlite3.DatabaseError as error:
                raise unreadable(self._database, f"{row_id!r}: {error}") from error
            yield Record(row_id, uri, parse_metadata(text), content_hash, signature)

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows by number, at most ``count`` at a time."""
        every = np.arange(self.count())
        for start in range(0, len(every), count):
            yield self._at(self._slots_of(every[start : start + count]))

    def vectors(self) -> Embeddings:
        """Return the embeddings of all rows by number, ``(n, dim)``, read-only."""
        return self._vectors if self._slots is None else self._vectors[self._slots]

    def row_index(self) -> RowIndex:
        """Return the embeddings of all rows, to read in parts and to search exactly."""
        from lookalike.stores.row_index import LiveRows

        return self._index if self._slots is None else LiveRows(self._index, self._slots)

    def embeddings(self, ids: Sequence[str]) -> Embeddings:
        """Return the embeddings of rows."""
        slots = self._existing_slots(ids)
        self._check_ids(ids, self._ids_of(slots))
        return np.asarray(self._vectors[slots])

    def get(self, ids: Sequence[str]) -> Rows:
        """Return rows by id."""
        rows = self._at(np.array(self._existing_slots(ids), np.int64))
        self._check_ids(ids, rows.ids)
        return rows

    def _check_ids(self, ids: Sequence[str], actual: Sequence[str]) -> None:
        """Raise ArtifactError if the index of ids led to other rows."""
        if any(map(ne, ids, actual)):
            raise self._damaged_index()

    @property
    def _latest_matches(self) -> LatestMatches:
        from lookalike.stores.full_text import LatestMatches

        return self._reader.cached("full text matches", LatestMatches)

    @property
    def _index(self) -> ExactIndex:
        """An index of all slots."""
        mapped, database = self._reader.mapped, self._database

        def create() -> ExactIndex:
            from lookalike.stores.exact import ExactIndex

            dead = None
            if self._slots is not None:
                is_dead = np.ones(len(mapped.vectors), np.bool_)
                is_dead[self._slots] = False
                dead = np.flatnonzero(is_dead)
            damaged = partial(_not_finite, database)
            return ExactIndex(mapped.vectors, mapped.codes, dead=dead, damaged=damaged)

        return self._reader.cached("index", create)

    def _slots_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._reader.slots_of(numbers)

    def _numbers_of(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of rows by slots, which exist unless the database is broken."""
        otherwise = "its full text is of other rows"
        if len(slots) and int(slots.min()) < 0:
            raise unreadable(self._database, otherwise)
        return self._reader.numbers_of(slots, otherwise=otherwise)

    def _slots_by_id(self, ids: Sequence[str]) -> dict[str, int]:
        query = "SELECT id, slot FROM rows WHERE id IN (?)"
        slots = dict(self._select_many(query, list(dict.fromkeys(ids))))
        if slots and not 0 <= min(slots.values()) <= max(slots.values()) < self._facts.slots:
            raise self._damaged_index()
        return slots

    def _existing_slots(self, ids: Sequence[str]) -> list[int]:
        """Return the slots of rows, in this order.

        Raises:
            MissingRowError: there is no row with one of the ids.
        """
        slots = self._slots_by_id(ids)
        try:
            return [slots[row_id] for row_id in ids]
        except KeyError as error:
            raise MissingRowError(f"there is no row with the id {error}") from error

    def _at(self, slots: NDArray[np.int64]) -> Rows:
        """Return rows by slot, in this order."""
        by_slot = read_verified(self._reader, slots.tolist())
        records = [by_slot[slot] for slot in slots.tolist()]
        return Rows(
            ids=[row.id for row in records],
            uris=[row.uri for row in records],
            embeddings=np.asarray(self._vectors[slots]),
            metadata=[row.metadata for row in records],
            hashes=[row.content_hash for row in records],
            signatures=[row.signature for row in records],
        )

    def _select_many(self, query: str, values: Sequence[Any]) -> list[Any]:
        return self._reader.select_many(query, values)

    def _select(self, query: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        return self._reader.select(query, values)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._reader.run(work)


def _by_distance_and_id(ranked: tuple[float, VerifiedRow]) -> tuple[float, str]:
    distance, row = ranked
    return distance, row.id


def _not_finite(database: Path) -> ArtifactError:
    return unreadable(database, "an embedding has values that are not finite")


def _first_and_last_id(connection: sqlite3.Connection) -> tuple[str, str] | None:
    first, last = connection.execute(
        "SELECT (SELECT id FROM rows ORDER BY id LIMIT 1), "
        "(SELECT id FROM rows ORDER BY id DESC LIMIT 1)"
    ).fetchone()
    if first is None:
        return None
    if not (isinstance(first, str) and isinstance(last, str)):
        raise sqlite3.DatabaseError("an id is damaged")
    return first, last
