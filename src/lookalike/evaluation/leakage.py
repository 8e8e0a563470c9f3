"""Leakage: queries that the gallery holds, as the same file or as a near-duplicate.

Such a query finds itself, which says nothing about queries that the gallery does not hold.
Identical images are found by their content hashes, near-duplicates as by ``lookalike explore
duplicates``. Excluded duplicates are ignored in the ranking of their query, as neither correct nor
incorrect, like the "junk" images of Oxford5k (Philbin et al. 2007) and of its revision (Radenović
et al. 2018). Leaving out the queries instead would leave out the easy ones alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import ImageError
from lookalike.explore.comparison import SAMPLED_SIDE, read_thumbnails
from lookalike.explore.copy_threshold import CopyThreshold, calibrate_threshold
from lookalike.formatting import format_count
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.ingest import item_hash
from lookalike.images.decode import shrink_image
from lookalike.sources import Item
from lookalike.sources.sampling import thread_map
from lookalike.stores.base import MAX_K
from lookalike.types import Embeddings, Hit, Metric, Progress, ProgressCallback, ignore_progress
from lookalike.vectors import VectorView, has_direction

_SAMPLE = 100
"""Rows of which altered copies are made to calibrate what a near-duplicate is."""

_NEAREST = 3
"""Nearest rows of a query that are compared with it, if it is only asked whether one is like it."""

_FIRST_DEPTH = 64
_LISTED = 20


Thumbnails = Sequence[NDArray[np.float32] | None]
"""What is compared of each query, :func:`~lookalike.explore.copy_threshold.thumbnail_vector` of its
image: None if that has no content, or was not read."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Leakage:
    """The queries that the gallery holds.

    ``exact`` and ``near`` map the URI of a query to the ids of the rows that are identical to it
    and, if none is, of the near-duplicates; a row that is the query itself (same id) is not
    counted. ``threshold`` says what a near-duplicate is; None if they were not searched, with the
    reason in ``near_unknown`` unless that was intended. ``excluded``: these rows are ignored in the
    ranking of their query.
    """

    queries: int
    exact: Mapping[str, tuple[str, ...]]
    near: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    threshold: CopyThreshold | None = None
    near_unknown: str = ""
    excluded: bool = False

    def __repr__(self) -> str:
        return f"Leakage({'; '.join(self.notes())})"

    @property
    def leaked(self) -> int:
        """The number of queries that the gallery holds."""
        return len(self.exact) + len(self.near)

    def describe(self) -> str:
        """Return how many queries the gallery holds, as words."""
        total = format_count(self.queries, "query", "queries")
        return f"{self.leaked:,} of {total} {'is' if self.leaked == 1 else 'are'} in the gallery"

    def notes(self) -> list[str]:
        """Return what was found as sentences, without a full stop."""
        searched = self.threshold is not None
        if not self.leaked:
            kinds = "identical or near-duplicate" if searched else "identical"
            lines = [f"leakage: no query has an {kinds} image in the gallery"]
        else:
            parts = [f"{len(self.exact):,} identical"]
            parts += [f"{len(self.near):,} near-duplicate"] if searched else []
            effect = (
                "the rows that are like them are ignored in their ranking"
                if self.excluded
                else "they find themselves, and the figures are too high"
            )
            lines = [f"leakage: {self.describe()} ({', '.join(parts)}); {effect}"]
        if self.near_unknown:
            lines.append(f"near-duplicates of the queries were not searched: {self.near_unknown}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, with the first twenty pairs of query and rows."""
        pairs = [*self.exact.items(), *self.near.items()]
        return {
            "queries": self.queries,
            "leaked": self.leaked,
            "exact": len(self.exact),
            "near": len(self.near) if self.threshold is not None else None,
            "near_unknown": self.near_unknown or None,
            "threshold": None if self.threshold is None else asdict(self.threshold),
            "excluded": self.excluded,
            "examples": [{"query": query, "rows": list(rows)} for query, rows in pairs[:_LISTED]],
        }


@dataclass(frozen=True, slots=True)
class LeakedRows:
    """The rows like each query that has any, by its id, and what was found."""

    by_query: Mapping[str, frozenset[str]]
    leakage: Leakage


def find_leakage(  # noqa: PLR0913 - keyword options
    gallery: Gallery,
    queries: Sequence[Item],
    embeddings: Embeddings | VectorView,
    *,
    nearest: Sequence[Sequence[Hit]] | None = None,
    thumbnails: Thumbnails | None = None,
    exclude: bool = False,
    on_progress: ProgressCallback = ignore_progress,
) -> LeakedRows:
    """Find the queries that a gallery holds.

    Args:
        gallery: whose rows are searched.
        queries: with distinct ids; one that is itself a row (same id) is not its own duplicate.
        embeddings: ``(q, dim)`` of the queries, by the gallery's encoder.
        nearest: the nearest rows of each query by the gallery's metric, without itself, if they are
            known: saves a search unless all rows like a query are to be found.
        thumbnails: of the queries, to also search near-duplicates, which reads 100 of the
            gallery's images and those near the queries.
        exclude: find all rows like a query, not only whether there is one.
        on_progress: called after each step.
    """
    gallery = gallery.snapshot()
    hashes = {record.id: record.content_hash for record in gallery.store.records()}
    on_progress(Progress("leakage", 0, len(queries), "queries"))
    identical = _identical(hashes, queries)
    similar: dict[str, frozenset[str]] = {}
    threshold, unknown = None, ""
    if thumbnails is not None:
        search = _NearSearch(gallery, [*hashes], queries, embeddings, thumbnails)
        threshold, unknown = search.calibrate()
        known = None if exclude else nearest
        similar = {} if threshold is None else search.run(threshold, known, exclude=exclude)
    on_progress(Progress("leakage", len(queries), len(queries), "queries"))
    both = {
        query.id: identical.get(query.id, frozenset()) | similar.get(query.id, frozenset())
        for query in queries
        if query.id in identical or query.id in similar
    }
    uris = {query.id: query.uri for query in queries}
    leakage = Leakage(
        queries=len(queries),
        exact={uris[each]: tuple(sorted(rows)) for each, rows in identical.items()},
        near={
            uris[each]: tuple(sorted(rows))
            for each, rows in similar.items()
            if each not in identical
        },
        threshold=threshold,
        near_unknown=unknown,
        excluded=exclude,
    )
    return LeakedRows(both, leakage)


def _identical(hashes: Mapping[str, str], queries: Sequence[Item]) -> dict[str, frozenset[str]]:
    """Return the rows with the content of each query that has any, by its id.

    ``hashes`` are the content hashes of the rows by id.
    """

    def digest(query: Item) -> str:
        known = hashes.get(query.id)
        return known if known is not None else item_hash(query, query.content())

    digests = list(thread_map(digest, queries))
    by_hash: dict[str, set[str]] = {each: set() for each in digests if each}
    for row_id, each in hashes.items():
        if each in by_hash:
            by_hash[each].add(row_id)
    rows = {
        query.id: frozenset(by_hash.get(each, set()) - {query.id})
        for query, each in zip(queries, digests, strict=True)
    }
    return {query: found for query, found in rows.items() if found}


@dataclass(frozen=True, slots=True)
class _NearSearch:
    """Searches near-duplicates of queries among the rows of a gallery."""

    gallery: Gallery
    ids: Sequence[str]
    queries: Sequence[Item]
    embeddings: Embeddings | VectorView
    thumbnails: Thumbnails

    def calibrate(self) -> tuple[CopyThreshold | None, str]:
        """Return what a near-duplicate is in the gallery; or None, and why that is unknown."""
        sample = np.random.default_rng(0).permutation(len(self.ids))[:_SAMPLE].tolist()
        reduce = partial(shrink_image, side=SAMPLED_SIDE)
        rows = self.gallery.store.get([self.ids[row] for row in sample])
        loaded = self.gallery.read_images(rows.records(), reduce)
        images = [image for image in loaded if image is not None]
        if not images:
            return None, f"none of {len(sample)} images of the gallery can be read"
        encoder, metric = self.gallery.encoder, self.gallery.metric
        try:
            threshold = calibrate_threshold(images, encoder, metric, self._nearest)
        except ImageError as error:
            return None, str(error)
        return threshold, "" if threshold is not None else "no image of the gallery has content"

    def run(
        self, threshold: CopyThreshold, nearest: Sequence[Sequence[Hit]] | None, *, exclude: bool
    ) -> dict[str, frozenset[str]]:
        """Return the near-duplicates of each query that has any, by its id."""
        if nearest is None:
            hits = self._within(threshold.distance, exclude=exclude)
        else:
            hits = [
                [hit.id for hit in row[:_NEAREST] if self._is_within(hit, threshold.distance)]
                for row in nearest
            ]
        rows = sorted({row for near in hits for row in near})
        records = list(self.gallery.store.get(rows).records())
        vectors = read_thumbnails(self.gallery, records, range(len(records)))
        by_row = {row: vectors[place] for place, row in enumerate(rows)}

        def is_near(vector: NDArray[np.float32], row: str) -> bool:
            other = by_row[row]
            return isinstance(other, np.ndarray) and float(vector @ other) >= threshold.correlation

        return {
            query.id: near
            for query, vector, found in zip(self.queries, self.thumbnails, hits, strict=True)
            if vector is not None
            if (near := frozenset(row for row in found if is_near(vector, row)))
        }

    def _within(self, limit: float, *, exclude: bool) -> list[list[str]]:
        """Return the ids of the rows within a distance of each query: some of the nearest, or all.

        A query that is a row is not near itself; one with an embedding of zeros is near no row.
        """
        most = min(len(self.ids), MAX_K)
        depth = min(_FIRST_DEPTH if exclude else _NEAREST + 1, most)
        hits: list[list[str]] = [[] for _ in self.queries]
        defined = has_direction(self.embeddings) | (self.gallery.metric is Metric.L2)
        open_places = np.flatnonzero(defined)
        while len(open_places):
            results = self.gallery.store.search(
                self.embeddings[open_places], depth, self.gallery.metric
            )
            crowded = []
            for place, row in zip(open_places.tolist(), results, strict=True):
                near = [hit.id for hit in row if self._is_within(hit, limit)]
                hits[place] = [each for each in near if each != self.queries[place].id]
                if exclude and len(near) == depth < most:
                    crowded.append(place)
            open_places = np.array(crowded, np.int64)
            depth = min(4 * depth, most)
        return hits

    def _nearest(self, queries: Embeddings, k: int) -> NDArray[np.float64]:
        k = min(k, len(self.ids), MAX_K)
        results = self.gallery.store.search(queries, k, self.gallery.metric)
        return np.array([[self._euclidean(hit.distance) for hit in hits] for hits in results])

    def _is_within(self, hit: Hit, limit: float) -> bool:
        return self._euclidean(hit.distance) <= limit

    def _euclidean(self, distance: float) -> float:
        """Return the distance of vectors, of unit length where the metric is cosine."""
        return distance if self.gallery.metric is Metric.L2 else float(max(2 * distance, 0) ** 0.5)
