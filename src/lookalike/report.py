"""The evaluation report as one HTML file: figures, their tables, the exact settings."""

from __future__ import annotations

import base64
import io
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import lookalike
from lookalike import figures
from lookalike.artifacts import write_atomically
from lookalike.encoders.onnx import DECODER, NetworkEncoder
from lookalike.evaluation import Evaluation, Example
from lookalike.gallery import Gallery
from lookalike.sources import open_items
from lookalike.training.recipes import RECIPES
from lookalike.types import Hits, Metric
from lookalike.verdicts import most_confused, ranking, verdict

_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under column names; ``wrap`` lets long cells break."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    wrap: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence or two, and a figure or a table or both."""

    title: str
    text: str
    image: str | None = None
    table: Table | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A report: ``verdict`` is one sentence, ``ours`` the name whose table rows stand out."""

    title: str
    subtitle: str
    verdict: str
    ours: str
    sections: Sequence[Section]


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
    page = Page(
        title=f"What looks like this? {found.scores.encoder} in {Path(found.gallery).name}",
        subtitle=(
            f"{len(found.examples):,} queries from {found.queries}, {found.rows:,} rows, "
            f"{found.n} hits each, {found.scores.metric} distance"
        ),
        verdict=verdict(found),
        ours=found.scores.encoder,
        sections=list(_sections(found, gallery, beside or {})),
    )
    write_page(page, path)


def write_page(page: Page, path: Path) -> None:
    """Write a report as one HTML file that needs no other.

    Raises:
        StorageError: it could not be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lookalike"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template("report.html").render(page=page)
    write_atomically(path, text.encode())


def _sections(
    found: Evaluation, gallery: Gallery, beside: Mapping[str, NetworkEncoder]
) -> Iterator[Section]:
    yield _ladder(found)
    yield _pipeline(found, gallery)
    yield _hits(found, right=True)
    if any(_wrong(example) for example in found.examples):
        yield _hits(found, right=False)
    yield _confusion(found)
    if len(found.scores.per_label) > 1:
        yield _per_label(found)
    yield from _data(found)
    encoder = gallery.encoder
    if isinstance(encoder, NetworkEncoder):
        yield from _training(found, {encoder.name: encoder, **beside})
    yield _settings(found, gallery)


def _ladder(found: Evaluation) -> Section:
    rows = [
        (
            name,
            f"{s.precision.value:.4f}",
            f"{s.precision.interval.low:.4f} to {s.precision.interval.high:.4f}",
            f"{s.map.value:.4f}",
            f"{s.map.interval.low:.4f} to {s.map.interval.high:.4f}",
            f"{s.recall.value:.5f}",
            f"{s.first.precision:.4f}",
        )
        for name, s in ranking(found)
    ]
    n, first = found.n, found.scores.first.queries
    columns = ("encoder", f"precision@{n}", "95 % interval", f"mAP@{n}", "95 % interval")
    return Section(
        "How good the answers are",
        f"Precision@{n} is the share of the {n} hits that have the query's label, over all "
        f"queries; mAP@{n} divides by min({n}, relevant). Intervals are bootstrap intervals over "
        f"the queries. The first {first} queries stand apart as the 2020 report's protocol had "
        "them: too few to rank encoders by, their interval is about ±2 points. Every baseline "
        "saw the same images, queries and metric.",
        png(figures.ladder(found)),
        Table((*columns, f"recall@{n}", f"first {first}"), rows),
    )


def _pipeline(found: Evaluation, gallery: Gallery) -> Section:
    example = found.examples[0]
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
        png(figures.pipeline(image, embedding, distances, _as_hits(example, found))),
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
    grid = figures.hits_grid([_as_hits(e, found) for e in shown], [e.label for e in shown])
    wrong = sum(1 for example in found.examples if _wrong(example))
    if right:
        text = (
            f"{len(found.examples) - wrong:,} of {len(found.examples):,} queries have only right "
            "hits. The query stands left; under each label is the hit's distance."
        )
        return Section("Queries answered well", text, png(grid))
    text = f"{wrong:,} queries have at least one wrong hit; these have the most."
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
    named = [(name, scores) for name, scores in ranking(found) if name != "chance"]
    rows = [
        (label, f"{score.queries:,}", *(f"{s.per_label[label].precision:.4f}" for _, s in named))
        for label, score in found.scores.per_label.items()
    ]
    return Section(
        "Precision of each label",
        "Beside the baselines; which labels are hard shows in all of them.",
        png(figures.precision_per_label(found)),
        Table(("label", "queries", *(name for name, _ in named)), rows),
    )


def _data(found: Evaluation) -> Iterator[Section]:
    labels = sorted({*found.gallery_labels, *found.query_labels})
    rows = [
        (label, f"{found.gallery_labels.get(label, 0):,}", f"{found.query_labels.get(label, 0):,}")
        for label in labels
    ]
    chart = figures.class_distribution(found.gallery_labels, found.query_labels)
    yield Section(
        "The images",
        "How many of each label the gallery and the queries have. Labels judge; nothing was "
        "trained on them.",
        png(chart),
        Table(("label", "gallery", "queries"), rows),
    )
    shown = found.examples[:: max(1, len(found.examples) // 30)][:30]
    images = [item.image() for item in open_items([example.uri for example in shown])]
    grid = figures.sample_grid(images, [example.label for example in shown])
    yield Section("A sample of the queries", "Evenly spread over the source.", png(grid))


def _training(found: Evaluation, encoders: Mapping[str, NetworkEncoder]) -> Iterator[Section]:
    for name in encoders:
        if name in RECIPES and RECIPES[name].layers:
            layers = RECIPES[name].layers
            rows = [(layer, shape, f"{weights:,}") for layer, shape, weights in layers]
            yield Section(
                f"The network of {name}",
                RECIPES[name].summary + ".",
                png(figures.network_table(name, layers)),
                Table(("layer", "output", "weights"), rows),
            )
    for objective, meaning in _OBJECTIVES.items():
        histories = {
            name: encoder.origin["history"]
            for name, encoder in encoders.items()
            if name in RECIPES
            and RECIPES[name].objective == objective
            and encoder.origin.get("history")
        }
        if histories:
            epochs = [
                (name, str(number), f"{epoch['loss']:.6f}", f"{epoch['seconds']:.1f}")
                for name, history in histories.items()
                for number, epoch in enumerate(history, 1)
            ]
            curves = {name: _curve(history) for name, history in histories.items()}
            yield Section(
                f"How training went: {objective}",
                f"{meaning}, averaged over each twentieth of an epoch in the figure and over whole "
                "epochs in the table.",
                png(figures.training_curve(curves)),
                Table(("recipe", "epoch", "mean loss", "seconds"), epochs),
            )
    able = {name: encoder for name, encoder in encoders.items() if DECODER in encoder.files()}
    if able:
        items = open_items([example.uri for example in found.examples[:10]])
        originals = [item.image() for item in items]
        decoded = {name: encoder.reconstruct(originals) for name, encoder in able.items()}
        yield Section(
            "What the codes keep",
            "Queries above what each autoencoder rebuilds from its embedding of them. A good "
            "picture here is no promise of good answers above.",
            png(figures.reconstructions(originals, decoded)),
        )


_OBJECTIVES = {
    "reconstruction": "Mean squared error a pixel on the images as they were trained on",
    "contrastive": "Cross entropy of finding an image's other view among those of a batch",
}


def _curve(history: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return ``(points, 2)``: epochs trained and mean loss, from a training history."""
    points = [
        (epoch + (i + 1) / len(entry["curve"]), loss)
        for epoch, entry in enumerate(history)
        for i, loss in enumerate(entry["curve"])
    ]
    return np.array(points)


def _settings(found: Evaluation, gallery: Gallery) -> Section:
    asked = {
        "queries": found.queries,
        "hits (n)": found.n,
        "metric": found.scores.metric.value,
        "skipped queries": len(found.skipped),
        "latency of one query": f"p50 {found.latency.p50:.2f} ms, p95 {found.latency.p95:.2f} ms",
    }
    return settings_of(gallery, asked)


def settings_of(gallery: Gallery, asked: Mapping[str, Any]) -> Section:
    """Return the section that says what was asked of which gallery and encoder, exactly."""
    described = gallery.encoder.describe()
    origin = described.get("origin", {})
    facts: dict[str, Any] = {
        "lookalike": lookalike.__version__,
        "python": platform.python_version(),
        "gallery": str(gallery.path),
        **{f"gallery {key}": value for key, value in gallery.info().items()},
        **asked,
        **{f"encoder {key}": value for key, value in described.items() if key != "origin"},
        **{f"training {key}": value for key, value in origin.items() if key != "history"},
    }
    rows = [
        (key, value if isinstance(value, str) else json.dumps(value))
        for key, value in facts.items()
    ]
    text = "With these the figures can be made again."
    return Section("Exact settings", text, table=Table(("setting", "value"), rows, wrap=True))


def _wrong(example: Example) -> int:
    return sum(str(hit.metadata.get("label")) != example.label for hit in example.hits)


def _as_hits(example: Example, found: Evaluation) -> Hits:
    return Hits(example.uri, found.scores.metric, example.hits, example.uri)


def png(figure: Figure) -> str:
    """Return a figure as the base64 text of a PNG, for :class:`Section`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figures.DPI)
    return base64.b64encode(buffer.getvalue()).decode()
