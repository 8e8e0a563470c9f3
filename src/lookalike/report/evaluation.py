"""The evaluation report as one HTML file: figures, their tables, the exact settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from lookalike.encoders.onnx import NetworkEncoder
from lookalike.evaluation.evaluate import CHANCE
from lookalike.evaluation.metrics import Estimate
from lookalike.evaluation.relevance import RelevanceCriterion, short_name
from lookalike.evaluation.results import Evaluation, Example
from lookalike.evaluation.summary import ceiling_note, most_confused, ranking, verdict
from lookalike.gallery.gallery import Gallery
from lookalike.report import figures
from lookalike.report.page import Page, Section, Table, png, settings_of, write_page
from lookalike.report.training import training_sections
from lookalike.sources import open_items
from lookalike.types import Hits, Metric

_EXAMPLES = 8


def write_report(
    found: Evaluation,
    gallery: Gallery,
    path: Path,
    beside: Mapping[str, NetworkEncoder] | None = None,
) -> None:
    """Write the report of an evaluation as one HTML file that needs no other.

    Args:
        found: what was measured.
        gallery: what it was measured on.
        path: the file; its folder is made.
        beside: other encoders of the same images, whose training is shown beside.

    Raises:
        StorageError: it could not be written.
    """
    write_page(report_page(found, gallery, beside), path)


def report_page(
    found: Evaluation, gallery: Gallery, beside: Mapping[str, NetworkEncoder] | None = None
) -> Page:
    """Return the report of an evaluation; see :func:`write_report`."""
    return Page(
        title=f"What looks like this? {found.scores.encoder} in {Path(found.gallery).name}",
        subtitle=(
            f"{len(found.examples):,} queries from {found.queries}, {found.rows:,} rows, "
            f"{found.k} hits each, {found.scores.metric} distance"
        ),
        verdict=verdict(found),
        ours=found.scores.encoder,
        sections=list(_sections(found, gallery, beside or {})),
    )


def _sections(
    found: Evaluation, gallery: Gallery, beside: Mapping[str, NetworkEncoder]
) -> Iterator[Section]:
    yield _ladder(found)
    answered = next((example for example in found.examples if example.hits), None)
    if answered is not None:
        yield _pipeline(answered, found, gallery)
    yield _hits(found, right=True)
    if any(_wrong(example) for example in found.examples):
        yield _hits(found, right=False)
    if found.criterion.labeled:
        yield _confusion(found)
        if len(found.scores.per_label) > 1:
            yield _per_label(found)
        yield _classes(found)
    else:
        yield _answers(found)
    yield _sample(found)
    encoder = gallery.encoder
    if isinstance(encoder, NetworkEncoder):
        yield from training_sections(found, {encoder.name: encoder, **beside})
    yield _settings(found, gallery)


def _ladder(found: Evaluation) -> Section:
    k, first = found.k, found.scores.first.queries
    columns: list[str] = []
    rows: list[tuple[str, ...]] = []
    for name, s in ranking(found):
        precision = _cells(f"precision@{k}", s.precision)
        average = _cells(f"mAP@{k}", s.map)
        of_found = _cells(f"mAP@{k} (found)", s.map_retrieved)
        recall_at_1 = {"R@1": f"{s.recall_at_1.value:.4f}"}
        recall = {f"recall@{k}": f"{s.recall.value:.5f}"}
        if found.criterion.labeled:
            early = {f"first {first}": f"{s.first.precision:.4f}"}
            parts = [precision, average, of_found, recall_at_1, recall, early]
        else:
            parts = [average, of_found, recall_at_1, recall, precision]
        cells = [cell for part in parts for cell in part.items()]
        columns = ["encoder", *(column for column, _ in cells)]
        rows.append((name, *(value for _, value in cells)))
    protocol = f"{found.protocol.summary} ({found.protocol.source}). " if found.protocol else ""
    early_said = (
        f"The first {first} queries stand apart as the 2020 report's protocol had them: too few "
        "to rank encoders by, their interval is about ±2 points. "
    )
    ceiling = ceiling_note(found)
    measure = f"precision@{k}" if found.criterion.labeled else f"mAP@{k}"
    label = f"{measure}, {found.scores.metric} distance; {figures.ERROR_BARS}"
    return Section(
        "How good the answers are",
        f"{protocol}Precision@{k} is the share of the {k} hits that {found.criterion.description}, over all "
        f"queries; mAP@{k} divides by min({k}, relevant), mAP@{k} (found) by the right hits among "
        f"the {k}; R@1 is the share of queries whose first hit is right. "
        f"{f'Note that {ceiling}. ' if ceiling else ''}Intervals are bootstrap intervals over the "
        f"queries. {early_said if found.criterion.labeled else ''}Every baseline saw the same "
        "images, queries and metric.",
        png(figures.interval_chart(_bars(found), label)),
        Table(columns, rows),
    )


def _cells(name: str, estimate: Estimate) -> dict[str, str]:
    """Return two cells by their columns: the value, and the interval."""
    low, high = estimate.interval.low, estimate.interval.high
    return {name: f"{estimate.value:.4f}", "95 % interval": f"{low:.4f} to {high:.4f}"}


def _bars(found: Evaluation) -> list[figures.Bar]:
    """Return precision of each encoder or, where that has a low ceiling, mAP; the best first."""
    return [
        figures.Bar.of(
            name,
            scores.precision if found.criterion.labeled else scores.map,
            highlight=scores is found.scores,
        )
        for name, scores in ranking(found)
    ]


def _pipeline(example: Example, found: Evaluation, gallery: Gallery) -> Section:
    image = open_items([example.uri])[0].image()
    embedding = gallery.encoder.encode([image])
    ids = [record.id for record in gallery.store.records()]
    rows = gallery.store.get(ids).embeddings.astype(np.float64)
    target = embedding[0].astype(np.float64)
    if found.scores.metric is Metric.L2:
        distances = np.linalg.norm(rows - target, axis=1)
    else:
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(target)
        distances = 1 - np.divide(rows @ target, norms, out=np.zeros(len(rows)), where=norms > 0)
    return Section(
        "How a query is answered",
        "The encoder turns the query into an embedding; its distance to the embedding of every "
        "image in the gallery is computed; the nearest are the answer.",
        png(
            figures.pipeline(
                image,
                embedding,
                distances,
                _results(example, found.scores.metric),
                _hit_titles(example, found.criterion),
            )
        ),
    )


def _hits(found: Evaluation, *, right: bool) -> Section:
    chosen = [example for example in found.examples if bool(_wrong(example)) != right]
    if right:
        # One of each label first, as they come.
        seen: dict[str, Example] = {}
        for example in chosen:
            seen.setdefault(example.label, example)
        chosen = list(seen.values()) or list(found.examples)
    else:
        chosen = sorted(chosen, key=_wrong, reverse=True)
    shown = chosen[:_EXAMPLES]
    grid = figures.hits_grid(
        [_results(example, found.scores.metric) for example in shown],
        [example.correct for example in shown],
        query_titles=[example.label for example in shown],
        hit_titles=[_hit_titles(example, found.criterion) for example in shown],
    )
    wrong = sum(1 for example in found.examples if _wrong(example))
    full = found.ceiling == 1
    if right:
        what = "only right hits" if full else "their right answers before any other hit"
        under = "label" if found.criterion.labeled else "name"
        text = (
            f"{len(found.examples) - wrong:,} of {len(found.examples):,} queries have {what}. "
            f"The query stands left; under each hit's {under} is its distance. Correct hits have a "
            "green frame, incorrect ones a red one."
        )
        return Section("Queries answered well", text, png(grid))
    what = (
        "have at least one wrong hit" if full else "miss a right answer or have another hit first"
    )
    text = f"{wrong:,} queries {what}; these have the most."
    return Section("Queries answered badly", text, png(grid))


def _confusion(found: Evaluation) -> Section:
    rows = [
        (label, *(f"{count:,}" for count in counts))
        for label, counts in zip(found.labels, found.confusion, strict=True)
    ]
    said = most_confused(found)
    return Section(
        "Which labels are confused",
        f"Most often: {said}." if said else "None.",
        png(figures.confusion(found.labels, found.confusion)),
        Table(("query \\ hit", *found.labels), rows),
    )


def _per_label(found: Evaluation) -> Section:
    named = [(name, scores) for name, scores in ranking(found) if name != CHANCE]
    labels = sorted(found.scores.per_label)
    series = [
        figures.Series(
            name,
            [scores.per_label[label].precision for label in labels],
            highlight=scores is found.scores,
        )
        for name, scores in named
    ]
    rows = [
        (label, f"{score.queries:,}", *(f"{s.per_label[label].precision:.4f}" for _, s in named))
        for label, score in found.scores.per_label.items()
    ]
    return Section(
        "Precision of each label",
        "Beside the baselines; which labels are hard shows in all of them.",
        png(figures.scores_per_label(labels, series, f"precision@{found.k}")),
        Table(("label", "queries", *(name for name, _ in named)), rows),
    )


def _classes(found: Evaluation) -> Section:
    labels = sorted({*found.gallery_labels, *found.query_labels})
    rows = [
        (label, f"{found.gallery_labels.get(label, 0):,}", f"{found.query_labels.get(label, 0):,}")
        for label in labels
    ]
    chart = figures.class_distribution(found.gallery_labels, found.query_labels)
    return Section(
        "The images",
        "How many of each label the gallery and the queries have. Labels judge; nothing was "
        "trained on them.",
        png(chart),
        Table(("label", "gallery", "queries"), rows),
    )


def _answers(found: Evaluation) -> Section:
    counts = Counter(example.relevant for example in found.examples)
    rows = [(f"{relevant:,}", f"{count:,}") for relevant, count in sorted(counts.items())]
    notes = found.criterion.ground_truth.notes() if found.criterion.ground_truth else ()
    return Section(
        "The right answers",
        " ".join(
            (
                f"Right are rows that {found.criterion.description}; nothing was trained on that. The table "
                "says how many queries have how many right answers in the gallery.",
                *(f"{note}." for note in notes),
            )
        ),
        table=Table(("right answers", "queries"), rows),
    )


def _sample(found: Evaluation) -> Section:
    shown = found.examples[:: max(1, len(found.examples) // 30)][:30]
    images = [item.image() for item in open_items([example.uri for example in shown])]
    grid = figures.sample_grid(images, [example.label for example in shown])
    return Section("A sample of the queries", "Evenly spread over the source.", png(grid))


def _settings(found: Evaluation, gallery: Gallery) -> Section:
    asked = {
        "queries": found.queries,
        "hits (n)": found.k,
        "metric": found.scores.metric.value,
        "skipped queries": len(found.skipped),
        "relevance": found.criterion.as_dict(),
        "protocol": found.protocol.name if found.protocol else "none",
        "latency of one query": f"p50 {found.latency.p50:.2f} ms, p95 {found.latency.p95:.2f} ms",
    }
    return settings_of(gallery, asked)


def _wrong(example: Example) -> int:
    """Count the hits that are not right among the first, as many as could be right."""
    return example.correct[: example.relevant or None].count(False)


def _results(example: Example, metric: Metric) -> Hits:
    return Hits(example.uri, metric, example.hits, example.uri)


def _hit_titles(example: Example, criterion: RelevanceCriterion) -> list[str]:
    """Return what each hit is called: its value in the column that judges, or its short name."""
    if criterion.column is None:
        return [str(hit.metadata.get("id", short_name(hit.id))) for hit in example.hits]
    values = (hit.metadata.get(criterion.column) for hit in example.hits)
    return ["no value" if value is None else str(value) for value in values]
