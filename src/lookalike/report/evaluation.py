"""The report of an evaluation: an HTML file with figures, their data as tables, and settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from lookalike.encoders.onnx import NetworkEncoder
from lookalike.evaluation.baselines import CHANCE, baseline_notes
from lookalike.evaluation.metrics import Scores
from lookalike.evaluation.relevance import RelevanceCriterion, short_name
from lookalike.evaluation.results import Evaluation, Example
from lookalike.evaluation.summary import (
    cautions,
    ceiling_note,
    most_confused,
)
from lookalike.formatting import format_count
from lookalike.gallery.gallery import Gallery
from lookalike.report import figures
from lookalike.report.page import (
    INTERVAL,
    Page,
    Section,
    Table,
    chart,
    interval_cells,
    png,
    settings_section,
    write_page,
)
from lookalike.report.training import training_sections
from lookalike.search.contact_sheet import ContactSheet, contact_sheet, image_sheet
from lookalike.search.hits import Hits, display_size
from lookalike.types import ImageArray, Metric

_SAMPLE = 2_000
"""Rows whose distances to a query are drawn; more would read a large gallery for one figure."""

_MAX_EXAMPLES = 8
_MAX_PIXELS = 3_000_000
"""Of a contact sheet, which is a part of the page."""

_MAX_SAMPLE = 30


def write_report(
    evaluation: Evaluation,
    gallery: Gallery,
    path: Path,
    networks: Mapping[str, NetworkEncoder] | None = None,
) -> None:
    """Write the report of an evaluation as one self-contained HTML file.

    Args:
        evaluation: the result.
        gallery: the gallery that was evaluated.
        path: the file; its folder is created.
        networks: other encoders of the same images, whose training is shown too.

    Raises:
        StorageError: it could not be written.
    """
    write_page(report_page(evaluation, gallery, networks), path)


def report_page(
    evaluation: Evaluation,
    gallery: Gallery,
    networks: Mapping[str, NetworkEncoder] | None = None,
) -> Page:
    """Return the report of an evaluation; see :func:`write_report`."""
    return Page(
        title=f"Search quality of {evaluation.scores.encoder} in {Path(evaluation.gallery).name}",
        subtitle=(
            f"{format_count(len(evaluation.examples), 'query', 'queries')} from "
            f"{evaluation.queries}, {format_count(evaluation.rows, 'row')}, "
            f"{format_count(evaluation.k, 'hit')} per query, {evaluation.scores.metric} distance"
        ),
        verdict=evaluation.verdict(),
        highlight=evaluation.scores.encoder,
        sections=list(_sections(evaluation, gallery, networks or {})),
    )


def _sections(
    evaluation: Evaluation, gallery: Gallery, networks: Mapping[str, NetworkEncoder]
) -> Iterator[Section]:
    yield _scores(evaluation)
    if evaluation.variants:
        yield _variants(evaluation)
    if gallery.encoder.is_available:
        yield from _pipeline(evaluation, gallery)
    yield _best_queries(evaluation, gallery)
    if any(_incorrect(example) for example in evaluation.examples):
        yield _worst_queries(evaluation, gallery)
    if evaluation.criterion.labeled:
        yield _confusion(evaluation)
        if len(evaluation.scores.per_label) > 1:
            yield _per_label(evaluation)
        yield _classes(evaluation)
    else:
        yield _relevant_rows(evaluation)
    yield from _sample(evaluation)
    encoder = gallery.encoder
    if isinstance(encoder, NetworkEncoder):
        yield from training_sections(evaluation, {encoder.name: encoder, **networks})
    yield _settings(evaluation, gallery)


def _scores(evaluation: Evaluation) -> Section:
    k, metric = evaluation.k, evaluation.scores.metric
    labeled = evaluation.criterion.labeled
    columns: list[str] = []
    rows: list[tuple[str, ...]] = []
    for name, scores in evaluation.ranking():
        cells = _cells(scores, k, labeled=labeled)
        columns = ["encoder", *(column for column, _ in cells)]
        rows.append((name, *(value for _, value in cells)))
    measure = f"precision@{k}" if labeled else f"mAP@{k}"
    label = f"{measure}, {metric} distance; {figures.ERROR_BARS}"
    protocol = evaluation.protocol
    texts = (
        f"{protocol.summary} ({protocol.source})." if protocol else "",
        f"Relevant rows {evaluation.criterion.description}; a hit is correct if its row is "
        "relevant.",
        f"Precision@{k} is the share of correct hits. mAP@{k} divides by min({k}, relevant rows), "
        f"mAP@{k} (retrieved) by the correct hits. R@1 is the share of queries whose first hit is "
        "correct.",
        *(f"{text[:1].upper()}{text[1:]}." for text in cautions(evaluation)),
        f"Note: {ceiling_note(evaluation)}." if ceiling_note(evaluation) else "",
        "Intervals are 95 % confidence intervals, bootstrapped over the queries.",
        "All baselines were run on the same images and queries with the same metric."
        if evaluation.baselines
        else "",
        *(
            f"{text}."
            for text in baseline_notes(evaluation.baselines_left_out, evaluation.baselines_unread)
        ),
    )
    return Section(
        "Search quality",
        " ".join(filter(None, texts)),
        chart(partial(figures.interval_chart, _bars(evaluation), label)),
        table=Table(columns, rows),
    )


def _cells(scores: Scores, k: int, *, labeled: bool) -> list[tuple[str, str]]:
    """Return the cells of a row with their columns."""
    precision = interval_cells(f"precision@{k}", scores.precision)
    average = interval_cells(f"mAP@{k}", scores.map)
    retrieved = interval_cells(f"mAP@{k} (retrieved)", scores.map_retrieved)
    recalls = [
        ("R@1", f"{scores.recall_at_1.value:.4f}"),
        (f"recall@{k}", f"{scores.recall.value:.5f}"),
    ]
    if not labeled:
        return [*average, *retrieved, *recalls, *precision]
    first = interval_cells(
        f"precision@{k}, first {scores.first.queries:,}", scores.first.precision_estimate
    )
    return [*precision, *average, *retrieved, *recalls, *first]


def _bars(evaluation: Evaluation) -> list[figures.Bar]:
    """Return precision of each encoder or, if relevance is not by label, mAP; best first."""
    return [
        figures.Bar.of(
            name,
            scores.precision if evaluation.criterion.labeled else scores.map,
            highlight=scores is evaluation.scores,
        )
        for name, scores in evaluation.ranking()
    ]


def _variants(evaluation: Evaluation) -> Section:
    k = evaluation.k
    rows = [
        (
            "plain search",
            *(value for _, value in interval_cells("", evaluation.scores.map)),
            "",
            "",
            f"{evaluation.scores.recall_at_1.value:.4f}",
            "" if evaluation.latency is None else f"{evaluation.latency.p50:.1f}",
        )
    ]
    for name, result in evaluation.variants.items():
        delta = result.map_delta
        rows.append(
            (
                name,
                *(value for _, value in interval_cells("", result.scores.map)),
                f"{delta.value:+.4f}",
                delta.interval.describe("+.4f", " to "),
                f"{result.scores.recall_at_1.value:.4f}",
                f"{result.latency_ms:.1f}",
            )
        )
    bars = [figures.Bar.of("plain search", evaluation.scores.map)] + [
        figures.Bar.of(name, result.scores.map, highlight=result.map_delta.interval.low > 0)
        for name, result in evaluation.variants.items()
    ]
    columns = ("variant", f"mAP@{k}", INTERVAL, "difference", INTERVAL, "R@1", "median ms")
    return Section(
        "Search variants",
        "Crops of the query and re-rankings, compared with a plain search over the same queries. "
        "The difference in mAP is paired by query; a variant helps if its whole interval is above "
        "0 (blue bars).",
        chart(partial(figures.interval_chart, bars, f"mAP@{k}; {figures.ERROR_BARS}")),
        table=Table(columns, rows),
    )


def _pipeline(evaluation: Evaluation, gallery: Gallery) -> Iterator[Section]:
    """Yield how one query is searched, if the image of any of the first can be read."""
    with_hits = (example for example in evaluation.examples if example.hits)
    for example in islice(with_hits, _MAX_SAMPLE):
        image = example.image()
        if image is not None:
            yield _search(example, image, evaluation, gallery)
            return


def _search(
    example: Example, image: ImageArray, evaluation: Evaluation, gallery: Gallery
) -> Section:
    embedding = gallery.encoder.encode_batch([image])
    sample = gallery.store.sample(_SAMPLE)
    rows = sample.embeddings.astype(np.float64)
    query = embedding[0].astype(np.float64)
    if evaluation.scores.metric is Metric.L2:
        distances = np.linalg.norm(rows - query, axis=1)
    else:
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
        distances = 1 - np.divide(rows @ query, norms, out=np.zeros(len(rows)), where=norms > 0)
    described = "all images" if len(rows) < _SAMPLE else f"{_SAMPLE:,} random images"
    return Section(
        "How a search works",
        "The encoder turns the query into an embedding. Its distance to the embedding of each "
        "image in the gallery is computed; the nearest images are the hits. The histogram shows "
        f"the distances to {described}.",
        chart(
            partial(
                figures.pipeline,
                image,
                embedding,
                distances,
                _results(example, evaluation.scores.metric, gallery),
                _hit_titles(example, evaluation.criterion),
            )
        ),
    )


def _best_queries(evaluation: Evaluation, gallery: Gallery) -> Section:
    complete = [example for example in evaluation.examples if not _incorrect(example)]
    first_of_label: dict[str, Example] = {}
    for example in complete:
        first_of_label.setdefault(example.label, example)
    shown = list(first_of_label.values()) or list(evaluation.examples)
    outcome = (
        "only correct hits" if evaluation.ceiling == 1 else "all correct hits before incorrect ones"
    )
    title = "label" if evaluation.criterion.labeled else "name"
    return Section(
        "Best queries",
        f"{len(complete):,} of {format_count(len(evaluation.examples), 'query', 'queries')} have "
        f"{outcome}. The query is on the left; below the {title} of each hit is its distance. "
        "Correct hits have a green frame, incorrect ones a red frame.",
        image=png(_grid(shown, evaluation, gallery)),
    )


def _worst_queries(evaluation: Evaluation, gallery: Gallery) -> Section:
    worst = sorted(filter(_incorrect, evaluation.examples), key=_incorrect, reverse=True)
    outcome = (
        "at least one incorrect hit"
        if evaluation.ceiling == 1
        else "a missed relevant row or an incorrect hit before a correct one"
    )
    return Section(
        "Worst queries",
        f"{len(worst):,} of {format_count(len(evaluation.examples), 'query', 'queries')} have "
        f"{outcome}. Those with the most incorrect hits:",
        image=png(_grid(worst, evaluation, gallery)),
    )


def _grid(examples: Sequence[Example], evaluation: Evaluation, gallery: Gallery) -> ContactSheet:
    shown = examples[:_MAX_EXAMPLES]
    return contact_sheet(
        [_results(example, evaluation.scores.metric, gallery) for example in shown],
        [example.correct for example in shown],
        query_titles=[example.label for example in shown],
        hit_titles=[_hit_titles(example, evaluation.criterion) for example in shown],
        max_pixels=_MAX_PIXELS,
    )


def _confusion(evaluation: Evaluation) -> Section:
    rows = [
        (label, *(f"{hits:,}" for hits in row))
        for label, row in zip(evaluation.labels, evaluation.confusion, strict=True)
    ]
    pairs = most_confused(evaluation)
    return Section(
        "Confused labels",
        f"Most often: {pairs}." if pairs else "None: all hits have the query's label.",
        chart(partial(figures.confusion, evaluation.labels, evaluation.confusion)),
        table=Table(("query \\ hit", *evaluation.labels), rows),
    )


def _per_label(evaluation: Evaluation) -> Section:
    encoders = [(name, scores) for name, scores in evaluation.ranking() if name != CHANCE]
    labels = sorted(evaluation.scores.per_label)
    series = [
        figures.Series(
            name,
            [scores.per_label[label].precision for label in labels],
            highlight=scores is evaluation.scores,
        )
        for name, scores in encoders
    ]
    rows = [
        (label, f"{group.queries:,}", *(f"{s.per_label[label].precision:.4f}" for _, s in encoders))
        for label, group in evaluation.scores.per_label.items()
    ]
    return Section(
        "Precision by label",
        f"Precision@{evaluation.k} of the queries with each label.",
        chart(partial(figures.scores_per_label, labels, series, f"precision@{evaluation.k}")),
        table=Table(("label", "queries", *(name for name, _ in encoders)), rows),
    )


def _classes(evaluation: Evaluation) -> Section:
    gallery, queries = evaluation.gallery_labels, evaluation.query_labels
    rows = [
        (label, f"{gallery.get(label, 0):,}", f"{queries.get(label, 0):,}")
        for label in sorted({*gallery, *queries})
    ]
    return Section(
        "Images by label",
        "Number of images with each label. Labels are used for evaluation only.",
        chart(partial(figures.class_distribution, gallery, queries)),
        table=Table(("label", "gallery", "queries"), rows),
    )


def _relevant_rows(evaluation: Evaluation) -> Section:
    counts = Counter(example.relevant for example in evaluation.examples)
    rows = [(f"{relevant:,}", f"{queries:,}") for relevant, queries in sorted(counts.items())]
    truth = evaluation.criterion.ground_truth
    notes = [f"{note}." for note in truth.notes()] if truth else []
    return Section(
        "Relevant rows",
        " ".join(
            (
                f"Relevant rows {evaluation.criterion.description}. The table counts queries by "
                "their number of relevant rows in the gallery.",
                *notes,
            )
        ),
        table=Table(("relevant rows", "queries"), rows),
    )


def _sample(evaluation: Evaluation) -> Iterator[Section]:
    step = max(1, len(evaluation.examples) // _MAX_SAMPLE)
    shown = evaluation.examples[::step][:_MAX_SAMPLE]
    read = [(image, each.label) for each in shown if (image := each.image()) is not None]
    if read:
        grid = image_sheet([image for image, _ in read], [label for _, label in read])
        yield Section("Sample of the queries", "Evenly spaced in the source.", image=png(grid))


def _settings(evaluation: Evaluation, gallery: Gallery) -> Section:
    latency = evaluation.latency
    return settings_section(
        gallery,
        {
            "queries": evaluation.queries,
            "hits per query (k)": evaluation.k,
            "metric": evaluation.scores.metric.value,
            "skipped queries": len(evaluation.skipped),
            "duplicates of queries ignored": bool(
                evaluation.leakage and evaluation.leakage.excluded
            ),
            "relevance": evaluation.criterion.as_dict(),
            "protocol": evaluation.protocol.name if evaluation.protocol else "none",
            "latency per query": "not measured"
            if latency is None
            else f"p50 {latency.p50:.2f} ms, p95 {latency.p95:.2f} ms",
        },
    )


def _incorrect(example: Example) -> int:
    """Count the incorrect hits among the first ones, as many as rows are relevant."""
    return example.correct[: example.relevant or None].count(False)


def _results(example: Example, metric: Metric, gallery: Gallery) -> Hits:
    reader = partial(gallery.read_images, reduce=display_size)
    return Hits(example.uri, metric, example.hits, example.uri, reader)


def _hit_titles(example: Example, criterion: RelevanceCriterion) -> list[str]:
    """Return a title of each hit: its value in the column of the criterion, or its short name."""
    if criterion.column is None:
        return [str(hit.metadata.get("id", short_name(hit.id))) for hit in example.hits]
    values = (hit.metadata.get(criterion.column) for hit in example.hits)
    return ["no value" if value is None else str(value) for value in values]
