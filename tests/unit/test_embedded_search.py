"""Search of the embedded store: over blocks of codes, dead rows and ties, as of every distance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalike.filters import as_filter
from lookalike.stores import exact, quantized
from lookalike.stores.base import Rows
from lookalike.stores.embedded import snapshot, vector_files
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.types import Metric

DIM = 5
BLOCK = 16


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_files, "BLOCK", BLOCK)
    monkeypatch.setattr(quantized, "BLOCK", BLOCK)
    monkeypatch.setattr(snapshot, "_MANY_TIES", 20)


def expected_ids(
    stored: dict[str, np.ndarray], query: np.ndarray, k: int, metric: Metric
) -> list[str]:
    vectors = np.array(list(stored.values())).astype(np.float64)
    distances = exact._distances(vectors, query.astype(np.float64), metric)
    return [row_id for _, row_id in sorted(zip(distances.tolist(), stored, strict=True))][:k]


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("distinct", [200, 12, 1])
def test_hits_are_those_of_every_distance(tmp_path: Path, metric: Metric, distinct: int) -> None:
    """Ids are in no order of slots; rows are replaced and deleted, and many are alike."""
    rng = np.random.default_rng(distinct)
    pool = rng.normal(size=(distinct, DIM)).astype(np.float32)
    store = EmbeddedStore.create(tmp_path / "store", DIM)
    stored: dict[str, np.ndarray] = {}
    for count in (7, 60, 90, 40):
        ids = [f"{i:03}" for i in rng.choice(200, count, replace=False)]
        vectors = pool[rng.integers(0, distinct, count)]
        metadata = [{"even": int(row_id) % 2 == 0} for row_id in ids]
        store.upsert(Rows(ids, ids, vectors, metadata, ids))
        stored |= dict(zip(ids, vectors, strict=True))
        gone = ids[:3]
        store.delete(gone)
        for row_id in gone:
            del stored[row_id]
        even = {row_id: each for row_id, each in stored.items() if int(row_id) % 2 == 0}
        queries = np.concatenate([pool[:4], rng.normal(size=(9, DIM)).astype(np.float32)])
        for k in (1, 9, 30, 500):
            for where, matching in ((None, stored), (as_filter("even = true"), even)):
                for some in (queries, queries[:1]):
                    hits = store.search(some, k, metric, where)
                    for query, row in zip(some, hits, strict=True):
                        assert [hit.id for hit in row] == expected_ids(matching, query, k, metric)
