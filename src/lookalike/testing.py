"""Tests for the stores of other packages, to be run with pytest.

A store is correct if it passes :class:`StoreContract`::

    class TestMyStore(StoreContract):
        @pytest.fixture
        def make(self, tmp_path):
            return lambda dim: MyStore.create(f"mine://{tmp_path}/rows", dim)

The tests of lookalike run it over its own stores. It needs the package pytest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from lookalike.errors import InputError, LookalikeError, SettingError
from lookalike.filters import MetadataColumns, RowFilter, as_filter
from lookalike.filters.facets import facets
from lookalike.stores.base import Rows, VectorStore, revision_number
from lookalike.stores.full_text import text_search
from lookalike.types import Metric

DIM = 5
Make = Callable[[int], VectorStore]
"""Returns a new, empty store for embeddings of some dimensions."""


def rows(embeddings: np.ndarray, prefix: str = "r") -> Rows:
    """Return rows with these embeddings; their ids have a prefix and do not follow their order."""
    n = len(embeddings)
    ids = [f"{prefix}{(i * 7) % n if n > 7 else i:04}" for i in range(n)]
    ids = [f"{prefix}{i:04}" for i in range(n)] if len(set(ids)) < n else ids
    uris = [f"/{i}" for i in ids]
    metadata = [{"label": "ab"[i % 2], "ü": [i, None]} for i in range(n)]
    return Rows(ids, uris, embeddings.astype(np.float32), metadata, [f"h{i}" for i in range(n)])


def oracle(stored: Rows, query: np.ndarray, k: int, metric: Metric) -> list[tuple[float, str]]:
    """Return the distances and ids of the nearest rows, computed in the obvious way."""
    pairs = []
    for row_id, row in zip(stored.ids, stored.embeddings.astype(float), strict=True):
        if metric is Metric.L2:
            distance = float(np.sqrt(np.sum((row - query) ** 2)))
        else:
            lengths = float(np.linalg.norm(row) * np.linalg.norm(query))
            distance = 1 - float(row @ query) / lengths if lengths else 1.0
        pairs.append((distance, row_id))
    return sorted(pairs)[:k]


class StoreContract:
    """What every store must do; subclasses have a fixture ``make`` (:data:`Make`).

    A store that searches by an approximate index must be exact for up to 1,000 rows.
    """

    snapshots_keep_rows: ClassVar[bool] = True
    """Whether a snapshot has the rows of its revision, and not only their ids and columns."""

    @pytest.fixture
    def make(self) -> Make:
        """Return a function that creates an empty store."""
        raise NotImplementedError("a subclass of StoreContract needs a fixture named make")

    @pytest.mark.parametrize("metric", list(Metric))
    @pytest.mark.parametrize("count", [1, 3, 50, 700])
    def test_search_is_exact(self, make: Make, metric: Metric, count: int) -> None:
        rng = np.random.default_rng(count)
        stored = rows(rng.normal(size=(count, DIM)))
        store = make(DIM)
        store.upsert(stored)
        queries = rng.normal(size=(20, DIM)).astype(np.float32)
        for query, hits in zip(queries, store.search(queries, 7, metric), strict=True):
            expected = oracle(stored, query.astype(float), 7, metric)
            assert [hit.id for hit in hits] == [row_id for _, row_id in expected]
            assert [hit.rank for hit in hits] == list(range(1, min(7, count) + 1))
            np.testing.assert_allclose(
                [h.distance for h in hits], [d for d, _ in expected], atol=1e-6
            )
            place = stored.ids.index(hits[0].id)
            assert hits[0].uri == stored.uris[place]
            assert hits[0].metadata == stored.metadata[place]

    def test_equal_distances_are_ordered_by_id(self, make: Make) -> None:
        store = make(DIM)
        same = np.tile([1.0, 2, 3, 4, 5], (300, 1))
        store.upsert(rows(same))
        hits = store.search(same[:1].astype(np.float32), 9, Metric.COSINE)[0]
        assert [hit.id for hit in hits] == [f"r{i:04}" for i in range(9)]

    def test_zero_vectors_have_cosine_distance_one(self, make: Make) -> None:
        store = make(DIM)
        store.upsert(rows(np.array([[0.0] * DIM, [1.0] + [0] * 4, [-1.0] + [0] * 4])))
        query = np.array([[1, 0, 0, 0, 0], [0] * DIM], np.float32)
        nearest, zero = store.search(query, 5, Metric.COSINE)
        assert [(hit.id, hit.distance) for hit in nearest] == [
            ("r0001", 0),
            ("r0000", 1),
            ("r0002", 2),
        ]
        assert [hit.distance for hit in zero] == [1, 1, 1]

    def test_upsert_replaces_and_delete_removes(self, make: Make) -> None:
        store = make(DIM)
        first = rows(np.eye(DIM))
        store.upsert(first)
        store.upsert(
            Rows(["r0001"], ["/new"], -np.eye(DIM, dtype=np.float32)[:1], [{"x": 1}], ["h"])
        )
        assert store.count() == DIM
        [changed] = [record for record in store.records() if record.id == "r0001"]
        assert (changed.uri, changed.metadata, changed.content_hash) == ("/new", {"x": 1}, "h")
        assert store.delete(["r0001", "none", "r0003", "r0003"]) == 2
        assert [record.id for record in store.records()] == ["r0000", "r0002", "r0004"]
        assert store.delete([]) == 0
        assert [
            h.id for h in store.search(np.eye(DIM, dtype=np.float32)[2:3], 1, Metric.L2)[0]
        ] == ["r0002"]

    def test_hostile_ids_and_metadata_are_stored_unchanged(self, make: Make) -> None:
        ids = ["it's", 'a"b', "x' OR '1'='1", "ü/ö ✓.png", "", "a\nb", "-- drop", "%_\\"]
        store = make(2)
        metadata = [{"label": row_id, "deep": {"k": [1, 2.5, None, True]}} for row_id in ids]
        vectors = np.arange(2 * len(ids), dtype=np.float32).reshape(-1, 2)
        store.upsert(Rows(ids, ids, vectors, metadata, ids))
        assert [record.id for record in store.records()] == sorted(ids) == list(store.ids())
        assert store.get(ids[::-1]).metadata == metadata[::-1]
        assert store.delete(["x' OR '1'='1"]) == 1
        assert store.count() == len(ids) - 1

    def test_get_returns_rows_in_the_requested_order(self, make: Make) -> None:
        store = make(DIM)
        stored = rows(np.random.default_rng(0).normal(size=(30, DIM)))
        store.upsert(stored)
        got = store.get([stored.ids[9], stored.ids[2]])
        np.testing.assert_array_equal(got.embeddings, stored.embeddings[[9, 2]])
        assert list(got.hashes) == ["h9", "h2"]
        with pytest.raises(InputError, match="no row with the id 'nobody'"):
            store.get(["nobody"])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nan_and_inf_are_refused_in_rows_and_queries(self, make: Make, bad: float) -> None:
        store = make(DIM)
        store.upsert(rows(np.eye(DIM)))
        broken = np.eye(DIM, dtype=np.float32)
        broken[3, 1] = bad
        with pytest.raises(InputError, match="row 3 has NaN or Inf"):
            store.upsert(rows(broken, "new"))
        with pytest.raises(InputError, match="queries: row 3 has NaN or Inf"):
            store.search(broken, 1, Metric.L2)
        assert store.count() == DIM

    def test_batches_with_wrong_shapes_or_duplicate_ids_are_refused(self, make: Make) -> None:
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
    def test_k_is_bounded(self, make: Make, k: int) -> None:
        with pytest.raises(SettingError, match="must be from 1 to 16,384"):
            make(DIM).search(np.eye(DIM, dtype=np.float32), k, Metric.L2)

    def test_an_empty_store_has_no_hits(self, make: Make) -> None:
        store = make(DIM)
        assert store.search(np.eye(DIM, dtype=np.float32)[:2], 3, Metric.L2) == [[], []]
        assert list(store.records()) == []
        store.upsert(rows(np.empty((0, DIM))))
        assert store.count() == 0

    def test_the_revision_changes_with_every_commit(self, make: Make) -> None:
        store = make(DIM)
        identity, seen = store.identity, [store.revision]
        store.upsert(rows(np.eye(DIM)))
        seen.append(store.revision)
        store.upsert(rows(-np.eye(DIM)))  # as many rows, with the same ids
        seen.append(store.revision)
        store.upsert(
            Rows(["r0001"], ["/"], -np.eye(DIM, dtype=np.float32)[1:2], [{"x": 1}], ["h1"])
        )
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

    def test_a_snapshot_has_ids_and_columns_of_one_revision(self, make: Make) -> None:
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
        if self.snapshots_keep_rows:
            assert len(view.search(query, 10, Metric.L2)[0]) == DIM == view.count()
            assert view.get(["r0001"]).ids == ["r0001"]

    def test_row_numbers_count_the_rows_of_a_snapshot(self, make: Make) -> None:
        store = make(DIM)
        stored = rows(np.random.default_rng(0).normal(size=(20, DIM)))
        store.upsert(stored)
        store.delete(["r0003", "r0007"])
        store.upsert(replace(stored.take([2, 5]), embeddings=np.eye(DIM, dtype=np.float32)[:2]))
        view = store.snapshot()
        ids = list(view.ids())
        numbers = view.row_numbers(["none", *ids, ids[4], "r0003"])
        assert numbers[[0, -1]].tolist() == [-1, -1]
        assert sorted(numbers[1:-2].tolist()) == list(range(18))
        assert numbers[-2] == numbers[5]
        assert view.ids_at(numbers[1:-2]) == ids
        assert view.ids_at(numbers[:0]) == [] == view.row_numbers([]).tolist()
        np.testing.assert_array_equal(view.vectors()[numbers[1:-2]], view.get(ids).embeddings)
        column = view.columns().encoded("label")
        labels = [column.values[code] for code in column.codes[numbers[1:-2]].tolist()]
        assert labels == [row.metadata["label"] for row in view.records()]
        assert len(view.columns()) == len(view.vectors()) == 18

    def test_ids_are_read_a_page_at_a_time(self, make: Make) -> None:
        store = make(DIM)
        assert list(store.ids_after("", 3)) == list(store.ids_near("", 3)) == []
        store.upsert(rows(np.zeros((12, DIM))))
        store.delete(["r0004"])
        view = store.snapshot()
        ids = list(view.ids())
        pages: list[str] = []
        while page := list(view.ids_after(pages[-1] if pages else "", 5)):
            assert len(page) in {5, 1}
            pages += page
        assert pages == ids
        assert list(view.ids_after("r0004", 2)) == ["r0005", "r0006"]
        assert list(view.ids_near("r0004", 2)) == ["r0002", "r0003", "r0005", "r0006"]
        assert list(view.ids_near("r0003", 1)) == ["r0002", "r0003"]
        assert list(view.ids_near("z", 2)) == ids[-2:]

    def test_a_filter_of_a_snapshot_is_evaluated_once(self, make: Make) -> None:
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
        assert {hit.id for hit in found} == set(view.ids_at(np.array([2, 7, 11])))
        store.upsert(rows(np.ones((1, DIM)), "new"))
        with pytest.raises(ValueError, match="one snapshot only"):
            chosen.mask(store.snapshot().columns())

    def test_a_purged_store_has_the_same_rows(self, make: Make) -> None:
        store = make(DIM)
        store.upsert(rows(np.eye(DIM)))
        store.upsert(rows(2 * np.eye(DIM)))
        store.delete(["r0001"])
        before = store.get(store.ids())
        store.optimize(Metric.COSINE, purge=True)
        after = store.get(store.ids())
        assert list(after.ids) == list(before.ids) == [f"r{i:04}" for i in range(DIM) if i != 1]
        np.testing.assert_array_equal(after.embeddings, before.embeddings)

    def test_filters_apply_before_the_top_k_cut(self, make: Make) -> None:
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

    def test_filters_see_the_last_write(self, make: Make) -> None:
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

    def test_words_of_names_and_metadata_are_those_of_the_last_write(self, make: Make) -> None:
        store = make(DIM)
        stored = rows(np.random.default_rng(0).normal(size=(20, DIM)))
        store.upsert(replace(stored, metadata=[{"caption": f"token{i:02} Été"} for i in range(20)]))

        def search(keywords: str) -> set[str]:
            snapshot = store.snapshot()
            index = text_search(snapshot)
            numbers = index.matching(keywords)
            assert (index.scores(keywords, numbers) > 0).all()
            return set(snapshot.ids_at(numbers)) if len(numbers) else set()

        first, second = stored.ids[3], stored.ids[17]
        assert search("token03 token17") == {first, second}
        assert search("ete") == set(stored.ids)
        assert search(first) == {first}
        store.upsert(replace(stored.take([3]), metadata=[{"caption": "東京タワー"}]))
        store.delete([second])
        assert search("token03 token17") == set()
        assert search("タワー") == {first}
        assert len(search("ete")) == 18
        assert text_search(store.snapshot()).unmatched("tokn04 ete") == {"tokn04": None}
        assert text_search(store.snapshot()).unmatched("étè tokens") == {"tokens": "token19"}

    def test_rows_are_iterated_in_parts(self, make: Make) -> None:
        store = make(DIM)
        stored = rows(np.random.default_rng(0).normal(size=(30, DIM)))
        store.upsert(stored)
        store.upsert(rows(np.ones((3, DIM)), "more"))
        parts = list(store.rows(7))
        assert max(map(len, parts)) <= 7
        by_id = {
            row_id: row
            for part in parts
            for row_id, row in zip(part.ids, part.embeddings, strict=True)
        }
        assert sorted(by_id) == sorted([*stored.ids, "more0000", "more0001", "more0002"])
        np.testing.assert_array_equal(by_id[stored.ids[4]], stored.embeddings[4])

    def test_embeddings_are_in_the_requested_order(self, make: Make) -> None:
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

    def test_embeddings_follow_the_last_write(self, make: Make) -> None:
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

    def test_zero_queries_keep_their_place_in_a_batch(self, make: Make) -> None:
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

    def test_a_number_and_its_text_are_equal_and_long_integers_exact(self, make: Make) -> None:
        store = make(DIM)
        long = 12345678901234567891
        values: list[Any] = [
            0,
            "0",
            "00",
            "a",
            1.5,
            "1.5",
            long,
            str(long),
            long + 1,
            ["0", "b"],
            True,
        ]
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

    @pytest.mark.parametrize("count", [1, 3, 50, 700])
    def test_a_sample_has_different_random_rows(self, make: Make, count: int) -> None:
        store = make(DIM)
        stored = rows(np.random.default_rng(count).normal(size=(count, DIM)))
        store.upsert(stored)
        store.upsert(rows(np.ones((4, DIM)), "gone"))
        store.delete([f"gone{i:04}" for i in range(4)])
        places = {row_id: place for place, row_id in enumerate(stored.ids)}
        seen = set()
        for seed in range(5):
            sample = store.sample(20, seed)
            assert len(sample) == len(set(sample.ids)) == min(20, count)
            for reader in (store, store.snapshot()):  # reproducible
                assert list(reader.sample(20, seed).ids) == list(sample.ids)
            chosen = [places[row_id] for row_id in sample.ids]
            np.testing.assert_array_equal(sample.embeddings, stored.embeddings[chosen])
            for name in ("uris", "metadata", "hashes"):
                column, expected = getattr(sample, name), getattr(stored, name)
                assert list(column) == [expected[place] for place in chosen]
            seen.add(tuple(sample.ids))
        assert count < 50 or len(seen) == 5
        assert sorted(store.sample(count + 10).ids) == sorted(stored.ids)
        for k in (0, -1):
            with pytest.raises(SettingError, match="must be at least 1"):
                store.sample(k)

    def test_every_row_is_as_likely_in_a_sample(self, make: Make) -> None:
        store = make(DIM)
        store.upsert(rows(np.random.default_rng(0).normal(size=(400, DIM))))
        drawn = [row_id for seed in range(40) for row_id in store.sample(40, seed).ids]
        counts = [drawn.count(row_id) for row_id in store.ids()]
        assert sum(counts) == 40 * 40
        assert max(counts) <= 14  # 4 are expected, with a standard deviation of 2
        assert counts.count(0) <= 20  # of 7 expected

    def test_an_empty_store_has_no_sample_and_no_facets(self, make: Make) -> None:
        store = make(DIM)
        assert len(store.sample(5)) == 0
        assert store.sample(5).embeddings.shape == (0, DIM)
        assert store.facets() == store.facets(["label"]) == []
        assert (store.count(), store.count(as_filter("label = 'a'"))) == (0, 0)

    def test_matching_rows_are_counted(self, make: Make) -> None:
        store = make(DIM)
        store.upsert(rows(np.random.default_rng(0).normal(size=(31, DIM))))
        view = store.snapshot()
        for text in ("label = 'a'", "label like '_' and not (label = 'b')", "label = 'x'"):
            where = as_filter(text)
            expected = int(where.mask(store.columns()).sum())
            for reader in (store, view):
                assert reader.count(where) == expected
                assert reader.count(reader.resolve_filter(where)) == expected
        everything = RowFilter(np.arange(30, -1, -1), view.columns())
        assert view.count(everything) == 31 == store.count(None)
        with pytest.raises(InputError, match="no column 'lable'"):
            store.count(as_filter("lable = 'a'"))
        store.delete(["r0000"])
        assert store.count(as_filter("label = 'a'")) == 15

    def test_facets_describe_columns_and_values(self, make: Make) -> None:
        store = make(DIM)
        metadata: list[dict[str, Any]] = [
            {"label": "a", "year": 2020, "tags": ["x", "y"], "ok": True},
            {"label": "b", "year": 1999.5, "tags": ["x"], "deep": {"k": 1}},
            {"label": "a", "year": 10**400, "mixed": 1, "none": None},
            {"label": "ü'\"", "mixed": "1", "tags": []},
            {"mixed": 1.0},
        ]
        metadata += [{"many": f"text {i}", "number": -i} for i in range(60)]
        stored = rows(np.random.default_rng(0).normal(size=(len(metadata), DIM)))
        store.upsert(replace(stored, metadata=metadata))
        by_id = dict(zip(stored.ids, metadata, strict=True))
        expected = facets(MetadataColumns([by_id[row_id] for row_id in sorted(by_id)]))
        names = ["label", "many", "mixed", "number", "ok", "tags", "year"]
        assert [facet.column for facet in expected] == names
        for reader in (store, store.snapshot()):
            assert reader.facets() == expected == reader.facets()
            some = reader.facets(["year", "label", "deep", "none", "year"])
            assert some == [expected[-1], expected[0]]
            assert reader.facets([]) == []
            for wrong in (["lable"], ["label", "Year"]):
                with pytest.raises(InputError, match=r"no column .*did you mean"):
                    reader.facets(wrong)
            with pytest.raises(LookalikeError, match="a list of names"):
                reader.facets("label")
        store.delete([row_id for row_id, fields in by_id.items() if fields.get("label") == "a"])
        [label] = store.facets(["label"])
        assert (label.rows, label.distinct) == (2, 2)
        assert dict(label.values or {}) == {"b": 1, "ü'\"": 1}
        assert store.facets(["label"]) == [label]
        assert label in store.facets()
