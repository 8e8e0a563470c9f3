"""Contract tests of all stores, against a slow and obvious oracle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lookalike.errors import InputError, ReplacedError, SettingError
from lookalike.filters import RowFilter, as_filter
from lookalike.search.query import QueryVectors
from lookalike.search.search import SearchOptions
from lookalike.stores.base import Rows, VectorStore, revision_number
from lookalike.stores.exact import ExactIndex
from lookalike.stores.lance.store import LanceStore
from lookalike.stores.memory import MemoryStore
from lookalike.stores.milvus.address import Address
from lookalike.stores.milvus.store import MilvusStore
from lookalike.types import Hit, Metric
from tests.milvus_server import emptied

DIM = 5
Make = Callable[[int], VectorStore]


@pytest.fixture(scope="session")
def collections() -> dict[int, MilvusStore]:
    """Collections by dimension, created once: it takes seconds."""
    return {}


@pytest.fixture(params=["memory", "lance", "milvus"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    if request.param == "memory":
        return MemoryStore
    if request.param == "lance":
        return lambda dim: LanceStore.create(tmp_path / "table", dim)
    server = request.getfixturevalue("milvus")
    existing = request.getfixturevalue("collections")

    def collection(dim: int) -> VectorStore:
        if dim not in existing:
            address = Address.parse(f"milvus://{server.host}/contract_{dim}")
            existing[dim] = MilvusStore.create(address, dim, Metric.COSINE)
        return emptied(existing[dim])

    return collection


def rows(embeddings: np.ndarray, prefix: str = "r") -> Rows:
    n = len(embeddings)
    ids = [f"{prefix}{(i * 7) % n if n > 7 else i:04}" for i in range(n)]
    ids = [f"{prefix}{i:04}" for i in range(n)] if len(set(ids)) < n else ids
    uris = [f"/{i}" for i in ids]
    metadata = [{"label": "ab"[i % 2], "ü": [i, None]} for i in range(n)]
    return Rows(ids, uris, embeddings.astype(np.float32), metadata, [f"h{i}" for i in range(n)])


def oracle(stored: Rows, query: np.ndarray, k: int, metric: Metric) -> list[tuple[float, str]]:
    pairs = []
    for row_id, row in zip(stored.ids, stored.embeddings.astype(float), strict=True):
        if metric is Metric.L2:
            distance = float(np.sqrt(np.sum((row - query) ** 2)))
        else:
            lengths = float(np.linalg.norm(row) * np.linalg.norm(query))
            distance = 1 - float(row @ query) / lengths if lengths else 1.0
        pairs.append((distance, row_id))
    return sorted(pairs)[:k]


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("count", [1, 3, 50, 700])
def test_search_is_exact(make: Make, metric: Metric, count: int) -> None:
    rng = np.random.default_rng(count)
    stored = rows(rng.normal(size=(count, DIM)))
    store = make(DIM)
    store.upsert(stored)
    queries = rng.normal(size=(20, DIM)).astype(np.float32)
    for query, hits in zip(queries, store.search(queries, 7, metric), strict=True):
        expected = oracle(stored, query.astype(float), 7, metric)
        assert [hit.id for hit in hits] == [row_id for _, row_id in expected]
        assert [hit.rank for hit in hits] == list(range(1, min(7, count) + 1))
        np.testing.assert_allclose([h.distance for h in hits], [d for d, _ in expected], atol=1e-6)
        place = stored.ids.index(hits[0].id)
        assert hits[0].uri == stored.uris[place]
        assert hits[0].metadata == stored.metadata[place]


def test_equal_distances_are_ordered_by_id(make: Make) -> None:
    store = make(DIM)
    same = np.tile([1.0, 2, 3, 4, 5], (300, 1))
    store.upsert(rows(same))
    hits = store.search(same[:1].astype(np.float32), 9, Metric.COSINE)[0]
    assert [hit.id for hit in hits] == [f"r{i:04}" for i in range(9)]


def test_zero_vectors_have_cosine_distance_one(make: Make) -> None:
    store = make(DIM)
    store.upsert(rows(np.array([[0.0] * DIM, [1.0] + [0] * 4, [-1.0] + [0] * 4])))
    query = np.array([[1, 0, 0, 0, 0], [0] * DIM], np.float32)
    nearest, zero = store.search(query, 5, Metric.COSINE)
    assert [(hit.id, hit.distance) for hit in nearest] == [("r0001", 0), ("r0000", 1), ("r0002", 2)]
    assert [hit.distance for hit in zero] == [1, 1, 1]


def test_upsert_replaces_and_delete_removes(make: Make) -> None:
    store = make(DIM)
    first = rows(np.eye(DIM))
    store.upsert(first)
    store.upsert(Rows(["r0001"], ["/new"], -np.eye(DIM, dtype=np.float32)[:1], [{"x": 1}], ["h"]))
    assert store.count() == DIM
    [changed] = [record for record in store.records() if record.id == "r0001"]
    assert (changed.uri, changed.metadata, changed.content_hash) == ("/new", {"x": 1}, "h")
    assert store.delete(["r0001", "none", "r0003", "r0003"]) == 2
    assert [record.id for record in store.records()] == ["r0000", "r0002", "r0004"]
    assert store.delete([]) == 0
    assert [h.id for h in store.search(np.eye(DIM, dtype=np.float32)[2:3], 1, Metric.L2)[0]] == [
        "r0002"
    ]


def test_hostile_ids_and_metadata_are_stored_unchanged(make: Make) -> None:
    ids = ["it's", 'a"b', "x' OR '1'='1", "ü/ö ✓.png", "", "a\nb", "-- drop", "%_\\"]
    store = make(2)
    metadata = [{"label": row_id, "deep": {"k": [1, 2.5, None, True]}} for row_id in ids]
    vectors = np.arange(2 * len(ids), dtype=np.float32).reshape(-1, 2)
    store.upsert(Rows(ids, ids, vectors, metadata, ids))
    assert [record.id for record in store.records()] == sorted(ids) == list(store.ids())
    assert store.get(ids[::-1]).metadata == metadata[::-1]
    assert store.delete(["x' OR '1'='1"]) == 1
    assert store.count() == len(ids) - 1


def test_get_returns_rows_in_the_requested_order(make: Make) -> None:
    store = make(DIM)
    stored = rows(np.random.default_rng(0).normal(size=(30, DIM)))
    store.upsert(stored)
    got = store.get([stored.ids[9], stored.ids[2]])
    np.testing.assert_array_equal(got.embeddings, stored.embeddings[[9, 2]])
    assert list(got.hashes) == ["h9", "h2"]
    with pytest.raises(InputError, match="no row with the id 'nobody'"):
        store.get(["nobody"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused_in_rows_and_queries(make: Make, bad: float) -> None:
    store = make(DIM)
    store.upsert(rows(np.eye(DIM)))
    broken = np.eye(DIM, dtype=np.float32)
    broken[3, 1] = bad
    with pytest.raises(InputError, match="row 3 has NaN or Inf"):
        store.upsert(rows(broken, "new"))
    with pytest.raises(InputError, match="queries: row 3 has NaN or Inf"):
        store.search(broken, 1, Metric.L2)
    assert store.count() == DIM


def test_batches_with_wrong_shapes_or_duplicate_ids_are_refused(make: Make) -> None:
    store = make(DIM)
    with pytest.raises(InputError, match="expected 5 dimensions, got 4"):
        store.upsert(rows(np.eye(4)))
    with pytest.raises(InputError, match="expected 5 dimensions, got 4"):
        store.search(np.eye(4, dtype=np.float32), 1, Metric.L2)
    embeddings = np.eye(DIM, dtype=np.float32)
    with pytest.raises(InputError, match="the id 'a' occurs twice"):
        store.upsert(Rows(["a", "a"], ["", ""], embeddings[:2], [{}, {}], ["", ""]))
    with pytest.raises(InputError, match="must have equal length"):
        Rows(["a"], [], embeddings[:1], [{}], [""])
    assert store.count() == 0


@pytest.mark.parametrize("k", [0, -1, 16_385])
def test_k_is_bounded(make: Make, k: int) -> None:
    with pytest.raises(SettingError, match="must be from 1 to 16,384"):
        make(DIM).search(np.eye(DIM, dtype=np.float32), k, Metric.L2)


def test_an_empty_store_has_no_hits(make: Make) -> None:
    store = make(DIM)
    assert store.search(np.eye(DIM, dtype=np.float32)[:2], 3, Metric.L2) == [[], []]
    assert list(store.records()) == []
    store.upsert(rows(np.empty((0, DIM))))
    assert store.count() == 0


def test_the_revision_changes_with_every_commit(make: Make) -> None:
    store = make(DIM)
    identity, seen = store.identity, [store.revision]
    store.upsert(rows(np.eye(DIM)))
    seen.append(store.revision)
    store.upsert(rows(-np.eye(DIM)))  # as many rows, with the same ids
    seen.append(store.revision)
    store.upsert(Rows(["r0001"], ["/"], -np.eye(DIM, dtype=np.float32)[1:2], [{"x": 1}], ["h1"]))
    seen.append(store.revision)
    store.delete(["r0001"])
    seen.append(store.revision)
    assert len(set(seen)) == len(seen)
    numbers = [revision_number(revision) for revision in seen]
    assert numbers == sorted(set(numbers))
    assert (store.delete(["none"]), store.revision) == (0, seen[-1])
    store.upsert(rows(np.empty((0, DIM))))
    store.search(np.eye(DIM, dtype=np.float32), 3, Metric.L2)
    assert (store.revision, store.identity) == (seen[-1], identity)


def test_stores_have_different_identities() -> None:
    assert MemoryStore(DIM).identity != MemoryStore(DIM).identity


def test_a_snapshot_has_ids_and_columns_of_one_revision(make: Make) -> None:
    store = make(DIM)
    store.upsert(rows(np.eye(DIM)))
    view = store.snapshot()

    def read() -> tuple[object, ...]:
        return view.revision, [*view.ids()], [*view.columns().names], len(view.columns())

    before = read()
    store.delete(["r0001"])
    store.upsert(Rows(["z"], ["/z"], np.ones((1, DIM), np.float32), [{"new": 1}], ["z"]))
    assert read() == before
    assert store.snapshot().revision == store.revision != before[0]
    assert "z" in store.ids()
    assert view.identity == store.identity
    query = np.ones((1, DIM), np.float32)
    assert store.search(query, 1, Metric.L2)[0][0].id == "z"
    if not isinstance(store, MilvusStore):  # which searches the rows as they are
        assert len(view.search(query, 10, Metric.L2)[0]) == DIM == view.count()
        assert view.get(["r0001"]).ids == ["r0001"]


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


@pytest.mark.parametrize("where", [None, "word like 'token%'", "word != 'first'"])
def test_a_search_beside_writes_returns_no_other_row(make: Make, where: str | None) -> None:
    store = make(DIM)
    stored = rows(np.random.default_rng(0).normal(size=(7, DIM)))
    words = [{"word": f"token{place}"} for place in range(7)]
    store.upsert(replace(stored, metadata=words))
    vector = QueryVectors("q", None, stored.embeddings[:1])
    nothing = QueryVectors("q", None, np.empty((0, DIM), np.float32))

    def run(query: QueryVectors, **options: Any) -> tuple[Hit, ...]:
        search = SearchOptions(metric=Metric.COSINE, where=where, **options)
        beside = Beside(store)
        hits = search.run(beside, query, lambda _: [])
        assert beside.writes > 1
        return hits

    for place in (0, 3, 6):
        [hit] = run(nothing, k=3, keywords=f"token{place}")
        assert (hit.id, hit.metadata) == (stored.ids[place], words[place])
        hits = run(vector, k=7, keywords=f"token{place}", rerank="dba")
        assert stored.ids[place] in [hit.id for hit in hits[:2]]
        known = dict(zip(stored.ids, words, strict=True)) | {"a": {"word": "first"}}
        assert all(known[hit.id] == hit.metadata for hit in hits)
        assert where is None or "a" not in [hit.id for hit in hits]


def test_a_filter_of_a_snapshot_is_evaluated_once(make: Make) -> None:
    store = make(DIM)
    store.upsert(rows(np.random.default_rng(0).normal(size=(20, DIM))))
    view = store.snapshot()
    query = np.eye(DIM, dtype=np.float32)[:1]
    for text in ("label = 'a'", "label like '_' and not (label = 'b')", "label = 'nothing'"):
        where = as_filter(text)
        resolved = view.resolve_filter(where)
        expected = view.search(query, 20, Metric.L2, where)
        assert view.search(query, 20, Metric.L2, resolved) == expected
        mask = resolved.mask(view.columns()).tolist()
        assert mask == where.mask(view.columns()).tolist()
        assert mask.count(True) == len(expected[0])
    with pytest.raises(InputError, match="no column 'lable'"):
        view.resolve_filter(as_filter("lable = 'a'"))
    chosen = RowFilter(np.array([7, 2, 11]), view.columns())
    found = view.search(query, 20, Metric.L2, chosen)[0]
    assert {hit.id for hit in found} == {view.ids()[place] for place in (2, 7, 11)}
    store.upsert(rows(np.ones((1, DIM)), "new"))
    with pytest.raises(ValueError, match="one snapshot only"):
        chosen.mask(store.snapshot().columns())


def test_a_table_put_in_the_place_of_an_open_one_is_refused(tmp_path: Path) -> None:
    """Both have the same number of versions, and the same names of files in them."""
    store = LanceStore.create(tmp_path / "t", DIM)
    store.upsert(rows(np.eye(DIM)))
    store.search(np.eye(DIM, dtype=np.float32), 1, Metric.L2)
    shutil.rmtree(tmp_path / "t")
    new = LanceStore.create(tmp_path / "t", DIM)
    new.upsert(rows(-np.eye(DIM)))
    assert revision_number(new.revision) == revision_number(
        LanceStore.open(tmp_path / "t").revision
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


def test_a_purged_store_has_the_same_rows(make: Make) -> None:
    store = make(DIM)
    store.upsert(rows(np.eye(DIM)))
    store.upsert(rows(2 * np.eye(DIM)))
    store.delete(["r0001"])
    before = store.get(store.ids())
    store.optimize(Metric.COSINE, purge=True)
    after = store.get(store.ids())
    assert list(after.ids) == list(before.ids) == [f"r{i:04}" for i in range(DIM) if i != 1]
    np.testing.assert_array_equal(after.embeddings, before.embeddings)


def test_lance_tables_reopen_and_compact(tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "t", DIM)
    for i in range(20):
        store.upsert(rows(np.full((3, DIM), float(i)), f"{i:02}-"))
    store.optimize(Metric.COSINE)
    reopened = LanceStore.open(tmp_path / "t")
    assert reopened.count() == 60
    assert reopened.dim == DIM
    assert len(reopened.snapshot().dataset.get_fragments()) == 1


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


def test_filters_apply_before_the_top_k_cut(make: Make) -> None:
    store = make(DIM)
    for seed in range(25):
        rng = np.random.default_rng(seed)
        stored = rows(rng.normal(size=(int(rng.integers(1, 40)), DIM)))
        tags = rng.choice(["a", "b", "it's", "' or 1=1 --"], len(stored)).tolist()
        metadata = [{"tag": tag} for tag in tags]
        stored = Rows(stored.ids, stored.uris, stored.embeddings, metadata, stored.hashes)
        store.upsert(stored)
        query = rng.normal(size=(1, DIM)).astype(np.float32)
        [hits] = store.search(query, 5, Metric.COSINE, as_filter({"tag": tags[0]}))
        matching = [i for i, tag in enumerate(tags) if tag == tags[0]]
        part = Rows(
            [stored.ids[i] for i in matching],
            [stored.uris[i] for i in matching],
            stored.embeddings[matching],
            [{} for _ in matching],
            ["" for _ in matching],
        )
        expected = oracle(part, query[0].astype(float), 5, Metric.COSINE)
        assert [hit.id for hit in hits] == [row_id for _, row_id in expected]
        store.delete(stored.ids)


def test_filters_see_the_last_write(make: Make) -> None:
    store = make(DIM)
    store.upsert(rows(np.eye(DIM)))
    query = np.eye(DIM, dtype=np.float32)[:1]
    where = as_filter("label = 'new'")
    assert store.search(query, 9, Metric.L2, where) == [[]]
    with pytest.raises(InputError, match="no column 'lable'"):
        store.search(query, 9, Metric.L2, as_filter("lable = 'a'"))
    changed = np.eye(DIM, dtype=np.float32)[1:2]
    store.upsert(Rows(["r0001"], ["/"], changed, [{"label": "new"}], ["h"]))
    assert [hit.id for hit in store.search(query, 9, Metric.L2, where)[0]] == ["r0001"]


def test_rows_are_iterated_in_parts(make: Make) -> None:
    store = make(DIM)
    stored = rows(np.random.default_rng(0).normal(size=(30, DIM)))
    store.upsert(stored)
    store.upsert(rows(np.ones((3, DIM)), "more"))
    parts = list(store.rows(7))
    assert max(map(len, parts)) <= 7
    by_id = {
        row_id: row for part in parts for row_id, row in zip(part.ids, part.embeddings, strict=True)
    }
    assert sorted(by_id) == sorted([*stored.ids, "more0000", "more0001", "more0002"])
    np.testing.assert_array_equal(by_id[stored.ids[4]], stored.embeddings[4])


def test_embeddings_are_in_the_requested_order(make: Make) -> None:
    ids = ["ü/ö ✓.png", "z", "口紅", "a", "it's", "Ω", "", "😀", "\uffee"]
    vectors = np.random.default_rng(0).normal(size=(len(ids), DIM)).astype(np.float32)
    store = make(DIM)
    store.upsert(Rows(ids, ids, vectors, [{} for _ in ids], ids))

    def check() -> None:
        for order in (range(len(ids)), range(len(ids))[::-1], (4, 2, 0), (7,), (3, 3), ()):
            embeddings = store.embeddings([ids[i] for i in order])
            assert embeddings.shape == (len(order), DIM)
            np.testing.assert_array_equal(embeddings, vectors[list(order)])
        for unknown in ("nobody", "~", "\U0010ffff"):
            with pytest.raises(InputError, match="no row with the id"):
                store.embeddings(["z", unknown])

    check()
    store.search(vectors[:1], 3, Metric.COSINE)
    check()


def test_embeddings_follow_the_last_write(make: Make) -> None:
    store = make(DIM)
    store.upsert(rows(np.eye(DIM)))
    query = np.eye(DIM, dtype=np.float32)[:1]
    store.search(query, 2, Metric.L2)
    store.upsert(Rows(["r0001"], ["/"], -query, [{}], ["h"]))
    store.search(query, 2, Metric.L2)
    np.testing.assert_array_equal(store.embeddings(["r0001"]), -query)
    store.delete(["r0001"])
    store.search(query, 2, Metric.L2)
    with pytest.raises(InputError, match="no row with the id 'r0001'"):
        store.embeddings(["r0001"])


def test_zero_queries_keep_their_place_in_a_batch(make: Make) -> None:
    rng = np.random.default_rng(4)
    stored = rows(rng.normal(size=(60, DIM)))
    store = make(DIM)
    store.upsert(stored)
    queries = rng.normal(size=(7, DIM)).astype(np.float32)
    queries[[0, 3, 4]] = 0
    together = store.search(queries, 5, Metric.COSINE)
    for query, hits in zip(queries, together, strict=True):
        expected = oracle(stored, query.astype(float), 5, Metric.COSINE)
        assert [hit.id for hit in hits] == [row_id for _, row_id in expected]


def test_a_number_and_its_text_are_equal_and_long_integers_exact(make: Make) -> None:
    store = make(DIM)
    long = 12345678901234567891
    values: list[Any] = [0, "0", "00", "a", 1.5, "1.5", long, str(long), long + 1, ["0", "b"], True]
    stored = rows(np.random.default_rng(0).normal(size=(len(values), DIM)))
    store.upsert(replace(stored, metadata=[{"x": value} for value in values]))
    query = np.eye(DIM, dtype=np.float32)[:1]
    everything = {value: i for i, value in enumerate(stored.ids)}
    for text, expected in (
        ("x = 0", [0, 1, 9]),
        ("x = '0'", [0, 1, 9]),
        ("x in ('0', 1.5)", [0, 1, 4, 5, 9]),
        ("x = '1.5'", [4, 5]),
        (f"x = {long}", [6, 7]),
        (f"x = '{long}'", [6, 7]),
        (f"x > {long}", [8]),
        ("x != 0", [2, 3, 4, 5, 6, 7, 8, 9]),
        ("x != 'a'", [0, 1, 2, 4, 5, 6, 7, 8, 9]),
        ("not (x = '0')", [2, 3, 4, 5, 6, 7, 8, 10]),
    ):
        [hits] = store.search(query, len(values), Metric.L2, as_filter(text))
        assert sorted(everything[hit.id] for hit in hits) == expected, text
    kept = {row.id: row.metadata["x"] for row in store.records()}
    assert [kept[row_id] for row_id in stored.ids] == values
