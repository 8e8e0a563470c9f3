"""Evaluate the search quality of a gallery: precision, mAP and recall, beside baselines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.base import Encoder
from lookalike.encoders.batching import encode_items
from lookalike.errors import ImageError, InputError, SettingError
from lookalike.evaluation.baselines import CHANCE, BaselineResults, run_baselines
from lookalike.evaluation.leakage import find_leakage
from lookalike.evaluation.metrics import QueryScores, Scores, ceiling_at_k
from lookalike.evaluation.protocols import open_protocol
from lookalike.evaluation.relevance import Relevance, RelevantSet, build_relevance
from lookalike.evaluation.results import Evaluation, Example, Latency
from lookalike.evaluation.synthetic_queries import make_synthetic_queries
from lookalike.evaluation.variants import VariantBenchmark, parse_variants
from lookalike.formatting import format_count
from lookalike.gallery.gallery import Gallery
from lookalike.sources import Item, ItemSource, Source, open_source
from lookalike.sources.sampling import sample_images, thread_map
from lookalike.stores.base import MAX_K, RowReader, Rows
from lookalike.stores.memory import MemoryStore
from lookalike.types import (
    Embeddings,
    Failure,
    Hit,
    Metric,
    Progress,
    ProgressCallback,
    ignore_progress,
)
from lookalike.vectors import has_direction

DEFAULT_K = 7

_REPORT_EVERY = 1000
_TIMED = 200


def evaluate(  # noqa: PLR0913 - keyword options of the public call
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
    exclude_duplicates: bool = False,
    on_progress: ProgressCallback = ignore_progress,
) -> Evaluation:
    """Measure the search quality of a gallery.

    A hit is correct if its row has the query's label, unless ``match``, ``ground_truth`` or
    ``synthetic_queries`` defines relevance otherwise. A query that is itself a row (same id) never
    counts as its own hit. Queries without a label or relevant row, or that cannot be decoded, are
    skipped and listed. A query with an embedding of zeros, which is equally far from all rows, has
    no hits.

    Queries that the gallery holds as the same file are counted, and near-duplicates too if the
    queries are a source (:mod:`lookalike.evaluation.leakage`): they find themselves.

    Args:
        gallery: the gallery to search.
        queries: a source of query images; by default, the gallery's own rows.
        k: hits per query; by default 7, or the protocol's.
        first: number of first queries that are also reported by themselves.
        metric: ``l2`` or ``cosine``; by default the gallery's own.
        match: a metadata column: rows with the query's value are relevant.
        ground_truth: a CSV file, on each line a query and the ids of its relevant rows.
        protocol: a published protocol such as ``perfect-500k``; needs ``ground_truth``.
        synthetic_queries: search with street photos composed from the gallery's images, each of
            which is to find its original.
        backgrounds: photographs for synthetic queries; by default, collages of the gallery's
            images.
        variants: search variants to compare with a plain search: ``foreground``, ``multi-crop``,
            names of re-rankings, several joined by ``+``, or ``all``.
        baselines: compare with chance, pixels, PCA, HOG and an untrained network, each fitted to
            and run on the same images with the same metric. One that cannot be, such as PCA on
            few images, is left out with its reason. Rows whose images cannot be read any more are
            missing from the baselines' galleries; they are listed.
        exclude_duplicates: ignore rows that are identical to a query or near-duplicates of it in
            its ranking, as neither correct nor incorrect.
        on_progress: called at each stage.

    Raises:
        InputError: no row or no query has a label or value, or the ground-truth file cannot be
            used.
        SettingError: ``k`` or ``first`` below 1, or options that exclude each other.
        UnknownNameError: no such protocol or search variant.
    """
    parsed_variants = parse_variants(variants)
    opened_protocol = None if protocol is None else open_protocol(protocol)
    if opened_protocol is not None:
        opened_protocol.check(k, ground_truth)
    if k is None:
        k = DEFAULT_K if opened_protocol is None else opened_protocol.k
    if k < 1:
        raise SettingError("{k} must be at least 1", k=k)
    if first < 1:
        raise SettingError("{first} must be at least 1", first=first)
    gallery = gallery.snapshot()
    metric = gallery.metric if metric is None else Metric(metric)
    rows = gallery.items()
    source: Source
    relevance: Relevance
    if backgrounds is not None and not synthetic_queries:
        raise SettingError(
            "{backgrounds} needs {synthetic_queries}", backgrounds=None, synthetic_queries=None
        )
    if synthetic_queries:
        _check_synthetic(
            queries=queries,
            match=match,
            ground_truth=ground_truth,
            exclude_duplicates=exclude_duplicates or None,
        )
        source, relevance = make_synthetic_queries(gallery, backgrounds, on_progress=on_progress)
    else:
        source = (
            open_source(queries, on_progress)
            if isinstance(queries, str | Path)
            else queries or rows
        )
        relevance = build_relevance(rows, source, match=match, ground_truth=ground_truth)
    read = _read_queries(source, relevance, on_progress)
    embeddings = np.concatenate(list(encode_items(gallery.encoder, read.items)))
    benchmark = _Benchmark(
        gallery=gallery,
        rows=rows,
        k=k,
        first=first,
        metric=metric,
        labels=relevance.labels,
        queries=read.items,
        relevant=read.relevant,
        ignored=read.ignored,
        on_progress=on_progress,
    )
    hits = benchmark.search(gallery.encoder, gallery.store, embeddings)
    leaked = None
    if not synthetic_queries:
        leaked = find_leakage(
            gallery,
            read.items,
            embeddings,
            nearest=hits if metric is gallery.metric else None,
            near=queries is not None or exclude_duplicates,
            exclude=exclude_duplicates,
            on_progress=on_progress,
        )
    if leaked is not None and exclude_duplicates:
        read, embeddings = read.ignoring(leaked.by_query, embeddings)
        benchmark = replace(
            benchmark, queries=read.items, relevant=read.relevant, ignored=read.ignored
        )
        hits = benchmark.search(gallery.encoder, gallery.store, embeddings)
    compared = benchmark.baselines() if baselines else BaselineResults()
    values = benchmark.query_scores(hits)
    labels = tuple(sorted({*benchmark.labels.values(), *benchmark.query_labels}))
    return Evaluation(
        k=k,
        gallery=str(gallery.path),
        state=gallery.state,
        rows=len(gallery),
        queries=source.spec,
        skipped=tuple(read.skipped),
        without_relevant=read.without_relevant,
        zero_embeddings=int((~benchmark.is_defined(embeddings)).sum()),
        leakage=None if leaked is None else leaked.leakage,
        scores=benchmark.score(gallery.encoder.name, hits),
        baselines=compared.results,
        baselines_left_out=compared.left_out,
        baselines_unread=compared.unread,
        labels=labels,
        confusion=benchmark.confusion(labels, hits),
        query_labels=Counter(benchmark.query_labels),
        gallery_labels=Counter(benchmark.labels.values()),
        examples=tuple(benchmark.examples(hits)),
        latency=benchmark.latency(),
        criterion=relevance.criterion,
        ceiling=float(ceiling_at_k(benchmark.relevant_counts, k).mean()),
        protocol=opened_protocol,
        variants=VariantBenchmark(
            gallery=gallery,
            queries=read.items,
            relevant=read.relevant,
            ignored=read.ignored,
            k=k,
            metric=metric,
            first=first,
        ).run(parsed_variants, values.average_precision, on_progress),
    )


def _readable(rows: ItemSource) -> tuple[list[Item], tuple[Failure, ...]]:
    """Return the rows whose images can be read, and the others with the reason."""

    def reason(item: Item) -> str:
        try:
            item.image()
        except ImageError as error:
            return str(error).removeprefix(f"{item.uri}: ")
        return ""

    reasons = list(zip(rows.items, thread_map(reason, rows.items), strict=True))
    unread = tuple(Failure(item.uri, text) for item, text in reasons if text)
    return [item for item, text in reasons if not text], unread


def _check_synthetic(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise SettingError(
                f"{{synthetic_queries}} cannot be combined with {{{name}}}: it makes its own "
                "queries, each with its original as the relevant row; use one",
                synthetic_queries=None,
                **{name: value},
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Benchmark:
    """The rows, queries, relevance and metric that every encoder is scored on.

    ``labels`` is the label of each row by id, empty unless relevance is by label; ``relevant``
    has the relevant rows of each of the ``queries``, and ``ignored`` those that are left out of its
    ranking.
    """

    gallery: Gallery
    rows: ItemSource
    k: int
    first: int
    metric: Metric
    labels: Mapping[str, str]
    queries: Sequence[Item]
    relevant: Sequence[RelevantSet]
    ignored: Sequence[frozenset[str]]
    on_progress: ProgressCallback

    @property
    def query_labels(self) -> list[str]:
        """The queries' labels; empty unless relevance is by label."""
        return [relevant.name for relevant in self.relevant] if self.labels else []

    @property
    def relevant_counts(self) -> NDArray[np.int64]:
        """Number of relevant rows of each query, ``(q,)``."""
        return np.array([relevant.count for relevant in self.relevant], np.int64)

    @property
    def indexed(self) -> NDArray[np.bool_]:
        """Whether each query is itself a row, ``(q,)``."""
        ids = {item.id for item in self.rows}
        return np.array([item.id in ids for item in self.queries], np.bool_)

    def baselines(self) -> BaselineResults[Scores]:
        """Return the scores of chance and of the baseline encoders, by name."""
        items, unread = _readable(self.rows)
        run = run_baselines(
            sample_images(self.rows),
            lambda encoder: self._score_baseline(encoder, self.store_for(encoder, items)),
        )
        return BaselineResults({CHANCE: self.chance(), **run.results}, run.left_out, unread)

    def _score_baseline(self, encoder: Encoder, store: RowReader) -> Scores:
        """Return the scores of an encoder.

        Raises:
            InputError: it has no result for any query.
        """
        hits = self.search(encoder, store)
        if not any(hits):
            raise InputError(
                f"encoder {encoder.name!r} has no result: its embeddings are zeros for all queries "
                "or all rows"
            )
        return self.score(encoder.name, hits)

    def store_for(self, encoder: Encoder, items: Sequence[Item]) -> RowReader:
        """Return images of the gallery as encoded by another encoder."""
        task = f"encode with {encoder.name}"
        encoded = list(encode_items(encoder, items, self._reporter(task, len(items))))
        embeddings = np.concatenate(encoded)
        store = MemoryStore(encoder.dim)
        blank = [""] * len(items)
        store.upsert(Rows([i.id for i in items], blank, embeddings, [{}] * len(items), blank))
        return store

    def search(
        self, encoder: Encoder, store: RowReader, embeddings: Embeddings | None = None
    ) -> list[list[Hit]]:
        """Return the k hits of each query, without the query itself and the ignored rows.

        ``embeddings`` are those of the queries, if they have been encoded.
        """
        most = self.k + bool(self.indexed.any()) + max(map(len, self.ignored))
        report = self._reporter(f"search with {encoder.name}", len(self.queries))
        hits: list[list[Hit]] = []
        if embeddings is None:
            batches = encode_items(encoder, self.queries)
        else:
            starts = range(0, len(embeddings), _REPORT_EVERY)
            batches = (embeddings[start : start + _REPORT_EVERY] for start in starts)
        for batch in batches:
            places = range(len(hits), len(hits) + len(batch))
            results = store.search(batch, min(most, MAX_K), self.metric)
            hits += [
                [hit for hit in row if not self._is_left_out(hit, place)][: self.k]
                if defined
                else []
                for row, place, defined in zip(
                    results, places, self.is_defined(batch).tolist(), strict=True
                )
            ]
            report(len(hits))
        return hits

    def is_defined(self, embeddings: Embeddings) -> NDArray[np.bool_]:
        """Return which embeddings have a distance: none of zeros, where the metric is cosine."""
        return has_direction(embeddings) | (self.metric is Metric.L2)

    def _is_left_out(self, hit: Hit, place: int) -> bool:
        return hit.id == self.queries[place].id or hit.id in self.ignored[place]

    def score(self, encoder: str, hits: Sequence[Sequence[Hit]]) -> Scores:
        """Return the mean scores of hits."""
        return self._mean(encoder, self.query_scores(hits))

    def query_scores(self, hits: Sequence[Sequence[Hit]]) -> QueryScores:
        """Return the scores of each query."""
        correct = np.zeros((len(hits), self.k), dtype=np.bool_)
        for marks, row, relevant in zip(correct, hits, self.relevant, strict=True):
            marks[: len(row)] = [hit.id in relevant.ids for hit in row]
        return QueryScores.of(correct, self.relevant_counts)

    def chance(self) -> Scores:
        """Return the expected scores of rows drawn at random."""
        ignored = np.array([len(rows) for rows in self.ignored], np.int64)
        rows = len(self.gallery) - self.indexed.astype(np.int64) - ignored
        return self._mean(CHANCE, QueryScores.by_chance(self.relevant_counts, rows, self.k))

    def confusion(self, labels: Sequence[str], hits: Sequence[Sequence[Hit]]) -> NDArray[np.int64]:
        """Count hits by the label of the query (row) and of the hit (column)."""
        place = {label: i for i, label in enumerate(labels)}
        counts = np.zeros((len(labels), len(labels)), np.int64)
        for row, relevant in zip(hits, self.relevant, strict=True):
            for hit in row:
                if hit.id in self.labels:
                    counts[place[relevant.name], place[self.labels[hit.id]]] += 1
        return counts

    def examples(self, hits: Sequence[Sequence[Hit]]) -> Iterator[Example]:
        """Yield each query with its hits."""
        for query, relevant, row in zip(self.queries, self.relevant, hits, strict=True):
            correct = tuple(hit.id in relevant.ids for hit in row)
            yield Example(query.uri, relevant.name, tuple(row), correct, relevant.count)

    def latency(self) -> Latency:
        """Time queries one by one: encoding and search."""
        milliseconds = []
        for query in self.queries[:_TIMED]:
            image = query.image()
            start = time.perf_counter()
            self.gallery.search(image, k=self.k, metric=self.metric)
            milliseconds.append((time.perf_counter() - start) * 1000)
        p50, p95 = np.percentile(milliseconds, [50, 95])
        return Latency(float(p50), float(p95))

    def _mean(self, encoder: str, values: QueryScores) -> Scores:
        return Scores.of(encoder, self.metric, values, self.query_labels, self.first)

    def _reporter(self, task: str, total: int) -> Callable[[int], None]:
        def report(done: int) -> None:
            self.on_progress(Progress(task, done, total, "images"))

        report(0)
        return report


@dataclass(frozen=True, slots=True)
class _Queries:
    """The queries that can be used, with their relevant and ignored rows, and the skipped ones.

    ``without_relevant`` of the skipped ones have no relevant row.
    """

    spec: str
    total: int
    labeled: bool
    items: list[Item]
    relevant: list[RelevantSet]
    ignored: list[frozenset[str]]
    skipped: list[Failure]
    without_relevant: int

    def ignoring(
        self, rows: Mapping[str, frozenset[str]], embeddings: Embeddings
    ) -> tuple[_Queries, Embeddings]:
        """Return the queries, without some rows by id, and their embeddings.

        Raises:
            InputError: no query has a relevant row left.
        """
        ignored = [rows.get(item.id, frozenset()) for item in self.items]
        relevant = [
            each.without(left_out) for each, left_out in zip(self.relevant, ignored, strict=True)
        ]
        kept = [place for place, each in enumerate(relevant) if not each.skip_reason]
        lost = [place for place, each in enumerate(relevant) if each.skip_reason]
        queries = replace(
            self,
            items=[self.items[place] for place in kept],
            relevant=[relevant[place] for place in kept],
            ignored=[ignored[place] for place in kept],
            skipped=self.skipped
            + [Failure(self.items[place].uri, relevant[place].skip_reason) for place in lost],
            without_relevant=self.without_relevant + len(lost),
        )
        queries.check()
        return queries, embeddings[kept]

    def check(self) -> None:
        """Raise InputError unless there is a query."""
        if not self.items:
            only_unlabeled = self.labeled and not self.without_relevant
            kind = "labeled query" if only_unlabeled else "query with a relevant row"
            raise InputError(
                f"{self.spec}: no {kind} among {format_count(self.total, 'image')}; the first, "
                f"{self.skipped[0].uri}: {self.skipped[0].reason}"
            )


def _read_queries(source: Source, relevance: Relevance, on_progress: ProgressCallback) -> _Queries:
    """Return the queries that can be used, their relevant rows, and the skipped queries.

    Raises:
        InputError: there are none.
    """
    labeled = relevance.criterion.labeled
    queries = _Queries(source.spec, len(source), labeled, [], [], [], [], 0)
    without_relevant = 0
    on_progress(Progress("read queries", 0, len(source), "images"))
    for number, item in enumerate(source, 1):
        relevant = relevance.relevant(item)
        if relevant is not None and relevant.skip_reason:
            queries.skipped.append(Failure(item.uri, relevant.skip_reason))
            without_relevant += relevant.irrelevant
        elif relevant is not None:
            try:
                item.image()
            except ImageError as error:
                reason = str(error).removeprefix(f"{item.uri}: ")
                queries.skipped.append(Failure(item.uri, reason))
            else:
                queries.items.append(item)
                queries.relevant.append(relevant)
                queries.ignored.append(frozenset())
        if number % _REPORT_EVERY == 0 or number == len(source):
            on_progress(Progress("read queries", number, len(source), "images"))
    queries = replace(queries, without_relevant=without_relevant)
    queries.check()
    return queries
