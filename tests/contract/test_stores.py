"""The contract of stores over every store, against a slow and obvious oracle."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lookalike.errors import ReplacedError
from lookalike.search import ordering
from lookalike.search.query import QueryVectors
from lookalike.search.request import Query, SearchRequest
from lookalike.search.search import search_rows
from lookalike.stores.base import Rows, VectorStore, revision_number
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.stores.exact import ExactIndex
from lookalike.stores.memory import MemoryStore
from lookalike.stores.milvus.address import Address
from lookalike.stores.milvus.store import MilvusStore
from lookalike.testing import DIM, Make, StoreContract, oracle, rows
from lookalike.types import Hit, Metric
from tests.milvus_server import MilvusServer, emptied


@pytest.fixture(scope="session")
def collections() -> dict[int, MilvusStore]:
    """Collections by dimension, created once: it takes seconds."""
    return {}


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make(self) -> Make:
        return MemoryStore


class TestEmbeddedStore(StoreContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        return lambda dim: EmbeddedStore.create(tmp_path / "store", dim)


@pytest.mark.engine
class TestMilvusStore(StoreContract):
    snapshots_keep_rows = False

    @pytest.fixture
    def make(self, milvus_make: Make) -> Make:
        return milvus_make


@pytest.fixture
def milvus_make(milvus: MilvusServer, collections: dict[int, MilvusStore]) -> Make:
    def collection(dim: int) -> VectorStore:
        if dim not in collections:
            address = Address.parse(f"milvus://{milvus.host}/contract_{dim}")
            collections[dim] = MilvusStore.create(address, dim, Metric.COSINE)
        return emptied(collections[dim])

    return collection


@pytest.fixture(params=["memory", "embedded", "milvus"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    if request.param == "memory":
        return MemoryStore
    if request.param == "embedded":
        return lambda dim: EmbeddedStore.create(tmp_path / "store", dim)
    milvus_make: Make = request.getfixturevalue("milvus_make")
    return milvus_make


class Beside:
    """A snapshot of a store, which is written before each method of the snapshot is called.

    By turns, a row whose id sorts first is added, and removed together with another one.
    """

    def __init__(self, store: VectorStore) -> None:
        self._store, self._view = store, store.snapshot()
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._view, name)
        if name == "snapshot":
            raise AttributeError(name)
        if not callable(value):
            return value

        def method(*arguments: Any, **options: Any) -> Any:
            if self.writes % 2:
                self._store.delete(["a", "r0001"])
            else:
                vector = np.ones((1, DIM), np.float32)
                self._store.upsert(Rows(["a"], ["/"], vector, [{"word": "first"}], ["h"]))
            self.writes += 1
            return value(*arguments, **options)

        return method


@pytest.mark.parametrize("few", [2_000, 0])
def test_equal_keyword_scores_are_ordered_by_id_on_every_page(
    make: Make, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "_FEW_IDS", few)  # both ways to sort by id
    store = make(DIM)
    stored = rows(np.random.default_rng(0).normal(size=(40, DIM)))
    texts = ["blue", "red", "red red", "red"]
    store.upsert(replace(stored, metadata=[{"text": texts[i % 4]} for i in range(40)]))
    nothing = QueryVectors("q", None, np.empty((0, DIM), np.float32))
    best = sorted(row_id for i, row_id in enumerate(stored.ids) if i % 4 == 2)
    others = sorted(row_id for i, row_id in enumerate(stored.ids) if i % 2)
    results = []
    for offset in range(0, 35, 7):
        request = SearchRequest(queries=(Query(),), k=7, offset=offset, keywords="red")
        [hits] = search_rows(request, store, [nothing], lambda _: [])
        assert hits.total == 30
        results += hits.ids
    assert results == [*best, *others]


@pytest.mark.parametrize("where", [None, "word like 'token%'", "word != 'first'"])
def test_a_search_beside_writes_returns_no_other_row(make: Make, where: str | None) -> None:
    store = make(DIM)
    stored = rows(np.random.default_rng(0).normal(size=(7, DIM)))
    words = [{"word": f"token{place}"} for place in range(7)]
    store.upsert(replace(stored, metadata=words))
    vector = QueryVectors("q", None, stored.embeddings[:1])
    nothing = QueryVectors("q", None, np.empty((0, DIM), np.float32))

    def run(query: QueryVectors, **options: Any) -> tuple[Hit, ...]:
        request = SearchRequest(queries=(Query(),), metric=Metric.COSINE, where=where, **options)
        beside = Beside(store)
        [hits] = search_rows(request, beside, [query], lambda _: [])
        assert beside.writes > 1
        return hits.rows

    for place in (0, 3, 6):
        [hit] = run(nothing, k=3, keywords=f"token{place}")
        assert (hit.id, hit.metadata) == (stored.ids[place], words[place])
        hits = run(vector, k=7, keywords=f"token{place}", rerank="dba")
        assert stored.ids[place] in [hit.id for hit in hits[:2]]
        known = dict(zip(stored.ids, words, strict=True)) | {"a": {"word": "first"}}
        assert all(known[hit.id] == hit.metadata for hit in hits)
        assert where is None or "a" not in [hit.id for hit in hits]


def test_rows_are_taken_by_their_places_and_print_one_line() -> None:
    stored = rows(np.arange(20.0).reshape(4, DIM))
    taken = stored.take([2, 0, 2])
    assert taken.ids == [stored.ids[place] for place in (2, 0, 2)]
    np.testing.assert_array_equal(taken.embeddings, stored.embeddings[[2, 0, 2]])
    assert (taken.hashes, taken.metadata[1]) == (["h2", "h0", "h2"], stored.metadata[0])
    assert stored.take([]).embeddings.shape == (0, DIM)
    assert repr(stored) == "Rows(4 rows, embeddings (4, 5))"
    assert "\n" not in repr(MemoryStore(DIM))


def test_stores_have_different_identities() -> None:
    assert MemoryStore(DIM).identity != MemoryStore(DIM).identity


def test_a_store_put_in_the_place_of_an_open_one_is_refused(tmp_path: Path) -> None:
    """Both have had as many commits, and have files of the same names."""
    store = EmbeddedStore.create(tmp_path / "store", DIM)
    store.upsert(rows(np.eye(DIM)))
    store.search(np.eye(DIM, dtype=np.float32), 1, Metric.L2)
    shutil.rmtree(tmp_path / "store")
    new = EmbeddedStore.create(tmp_path / "store", DIM)
    new.upsert(rows(-np.eye(DIM)))
    assert revision_number(new.revision) == revision_number(
        EmbeddedStore.open(tmp_path / "store").revision
    )
    for use in (
        store.count,
        store.ids,
        lambda: store.revision,
        lambda: store.get(["r0001"]),
        lambda: list(store.records()),
        lambda: store.search(np.eye(DIM, dtype=np.float32), 1, Metric.L2),
        lambda: store.upsert(rows(np.ones((1, DIM)), "more")),
        lambda: store.delete(["r0001"]),
        lambda: store.optimize(Metric.L2),
    ):
        with pytest.raises(ReplacedError, match="another gallery was put in its place"):
            use()
    assert new.count() == DIM
    np.testing.assert_array_equal(new.get(["r0001"]).embeddings, -np.eye(DIM)[1:2])


VALUES = st.floats(-1e3, 1e3, width=32) | st.sampled_from([0.0, 1.0, -1.0, 1e-30])


@settings(deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(
    matrix=hnp.arrays(np.float32, st.tuples(st.integers(1, 400), st.just(3)), elements=VALUES),
    query=hnp.arrays(np.float32, 3, elements=VALUES),
    k=st.integers(1, 12),
    metric=st.sampled_from(list(Metric)),
)
def test_the_exact_index_is_exact(
    matrix: np.ndarray, query: np.ndarray, k: int, metric: Metric
) -> None:
    stored = rows(matrix)
    nearest = ExactIndex(matrix).search(query[None], k, metric)
    expected = [d for d, _ in oracle(stored, query.astype(float), k, metric)]
    np.testing.assert_allclose(nearest.distances[0], expected, rtol=1e-6, atol=1e-6)


def test_the_exact_index_is_exact_where_scores_are_close() -> None:
    rng = np.random.default_rng(8)
    base = 1000 + rng.normal(size=64)
    matrix = (base + 1e-4 * rng.normal(size=(20_000, 64))).astype(np.float32)
    queries = (base + 1e-4 * rng.normal(size=(5, 64))).astype(np.float32)
    nearest = ExactIndex(matrix).search(queries, 7, Metric.L2)
    for i, query in enumerate(queries):
        distances = np.linalg.norm(matrix.astype(float) - query.astype(float), axis=1)
        np.testing.assert_allclose(nearest.distances[i], np.sort(distances)[:7], rtol=1e-9)


def test_rows_are_browsed_in_the_same_order_in_every_store(make: Make) -> None:
    """As in memory, also after rows were replaced and deleted."""
    values: list[dict[str, Any]] = [{"year": 2001}, {"year": 1999, "tag": ["b"]}, {"tag": "a"}, {}]
    names = [f"{'ab'[number % 2]}:x/IMG_{number}.jpg" for number in range(12)]
    signatures = [f"5-{10**18 + 7 * number % 12}" for number in range(12)]
    stores: list[VectorStore] = [make(DIM), MemoryStore(DIM)]
    answers = []
    for store in stores:
        metadata = [values[number % 4] for number in range(12)]
        vectors = np.ones((12, DIM), np.float32)
        store.upsert(Rows(names, ["/"] * 12, vectors, metadata, ["h"] * 12, signatures))
        store.delete(names[3:5])
        new = Rows(names[:1], ["/"], vectors[:1], [{"year": 2010, "tag": True}], ["h"])
        store.upsert(new)
        view = store.snapshot()
        for sort in ("id", "-id", "name", "-source", "year", "-tag", "-date", ["source", "-name"]):
            for options in ({}, {"where": "year > 1999"}, {"keywords": "img 2001"}):
                order = ordering.order_rows(view, sort=sort, **options)
                answers.append((sort, options, view.ids_at(order)))
    half = len(answers) // 2
    assert answers[:half] == answers[half:]
    assert len(answers[0][2]) == 10
