"""A gallery judged by labels, beside what needs no learning: precision, mAP, recall, intervals."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.base import Encoder
from lookalike.encoders.catalog import catalog
from lookalike.errors import ImageError, InputError, SettingError
from lookalike.gallery import Gallery
from lookalike.metrics import QueryScores, Scores
from lookalike.reading import encode_items, sample_images
from lookalike.sources import Item, ItemSource, Source, open_source
from lookalike.stores.base import Rows, VectorStore
from lookalike.stores.memory import MemoryStore
from lookalike.types import (
    Failure,
    Hit,
    Metric,
    Progress,
    ProgressCallback,
    ignore_progress,
)

CHANCE = "chance"
_REPORT_EVERY = 1000
_TIMED = 200


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from one query's pixels to its hits, over at most 200 queries one by one."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Example:
    """One query with its hits."""

    uri: str
    label: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What :func:`evaluate` found.

    ``confusion`` is ``(labels, labels)`` int64: how many hits of each label (column) the queries
    of each label (row) got. ``examples`` holds every query with its hits; ``query_labels`` and
    ``gallery_labels`` count labels. ``others`` may hold the scores of other galleries of the same
    images for the same queries, to be shown beside.
    """

    n: int
    gallery: str
    rows: int
    queries: str
    skipped: tuple[Failure, ...]
    scores: Scores
    baselines: Mapping[str, Scores]
    labels: tuple[str, ...]
    confusion: NDArray[np.int64]
    query_labels: Mapping[str, int]
    gallery_labels: Mapping[str, int]
    examples: tuple[Example, ...]
    latency: Latency
    others: Mapping[str, Scores] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike evaluate --json``."""
        return {
            "n": self.n,
            "queries": len(self.examples),
            "skipped": len(self.skipped),
            "gallery": self.gallery,
            **self.scores.as_dict(),
            "baselines": {name: scores.as_dict() for name, scores in self.baselines.items()},
            "latency_ms": {"p50": self.latency.p50, "p95": self.latency.p95},
        }


def evaluate(
    gallery: Gallery,
    queries: str | Path | Source | None = None,
    *,
    n: int = 7,
    first: int = 100,
    metric: Metric | str | None = None,
    baselines: bool = False,
    on_progress: ProgressCallback = ignore_progress,
) -> Evaluation:
    """Judge a gallery by labelled queries: a hit is right when it has the query's label.

    A query that is itself a row (the same id) never counts as its own hit. Queries without a
    label, or that cannot be decoded, are skipped and listed.

    Args:
        gallery: its rows carry labels.
        queries: a source of labelled images; without one, each row is asked for the others.
        n: hits for each query.
        first: the first queries whose scores stand apart (the report's protocol has 100).
        metric: ``l2`` or ``cosine``; the gallery's own unless given.
        baselines: also judge chance, pixels, PCA, HOG and an untrained network, each made for and
            run over the same images with the same metric.
        on_progress: told of each stage.

    Raises:
        InputError: the gallery or all the queries have no labels.
        SettingError: ``n`` or ``first`` below 1.
    """
    for name, value in (("n", n), ("first", first)):
        if value < 1:
            raise SettingError(f"{name} = {value}: must be at least 1")
    opened = open_source(queries, on_progress) if isinstance(queries, str | Path) else queries
    opened = opened or gallery.items()
    chosen = gallery.metric if metric is None else Metric(metric)
    bench = _Bench.set_up(gallery, opened, n, first, chosen, on_progress)
    beside: dict[str, Scores] = {}
    if baselines:
        beside[CHANCE] = bench.by_chance()
        sample = sample_images(bench.rows)
        for description in catalog().values():
            if description.baseline:
                encoder = description.fit(description.name, sample)
                hits = bench.search(encoder, bench.store_for(encoder))
                beside[description.name] = bench.score(encoder.name, hits)
    hits = bench.search(gallery.encoder, gallery.store)
    labels = tuple(sorted({*bench.truth.values(), *bench.labels}))
    return Evaluation(
        n=n,
        gallery=str(gallery.path),
        rows=len(gallery),
        queries=opened.spec,
        skipped=bench.skipped,
        scores=bench.score(gallery.encoder.name, hits),
        baselines=beside,
        labels=labels,
        confusion=bench.confusion(labels, hits),
        query_labels=Counter(bench.labels),
        gallery_labels=Counter(bench.truth.values()),
        examples=tuple(
            Example(item.uri, label, tuple(row))
            for item, label, row in zip(bench.items, bench.labels, hits, strict=True)
        ),
        latency=bench.latency(),
    )


@dataclass(frozen=True, slots=True)
class _Bench:
    """What every encoder is judged on: the same rows, queries, labels and metric.

    ``truth`` is the label of each row that has one, by id; ``items`` are the labelled queries
    and ``labels`` theirs.
    """

    gallery: Gallery
    rows: ItemSource
    n: int
    first: int
    metric: Metric
    truth: Mapping[str, str]
    items: Sequence[Item]
    labels: Sequence[str]
    skipped: tuple[Failure, ...]
    on_progress: ProgressCallback

    @classmethod
    def set_up(
        cls,
        gallery: Gallery,
        source: Source,
        n: int,
        first: int,
        metric: Metric,
        on_progress: ProgressCallback,
    ) -> _Bench:
        rows = gallery.items()
        truth = {
            item.id: str(item.metadata["label"])
            for item in rows
            if item.metadata.get("label") is not None
        }
        if not truth:
            raise InputError(
                f"{gallery.path}: none of its {len(gallery):,} rows has a label to judge by; put "
                "the images into sub-folders named by label and index them again"
            )
        items, skipped = _labelled(source, on_progress)
        return cls(
            gallery=gallery,
            rows=rows,
            n=n,
            first=first,
            metric=metric,
            truth=truth,
            items=items,
            labels=[str(item.metadata["label"]) for item in items],
            skipped=tuple(skipped),
            on_progress=on_progress,
        )

    def store_for(self, encoder: Encoder) -> VectorStore:
        """Return the gallery's images as encoded by another encoder."""
        items = self.rows.items
        task = f"encode with {encoder.name}"
        encoded = list(encode_items(encoder, items, self._reporter(task, len(items))))
        embeddings = np.concatenate(encoded)
        store = MemoryStore(encoder.dim)
        blank = [""] * len(items)
        store.upsert(Rows([i.id for i in items], blank, embeddings, [{}] * len(items), blank))
        return store

    def search(self, encoder: Encoder, store: VectorStore) -> list[list[Hit]]:
        """Return the n hits of every query, the query itself left out."""
        spare = any(item.id in self.truth for item in self.items)
        report = self._reporter(f"search with {encoder.name}", len(self.items))
        hits: list[list[Hit]] = []
        for embeddings in encode_items(encoder, self.items):
            items = self.items[len(hits) : len(hits) + len(embeddings)]
            found = store.search(embeddings, self.n + spare, self.metric)
            hits += [
                [hit for hit in row if hit.id != item.id][: self.n]
                for row, item in zip(found, items, strict=True)
            ]
            report(len(hits))
        return hits

    def score(self, encoder: str, hits: Sequence[Sequence[Hit]]) -> Scores:
        """Return the scores of hits."""
        correct = np.zeros((len(hits), self.n), dtype=np.bool_)
        for right, row, label in zip(correct, hits, self.labels, strict=True):
            right[: len(row)] = [self.truth.get(hit.id) == label for hit in row]
        return self._summary(encoder, QueryScores.of(correct, self._relevant()))

    def by_chance(self) -> Scores:
        """Return the expected scores of rows drawn at random."""
        rows = np.array([len(self.gallery) - (i.id in self.truth) for i in self.items])
        return self._summary(CHANCE, QueryScores.by_chance(self._relevant(), rows, self.n))

    def confusion(self, labels: Sequence[str], hits: Sequence[Sequence[Hit]]) -> NDArray[np.int64]:
        """Count hits by the label of the query (row) and of the hit (column)."""
        place = {label: i for i, label in enumerate(labels)}
        counts = np.zeros((len(labels), len(labels)), np.int64)
        for row, label in zip(hits, self.labels, strict=True):
            for hit in row:
                if hit.id in self.truth:
                    counts[place[label], place[self.truth[hit.id]]] += 1
        return counts

    def latency(self) -> Latency:
        """Time single queries through the gallery: encode, search."""
        times = []
        for item in self.items[:_TIMED]:
            image = item.image()
            start = time.perf_counter()
            self.gallery.search(image, n=self.n, metric=self.metric)
            times.append((time.perf_counter() - start) * 1000)
        p50, p95 = np.percentile(times, [50, 95])
        return Latency(float(p50), float(p95))

    def _summary(self, encoder: str, values: QueryScores) -> Scores:
        return Scores.of(encoder, self.metric, values, self.labels, self.first)

    def _relevant(self) -> NDArray[np.int64]:
        counts = Counter(self.truth.values())
        return np.array(
            [
                counts[label] - (self.truth.get(item.id) == label)
                for item, label in zip(self.items, self.labels, strict=True)
            ]
        )

    def _reporter(self, task: str, total: int) -> Callable[[int], None]:
        def report(done: int) -> None:
            self.on_progress(Progress(task, done, total, "images"))

        report(0)
        return report


def _labelled(source: Source, on_progress: ProgressCallback) -> tuple[list[Item], list[Failure]]:
    """Return the queries that have a label and can be decoded, and the others with reasons."""
    items, skipped = [], []
    on_progress(Progress("read queries", 0, len(source), "images"))
    for number, item in enumerate(source, 1):
        try:
            if item.metadata.get("label") is None:
                skipped.append(Failure(item.uri, "has no label"))
            else:
                item.image()
                items.append(item)
        except ImageError as error:
            skipped.append(Failure(item.uri, str(error)))
        if number % _REPORT_EVERY == 0 or number == len(source):
            on_progress(Progress("read queries", number, len(source), "images"))
    if not items:
        raise InputError(
            f"{source.spec}: none of its {len(source):,} images is a labelled query; the first, "
            f"{skipped[0].uri}: {skipped[0].reason}"
        )
    return items, skipped
