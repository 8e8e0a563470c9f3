"""Compare search variants on the same queries: the gain in mAP@k of each, and its latency.

A variant is a way to crop the query (``foreground``, ``multi-crop``) and re-rankings, joined by
``+``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, Self

import numpy as np

from lookalike.errors import UnknownNameError
from lookalike.evaluation.metrics import Estimate, PerQuery, QueryScores, Scores
from lookalike.evaluation.relevance import RelevantSet
from lookalike.gallery.gallery import Gallery
from lookalike.search.search import RERANKINGS
from lookalike.sources import Item
from lookalike.sources.sampling import thread_map
from lookalike.stores.base import MAX_K
from lookalike.types import Hit, Metric, Progress, ProgressCallback

CROPS = ("foreground", "multi-crop")
ALL = "all"
_TIMED = 50
_REPORT_EVERY = 20


@dataclass(frozen=True, slots=True)
class SearchVariant:
    """Options of :meth:`lookalike.Gallery.search` under one name."""

    name: str
    foreground: bool
    multi_crop: bool
    rerank: tuple[str, ...]

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse a name such as ``multi-crop+aqe``.

        Raises:
            UnknownNameError: a part of it is neither a crop nor a re-ranking.
        """
        steps = tuple(step.strip() for step in name.split("+"))
        for step in steps:
            if step not in CROPS and step not in RERANKINGS:
                raise UnknownNameError("search variant", step, [*CROPS, *RERANKINGS, ALL])
        rerank = tuple(step for step in steps if step in RERANKINGS)
        return cls("+".join(steps), "foreground" in steps, "multi-crop" in steps, rerank)

    def search(
        self,
        gallery: Gallery,
        item: Item,
        k: int,
        metric: Metric,
        ignored: frozenset[str] = frozenset(),
    ) -> tuple[Hit, ...]:
        """Search a gallery with these options, without some rows."""
        hits = gallery.search(
            item,
            k=min(k + len(ignored), MAX_K),
            metric=metric,
            foreground=self.foreground,
            multi_crop=self.multi_crop,
            rerank=self.rerank,
        )
        return tuple(hit for hit in hits if hit.id not in ignored)[:k]


@dataclass(frozen=True, slots=True)
class VariantResult:
    """Scores and latency of one search variant.

    ``map_delta`` is the mean difference in mAP@k to a plain search over the same queries, with a
    paired confidence interval. ``latency_ms`` is the median time of one query in milliseconds,
    without decoding the image.
    """

    scores: Scores
    map_delta: Estimate
    latency_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            **self.scores.as_dict(),
            "map_delta": self.map_delta.value,
            "map_delta_interval": self.map_delta.interval.as_list(),
            "latency_ms": self.latency_ms,
        }


def parse_variants(names: str | Sequence[str] | None) -> tuple[SearchVariant, ...]:
    """Parse variants from a list of names, or a string of names separated by commas.

    ``all`` stands for each crop and re-ranking by itself; ``geometric`` is among them only where
    OpenCV is installed.

    Raises:
        UnknownNameError: there is no such crop or re-ranking.
    """
    listed = names.split(",") if isinstance(names, str) else list(names or ())
    single = [*CROPS, *RERANKINGS]
    if find_spec("cv2") is None:
        single.remove("geometric")
    expanded = [each for name in listed for each in (single if name.strip() == ALL else [name])]
    variants = [SearchVariant.parse(name) for name in expanded]
    return tuple({variant.name: variant for variant in variants}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantBenchmark:
    """Queries of a gallery with their relevant and ignored rows, to compare search variants on."""

    gallery: Gallery
    queries: Sequence[Item]
    relevant: Sequence[RelevantSet]
    ignored: Sequence[frozenset[str]]
    k: int
    metric: Metric
    first: int

    def run(
        self, variants: Sequence[SearchVariant], plain: PerQuery, on_progress: ProgressCallback
    ) -> Mapping[str, VariantResult]:
        """Score each variant; ``plain`` is ``(q,)``, average precision of a plain search."""
        return {variant.name: self._measure(variant, plain, on_progress) for variant in variants}

    def _measure(
        self, variant: SearchVariant, plain: PerQuery, on_progress: ProgressCallback
    ) -> VariantResult:
        correct = np.zeros((len(self.queries), self.k), np.bool_)
        seconds: list[float] = []
        for number, hits in enumerate(self._hits(variant, seconds)):
            correct[number, : len(hits)] = [hit.id in self.relevant[number].ids for hit in hits]
            if (number + 1) % _REPORT_EVERY == 0 or number + 1 == len(self.queries):
                task = f"search, {variant.name}"
                on_progress(Progress(task, number + 1, len(self.queries), "queries"))
        counts = np.array([relevant.count for relevant in self.relevant], np.int64)
        values = QueryScores.of(correct, counts)
        scores = Scores.of(variant.name, self.metric, values, [], self.first)
        delta = Estimate.of(values.average_precision - plain)
        return VariantResult(scores, delta, 1000 * float(np.median(seconds)))

    def _hits(self, variant: SearchVariant, seconds: list[float]) -> Iterator[tuple[Hit, ...]]:
        """Yield the hits of each query; run the first ones one by one and note their times."""
        queries = list(zip(self.queries, self.ignored, strict=True))
        for item, ignored in queries[:_TIMED]:
            decoded = replace(item, read=partial(np.asarray, item.image()))
            start = time.perf_counter()
            hits = self._search(variant, (decoded, ignored))
            seconds.append(time.perf_counter() - start)
            yield hits
        yield from thread_map(lambda query: self._search(variant, query), queries[_TIMED:])

    def _search(
        self, variant: SearchVariant, query: tuple[Item, frozenset[str]]
    ) -> tuple[Hit, ...]:
        item, ignored = query
        return variant.search(self.gallery, item, self.k, self.metric, ignored)
