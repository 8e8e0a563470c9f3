"""Approximate search in large tables: building, using and updating Lance's index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalike.encoders.base import Encoder
from lookalike.filters import as_filter
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.recall import measure_recall
from lookalike.sources import Source
from lookalike.stores.base import Rows
from lookalike.stores.lance import index
from lookalike.stores.lance import snapshot as lance_snapshot
from lookalike.stores.lance.store import LanceStore
from lookalike.types import Metric

DIM = 16
COUNT = 4_000


def rows(count: int, seed: int, prefix: str) -> Rows:
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(7).normal(size=(40, DIM))
    vectors = centers[rng.integers(0, 40, count)] + 0.3 * rng.normal(size=(count, DIM))
    ids = [f"{prefix}:{i:05}" for i in range(count)]
    metadata = [{"part": i % 10, "rare": i % 1000 == 0} for i in range(count)]
    return Rows(ids, ids, vectors.astype(np.float32), metadata, ids)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LanceStore:
    monkeypatch.setattr(index, "EXACT_VALUES", 1_000 * DIM)
    monkeypatch.setattr(index, "_PARTITION", 100)
    monkeypatch.setattr(lance_snapshot, "_MAX_DIRECT", 50)
    large = LanceStore.create(tmp_path / "table", DIM)
    large.upsert(rows(COUNT, 1, "r"))
    large.optimize(Metric.COSINE)
    return large


def queries(count: int = 30) -> np.ndarray:
    return rows(count, 2, "q").embeddings


def recall(store: LanceStore, where: str | None = None) -> float:
    condition = None if where is None else as_filter(where)
    shared = 0.0
    for query in queries():
        [hits] = store.search(query[None], 10, Metric.COSINE, condition)
        [truth] = store.search(query[None], 10, Metric.COSINE, condition, exact=True)
        assert len(hits) == len(truth) == 10 or (where and len(hits) == len(truth))
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
        shared += len({hit.id for hit in hits} & {hit.id for hit in truth}) / len(truth)
        by_id = {hit.id: hit for hit in truth}
        for hit in hits:
            if hit.id in by_id:
                assert hit.distance == pytest.approx(by_id[hit.id].distance, abs=1e-9)
                assert hit.metadata == by_id[hit.id].metadata
    return shared / len(queries())


def test_large_tables_use_the_index(store: LanceStore) -> None:
    assert index.is_indexed(store.snapshot().dataset, Metric.COSINE)
    assert not index.is_indexed(store.snapshot().dataset, Metric.L2)
    assert recall(store) > 0.97
    assert not index.optimize(store.snapshot().dataset, Metric.COSINE)
    exact = store.search(queries(1), 10, Metric.L2)
    assert exact == store.search(queries(1), 10, Metric.L2, exact=True)


@pytest.mark.parametrize("where", ["part = 3", "part in (1, 2)", "rare = true", "part >= 0"])
def test_a_filter_does_not_reduce_the_number_of_hits(store: LanceStore, where: str) -> None:
    assert recall(store, where) > 0.9


def test_rows_newer_than_the_index_are_searched(store: LanceStore) -> None:
    new = rows(50, 3, "new")
    store.upsert(new)
    for place in (0, 20, 49):
        [hits] = store.search(new.embeddings[place : place + 1], 3, Metric.COSINE)
        assert hits[0].id == new.ids[place]
    store.delete([new.ids[0]])
    [hits] = store.search(new.embeddings[:1], 3, Metric.COSINE)
    assert new.ids[0] not in {hit.id for hit in hits}
    store.optimize(Metric.COSINE)
    stats = store.snapshot().dataset.stats.index_stats("embedding_cosine")
    assert stats["num_unindexed_rows"] == 0
    store.upsert(rows(COUNT, 4, "many"))
    store.optimize(Metric.COSINE)
    stats = store.snapshot().dataset.stats.index_stats("embedding_cosine")
    assert stats["num_unindexed_rows"] == 0
    assert recall(store) > 0.95


def test_a_gallery_builds_its_index_and_measures_recall(
    tmp_path: Path, pixels: Encoder, digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "EXACT_VALUES", 100 * 64)
    monkeypatch.setattr(index, "_PARTITION", 50)
    gallery = Gallery.create(tmp_path / "g", encoder=pixels)
    gallery.sync(digits)
    assert isinstance(gallery.store, LanceStore)
    assert index.is_indexed(gallery.store.snapshot().dataset, Metric.COSINE)
    facts = measure_recall(gallery, queries=20)
    assert facts["queries"] >= 20
    assert facts["recall@10"] > 0.9
    assert gallery.search(id="digits/train:3", exact=True)[0].id
