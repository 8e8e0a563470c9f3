"""Ways of asking a gallery, side by side: what each adds to the plain one, and what it costs.

A way is parts of the query that are looked at (``foreground``, ``multi_crop``) and re-rankings,
joined by ``+``.
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
from lookalike.evaluation.metrics import Estimate, PerQuery, QueryScores, Scores, bootstrap_interval
from lookalike.gallery.gallery import Gallery
from lookalike.search.search import RERANKINGS
from lookalike.sources import Item
from lookalike.sources.sampling import each_in_threads
from lookalike.types import Hit, Metric, Progress, ProgressCallback

CROP_STEPS = ("foreground", "multi_crop")
EVERY = "all"
_TIMED = 50
_REPORT_EVERY = 20


@dataclass(frozen=True, slots=True)
class SearchVariant:
    """One way of asking: what :meth:`lookalike.Gallery.search` is told."""

    name: str
    foreground: bool
    multi_crop: bool
    rerank: tuple[str, ...]

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a name such as ``multi-crop+aqe``.

        Raises:
            UnknownNameError: a part of it is no way of asking.
        """
        steps = tuple(step.strip() for step in name.split("+"))
        for step in steps:
            if step not in CROP_STEPS and step not in RERANKINGS:
                raise UnknownNameError("way of asking", step, [*CROP_STEPS, *RERANKINGS, EVERY])
        rerank = tuple(step for step in steps if step in RERANKINGS)
        return cls(name, "foreground" in steps, "multi_crop" in steps, rerank)

    def search(self, gallery: Gallery, item: Item, k: int, metric: Metric) -> tuple[Hit, ...]:
        """Ask a gallery in this way."""
        return gallery.search(
            item,
            k=k,
            metric=metric,
            foreground=self.foreground,
            multi_crop=self.multi_crop,
            rerank=self.rerank,
        ).rows


@dataclass(frozen=True, slots=True)
class VariantResult:
    """What a way came to.

    ``gain`` is the mean difference of mAP@k to the plain way over the same queries, with the
    interval of that difference; ``ms`` the median time of one query, decoding left out.
    """

    scores: Scores
    gain: Estimate
    ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        interval = self.gain.interval
        gain = {"map_gain": self.gain.value, "map_gain_interval": [interval.low, interval.high]}
        return {**self.scores.as_dict(), **gain, "ms": self.ms}


def parse_variants(text: str | Sequence[str] | None) -> tuple[SearchVariant, ...]:
    """Return ways from a text of names with commas between, or ``all``.

    ``all`` is each step by itself; ``geometric`` only where OpenCV is installed.

    Raises:
        UnknownNameError: no such way.
    """
    names = text.split(",") if isinstance(text, str) else list(text or ())
    every = [*CROP_STEPS, *RERANKINGS]
    if find_spec("cv2") is None:
        every.remove("geometric")
    spelt = [name for given in names for name in (every if given.strip() == EVERY else [given])]
    return tuple(SearchVariant.parse(name.strip()) for name in dict.fromkeys(spelt))


@dataclass(frozen=True, slots=True)
class Trial:
    """Queries, the ids of the rows that are right for each, and how many these are."""

    gallery: Gallery
    items: Sequence[Item]
    right: Sequence[frozenset[str]]
    relevant: Sequence[int]
    k: int
    metric: Metric
    first: int

    def run(
        self, variants: Sequence[SearchVariant], plain: PerQuery, on_progress: ProgressCallback
    ) -> Mapping[str, VariantResult]:
        """Ask all queries in each way; ``plain`` is the average precision of the plain one."""
        return {way.name: self._try(way, plain, on_progress) for way in variants}

    def _try(
        self, way: SearchVariant, plain: PerQuery, on_progress: ProgressCallback
    ) -> VariantResult:
        correct = np.zeros((len(self.items), self.k), np.bool_)
        times: list[float] = []
        for number, hits in enumerate(self._hits(way, times)):
            marks = [hit.id in self.right[number] for hit in hits]
            correct[number, : len(marks)] = marks
            if (number + 1) % _REPORT_EVERY == 0 or number + 1 == len(self.items):
                task = f"search, {way.name}"
                on_progress(Progress(task, number + 1, len(self.items), "queries"))
        values = QueryScores.of(correct, np.asarray(self.relevant, np.int64))
        scores = Scores.of(way.name, self.metric, values, [], self.first)
        gains = values.average_precision - plain
        gain = Estimate(float(gains.mean()), bootstrap_interval(gains))
        return VariantResult(scores, gain, float(np.median(times)))

    def _hits(self, way: SearchVariant, times: list[float]) -> Iterator[tuple[Hit, ...]]:
        """Yield the hits of each query; the first are asked one by one and timed."""
        for item in self.items[:_TIMED]:
            decoded = replace(item, read=partial(np.asarray, item.image()))
            start = time.perf_counter()
            hits = self._search(way, decoded)
            times.append((time.perf_counter() - start) * 1000)
            yield hits
        rest = self.items[_TIMED:]
        yield from each_in_threads(lambda item: self._search(way, item), rest)

    def _search(self, way: SearchVariant, item: Item) -> tuple[Hit, ...]:
        return way.search(self.gallery, item, self.k, self.metric)
