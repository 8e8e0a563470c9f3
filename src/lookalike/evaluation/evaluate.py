"""A gallery judged by right answers, beside what needs no learning: precision, mAP, recall."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.base import Encoder
from lookalike.encoders.batching import encode_items
from lookalike.encoders.registry import encoder_specs
from lookalike.errors import ImageError, InputError, SettingError
from lookalike.evaluation.metrics import QueryScores, Scores, ceiling_at_k
from lookalike.evaluation.protocols import open_protocol
from lookalike.evaluation.relevance import Relevance, RelevantSet, build_relevance
from lookalike.evaluation.results import Evaluation, Example, Latency
from lookalike.evaluation.synthetic_queries import make_synthetic_queries
from lookalike.evaluation.variants import Trial, parse_variants
from lookalike.gallery.gallery import Gallery
from lookalike.sources import Item, ItemSource, Source, open_source
from lookalike.sources.sampling import sample_images
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
N = 7
"""Hits for each query, unless told otherwise."""

_REPORT_EVERY = 1000
_TIMED = 200


def evaluate(
    gallery: Gallery,
    queries: str | Path | Source | None = None,
    *,
    k: int | None = None,
    first: int = 100,
    metric: Metric | str | None = None,
    match: str | None = None,
    ground_truth: str | Path | None = None,
    protocol: str | None = None,
    synthetic_queries: bool = False,
    backgrounds: str | Path | Source | None = None,
    variants: str | Sequence[str] | None = None,
    baselines: bool = False,
    on_progress: ProgressCallback = ignore_progress,
) -> Evaluation:
    """Judge a gallery by queries: a hit is right when it has the query's label, or as told.

    A query that is itself a row (the same id) never counts as its own hit. Queries without a
    label, or that cannot be decoded, are skipped and listed; so are queries that no row answers,
    where ``match`` or ``ground_truth`` is given.

    Args:
        gallery: its rows carry labels, or what ``match`` or ``ground_truth`` needs.
        queries: a source of images; without one, each row is asked for the others.
        k: hits for each query; 7, or the protocol's, unless given.
        first: the first queries whose scores stand apart (the report's protocol has 100).
        metric: ``l2`` or ``cosine``; the gallery's own unless given.
        match: a column of metadata: rows with the query's value in it are right, not labels.
        ground_truth: a CSV file, on each line a query and the rows that are right.
        protocol: what published figures were measured by, as ``perfect-500k``; with
            ``ground_truth``.
        synthetic_queries: ask with street views of the gallery's own images, each to find itself;
            no labels are needed.
        backgrounds: photographs for these views; collages of the gallery's images unless given.
        variants: also ask in other ways: ``foreground``, ``parts``, re-rankings, several joined by
            ``+``, or ``all`` for each of them.
        baselines: also judge chance, pixels, PCA, HOG and an untrained network, each made for and
            run over the same images with the same metric.
        on_progress: told of each stage.

    Raises:
        InputError: the gallery or all the queries have no labels or values, or the truth file
            cannot be used.
        SettingError: ``k`` or ``first`` below 1, or options that exclude each other.
        UnknownNameError: no such protocol or way of asking.
    """
    tried = parse_variants(variants)
    agreed = None if protocol is None else open_protocol(protocol)
    if agreed is not None:
        agreed.check(k, ground_truth)
    k = k if k is not None else N if agreed is None else agreed.k
    for name, value in (("k", k), ("first", first)):
        if value < 1:
            raise SettingError(f"{name} = {value}: must be at least 1")
    chosen = gallery.metric if metric is None else Metric(metric)
    rows = gallery.items()
    opened: Source
    relevance: Relevance
    if backgrounds is not None and not synthetic_queries:
        raise SettingError("--backgrounds is for --synthetic-queries: add it, or leave out both")
    if synthetic_queries:
        _refuse_with_street({"queries": queries, "--match": match, "--ground-truth": ground_truth})
        opened, relevance = make_synthetic_queries(gallery, backgrounds, on_progress=on_progress)
    else:
        opened = (
            open_source(queries, on_progress)
            if isinstance(queries, str | Path)
            else queries or rows
        )
        relevance = build_relevance(rows, opened, match=match, ground_truth=ground_truth)
    items, right, skipped = _asked(opened, relevance, on_progress)
    bench = _Bench(gallery, rows, k, first, chosen, relevance.labels, items, right, on_progress)
    beside: dict[str, Scores] = {}
    if baselines:
        beside[CHANCE] = bench.by_chance()
        sample = sample_images(bench.rows)
        for description in encoder_specs().values():
            if description.baseline:
                encoder = description.fit(description.name, sample)
                hits = bench.search(encoder, bench.store_for(encoder))
                beside[description.name] = bench.score(encoder.name, hits)
    hits = bench.search(gallery.encoder, gallery.store)
    values = bench.values(hits)
    trial = Trial(gallery, items, [r.ids for r in right], bench.relevant.tolist(), k, chosen, first)
    labels = tuple(sorted({*bench.labels.values(), *bench.asked_labels}))
    return Evaluation(
        k=k,
        gallery=str(gallery.path),
        rows=len(gallery),
        queries=opened.spec,
        skipped=tuple(skipped),
        scores=bench.score(gallery.encoder.name, hits),
        baselines=beside,
        labels=labels,
        confusion=bench.confusion(labels, hits),
        query_labels=Counter(bench.asked_labels),
        gallery_labels=Counter(bench.labels.values()),
        examples=tuple(bench.examples(hits)),
        latency=bench.latency(),
        criterion=relevance.criterion,
        ceiling=float(ceiling_at_k(bench.relevant, k).mean()),
        protocol=agreed,
        variants=trial.run(tried, values.average_precision, on_progress),
    )


def _refuse_with_street(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            raise SettingError(
                f"--synthetic-queries cannot be combined with {name} ({value}): it asks with the "
                "gallery's own images, which are right themselves; leave out one of the two"
            )


@dataclass(frozen=True, slots=True)
class _Bench:
    """What every encoder is judged on: the same rows, queries, right answers and metric.

    ``labels`` is the label of each row that has one, by id, and empty where not labels judge;
    ``items`` are the queries and ``right`` their right answers.
    """

    gallery: Gallery
    rows: ItemSource
    k: int
    first: int
    metric: Metric
    labels: Mapping[str, str]
    items: Sequence[Item]
    right: Sequence[RelevantSet]
    on_progress: ProgressCallback

    @property
    def asked_labels(self) -> list[str]:
        """The queries' labels; none where not labels judge."""
        return [right.name for right in self.right] if self.labels else []

    @property
    def relevant(self) -> NDArray[np.int64]:
        """How many rows are right for each query, ``(q,)``."""
        return np.array([right.relevant for right in self.right], np.int64)

    @property
    def own(self) -> NDArray[np.bool_]:
        """Whether each query is itself a row, ``(q,)``."""
        ids = {item.id for item in self.rows}
        return np.array([item.id in ids for item in self.items], np.bool_)

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
        spare = bool(self.own.any())
        report = self._reporter(f"search with {encoder.name}", len(self.items))
        hits: list[list[Hit]] = []
        for embeddings in encode_items(encoder, self.items):
            items = self.items[len(hits) : len(hits) + len(embeddings)]
            found = store.search(embeddings, self.k + spare, self.metric)
            hits += [
                [hit for hit in row if hit.id != item.id][: self.k]
                for row, item in zip(found, items, strict=True)
            ]
            report(len(hits))
        return hits

    def score(self, encoder: str, hits: Sequence[Sequence[Hit]]) -> Scores:
        """Return the scores of hits."""
        return self._summary(encoder, self.values(hits))

    def values(self, hits: Sequence[Sequence[Hit]]) -> QueryScores:
        """Return the scores of each query."""
        correct = np.zeros((len(hits), self.k), dtype=np.bool_)
        for found, row, right in zip(correct, hits, self.right, strict=True):
            found[: len(row)] = [hit.id in right.ids for hit in row]
        return QueryScores.of(correct, self.relevant)

    def by_chance(self) -> Scores:
        """Return the expected scores of rows drawn at random."""
        rows = len(self.gallery) - self.own.astype(np.int64)
        return self._summary(CHANCE, QueryScores.by_chance(self.relevant, rows, self.k))

    def confusion(self, labels: Sequence[str], hits: Sequence[Sequence[Hit]]) -> NDArray[np.int64]:
        """Count hits by the label of the query (row) and of the hit (column)."""
        place = {label: i for i, label in enumerate(labels)}
        counts = np.zeros((len(labels), len(labels)), np.int64)
        for row, right in zip(hits, self.right, strict=True):
            for hit in row:
                if hit.id in self.labels:
                    counts[place[right.name], place[self.labels[hit.id]]] += 1
        return counts

    def examples(self, hits: Sequence[Sequence[Hit]]) -> Iterator[Example]:
        """Yield every query with its hits."""
        for item, right, row in zip(self.items, self.right, hits, strict=True):
            marks = tuple(hit.id in right.ids for hit in row)
            yield Example(item.uri, right.name, tuple(row), marks, right.relevant)

    def latency(self) -> Latency:
        """Time single queries through the gallery: encode, search."""
        times = []
        for item in self.items[:_TIMED]:
            image = item.image()
            start = time.perf_counter()
            self.gallery.search(image, k=self.k, metric=self.metric)
            times.append((time.perf_counter() - start) * 1000)
        p50, p95 = np.percentile(times, [50, 95])
        return Latency(float(p50), float(p95))

    def _summary(self, encoder: str, values: QueryScores) -> Scores:
        return Scores.of(encoder, self.metric, values, self.asked_labels, self.first)

    def _reporter(self, task: str, total: int) -> Callable[[int], None]:
        def report(done: int) -> None:
            self.on_progress(Progress(task, done, total, "images"))

        report(0)
        return report


def _asked(
    source: Source, relevance: Relevance, on_progress: ProgressCallback
) -> tuple[list[Item], list[RelevantSet], list[Failure]]:
    """Return the queries that can be asked and decoded, their answers, and those skipped."""
    items, answers, skipped = [], [], []
    on_progress(Progress("read queries", 0, len(source), "images"))
    for number, item in enumerate(source, 1):
        right = relevance.right(item)
        if right is not None and right.why_not:
            skipped.append(Failure(item.uri, right.why_not))
        elif right is not None:
            try:
                item.image()
            except ImageError as error:
                skipped.append(Failure(item.uri, str(error).removeprefix(f"{item.uri}: ")))
            else:
                items.append(item)
                answers.append(right)
        if number % _REPORT_EVERY == 0 or number == len(source):
            on_progress(Progress("read queries", number, len(source), "images"))
    if not items:
        what = "a labeled query" if relevance.criterion.labeled else "a query with a right answer"
        raise InputError(
            f"{source.spec}: none of its {len(source):,} images is {what}; the first, "
            f"{skipped[0].uri}: {skipped[0].reason}"
        )
    return items, answers, skipped
