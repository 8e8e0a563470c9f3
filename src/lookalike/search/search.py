"""One search: the nearest rows to a query, their re-ranking, and fusion with keyword search.

Re-ranking reads the first 200 hits only, so its cost does not grow with the gallery.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.filters import Filter, Where, as_filter
from lookalike.images import local_features
from lookalike.search import rerank
from lookalike.search.keywords import RowFilter, fuse_rankings, keyword_index
from lookalike.search.query import QueryVectors
from lookalike.stores.base import MAX_K, RowReader
from lookalike.types import Embeddings, Hit, ImageArray, Metric
from lookalike.vectors import unit_rows

RERANKINGS: Mapping[str, str] = {
    "aqe": "alpha query expansion: search again with the query moved towards its 3 nearest rows",
    "dba": "database augmentation: compare with each hit moved towards its 3 nearest hits",
    "k-reciprocal": "prefer hits that share mutual nearest neighbors with the query",
    "diffusion": "rank hits by diffusion over their neighbor graph",
    "geometric": "geometric verification: first the hits whose local features match the query's",
}
"""Re-ranking methods and what each does."""

NEIGHBORS = 3
"""Neighbors used by query expansion and database augmentation. Where a query has few relevant
rows, more neighbors would pull it away from them."""

GEOMETRIC_DEPTH = 20
"""Hits whose images ``geometric`` reads."""

_ROUNDING = 1e-9
"""Distance that an image may have to itself by rounding."""

ImageReader = Callable[[Sequence[Hit]], Sequence[ImageArray | None]]
"""Reads the images of hits; None where one cannot be read."""

StageTimer = Callable[[str], AbstractContextManager[None]]
"""Returns the context in which the stage of that name runs."""


def no_timer(_: str) -> AbstractContextManager[None]:
    """Measure nothing."""
    return nullcontext()


def parse_rerankings(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of re-rankings; a string holds several joined by ``+``.

    Raises:
        UnknownNameError: no re-ranking has that name; the nearest one is suggested.
    """
    parts = names.split("+") if isinstance(names, str) else names or ()
    rerankings = tuple(name.strip() for name in parts)
    for name in rerankings:
        if name not in RERANKINGS:
            raise UnknownNameError("re-ranking", name, RERANKINGS)
    return rerankings


def distance_threshold(
    metric: Metric, max_distance: float | None, min_score: float | None
) -> float | None:
    """Return the maximum distance for a limit of distance or of cosine similarity.

    Raises:
        SettingError: both limits are set, ``min_score`` is out of range, or the metric is not
            cosine.
    """
    if min_score is None:
        return max_distance
    if max_distance is not None:
        raise SettingError(
            "{min_score} and {max_distance} exclude each other", min_score=None, max_distance=None
        )
    if metric is not Metric.COSINE:
        raise SettingError(
            "{min_score} needs the cosine metric; for l2 use {max_distance}",
            min_score=None,
            max_distance=None,
        )
    if not -1 <= min_score <= 1:
        raise SettingError("{min_score} must be from -1 to 1", min_score=min_score)
    return 1 - min_score + _ROUNDING


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How to search, checked; see :meth:`lookalike.Gallery.search` for each option.

    Raises:
        SettingError: ``k`` or ``max_distance`` is out of range.
        InputError: the filter cannot be parsed.
        UnknownNameError: no such re-ranking.
    """

    k: int
    metric: Metric
    where: Where | None = None
    max_distance: float | None = None
    exact: bool = False
    rerank: str | Sequence[str] | None = None
    keywords: str | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise SettingError("{k} must be at least 1", k=self.k)
        if self.max_distance is not None and not self.max_distance >= 0:
            raise SettingError("{max_distance} must be at least 0", max_distance=self.max_distance)
        if self.where is not None:
            object.__setattr__(self, "where", as_filter(self.where))
        object.__setattr__(self, "rerank", parse_rerankings(self.rerank))

    @property
    def filter(self) -> Filter | None:
        """The condition on metadata, parsed."""
        return None if self.where is None else as_filter(self.where)

    @property
    def rerankings(self) -> tuple[str, ...]:
        """The names of the re-rankings, in their order."""
        return parse_rerankings(self.rerank)

    @property
    def needs_image(self) -> bool:
        """Whether a re-ranking reads the query's image."""
        return "geometric" in self.rerankings

    def run(
        self,
        store: RowReader,
        query: QueryVectors,
        read_images: ImageReader,
        timer: StageTimer = no_timer,
    ) -> tuple[Hit, ...]:
        """Return at most ``k`` hits, best first; distances are from the query to the rows.

        Args:
            store: the rows; a snapshot, where others may write meanwhile.
            query: the query's embeddings; none for a search by keywords alone.
            read_images: for geometric verification.
            timer: entered around the stages ``search``, ``rerank`` and ``keywords``.

        Raises:
            InputError: geometric verification of a query that is not an image, or keywords
                without a word.
            MissingDependencyError: geometric verification without OpenCV.
        """
        depth = max(self.k, rerank.DEPTH) if self.rerankings or self.keywords else self.k
        hits: list[Hit] = []
        with timer("search"):
            if len(query.embeddings):
                hits = self._nearest(store, query.embeddings, query.row_id, depth)
        if self.rerankings:
            with timer("rerank"):
                hits = self._rerank(store, query, read_images, hits, depth)
        if self.keywords is not None:
            with timer("keywords"):
                hits = self._fuse_keywords(store, query, hits, depth)
        limit = math.inf if self.max_distance is None else self.max_distance
        results = [hit for hit in hits if hit.distance <= limit][: self.k]
        return tuple(
            hit if hit.rank == rank else replace(hit, rank=rank)
            for rank, hit in enumerate(results, 1)
        )

    def _nearest(
        self,
        store: RowReader,
        vectors: Embeddings,
        own_id: str | None,
        depth: int,
        where: Filter | None = None,
    ) -> list[Hit]:
        """Return the nearest rows to any of the query vectors ``(v, dim)``, nearest first.

        The nearest rows to several vectors are among the nearest to each, so this is as exact as
        the store.
        """
        k = min(depth + (own_id is not None), max(depth, MAX_K))
        results = store.search(vectors, k, self.metric, where or self.filter, exact=self.exact)
        if len(results) == 1:
            return [hit for hit in results[0] if hit.id != own_id][:depth]
        best: dict[str, Hit] = {}
        for hit in (hit for hits in results for hit in hits if hit.id != own_id):
            if hit.id not in best or hit.distance < best[hit.id].distance:
                best[hit.id] = hit
        return sorted(best.values(), key=lambda hit: (hit.distance, hit.id))[:depth]

    def _fuse_keywords(
        self, store: RowReader, query: QueryVectors, hits: list[Hit], depth: int
    ) -> list[Hit]:
        """Return hits fused by rank with the rows whose metadata match the keywords.

        Without an image, a row's distance is 1 - BM25 / (BM25 of the best row).
        """
        rows, scores = self._keyword_scores(store, query.row_id)
        if not scores:
            return hits
        if not len(query.embeddings):
            return _keyword_hits(store, scores, self.k)
        nearest = self._nearest(store, query.embeddings, query.row_id, depth, RowFilter(rows))
        by_id = {hit.id: hit for hit in hits}
        by_id |= {hit.id: hit for hit in nearest if hit.id not in by_id}
        ranked = [(row_id, score) for row_id, score in scores.items() if row_id in by_id]
        return [by_id[row_id] for row_id in fuse_rankings(list(by_id), ranked)]

    def _keyword_scores(
        self, store: RowReader, own_id: str | None
    ) -> tuple[NDArray[np.int64], dict[str, float]]:
        """Return the rows with the keywords that pass the filter, and their BM25 by id.

        The best come first. ``own_id`` has no score.
        """
        columns = store.columns()
        rows, scores = keyword_index(columns).search(str(self.keywords))
        if self.filter is not None and len(rows):
            passing = self.filter.mask(columns)[rows]
            rows, scores = rows[passing], scores[passing]
        ids = store.ids()
        by_id = {ids[row]: score for row, score in zip(rows.tolist(), scores.tolist(), strict=True)}
        by_id.pop(own_id or "", None)
        return rows, by_id

    def _rerank(
        self,
        store: RowReader,
        query: QueryVectors,
        read_images: ImageReader,
        hits: list[Hit],
        depth: int,
    ) -> list[Hit]:
        """Return the hits in the order of the last re-ranking."""
        if not hits:
            return hits
        rows = store.embeddings([hit.id for hit in hits])
        closest = _distances(query.embeddings, rows[:1], self.metric)[:, 0].argmin()
        vector = query.embeddings[closest]
        for name in self.rerankings:
            if name == "aqe":
                vector = rerank.alpha_query_expansion(vector, rows[:NEIGHBORS])
                hits = self._nearest(store, vector[None], query.row_id, depth)
                rows = store.embeddings([hit.id for hit in hits])
                continue
            if name == "geometric":
                order = _verified_order(query.image, hits, read_images)
            else:
                order = np.argsort(_rerank_distances(name, vector, rows), kind="stable").tolist()
            hits, rows = [hits[i] for i in order], rows[order]
        distances = _distances(query.embeddings, rows, self.metric).min(axis=0)
        return [replace(hit, distance=float(d)) for hit, d in zip(hits, distances, strict=True)]


def _keyword_hits(store: RowReader, scores: Mapping[str, float], k: int) -> list[Hit]:
    ids = list(scores)[:k]
    rows = store.get(ids)
    best = max(scores[ids[0]], 1e-12)
    fields = zip(rows.ids, rows.uris, rows.metadata, strict=True)
    return [
        Hit(rank, row_id, uri, max(0.0, 1 - scores[row_id] / best), metadata)
        for rank, (row_id, uri, metadata) in enumerate(fields, 1)
    ]


def _rerank_distances(
    name: str, query: NDArray[np.float32], rows: Embeddings
) -> NDArray[np.floating]:
    if name == "k-reciprocal":
        return rerank.k_reciprocal_distances(query, rows)
    if name == "diffusion":
        return rerank.diffusion_distances(query, rows)
    augmented = rerank.database_augmentation(rows, NEIGHBORS)
    return np.asarray(-(augmented @ unit_rows(query[None])[0]))


def _verified_order(
    image: ImageArray | None, hits: Sequence[Hit], read_images: ImageReader
) -> list[int]:
    if image is None:
        raise InputError(
            "re-ranking by geometric verification compares images: the query must be an image, "
            "not a text or a vector"
        )
    candidates = hits[:GEOMETRIC_DEPTH]
    matches = local_features.verify_candidates(image, read_images(candidates))
    inliers = [None if match is None else match.inlier_count for match in matches]
    order = local_features.rerank_order([hit.distance for hit in candidates], inliers)
    return [*order, *range(len(candidates), len(hits))]


def _distances(queries: Embeddings, rows: Embeddings, metric: Metric) -> NDArray[np.float64]:
    """Return the distance of each query to each row, ``(q, k)``."""
    a, b = queries.astype(np.float64), rows.astype(np.float64)
    if metric is Metric.L2:
        return np.asarray(np.linalg.norm(a[:, None] - b[None], axis=2))
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
    product = np.divide(a @ b.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return np.asarray(np.clip(1 - product, 0, 2))
