"""One search over a store: several vectors, re-rankings in sequence, invalid options."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import CancelledError, InputError, SettingError, UnknownNameError
from lookalike.filters import Columns, as_filter
from lookalike.images.local_features import MIN_INLIERS
from lookalike.search import rerank
from lookalike.search.hits import ImageReader
from lookalike.search.query import QueryVectors
from lookalike.search.request import RERANKINGS, Query, SearchRequest, parse_rerankings
from lookalike.search.search import search_rows
from lookalike.stores.base import RowReader, Rows, VectorStore
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.stores.full_text import FullText
from lookalike.stores.memory import MemoryStore
from lookalike.types import Hit, ImageArray, Metric
from tests.conftest import Require

DIM = 6
ROWS = 60


def no_images(hits: Sequence[Hit]) -> list[ImageArray | None]:
    raise AssertionError(f"{len(hits)} images were read")


@pytest.fixture(params=["memory", "embedded"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> VectorStore:
    """Sixty rows of different lengths around five centers; the last ten duplicate the first ten."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(5, DIM))[rng.integers(5, size=ROWS)] + rng.normal(size=(ROWS, DIM))
    values[50:] = values[:10]
    ids = [f"{i:02}" for i in range(ROWS)]
    metadata = [{"even": i % 2 == 0, "k": i} for i in range(ROWS)]
    store: VectorStore
    store = (
        MemoryStore(DIM)
        if request.param == "memory"
        else EmbeddedStore.create(tmp_path / "table", DIM)
    )
    store.upsert(Rows(ids, ids, values.astype(np.float32), metadata, ids))
    return store


def query(seed: int = 0, vectors: int = 1, row_id: str | None = None) -> QueryVectors:
    rng = np.random.default_rng(seed)
    row_ids = () if row_id is None else (row_id,)
    return QueryVectors("query", None, rng.normal(size=(vectors, DIM)).astype(np.float32), row_ids)


def request_of(**options: Any) -> SearchRequest:
    """Return a request whose query is encoded already."""
    return SearchRequest(queries=(Query.of(id="encoded"),), **options)


def run(
    request: SearchRequest, store: RowReader, query: QueryVectors, read_images: ImageReader
) -> tuple[Hit, ...]:
    [hits] = search_rows(request, store, [query], read_images)
    return hits.rows


def search(
    k: int = 7,
    metric: Metric = Metric.COSINE,
    *,
    where: str | None = None,
    max_distance: float | None = None,
    rerank: str | Sequence[str] | None = None,
) -> SearchRequest:
    return request_of(k=k, metric=metric, where=where, max_distance=max_distance, rerank=rerank)


def distance(a: np.ndarray, b: np.ndarray, metric: Metric) -> float:
    a, b = a.astype(float), b.astype(float)
    if metric is Metric.L2:
        return float(np.linalg.norm(a - b))
    return 1 - float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def nearest(
    store: VectorStore,
    query: QueryVectors,
    metric: Metric,
    keep: Callable[[int], bool] = lambda _: True,
) -> list[tuple[float, str]]:
    """Return all rows by distance to the nearest vector, ties by id, with loops."""
    pairs = []
    for record in store.records():
        if record.id in query.row_ids or not keep(int(record.id)):
            continue
        row = store.get([record.id]).embeddings[0]
        # Duplicates have equal distances.
        pairs.append((round(min(distance(v, row, metric) for v in query.embeddings), 9), record.id))
    return sorted(pairs)


def test_rerankings_are_a_string_or_a_list() -> None:
    assert parse_rerankings(None) == ()
    assert parse_rerankings("aqe") == ("aqe",)
    assert parse_rerankings(" k-reciprocal + aqe") == ("k-reciprocal", "aqe")
    assert parse_rerankings(["diffusion", "dba"]) == ("diffusion", "dba")
    assert parse_rerankings(()) == ()
    assert all(parse_rerankings(name) == (name,) for name in RERANKINGS)
    with pytest.raises(UnknownNameError, match=r"'difusion'.*diffusion"):
        parse_rerankings("k-reciprocal+difusion")
    with pytest.raises(UnknownNameError, match="re-ranking"):
        parse_rerankings("")
    with pytest.raises(UnknownNameError) as error:
        parse_rerankings("x" * 100_000)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("names", ["aqe+aqe", "+".join(["geometric"] * 24), ["dba", "aqe", "dba"]])
def test_a_reranking_occurs_at_most_once(names: str | Sequence[str]) -> None:
    with pytest.raises(SettingError, match=r"'(aqe|geometric|dba)' occurs twice"):
        search(rerank=names)


class CountedFilter:
    """A filter that counts how often it is evaluated."""

    def __init__(self, where: str) -> None:
        self.where, self.count = as_filter(where), 0

    def mask(self, columns: Columns) -> np.ndarray:
        self.count += 1
        return self.where.mask(columns)


def test_a_filter_is_evaluated_once_per_search(store: VectorStore) -> None:
    for rerank_names, keywords, vectors in (
        (None, None, 1),
        ("aqe+dba+k-reciprocal+diffusion", None, 14),
        ("aqe", "1 2 3", 14),
        (None, "1 2 3", 0),
    ):
        where = CountedFilter("even = true")
        options = request_of(
            k=5, metric=Metric.L2, where=where, rerank=rerank_names, keywords=keywords
        )
        hits = run(options, store, query(vectors=vectors), no_images)
        assert hits
        assert all(hit.metadata["even"] for hit in hits)
        assert where.count == 1


def test_rerankings_read_few_hits_however_many_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, store: VectorStore
) -> None:
    monkeypatch.setattr(rerank, "DEPTH", 10)
    plain = run(search(40), store, query(), no_images)
    for name in ("dba", "k-reciprocal", "diffusion"):
        hits = run(search(40, rerank=name), store, query(), no_images)
        assert [hit.id for hit in hits[10:]] == [hit.id for hit in plain[10:]]
        assert {hit.id for hit in hits[:10]} == {hit.id for hit in plain[:10]}


class CountedCancellation(Cancellation):
    """Ends the work at the n-th check."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.checks = checks

    def check(self) -> None:
        self.checks -= 1
        if self.checks == 0:
            self.cancel()
        super().check()


@pytest.mark.parametrize(
    "options",
    [
        {"rerank": "aqe+dba+k-reciprocal+diffusion"},
        {"keywords": "1 2 3"},
        {"where": "even = true"},
    ],
)
def test_a_search_can_be_cancelled_at_each_of_its_checks(
    store: VectorStore, options: dict[str, str]
) -> None:
    """However far it was, the next search has the same results."""
    search_options = request_of(k=7, metric=Metric.COSINE, **options)
    cancelled = 0
    for checks in range(1, 400):
        cancellation = CountedCancellation(checks)
        try:
            with cancellable(cancellation):
                hits = run(search_options, store, query(vectors=14), no_images)
            break
        except CancelledError:
            cancelled += 1
    assert cancelled >= 5
    assert hits == run(search_options, store, query(vectors=14), no_images)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(SettingError, match="k=0 must be at least 1"):
        search(0)
    for bad in (-0.1, math.nan):
        with pytest.raises(SettingError, match=r"max_distance=.* must be at least 0"):
            search(max_distance=bad)
    with pytest.raises(InputError):
        search(where="year >=")
    with pytest.raises(UnknownNameError):
        search(rerank="none")
    assert search(max_distance=0).max_distance == 0
    assert search(rerank="aqe+geometric").needs_image
    assert not search(rerank="aqe").needs_image


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("vectors", [1, 2, 14])
@pytest.mark.parametrize("row_id", [None, "04"])
def test_each_row_counts_with_its_nearest_vector(
    store: VectorStore, metric: Metric, vectors: int, row_id: str | None
) -> None:
    query_vectors = query(1, vectors, row_id)
    expected = nearest(store, query_vectors, metric)
    for k in (1, 5, 59, 100):
        hits = run(search(k, metric), store, query_vectors, no_images)
        assert [hit.id for hit in hits] == [row_id for _, row_id in expected[:k]]
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        distances = [d for d, _ in expected[:k]]
        np.testing.assert_allclose([hit.distance for hit in hits], distances, atol=1e-6)


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("name", ["k-reciprocal", "diffusion", "dba"])
def test_reranking_defines_the_order(store: VectorStore, metric: Metric, name: str) -> None:
    query_vectors = query(2, row_id="07")
    first = [row_id for _, row_id in nearest(store, query_vectors, metric)]
    rows = store.embeddings(first)
    [vector] = query_vectors.embeddings
    if name == "dba":
        unit = vector / np.linalg.norm(vector)
        scores = -rerank.database_augmentation(rows, 3) @ unit
    else:
        methods: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
            "k-reciprocal": rerank.k_reciprocal_distances,
            "diffusion": rerank.diffusion_distances,
        }
        scores = methods[name](vector, rows)
    expected = [first[i] for i in np.argsort(scores, kind="stable")]
    hits = run(search(ROWS * 2, metric, rerank=name), store, query_vectors, no_images)
    assert [hit.id for hit in hits] == expected
    assert expected != first
    for rank, hit in enumerate(hits, 1):
        row = store.get([hit.id]).embeddings[0]
        assert (hit.rank, hit.uri, hit.metadata["k"]) == (rank, hit.id, int(hit.id))
        assert hit.distance == pytest.approx(distance(vector, row, metric), abs=1e-6)
    assert run(search(4, metric, rerank=name), store, query_vectors, no_images) == hits[:4]


@pytest.mark.parametrize("metric", list(Metric))
def test_query_expansion_searches_again(
    store: VectorStore, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerank, "DEPTH", 4)
    new_hits = 0
    for seed in range(8):
        query_vectors = query(seed)
        first = [row_id for _, row_id in nearest(store, query_vectors, metric)]
        moved = rerank.alpha_query_expansion(
            query_vectors.embeddings[0], store.embeddings(first[:3])
        )
        again = nearest(store, QueryVectors("moved", None, moved[None]), metric)
        hits = run(search(4, metric, rerank="aqe"), store, query_vectors, no_images)
        assert [hit.id for hit in hits] == [row_id for _, row_id in again[:4]]
        new_hits += len({hit.id for hit in hits} - set(first[:4]))
        for hit in hits:
            row = store.get([hit.id]).embeddings[0]
            expected = distance(query_vectors.embeddings[0], row, metric)
            assert hit.distance == pytest.approx(expected, abs=1e-6)
    assert new_hits


@pytest.mark.parametrize("name", ["aqe", "dba", "k-reciprocal", "diffusion"])
def test_filters_and_distance_limits_apply_to_reranked_hits(store: VectorStore, name: str) -> None:
    query_vectors = query(5, vectors=3, row_id="08")
    every = run(search(ROWS, where="even = true", rerank=name), store, query_vectors, no_images)
    assert sorted(int(hit.id) for hit in every) == [i for i in range(0, ROWS, 2) if i != 8]
    limit = float(np.median([hit.distance for hit in every]))
    near = search(ROWS, where="even = true", max_distance=limit, rerank=name)
    limited = run(near, store, query_vectors, no_images)
    assert [hit.id for hit in limited] == [hit.id for hit in every if hit.distance <= limit]
    assert [hit.rank for hit in limited] == list(range(1, len(limited) + 1))
    true = {row_id: d for d, row_id in nearest(store, query_vectors, Metric.COSINE)}
    assert all(hit.distance == pytest.approx(true[hit.id], abs=1e-6) for hit in every)


def test_rerankings_run_in_sequence(store: VectorStore) -> None:
    query_vectors = query(6)
    [vector] = query_vectors.embeddings
    moved = rerank.alpha_query_expansion(
        vector, store.embeddings([i for _, i in nearest(store, query_vectors, Metric.COSINE)[:3]])
    )
    ids = [i for _, i in nearest(store, QueryVectors("moved", None, moved[None]), Metric.COSINE)]
    order = np.argsort(rerank.k_reciprocal_distances(moved, store.embeddings(ids)), kind="stable")
    both = run(search(ROWS, rerank="aqe+k-reciprocal"), store, query_vectors, no_images)
    assert [hit.id for hit in both] == [ids[i] for i in order]
    reversed_order = run(search(ROWS, rerank="k-reciprocal+aqe"), store, query_vectors, no_images)
    first = run(search(3, rerank="k-reciprocal"), store, query_vectors, no_images)
    moved = rerank.alpha_query_expansion(vector, store.embeddings([hit.id for hit in first]))
    ids = [i for _, i in nearest(store, QueryVectors("moved", None, moved[None]), Metric.COSINE)]
    assert [hit.id for hit in reversed_order] == ids


@pytest.mark.parametrize("name", [None, *RERANKINGS])
def test_a_filter_that_nothing_matches_has_no_hits(store: VectorStore, name: str | None) -> None:
    options = search(where="k > 1000", rerank=name)
    assert run(options, store, query(), no_images) == ()


def test_geometric_verification_needs_an_image(store: VectorStore) -> None:
    with pytest.raises(InputError, match="the query must be an image"):
        run(search(rerank="geometric"), store, query(), no_images)


def test_geometrically_verified_hits_are_first(tmp_path: Path, require: Require) -> None:
    try:
        import cv2  # noqa: F401
    except ImportError:
        require(False, "OpenCV is not installed")
    from sklearn.datasets import load_sample_images

    china, flower = (np.asarray(image) for image in load_sample_images().images)
    pictures = {"flower": flower[100:420, 100:500], "china": china[60:400, 120:560]}
    blank = np.full((200, 200, 3), 90, np.uint8)
    for name, pixels in {**pictures, "blank": blank}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    ids = ["blank", "china", "flower", "gone"]
    uris = [str(tmp_path / f"{row_id}.png") for row_id in ids]
    store = MemoryStore(2)
    vectors = np.array([(1, 0), (0.5, 1), (1, 0.2), (1, 0.1)], np.float32)
    store.upsert(Rows(ids, uris, vectors, [{}] * 4, ids))
    warped = np.asarray(Image.fromarray(china).rotate(8).crop((150, 80, 500, 380)))
    query_vectors = QueryVectors("china", None, np.array([(1, 0)], np.float32), (), warped)

    def read_images(hits: Sequence[Hit]) -> list[ImageArray | None]:
        return [np.asarray(Image.open(each.uri)) if each.id != "gone" else None for each in hits]

    plain = run(search(4), store, query_vectors, read_images)
    assert [hit.id for hit in plain] == ["blank", "gone", "flower", "china"]
    [hits] = search_rows(search(4, rerank="geometric"), store, [query_vectors], read_images)
    assert [hit.id for hit in hits] == ["china", "blank", "gone", "flower"]
    assert set(hits.matches) == {"china"}
    points = hits.matches["china"]
    assert len(points) >= MIN_INLIERS
    assert points.min() >= 0
    assert points.max() <= 1
    middle = np.array([(150 + 500) / 2 - 120, (80 + 380) / 2 - 60]) / (440, 340)  # of the crop
    assert np.abs(np.median(points, axis=0) - middle).max() < 0.3
    first, second = (hits.hit_as_dict(hit) for hit in hits[:2])
    assert len(first["matches"]) == min(100, len(points))
    assert second["matches"] is None
    assert {hit.id: hit.distance for hit in hits} == pytest.approx(
        {hit.id: hit.distance for hit in plain}, abs=1e-6
    )


def test_the_queries_of_a_batch_share_filter_and_keywords(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[str] = []
    matching = FullText._slots_matching

    def counted(index: FullText, table: str, query: str) -> np.ndarray:
        searches.append(table)
        return matching(index, table, query)

    monkeypatch.setattr(FullText, "_slots_matching", counted)
    view = store.snapshot()
    where = CountedFilter("even = true")
    options = request_of(k=5, metric=Metric.L2, where=where, keywords="1 2 3")
    for seed in range(6):
        assert run(options, view, query(seed), no_images)
    assert where.count == 1
    assert searches == ["metadata_text", "name_text"]
    other = request_of(k=5, metric=Metric.L2, where=CountedFilter("even = false"), keywords="4")
    hits = run(other, view, query(), no_images)
    assert not any(hit.metadata["even"] for hit in hits)
    assert all(hit.metadata["even"] for hit in run(options, view, query(), no_images))
    assert len(searches) == 6
