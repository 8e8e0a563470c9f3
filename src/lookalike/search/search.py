"""One search: the nearest rows to a query, their re-ranking, and fusion with keyword search.

Re-ranking reads the first 200 hits only, so its cost does not grow with the gallery. Between its
steps a search checks whether it was cancelled.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError, MissingRowError, SettingError, UnknownNameError
from lookalike.filters import Filter, RowFilter, Where, as_filter
from lookalike.images import local_features
from lookalike.search import rerank
from lookalike.search.hits import ImageReader
from lookalike.search.keywords import fuse_rankings, keyword_index
from lookalike.search.query import QueryVectors
from lookalike.stores.base import MAX_K, RowReader
from lookalike.texts import repeated
from lookalike.types import Embeddings, Hit, ImageArray, Metric
from lookalike.vectors import unit_rows

T = TypeVar("T")

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

_LONGEST_NAME = 60
"""Characters of an unknown re-ranking that a message shows."""

_ROUNDING = 1e-9
"""Distance that an image may have to itself by rounding."""

StageTimer = Callable[[str], AbstractContextManager[None]]
"""Returns the context in which the stage of that name runs."""


def no_timer(_: str) -> AbstractContextManager[None]:
    """Measure nothing."""
    return nullcontext()


def parse_rerankings(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of re-rankings; a string holds several joined by ``+``.

    Raises:
        UnknownNameError: no re-ranking has that name; the nearest one is suggested.
        SettingError: one occurs twice.
    """
    parts = names.split("+") if isinstance(names, str) else names or ()
    rerankings = tuple(name.strip() for name in parts)
    for name in rerankings:
        if name not in RERANKINGS:
            raise UnknownNameError("re-ranking", name[:_LONGEST_NAME], RERANKINGS)
    if (twice := repeated(rerankings)) is not None:
        raise SettingError(f"{{rerank}}: {twice!r} occurs twice, each may once", rerank=None)
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
        SettingError: ``k`` or ``max_distance`` is out of range, or a re-ranking occurs twice.
        InputError: the filter cannot be parsed, or is too large.
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
            store: the rows; of one that can be written, they are read from one snapshot.
            query: the query's embeddings; none for a search by keywords alone.
            read_images: for geometric verification.
            timer: entered around the stages ``search``, ``rerank`` and ``keywords``.

        Raises:
            InputError: geometric verification of a query that is not an image, or keywords
                without a word.
            MissingDependencyError: geometric verification without OpenCV.
            CancelledError: the search was cancelled, or took too long.
        """
        snapshot = getattr(store, "snapshot", None)
        if snapshot is not None:
            store = snapshot()
        return _Search(self, store, query, read_images).run(timer)


@dataclass(slots=True)
class _Search:
    """One search in one snapshot of the rows; the filter is evaluated once."""

    options: SearchOptions
    store: RowReader
    query: QueryVectors
    read_images: ImageReader
    where: Filter | None = None
    depth: int = 0

    def run(self, timer: StageTimer) -> tuple[Hit, ...]:
        """Return the hits."""
        options = self.options
        self.depth = options.k
        if options.rerankings or options.keywords is not None:
            self.depth = max(options.k, rerank.DEPTH)
        hits: list[Hit] = []
        with timer("search"):
            if options.filter is not None:
                self.where = self.store.resolve_filter(options.filter)
            if len(self.query.embeddings):
                hits = self._nearest(self.query.embeddings, self.where)
        if options.rerankings and hits:
            with timer("rerank"):
                hits = self._rerank(hits)
        if options.keywords is not None:
            with timer("keywords"):
                hits = self._fuse_keywords(hits, options.keywords)
        limit = math.inf if options.max_distance is None else options.max_distance
        results = [hit for hit in hits if hit.distance <= limit][: options.k]
        return tuple(
            hit if hit.rank == rank else replace(hit, rank=rank)
            for rank, hit in enumerate(results, 1)
        )

    def _nearest(self, vectors: Embeddings, where: Filter | None) -> list[Hit]:
        """Return the nearest rows to any of the query vectors ``(v, dim)``, nearest first.

        The nearest rows to several vectors are among the nearest to each, so this is as exact as
        the store.
        """
        own_id, depth = self.query.row_id, self.depth
        k = min(depth + (own_id is not None), max(depth, MAX_K))
        options = self.options
        results = self.store.search(vectors, k, options.metric, where, exact=options.exact)
        if len(results) == 1:
            return [hit for hit in results[0] if hit.id != own_id][:depth]
        best: dict[str, Hit] = {}
        for hits in results:
            check_cancelled()
            for hit in hits:
                if hit.id != own_id and (
                    hit.id not in best or hit.distance < best[hit.id].distance
                ):
                    best[hit.id] = hit
        return sorted(best.values(), key=lambda hit: (hit.distance, hit.id))[:depth]

    def _fuse_keywords(self, hits: list[Hit], keywords: str) -> list[Hit]:
        """Return hits fused by rank with the rows whose metadata match the keywords.

        Without an image, a row's distance is 1 - BM25 / (BM25 of the best row).
        """
        rows, scores = self._keyword_rows(keywords)
        if not len(rows):
            return hits
        if not len(self.query.embeddings):
            return self._keyword_hits(rows, scores)
        by_keywords = RowFilter(rows, self.store.columns())
        by_id = {hit.id: hit for hit in hits}
        for hit in self._nearest(self.query.embeddings, by_keywords):
            by_id.setdefault(hit.id, hit)
        score_of = dict(zip(rows.tolist(), scores.tolist(), strict=True))
        ids = self.store.ids()
        places = ((row_id, _place(ids, row_id)) for row_id in by_id)
        matching = [
            (-score_of[place], place, row_id) for row_id, place in places if place in score_of
        ]
        ranked = [(row_id, -negative) for negative, _, row_id in sorted(matching)]
        return [by_id[row_id] for row_id in fuse_rankings(list(by_id), ranked)]

    def _keyword_rows(self, keywords: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the rows with the keywords that pass the filter, best first, and their BM25.

        The row that is the query is left out.
        """
        columns = self.store.columns()
        rows, scores = keyword_index(columns).search(keywords)
        passing = np.ones(len(rows), np.bool_)
        if self.where is not None and len(rows):
            passing = self.where.mask(columns)[rows]
        if self.query.row_id is not None:
            passing &= rows != _place(self.store.ids(), self.query.row_id)
        return rows[passing], scores[passing]

    def _keyword_hits(self, rows: NDArray[np.int64], scores: NDArray[np.float64]) -> list[Hit]:
        ids = self.store.ids()
        distances = np.maximum(0, 1 - scores / max(float(scores[0]), 1e-12)).tolist()
        by_id = {
            ids[row]: distance
            for row, distance in zip(rows[: self.options.k].tolist(), distances, strict=False)
        }
        existing = self._read_existing([*by_id], self.store.get)
        records = (record for rows in existing for record in rows.records())
        return [
            Hit(rank, each.id, each.uri, by_id[each.id], each.metadata)
            for rank, each in enumerate(records, 1)
        ]

    def _read_existing(self, ids: Sequence[str], read: Callable[[Sequence[str]], T]) -> list[T]:
        """Return what is read of rows, in parts; those deleted on a server meanwhile are left out.

        In other stores the rows of a snapshot stay, and there is one part.
        """
        try:
            return [read(ids)]
        except MissingRowError:
            half = len(ids) // 2
            if not half:
                return []
        parts = self._read_existing(ids[:half], read)
        return [*parts, *self._read_existing(ids[half:], read)]

    def _rerank(self, hits: list[Hit]) -> list[Hit]:
        """Return the hits, of which the first 200 are in the order of the last re-ranking."""
        metric, embeddings = self.options.metric, self.query.embeddings
        hits, rows = self._with_embeddings(hits)
        if not hits:
            return hits
        closest = _distances(embeddings, rows[:1], metric)[:, :1].argmin()
        vector = embeddings[closest]
        for name in self.options.rerankings:
            check_cancelled()
            if not hits:
                break
            if name == "aqe":
                vector = rerank.alpha_query_expansion(vector, rows[:NEIGHBORS])
                hits, rows = self._with_embeddings(self._nearest(vector[None], self.where))
                continue
            count = min(len(hits), rerank.DEPTH)
            if name == "geometric":
                first = _verified_order(self.query.image, hits, self.read_images)
            else:
                distances = _rerank_distances(name, vector, rows[:count])
                first = np.argsort(distances, kind="stable").tolist()
            order = [*first, *range(len(first), len(hits))]
            hits, rows = [hits[i] for i in order], rows[order]
        nearest = _distances(embeddings, rows, metric).min(axis=0)
        return [replace(hit, distance=float(d)) for hit, d in zip(hits, nearest, strict=True)]

    def _with_embeddings(self, hits: list[Hit]) -> tuple[list[Hit], Embeddings]:
        """Return hits that still exist, and their embeddings."""

        def read(ids: Sequence[str]) -> tuple[Sequence[str], Embeddings]:
            return ids, self.store.embeddings(ids)

        parts = self._read_existing([hit.id for hit in hits], read)
        kept = {row_id for ids, _ in parts for row_id in ids}
        rows = [np.empty((0, self.store.dim), np.float32), *(part for _, part in parts)]
        return [hit for hit in hits if hit.id in kept], np.concatenate(rows)


def _place(ids: Sequence[str], row_id: str) -> int:
    """Return the row number of an id; -1 if a row on a server is newer than the snapshot."""
    place = bisect_left(ids, row_id)
    return place if place < len(ids) and ids[place] == row_id else -1


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
    return local_features.rerank_order([hit.distance for hit in candidates], inliers)


_CHUNK_VALUES = 1 << 22
"""Values of differences held at a time, in 64 bits (32 MiB)."""


def _distances(queries: Embeddings, rows: Embeddings, metric: Metric) -> NDArray[np.float64]:
    """Return the distance of each query to each row, ``(q, k)``."""
    result = np.empty((len(queries), len(rows)))
    step = max(1, _CHUNK_VALUES // max(1, queries.size))
    for start in range(0, len(rows), step):
        check_cancelled()
        part = rows[start : start + step].astype(np.float64)
        result[:, start : start + step] = _distances_of_part(
            queries.astype(np.float64), part, metric
        )
    return result


def _distances_of_part(
    a: NDArray[np.float64], b: NDArray[np.float64], metric: Metric
) -> NDArray[np.float64]:
    if metric is Metric.L2:
        return np.asarray(np.linalg.norm(a[:, None] - b[None], axis=2))
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
    product = np.divide(a @ b.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return np.asarray(np.clip(1 - product, 0, 2))
