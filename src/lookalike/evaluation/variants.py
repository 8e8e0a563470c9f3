"""Compare search variants on the same queries: the gain in mAP@k of each, and its latency.

A variant is a way to crop the query (``foreground``, ``multi-crop``) and re-rankings, joined by
``+``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, Self

import numpy as np

from lookalike.errors import UnknownNameError
from lookalike.evaluation.metrics import Estimate, PerQuery, Scores
from lookalike.evaluation.trial import Trial, TrialQuery
from lookalike.gallery.gallery import Gallery
from lookalike.search.request import RERANKINGS
from lookalike.sources import Item
from lookalike.sources.sampling import thread_map
from lookalike.stores.base import MAX_K
from lookalike.types import Hit, Metric, Progress, ProgressCallback

CROPS = ("foreground", "multi-crop")
ALL = "all"
_TIMED = 50


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
    """Queries of a gallery, and their images in ``items``, to compare search variants on."""

    gallery: Gallery
    items: Sequence[Item]
    queries: Sequence[TrialQuery]
    k: int
    metric: Metric
    first: int

    def run(
        self, variants: Sequence[SearchVariant], plain: PerQuery, on_progress: ProgressCallback
    ) -> Mapping[str, VariantResult]:
        """Score each variant; ``plain`` is ``(q,)``, average precision of a plain search.

        Each query is decoded once for all variants. The first ones are searched one by one, to
        measure the time.
        """
        if not variants:
            return {}
        hits: list[list[tuple[Hit, ...]]] = []
        seconds: list[list[float]] = []
        for number in range(len(self.items[:_TIMED])):
            results, times = self._search(number, variants)
            hits.append(results)
            seconds.append(times)
            on_progress(Progress("search variants", number + 1, len(self.items), "queries"))
        rest = range(_TIMED, len(self.items))
        for results, _ in thread_map(lambda number: self._search(number, variants), rest):
            hits.append(results)
            on_progress(Progress("search variants", len(hits), len(self.items), "queries"))
        return {
            variant.name: self._score(
                variant,
                [each[place] for each in hits],
                [each[place] for each in seconds],
                plain,
            )
            for place, variant in enumerate(variants)
        }

    def _search(
        self, number: int, variants: Sequence[SearchVariant]
    ) -> tuple[list[tuple[Hit, ...]], list[float]]:
        """Return the hits of one query with each variant, and the seconds that they took."""
        item, ignored = self.items[number], self.queries[number].ignored
        decoded = replace(item, read=partial(np.asarray, item.image()))
        hits, seconds = [], []
        for variant in variants:
            start = time.perf_counter()
            hits.append(variant.search(self.gallery, decoded, self.k, self.metric, ignored))
            seconds.append(time.perf_counter() - start)
        return hits, seconds

    def _score(
        self,
        variant: SearchVariant,
        hits: Sequence[Sequence[Hit]],
        seconds: Sequence[float],
        plain: PerQuery,
    ) -> VariantResult:
        values = Trial.of_hits(hits, self.queries, k=self.k, metric=self.metric).scores
        return VariantResult(
            Scores.of(variant.name, self.metric, values, [], self.first),
            Estimate.of(values.average_precision - plain),
            1000 * float(np.median(seconds)),
        )
