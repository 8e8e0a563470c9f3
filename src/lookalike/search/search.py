"""The search in a store: the nearest rows, their re-ranking, and fusion with keyword search.

Re-ranking reads the first 200 hits only, so its cost does not grow with the gallery. Between its
steps a search checks whether it was cancelled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import TEXT_COMMAND, InputError, MissingRowError
from lookalike.filters import Filter, RowFilter
from lookalike.formatting import shorten
from lookalike.search import rerank
from lookalike.search.hits import Hits, ImageReader, Positions
from lookalike.search.keywords import fuse_rankings, with_text
from lookalike.search.ordering import best_by_score, order_rows
from lookalike.search.query import QueryVectors
from lookalike.search.request import SearchRequest
from lookalike.stores.base import (
    MAX_K,
    ApproximateHits,
    RowReader,
    TextSearch,
    has_approximate_index,
)
from lookalike.stores.full_text import text_search
from lookalike.types import Embeddings, Hit, ImageArray, Metric
from lookalike.vectors import unit_rows

T = TypeVar("T")

TEXT_NOTE = (
    f"no image-text encoder: searched names and metadata; for search by content: {TEXT_COMMAND}"
)
"""Says how a text was searched for that was not embedded."""

APPROXIMATE_NOTE = (
    "approximate search: a few of the nearest images may be missing; the option exact finds all"
)
"""Says that an approximate index was used."""

NEIGHBORS = 3
"""Neighbors used by query expansion and database augmentation. Where a query has few relevant
rows, more neighbors would pull it away from them."""

GEOMETRIC_DEPTH = 20
"""Hits whose images ``geometric`` reads."""

StageTimer = Callable[[str], AbstractContextManager[None]]
"""Returns the context in which the stage of that name runs."""


def no_timer(_: str) -> AbstractContextManager[None]:
    """Measure nothing."""
    return nullcontext()


_WORD, _WORDS = 40, 10
"""Characters of a word without a match, and such words, that a note lists at most."""


def split_note(note: str | None) -> list[str]:
    """Return the parts of the note of hits.

    They are how a text was searched for, what matches nothing, and whether search was approximate.
    """
    rest = note or ""
    first = [TEXT_NOTE] if rest.startswith(TEXT_NOTE) else []
    last = [APPROXIMATE_NOTE] if rest.endswith(APPROXIMATE_NOTE) else []
    rest = rest.removeprefix(TEXT_NOTE).removesuffix(APPROXIMATE_NOTE)
    rest = rest.removeprefix("; ").removesuffix("; ")
    return [*first, *([rest] if rest else []), *last]


def search_rows(
    request: SearchRequest,
    store: RowReader,
    queries: Sequence[QueryVectors],
    read_images: ImageReader,
    timer: StageTimer = no_timer,
) -> list[Hits]:
    """Return at most ``k`` hits for each query, best first; distances are from query to rows.

    Without embeddings and keywords, those are the rows that the filter matches, ordered by id, and
    distances are NaN.

    All queries are searched for in one snapshot, in which the filter is evaluated once; those that
    are neither re-ranked nor of several vectors are searched for together.

    Args:
        request: how to search, with the metric; its own queries are those that were encoded.
        store: the rows; of one that can be written, they are read from one snapshot.
        queries: their embeddings; none for a search by keywords alone.
        read_images: for geometric verification.
        timer: entered around the stages ``search``, ``rerank`` and ``keywords``.

    Raises:
        InputError: geometric verification of a query that is not an image, or keywords without a
            word.
        SettingError: ``min_similarity`` for another metric than cosine.
        MissingDependencyError: geometric verification without OpenCV.
        CancelledError: the search was cancelled, or took too long.
    """
    snapshot = getattr(store, "snapshot", None)
    if snapshot is not None:
        store = snapshot()
    request = request.for_metric(Metric.COSINE)
    where = request.filter
    if where is not None:
        with timer("search"):
            try:
                where = store.resolve_filter(where)
            except InputError as error:
                raise error.about("where") from None
    if request.is_plain and all(map(_is_plain, queries)):
        with timer("search"):
            return _search_plain(request, store, queries, where)
    return [_Search(request, store, query, read_images, where).page(timer) for query in queries]


def _is_plain(query: QueryVectors) -> bool:
    return len(query.embeddings) == 1 and query.keywords is None


def _search_plain(
    request: SearchRequest, store: RowReader, queries: Sequence[QueryVectors], where: Filter | None
) -> list[Hits]:
    """Return the nearest rows to each query, all searched for at once."""
    excluded = max((len(query.row_ids) for query in queries), default=0)
    k = min(request.k + excluded, max(request.k, MAX_K))
    vectors = np.concatenate([query.embeddings for query in queries])
    results = store.search(vectors, k, _metric(request), where, exact=request.exact)
    return [
        _best(
            [hit for hit in hits if hit.id not in query.row_ids] if query.row_ids else hits,
            request,
            query,
            APPROXIMATE_NOTE if isinstance(hits, ApproximateHits) else None,
        )
        for query, hits in zip(queries, results, strict=True)
    ]


def _best(
    hits: Sequence[Hit], request: SearchRequest, query: QueryVectors, note: str | None
) -> Hits:
    """Return the first ``k`` hits within the distance limit, ranked from 1."""
    limit = request.distance_limit
    results = [hit for hit in hits if hit.distance <= limit][: request.k]
    return Hits(query.name, _metric(request), _ranked(results), query.uri, note=note)


def _ranked(hits: Sequence[Hit], start: int = 0) -> tuple[Hit, ...]:
    """Return hits ranked from ``start + 1``."""
    return tuple(
        hit if hit.rank == rank else replace(hit, rank=rank)
        for rank, hit in enumerate(hits, start + 1)
    )


def _metric(request: SearchRequest) -> Metric:
    assert request.metric is not None
    return request.metric


@dataclass(slots=True)
class _Search:
    """The search for one query in a snapshot of the rows; the filter is evaluated already."""

    request: SearchRequest
    store: RowReader
    query: QueryVectors
    read_images: ImageReader
    where: Filter | None
    depth: int = 0
    total: int | None = None
    unmatched: dict[str, str | None] = field(default_factory=dict)
    is_approximate: bool = False
    matches: Mapping[str, Positions] = field(default_factory=dict)

    def page(self, timer: StageTimer) -> Hits:
        """Return the hits, those of a later page without the ones before.

        An approximate search for more hits may begin with others. So a later page is cut out of the
        exact hits, which follow those of the first page, if that was approximate.
        """
        request = self.request
        if not request.offset or not len(self.query.embeddings):
            return self.run(timer)
        start, end = request.offset, request.offset + request.k
        self.request = replace(request, k=end, offset=0, exact=True)
        hits = self.run(timer)
        rows = hits.rows
        if request.first and not request.exact and has_approximate_index(self.store):
            self.request = replace(request, k=request.first, offset=0)
            first = self.run(timer)
            ids = set(first.ids)
            rows = (*first.rows, *(hit for hit in rows if hit.id not in ids))
            hits = replace(hits, note=first.note)
        return replace(hits, rows=_ranked(rows[start:end], start))

    def run(self, timer: StageTimer) -> Hits:
        """Return the hits; of those without distances only, the first ones are left out."""
        request = self.request
        keywords = with_text(request.keywords, self.query.keywords)
        self.depth = request.k
        if request.rerankings or keywords:
            self.depth = max(request.k, rerank.DEPTH)
        hits: list[Hit] = []
        if len(self.query.embeddings):
            with timer("search"):
                hits = self._nearest(self.query.embeddings, self.where)
        if request.rerankings and hits:
            with timer("rerank"):
                hits = self._rerank(hits)
        if request.keywords is None and self.query.keywords is None:
            if len(self.query.embeddings):
                return self._with_matches(_best(hits, request, self.query, self._note()))
            with timer("search"):
                return self._matching_filter()
        with timer("keywords"):
            try:
                hits = self._fuse_keywords(hits, keywords)
            except InputError as error:
                raise error.about("text" if request.keywords is None else "keywords") from None
        best = _best(hits, request, self.query, self._note())
        if len(self.query.embeddings):
            return self._with_matches(replace(best, ranked_by="embedding+keywords"))
        rows = _ranked(best.rows, request.offset)
        return replace(best, rows=rows, ranked_by="keywords", total=self.total)

    def _with_matches(self, hits: Hits) -> Hits:
        """Return hits with the places where geometric verification matched them."""
        if not self.matches:
            return hits
        places = {hit.id: self.matches[hit.id] for hit in hits if hit.id in self.matches}
        return replace(hits, matches=places)

    def _matching_filter(self) -> Hits:
        """Return the rows that the filter matches, by id."""
        request = self.request
        rows = order_rows(self.store, where=request.filter)
        ids = self.store.ids_at(rows[request.offset :][: request.k])
        hits = self._hits(dict.fromkeys(ids, math.nan))
        return Hits(
            self.query.name,
            _metric(request),
            _ranked(hits, request.offset),
            ranked_by="id",
            total=len(rows),
        )

    def _note(self) -> str | None:
        """Return what a person should know about the search."""
        notes = [] if self.query.keywords is None else [TEXT_NOTE]
        if self.unmatched:
            words = [
                f"{shorten(word, _WORD)!r}" + (f" (similar: {similar})" if similar else "")
                for word, similar in self.unmatched.items()
            ]
            more = len(words) - _WORDS
            end = f" and {more} more words" if more > 1 else ""
            listed = words[:_WORDS] if end else words
            notes.append(f"no name or metadata with {', '.join(listed)}{end}")
        if self.is_approximate:
            notes.append(APPROXIMATE_NOTE)
        return "; ".join(notes) or None

    def _nearest(self, vectors: Embeddings, where: Filter | None) -> list[Hit]:
        """Return the nearest rows to any of the query vectors ``(v, dim)``, nearest first.

        The nearest rows to several vectors are among the nearest to each, so this is as exact as
        the store.
        """
        own_ids, depth = self.query.row_ids, self.depth
        k = min(depth + len(own_ids), max(depth, MAX_K))
        exact = self.request.exact
        results = self.store.search(vectors, k, _metric(self.request), where, exact=exact)
        self.is_approximate |= any(isinstance(hits, ApproximateHits) for hits in results)
        if len(results) == 1:
            return [hit for hit in results[0] if hit.id not in own_ids][:depth]
        best: dict[str, Hit] = {}
        for hits in results:
            check_cancelled()
            for hit in hits:
                if hit.id not in own_ids and (
                    hit.id not in best or hit.distance < best[hit.id].distance
                ):
                    best[hit.id] = hit
        return sorted(best.values(), key=lambda hit: (hit.distance, hit.id))[:depth]

    def _fuse_keywords(self, hits: list[Hit], keywords: str) -> list[Hit]:
        """Return hits fused by rank with the rows whose names or metadata match the keywords.

        The first 200 of each are fused, however many hits are wanted; the other hits follow.
        Without an image, a row's distance is 1 - BM25 / (BM25 of the best row).
        """
        rows = self._keyword_rows(keywords)
        if not len(rows):
            self.total = 0
            return hits
        if not len(self.query.embeddings):
            return self._keyword_hits(keywords, rows)
        by_keywords = RowFilter(rows, self.store.columns())
        by_id = {hit.id: hit for hit in hits[: rerank.DEPTH]}
        rest = hits[rerank.DEPTH :]
        self.depth = rerank.DEPTH
        for hit in self._nearest(self.query.embeddings, by_keywords):
            by_id.setdefault(hit.id, hit)
        numbers = self.store.row_numbers([*by_id])
        numbers[~np.isin(numbers, rows)] = -1
        scores = self._text_search.scores(keywords, numbers[numbers >= 0])
        matching = [row_id for row_id, number in zip(by_id, numbers, strict=True) if number >= 0]
        ranked = sorted(zip((-scores).tolist(), matching, strict=True))
        by_text = [(row_id, -negative) for negative, row_id in ranked]
        fused = [by_id[row_id] for row_id in fuse_rankings(list(by_id), by_text)]
        return [*fused, *(hit for hit in rest if hit.id not in by_id)]

    @property
    def _text_search(self) -> TextSearch:
        return text_search(self.store)

    def _keyword_rows(self, keywords: str) -> NDArray[np.int64]:
        """Return the rows with the keywords that pass the filter, ascending.

        The rows that the query is made of are left out.
        """
        rows = self._text_search.matching(keywords)
        self.unmatched = self._text_search.unmatched(keywords)
        if self.where is not None and len(rows):
            rows = rows[self.where.mask(self.store.columns())[rows]]
        return np.setdiff1d(rows, self.store.row_numbers([*self.query.row_ids]), assume_unique=True)

    def _keyword_hits(self, keywords: str, rows: NDArray[np.int64]) -> list[Hit]:
        """Return the rows with the highest scores, equal ones by id."""
        request = self.request
        scores = self._text_search.scores(keywords, rows)
        distances = np.maximum(0, 1 - scores / max(float(scores.max()), 1e-12))
        self.total = int(np.count_nonzero(distances <= request.distance_limit))
        page = slice(request.offset, min(request.offset + request.k, self.total))
        best = best_by_score(self.store, rows, scores, page)
        ids = self.store.ids_at(best)
        return self._hits(dict(zip(ids, np.sort(distances)[page].tolist(), strict=True)))

    def _hits(self, distances: Mapping[str, float]) -> list[Hit]:
        """Return rows by id as hits at their distances."""
        existing = self._read_existing([*distances], self.store.get)
        records = (record for rows in existing for record in rows.records())
        return [
            Hit(rank, each.id, each.uri, distances[each.id], each.metadata)
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
        metric, embeddings = _metric(self.request), self.query.embeddings
        hits, rows = self._with_embeddings(hits)
        if not hits:
            return hits
        closest = _distances(embeddings, rows[:1], metric)[:, :1].argmin()
        vector = embeddings[closest]
        for name in self.request.rerankings:
            check_cancelled()
            if not hits:
                break
            if name == "aqe":
                vector = rerank.alpha_query_expansion(vector, rows[:NEIGHBORS])
                hits, rows = self._with_embeddings(self._nearest(vector[None], self.where))
                continue
            count = min(len(hits), rerank.DEPTH)
            if name == "geometric":
                first, self.matches = _verified_order(self.query.image, hits, self.read_images)
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
) -> tuple[list[int], dict[str, Positions]]:
    """Return the new order of hits, and where those match that are verified."""
    if image is None:
        raise InputError(
            "re-ranking by geometric verification compares images: the query must be an image, "
            "not a text or a vector"
        ).about("rerank")
    candidates = hits[:GEOMETRIC_DEPTH]
    from lookalike.images import local_features

    matches = local_features.verify_candidates(image, read_images(candidates))
    inliers = [None if match is None else match.inlier_count for match in matches]
    positions = {
        hit.id: match.positions
        for hit, match in zip(candidates, matches, strict=True)
        if match is not None and match.inlier_count >= local_features.MIN_INLIERS
    }
    return local_features.rerank_order([hit.distance for hit in candidates], inliers), positions


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
    with np.errstate(invalid="ignore"):  # OpenBLAS may raise the flag by what it reads beyond rows
        products = a @ b.T
    product = np.divide(products, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return np.asarray(np.clip(1 - product, 0, 2))
