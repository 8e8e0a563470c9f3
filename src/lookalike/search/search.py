"""One search: the nearest rows to one or several views of a query, and their re-ranking.

Re-ranking looks at the first 200 hits only, so that its cost does not grow with the gallery.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.filters import Filter, Where, as_filter
from lookalike.images import local_features
from lookalike.search import rerank
from lookalike.search.keywords import Among, fused, keywords_of
from lookalike.search.query import QueryVectors
from lookalike.stores.base import MAX_K, VectorStore
from lookalike.types import Embeddings, Hit, ImageArray, Metric
from lookalike.vectors import unit_rows

RERANKINGS: Mapping[str, str] = {
    "aqe": "search again, the query moved towards its 3 nearest rows (alpha query expansion)",
    "dba": "compare with each hit moved towards its 3 nearest hits (database augmentation)",
    "k-reciprocal": "prefer hits that have the query's neighbors for neighbors (k-reciprocal)",
    "diffusion": "follow neighbors of neighbors among the hits (diffusion)",
    "geometric": "put hits first whose local features match the query's in one arrangement",
}
"""By name, what each does."""

NEIGHBORS = 3
"""Rows that expansion and augmentation take up: where few rows are right, more would be wrong."""

VERIFIED = 20
"""Hits whose images are looked at by ``geometric``."""

Images = Callable[[Sequence[Hit]], Sequence[ImageArray | None]]
"""Reads the images of hits; None where one cannot be read."""


_ROUNDING = 1e-9
"""What the distance of an image to itself may be by rounding."""

Timed = Callable[[str], AbstractContextManager[None]]
"""Entered around each stage of a search, by its name."""


def untimed(_: str) -> AbstractContextManager[None]:
    """Take no time."""
    return nullcontext()


def parse_rerankings(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return re-rankings by their names, of which a text holds several joined by ``+``.

    Raises:
        UnknownNameError: there is none of that name; the nearest is offered.
    """
    given = names.split("+") if isinstance(names, str) else names or ()
    found = tuple(name.strip() for name in given)
    for name in found:
        if name not in RERANKINGS:
            raise UnknownNameError("re-ranking", name, RERANKINGS)
    return found


def distance_threshold(metric: Metric, distance: float | None, score: float | None) -> float | None:
    """Return the largest distance that a limit of distance or of similarity allows.

    Raises:
        SettingError: both were given, or a score out of range or for another metric than cosine.
    """
    if score is None:
        return distance
    if distance is not None:
        raise SettingError("--min-score and --max-distance exclude each other")
    if metric is not Metric.COSINE:
        raise SettingError("--min-score is for cosine; with l2 say --max-distance")
    if not -1 <= score <= 1:
        raise SettingError(f"--min-score {score}: must be from -1 to 1")
    return 1 - score + _ROUNDING


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What is asked for, checked: see :meth:`lookalike.Gallery.search`."""

    k: int
    metric: Metric
    where: Filter | None = None
    distance_threshold: float = math.inf
    exact: bool = False
    rerankings: tuple[str, ...] = ()
    keywords: str | None = None

    @classmethod
    def of(
        cls,
        k: int,
        metric: Metric,
        where: Where | None,
        max_distance: float | None,
        exact: bool,
        rerank: str | Sequence[str] | None,
        keywords: str | None = None,
    ) -> Self:
        """Check the settings.

        Raises:
            SettingError: ``k`` or ``max_distance`` out of range.
            InputError: the filter or the words cannot be understood.
            UnknownNameError: no such re-ranking.
        """
        if k < 1:
            raise SettingError(f"n = {k}: must be at least 1")
        distance_threshold = math.inf if max_distance is None else max_distance
        if math.isnan(distance_threshold) or distance_threshold < 0:
            raise SettingError(f"--max-distance {max_distance}: must be at least 0")
        condition = None if where is None else as_filter(where)
        names = parse_rerankings(rerank)
        return cls(k, metric, condition, distance_threshold, exact, names, keywords)

    @property
    def needs_image(self) -> bool:
        """Whether a re-ranking looks at the query's image."""
        return "geometric" in self.rerankings

    def run(
        self, store: VectorStore, query: QueryVectors, images: Images, timed: Timed = untimed
    ) -> tuple[Hit, ...]:
        """Return at most ``k`` hits, best first; distances are those from the query to the rows.

        ``timed`` is entered around the stages ``search`` and ``rerank``.

        Raises:
            InputError: spatial verification of a query that is no image.
            MissingDependencyError: OpenCV is not installed, which it takes.
        """
        looked = len(query.embeddings) > 0
        depth = self.k if not (self.rerankings or self.keywords) else max(self.k, rerank.DEPTH)
        with timed("search"):
            hits = self._nearest(store, query.embeddings, query.own, depth) if looked else []
        if self.rerankings:
            with timed("rerank"):
                hits = self._reranked(store, query, images, hits, depth)
        if self.keywords is not None:
            with timed("keywords"):
                hits = self._with_words(store, query, hits, depth)
        kept = [hit for hit in hits if hit.distance <= self.distance_threshold][: self.k]
        return tuple(
            hit if hit.rank == rank else replace(hit, rank=rank) for rank, hit in enumerate(kept, 1)
        )

    def _nearest(
        self, store: VectorStore, views: Embeddings, own: str | None, depth: int
    ) -> list[Hit]:
        """Return the nearest rows to any of the views ``(v, dim)``, nearest first.

        The nearest rows to several views are among the nearest to each, so this is as exact as
        the store.
        """
        asked = min(depth + (own is not None), max(depth, MAX_K))
        found = store.search(views, asked, self.metric, self.where, exact=self.exact)
        if len(found) == 1:
            return [hit for hit in found[0] if hit.id != own][:depth]
        best: dict[str, Hit] = {}
        for hit in (hit for hits in found for hit in hits if hit.id != own):
            if hit.id not in best or hit.distance < best[hit.id].distance:
                best[hit.id] = hit
        return sorted(best.values(), key=lambda hit: (hit.distance, hit.id))[:depth]

    def _with_words(
        self, store: VectorStore, query: QueryVectors, hits: list[Hit], depth: int
    ) -> list[Hit]:
        """Return hits fused by rank with the rows whose metadata have the words.

        Without an image, the distance of a row is 1 less its BM25 as a share of the best row's.
        """
        assert self.keywords is not None
        columns = store.columns()
        rows, scores = keywords_of(columns).find(self.keywords)
        if self.where is not None and len(rows):
            passing = self.where.mask(columns)[rows]
            rows, scores = rows[passing], scores[passing]
        ids = store.ids()
        said = {ids[row]: score for row, score in zip(rows.tolist(), scores.tolist(), strict=True)}
        said.pop(query.own or "", None)
        if not said:
            return hits
        if not len(query.embeddings):
            first = list(said)[: self.k]
            found = store.get(first)
            best = max(said[first[0]], 1e-12)
            fields = zip(found.ids, found.uris, found.metadata, strict=True)
            return [
                Hit(rank, row_id, uri, max(0.0, 1 - said[row_id] / best), metadata)
                for rank, (row_id, uri, metadata) in enumerate(fields, 1)
            ]
        among = replace(self, where=Among(rows))
        near = among._nearest(store, query.embeddings, query.own, depth)
        looks = {hit.id: hit for hit in hits}
        more = sorted((hit for hit in near if hit.id not in looks), key=lambda hit: hit.distance)
        looks |= {hit.id: hit for hit in more}
        ranked = [(row_id, score) for row_id, score in said.items() if row_id in looks]
        return [looks[row_id] for row_id in fused(list(looks), ranked)]

    def _reranked(
        self, store: VectorStore, query: QueryVectors, images: Images, hits: list[Hit], depth: int
    ) -> list[Hit]:
        """Return the hits in the order of the last re-ranking."""
        if not hits:
            return hits
        rows = store.embeddings([hit.id for hit in hits])
        nearest = _distances(query.embeddings, rows[:1], self.metric)[:, 0].argmin()
        asked = query.embeddings[nearest]
        for name in self.rerankings:
            if name == "aqe":
                asked = rerank.alpha_query_expansion(asked, rows[:NEIGHBORS])
                hits = self._nearest(store, asked[None], query.own, depth)
                rows = store.embeddings([hit.id for hit in hits])
                continue
            if name == "geometric":
                order = _verified(query.image, hits, images)
            else:
                order = np.argsort(_scored(name, asked, rows), kind="stable").tolist()
            hits, rows = [hits[i] for i in order], rows[order]
        distances = _distances(query.embeddings, rows, self.metric).min(axis=0)
        return [replace(hit, distance=float(d)) for hit, d in zip(hits, distances, strict=True)]


def _scored(name: str, query: NDArray[np.float32], rows: Embeddings) -> NDArray[np.floating]:
    if name == "k-reciprocal":
        return rerank.k_reciprocal_distances(query, rows)
    if name == "diffusion":
        return rerank.diffusion_distances(query, rows)
    augmented = rerank.database_augmentation(rows, NEIGHBORS)
    return np.asarray(-(augmented @ unit_rows(query[None])[0]))


def _verified(image: ImageArray | None, hits: Sequence[Hit], images: Images) -> list[int]:
    if image is None:
        raise InputError(
            "re-ranking by spatial compares images: ask with an image, not with words or vectors"
        )
    first = hits[:VERIFIED]
    matches = local_features.rank(image, images(first))
    inliers = [None if match is None else match.inliers for match in matches]
    order = local_features.order([hit.distance for hit in first], inliers)
    return [*order, *range(len(first), len(hits))]


def _distances(queries: Embeddings, rows: Embeddings, metric: Metric) -> NDArray[np.float64]:
    """Return the distance of each query to each row, ``(q, k)``."""
    a, b = queries.astype(np.float64), rows.astype(np.float64)
    if metric is Metric.L2:
        return np.asarray(np.linalg.norm(a[:, None] - b[None], axis=2))
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
    product = np.divide(a @ b.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return np.asarray(np.clip(1 - product, 0, 2))
