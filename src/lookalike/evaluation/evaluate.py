"""Evaluate the search quality of a gallery: precision, mAP and recall, beside baselines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.arguments import checked
from lookalike.encoders.base import Encoder
from lookalike.errors import ImageError, InputError, SettingError
from lookalike.evaluation.baselines import CHANCE, fit_baselines
from lookalike.evaluation.leakage import LeakedRows, Thumbnails, find_leakage
from lookalike.evaluation.metrics import Estimate, PerQuery, QueryScores, Scores, ceiling_at_k
from lookalike.evaluation.protocols import EvaluationProtocol, open_protocol
from lookalike.evaluation.relevance import Relevance, RelevantSet, build_relevance
from lookalike.evaluation.results import Evaluation, Example, Latency
from lookalike.evaluation.single_pass import EncodedItems, encode_once
from lookalike.evaluation.synthetic_queries import make_synthetic_queries
from lookalike.evaluation.trial import EncodedRows, SearchableRows, Trial, TrialQuery, is_defined
from lookalike.evaluation.variants import SearchVariant, VariantBenchmark, parse_variants
from lookalike.explore.copy_threshold import thumbnail_vector
from lookalike.formatting import format_count
from lookalike.gallery.gallery import Gallery, as_gallery
from lookalike.progress import ProgressOption, reporting
from lookalike.sources import Item, ItemSource, Source
from lookalike.sources.inputs import SourceLike, as_source
from lookalike.sources.labels import LabelSource
from lookalike.sources.sampling import DecodedBatch, decode_batches, sample_images
from lookalike.stores.base import MAX_K
from lookalike.stores.row_index import vectors_of
from lookalike.types import (
    Embeddings,
    Failure,
    ImageArray,
    Metric,
    Progress,
    ProgressCallback,
)
from lookalike.vectors import VectorView

DEFAULT_K = 7

_TIMED = 200
_TIMED_BYTES = 64 << 20
"""Queries of which the latency is measured, and how much of their images stays in memory."""

_OWN = ""
"""The gallery's encoder among the baselines, which have names."""


@checked
def evaluate(  # noqa: PLR0913 - keyword options of the public call
    gallery: Gallery,
    queries: SourceLike | None = None,
    *,
    k: int | None = None,
    first: int = 100,
    metric: Metric | str | None = None,
    labels: LabelSource | None = None,
    match: str | None = None,
    ground_truth: str | Path | None = None,
    protocol: str | None = None,
    synthetic_queries: bool = False,
    backgrounds: SourceLike | None = None,
    variants: str | Sequence[str] | None = None,
    baselines: bool = False,
    exclude_duplicates: bool = False,
    progress: ProgressOption = True,
) -> Evaluation:
    """Measure the search quality of a gallery.

    A hit is correct if its row has the query's label, unless ``match``, ``ground_truth`` or
    ``synthetic_queries`` defines relevance otherwise. A query that is itself a row (same id) never
    counts as its own hit. Queries without a label or relevant row, or that cannot be decoded, are
    skipped and listed. A query with an embedding of zeros, which is equally far from all rows, has
    no hits.

    The gallery's own rows are searched by their stored embeddings: their images are read only for
    ``baselines``, ``variants`` and ``exclude_duplicates``, and a few to measure the latency. Each
    image is decoded once and given to all encoders.

    Queries that the gallery holds as the same file are counted, and near-duplicates too if the
    queries are a source (:mod:`lookalike.evaluation.leakage`): they find themselves.

    Args:
        gallery: the gallery to search.
        queries: a source of query images, or images; by default, the gallery's own rows.
        k: hits per query; by default 7, or the protocol's.
        first: number of first queries that are also reported by themselves.
        metric: ``l2`` or ``cosine``; by default the gallery's own.
        labels: labels of rows and queries by id, instead of the metadata column ``label``: a label
            file, a mapping, a pandas Series or DataFrame (see :func:`lookalike.read_labels`).
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
            missing from the baselines' galleries, and are no queries; they are listed.
        exclude_duplicates: ignore rows that are identical to a query or near-duplicates of it in
            its ranking, as neither correct nor incorrect.
        progress: True shows it on a terminal or in a notebook, False does not; or a callback.

    Raises:
        InputError: no row or no query has a label or value, or the ground-truth file cannot be
            used.
        SettingError: ``k`` or ``first`` below 1, or options that exclude each other.
        UnknownNameError: no such protocol or search variant.
    """
    settings = _Settings.of(k, first, metric, protocol, ground_truth)
    settings = replace(
        settings,
        variants=parse_variants(variants),
        baselines=baselines,
        exclude_duplicates=exclude_duplicates,
    )
    if backgrounds is not None and not synthetic_queries:
        raise SettingError(
            "{backgrounds} needs {synthetic_queries}", backgrounds=None, synthetic_queries=None
        )
    if synthetic_queries:
        _check_synthetic(
            queries=queries,
            labels=labels,
            match=match,
            ground_truth=ground_truth,
            exclude_duplicates=exclude_duplicates or None,
        )
    gallery = as_gallery(gallery).snapshot()
    rows = gallery.items()
    with reporting(progress) as on_progress:
        source: Source
        relevance: Relevance
        if synthetic_queries:
            source, relevance = make_synthetic_queries(
                gallery, backgrounds, on_progress=on_progress
            )
        else:
            source = (
                rows if queries is None else as_source(queries, on_progress, argument="queries")
            )
            relevance = build_relevance(
                rows, source, labels=labels, match=match, ground_truth=ground_truth
            )
        benchmark = _Benchmark(
            gallery=gallery,
            rows=rows,
            settings=settings,
            relevance=relevance,
            leakage=not synthetic_queries,
            own_rows=queries is None and not synthetic_queries,
            on_progress=on_progress,
        )
        return benchmark.run(source)


def _check_synthetic(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise SettingError(
                f"{{synthetic_queries}} cannot be combined with {{{name}}}: it makes its own "
                "queries, each with its original as the relevant row; use one",
                synthetic_queries=None,
                **{name: None if name == "labels" else value},
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What is measured: ``metric`` None stands for the gallery's own."""

    k: int
    first: int
    metric: Metric | None
    protocol: EvaluationProtocol | None
    variants: tuple[SearchVariant, ...] = ()
    baselines: bool = False
    exclude_duplicates: bool = False

    @classmethod
    def of(
        cls,
        k: int | None,
        first: int,
        metric: Metric | str | None,
        protocol: str | None,
        ground_truth: str | Path | None,
    ) -> _Settings:
        """Check numbers and names.

        Raises:
            SettingError: a number is out of range, or contradicts the protocol.
            UnknownNameError: no such protocol.
        """
        opened = None if protocol is None else open_protocol(protocol)
        if opened is not None:
            opened.check(k, ground_truth)
        if k is None:
            k = DEFAULT_K if opened is None else opened.k
        if k < 1:
            raise SettingError("{k} must be at least 1", k=k)
        if k > MAX_K:
            raise SettingError(f"{{k}} must be at most {MAX_K:,}", k=k)
        if first < 1:
            raise SettingError("{first} must be at least 1", first=first)
        parsed = None if metric is None else Metric(metric)
        return cls(k=k, first=first, metric=parsed, protocol=opened)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Benchmark:
    """The rows and the relevance that every encoder is measured with.

    ``leakage``: queries that the gallery holds are to be found. ``own_rows``: the queries are the
    gallery's rows.
    """

    gallery: Gallery
    rows: ItemSource
    settings: _Settings
    relevance: Relevance
    leakage: bool
    own_rows: bool
    on_progress: ProgressCallback

    @property
    def metric(self) -> Metric:
        """The metric of all distances."""
        return self.settings.metric or self.gallery.metric

    @property
    def searches_near(self) -> bool:
        """Whether near-duplicates of the queries are searched."""
        return self.leakage and (not self.own_rows or self.settings.exclude_duplicates)

    def run(self, source: Source) -> Evaluation:
        """Evaluate the gallery by the queries of a source."""
        settings, k = self.settings, self.settings.k
        queries = _Queries.of(source, self.relevance)
        read = self._read(queries)
        queries, embeddings = queries.readable(read.unread), read.embeddings
        trial = self._search(self.gallery.store, queries, embeddings)
        leaked = self._find_leaked(queries, embeddings, trial, read.thumbnails)
        if leaked is not None and settings.exclude_duplicates:
            queries, kept = queries.ignoring(leaked.by_query)
            embeddings = embeddings.select(kept)
            read = replace(read, queries=[read.queries[place] for place in kept])
            trial = self._search(self.gallery.store, queries, embeddings)
        scores = trial.scores
        compared = self._baselines(read, queries, scores) if settings.baselines else _Compared()
        by_label = self.relevance.labels
        names = queries.names if by_label else []
        labels = tuple(sorted({*by_label.values(), *names}))
        hits = trial.hits
        return Evaluation(
            k=k,
            gallery=str(self.gallery.path),
            state=self.gallery.state,
            rows=len(self.gallery),
            queries=source.spec,
            skipped=tuple(queries.skipped),
            without_relevant=queries.without_relevant,
            zero_embeddings=int((~is_defined(embeddings, self.metric)).sum()),
            leakage=None if leaked is None else leaked.leakage,
            scores=self._mean(self.gallery.encoder.name, scores, queries),
            baselines=compared.scores,
            differences=compared.differences,
            baselines_left_out=compared.left_out,
            baselines_unread=read.unread_rows,
            labels=labels,
            confusion=_confusion(labels, by_label, trial, names),
            query_labels=Counter(names),
            gallery_labels=Counter(by_label.values()),
            examples=tuple(
                Example(item.uri, each.name, tuple(row), tuple(marks[: len(row)]), each.count)
                for item, each, row, marks in zip(
                    queries.items, queries.relevant, hits, trial.correct.tolist(), strict=True
                )
            ),
            latency=self._latency(queries.items, read.images),
            criterion=self.relevance.criterion,
            ceiling=float(ceiling_at_k(trial.relevant, k).mean()),
            protocol=settings.protocol,
            variants=VariantBenchmark(
                gallery=self.gallery,
                items=queries.items,
                queries=queries.trial_queries,
                k=k,
                metric=self.metric,
                first=settings.first,
            ).run(settings.variants, scores.average_precision, self.on_progress),
        )

    def _read(self, queries: _Queries) -> _Read:
        """Read what the images are needed for: each once, for all encoders.

        Raises:
            ImageError: the gallery's encoder does not accept a query.
        """
        settings = self.settings
        by_vector = self.own_rows
        if by_vector and not (settings.baselines or settings.variants or self.searches_near):
            return _Read(list(range(len(queries.items))), self._stored(queries.items))
        encoders: dict[str, Encoder] = {}
        left_out: dict[str, str] = {}
        places, items = _merge(self.rows.items if settings.baselines else (), queries.items)
        batches: Iterator[DecodedBatch] = decode_batches(items)
        if settings.baselines:
            first = next(batches)
            encoders, left_out = self._fit_baselines(first)
            batches = _resume(first, batches)
            del first
        if not by_vector:
            encoders[_OWN] = self.gallery.encoder
        wanted = np.zeros(len(items), np.bool_)
        wanted[places] = True
        seen = _SeenImages(items, places, near=self.searches_near)
        encoded = encode_once(
            items,
            encoders,
            batches=batches,
            only={_OWN: wanted},
            visit=seen.add,
            on_progress=self.on_progress,
        )
        for name, error in encoded.rejected.items():
            if name == _OWN:
                raise error
            left_out[name] = str(error)
        readable = [n for n, place in enumerate(places) if place not in encoded.unread]
        kept = [places[n] for n in readable]
        rows = len(self.rows) if settings.baselines else 0
        if by_vector:
            embeddings = self._stored([queries.items[n] for n in readable])
        else:
            embeddings = VectorView.of(encoded.embeddings.pop(_OWN)).select(kept)
        return _Read(
            queries=readable,
            embeddings=embeddings,
            unread={
                n: _reason(encoded.unread[place], items[place])
                for n, place in enumerate(places)
                if place in encoded.unread
            },
            unread_rows=tuple(
                Failure(items[place].uri, _reason(error, items[place]))
                for place, error in sorted(encoded.unread.items())
                if place < rows
            ),
            encoded=encoded,
            places=places,
            left_out=left_out,
            images=seen.images,
            thumbnails=[seen.thumbnails.get(place) for place in kept] if seen.near else None,
        )

    def _fit_baselines(self, first: DecodedBatch) -> tuple[dict[str, Encoder], dict[str, str]]:
        """Fit the baselines to a sample of the rows; the first ones have been decoded.

        Of a small gallery, these are all, so that no image is decoded twice.
        """
        decoded = {
            self.rows[place].id: image
            for place, image in zip(first.places, first.images, strict=True)
            if place < len(self.rows)
        }
        return fit_baselines(sample_images(self.rows, decoded=decoded), self.on_progress)

    def _stored(self, items: Sequence[Item]) -> VectorView:
        """Return the embeddings of rows as they are in the gallery."""
        return vectors_of(self.gallery.store, [item.id for item in items])

    def _search(
        self, rows: SearchableRows, queries: _Queries, embeddings: Embeddings | VectorView
    ) -> Trial:
        return Trial.search(
            rows,
            queries.trial_queries,
            embeddings,
            k=self.settings.k,
            metric=self.metric,
            report=self._reporter("search", len(queries.items)),
        )

    def _find_leaked(
        self,
        queries: _Queries,
        embeddings: VectorView,
        trial: Trial,
        thumbnails: Thumbnails | None,
    ) -> LeakedRows | None:
        if not self.leakage:
            return None
        return find_leakage(
            self.gallery,
            queries.items,
            embeddings,
            nearest=trial.hits if self.metric is self.gallery.metric else None,
            thumbnails=thumbnails,
            exclude=self.settings.exclude_duplicates,
            on_progress=self.on_progress,
        )

    def _baselines(self, read: _Read, queries: _Queries, own: QueryScores) -> _Compared:
        """Measure chance and the baseline encoders with the same queries."""
        assert read.encoded is not None
        rows = len(self.rows)
        readable = [place for place in range(rows) if place not in read.encoded.unread]
        ids = [self.rows[place].id for place in readable]
        places = [read.places[n] for n in read.queries]
        compared = _Compared(left_out=dict(read.left_out))
        self._add(compared, CHANCE, self._chance(queries), own, queries)
        for name in list(read.encoded.embeddings):
            embeddings = read.encoded.embeddings.pop(name)  # no longer needed afterwards
            searched = embeddings[:rows] if len(readable) == rows else embeddings[readable]
            trial = self._search(EncodedRows(ids, searched), queries, embeddings[places])
            if any(trial.hits):
                self._add(compared, name, trial.scores, own, queries)
            else:
                compared.left_out[name] = (
                    f"encoder {name!r} has no result: its embeddings are zeros for all queries or "
                    "all rows"
                )
        return compared

    def _add(
        self,
        compared: _Compared,
        name: str,
        scores: QueryScores,
        own: QueryScores,
        queries: _Queries,
    ) -> None:
        compared.scores[name] = self._mean(name, scores, queries)
        difference = self._main(own) - self._main(scores)
        compared.differences[name] = Estimate.of(difference)

    def _main(self, scores: QueryScores) -> PerQuery:
        """Return the score that encoders are ranked by."""
        labeled = self.relevance.criterion.labeled
        return scores.precision if labeled else scores.average_precision

    def _chance(self, queries: _Queries) -> QueryScores:
        """Return the expected scores of rows drawn at random."""
        row_ids = {item.id for item in self.rows}
        left_out = [(query.id in row_ids) + len(query.ignored) for query in queries.trial_queries]
        rows = len(self.gallery) - np.array(left_out, np.int64)
        relevant = np.array([each.count for each in queries.relevant], np.int64)
        return QueryScores.by_chance(relevant, rows, self.settings.k)

    def _mean(self, encoder: str, values: QueryScores, queries: _Queries) -> Scores:
        names = queries.names if self.relevance.labels else []
        return Scores.of(encoder, self.metric, values, names, self.settings.first)

    def _latency(
        self, items: Sequence[Item], images: Mapping[tuple[str, str], ImageArray]
    ) -> Latency | None:
        """Time queries one by one: encoding and search; None if none can be encoded."""
        milliseconds = []
        for item in items[:_TIMED] if self.gallery.encoder.is_available else ():
            try:
                image = images[_key(item)] if _key(item) in images else item.image()
            except ImageError:
                continue
            start = time.perf_counter()
            self.gallery.search(image, k=self.settings.k, metric=self.metric)
            milliseconds.append((time.perf_counter() - start) * 1000)
        if not milliseconds:
            return None
        p50, p95 = np.percentile(milliseconds, [50, 95])
        return Latency(float(p50), float(p95))

    def _reporter(self, task: str, total: int) -> Callable[[int], None]:
        def report(done: int) -> None:
            self.on_progress(Progress(task, done, total, "queries"))

        report(0)
        return report


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of the images.

    ``queries`` are the numbers of the queries that can be used, ``embeddings`` theirs
    by the gallery's encoder, ``thumbnails`` what near-duplicates are compared by, and ``unread``
    the reasons of the others. ``encoded`` are rows and queries as the baselines see them, and
    ``places`` those of all queries among them.
    """

    queries: Sequence[int]
    embeddings: VectorView
    unread: Mapping[int, str] = field(default_factory=dict)
    unread_rows: tuple[Failure, ...] = ()
    encoded: EncodedItems | None = None
    places: Sequence[int] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[tuple[str, str], ImageArray] = field(default_factory=dict)
    thumbnails: Thumbnails | None = None


@dataclass(frozen=True, slots=True)
class _Compared:
    """Scores of the baselines, and the differences to the gallery's encoder, by name."""

    scores: dict[str, Scores] = field(default_factory=dict)
    differences: dict[str, Estimate] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class _SeenImages:
    """What is kept of the queries' images when they are decoded.

    ``images`` are the first ones, to measure the latency, and ``thumbnails`` those of all, by place
    among ``items``, if near-duplicates are searched.
    """

    def __init__(self, items: Sequence[Item], places: Sequence[int], *, near: bool) -> None:
        self._items = items
        self._queries, self._timed = frozenset(places), frozenset(places[:_TIMED])
        self._bytes = 0
        self.near = near
        self.images: dict[tuple[str, str], ImageArray] = {}
        self.thumbnails: dict[int, NDArray[np.float32] | None] = {}

    def add(self, place: int, image: ImageArray) -> None:
        """Keep what is needed of an image."""
        if place not in self._queries:
            return
        if self.near:
            self.thumbnails[place] = thumbnail_vector(image)
        if place in self._timed and self._bytes + image.nbytes <= _TIMED_BYTES:
            self._bytes += image.nbytes
            self.images[_key(self._items[place])] = image


def _resume(first: DecodedBatch, rest: Iterator[DecodedBatch]) -> Iterator[DecodedBatch]:
    """Yield batches of which one was taken; it does not stay in memory."""
    yield first
    del first
    yield from rest


def _key(item: Item) -> tuple[str, str]:
    """Return what two items of the same image have in common."""
    return item.id, item.uri


def _merge(items: Sequence[Item], others: Sequence[Item]) -> tuple[list[int], list[Item]]:
    """Return the places of ``others`` among the items of both, each image once, and these."""
    merged = list(items)
    place_of = {_key(item): place for place, item in enumerate(merged)}
    places = []
    for item in others:
        place = place_of.setdefault(_key(item), len(merged))
        if place == len(merged):
            merged.append(item)
        places.append(place)
    return places, merged


def _reason(error: ImageError, item: Item) -> str:
    return str(error).removeprefix(f"{item.uri}: ")


def _confusion(
    labels: Sequence[str], by_row: Mapping[str, str], trial: Trial, names: Sequence[str]
) -> NDArray[np.int64]:
    """Count hits by the label of the query (row) and of the hit (column)."""
    place = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), np.int64)
    if by_row:
        for row, name in zip(trial.hits, names, strict=True):
            for hit in row:
                if hit.id in by_row:
                    counts[place[name], place[by_row[hit.id]]] += 1
    return counts


@dataclass(frozen=True, slots=True)
class _Queries:
    """The queries that can be used, with their relevant and ignored rows, and the skipped ones.

    ``without_relevant`` of the skipped ones have no relevant row.
    """

    spec: str
    total: int
    labeled: bool
    items: Sequence[Item]
    relevant: Sequence[RelevantSet]
    ignored: Sequence[frozenset[str]]
    skipped: Sequence[Failure]
    without_relevant: int

    @classmethod
    def of(cls, source: Source, relevance: Relevance) -> _Queries:
        """Return the queries of a source with a relevant row; no image is read.

        Raises:
            InputError: there are none.
        """
        items: list[Item] = []
        every: list[RelevantSet] = []
        skipped: list[Failure] = []
        without_relevant = 0
        for item in source:
            relevant = relevance.relevant(item)
            if relevant is not None and relevant.skip_reason:
                skipped.append(Failure(item.uri, relevant.skip_reason))
                without_relevant += relevant.irrelevant
            elif relevant is not None:
                items.append(item)
                every.append(relevant)
        queries = cls(
            spec=source.spec,
            total=len(source),
            labeled=relevance.criterion.labeled,
            items=items,
            relevant=every,
            ignored=[frozenset()] * len(items),
            skipped=skipped,
            without_relevant=without_relevant,
        )
        queries.check()
        return queries

    @property
    def names(self) -> list[str]:
        """The label of each query, its value, or its short name."""
        return [relevant.name for relevant in self.relevant]

    @property
    def trial_queries(self) -> list[TrialQuery]:
        """The queries of a trial."""
        return [
            TrialQuery(item.id, relevant.ids, relevant.count, ignored)
            for item, relevant, ignored in zip(self.items, self.relevant, self.ignored, strict=True)
        ]

    def readable(self, unread: Mapping[int, str]) -> _Queries:
        """Return the queries without those that cannot be decoded, by number and reason.

        Raises:
            InputError: there are none.
        """
        kept = [number for number in range(len(self.items)) if number not in unread]
        failures = [Failure(self.items[number].uri, reason) for number, reason in unread.items()]
        queries = replace(self._take(kept), skipped=[*self.skipped, *failures])
        queries.check()
        return queries

    def ignoring(self, rows: Mapping[str, frozenset[str]]) -> tuple[_Queries, list[int]]:
        """Return the queries without some rows by id, and the numbers of those that remain.

        Raises:
            InputError: no query has a relevant row left.
        """
        ignored = [rows.get(item.id, frozenset()) for item in self.items]
        relevant = [
            each.without(left_out) for each, left_out in zip(self.relevant, ignored, strict=True)
        ]
        kept = [number for number, each in enumerate(relevant) if not each.skip_reason]
        lost = [number for number, each in enumerate(relevant) if each.skip_reason]
        failures = [Failure(self.items[n].uri, relevant[n].skip_reason) for n in lost]
        queries = replace(
            replace(self, relevant=relevant, ignored=ignored)._take(kept),
            skipped=[*self.skipped, *failures],
            without_relevant=self.without_relevant + len(lost),
        )
        queries.check()
        return queries, kept

    def _take(self, numbers: Sequence[int]) -> _Queries:
        return replace(
            self,
            items=[self.items[number] for number in numbers],
            relevant=[self.relevant[number] for number in numbers],
            ignored=[self.ignored[number] for number in numbers],
        )

    def check(self) -> None:
        """Raise InputError unless there is a query."""
        if not self.items:
            only_unlabeled = self.labeled and not self.without_relevant
            kind = "labeled query" if only_unlabeled else "query with a relevant row"
            reason = (
                f"; the first, {self.skipped[0].uri}: {self.skipped[0].reason}"
                if self.skipped
                else ""
            )
            raise InputError(
                f"{self.spec}: no {kind} among {format_count(self.total, 'image')}{reason}"
            )
