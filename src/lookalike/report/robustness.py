"""The report of a self-retrieval as one HTML file: what the encoder is invariant to."""

from __future__ import annotations

from pathlib import Path

from lookalike.evaluation.metrics import Estimate
from lookalike.evaluation.robustness import MEANING, RobustnessResult, verdict
from lookalike.gallery.gallery import Gallery
from lookalike.report import figures
from lookalike.report.page import Page, Section, Table, png, settings_of, write_page


def write_robustness_report(found: RobustnessResult, gallery: Gallery, path: Path) -> None:
    """Write the report of a self-retrieval as one HTML file that needs no other.

    Args:
        found: what was measured.
        gallery: what it was measured on.
        path: the file; its folder is made.

    Raises:
        StorageError: it could not be written.
    """
    page = Page(
        title=f"What {found.encoder} is invariant to, in {gallery.path.name}",
        subtitle=(
            f"{found.queries:,} images corrupted, each to find its original among "
            f"{found.rows:,} rows, {found.metric} distance"
        ),
        verdict=verdict(found),
        sections=[_scores(found), _strengths(found), _settings(found, gallery)],
    )
    write_page(page, path)


def _scores(found: RobustnessResult) -> Section:
    columns = ["corruption"]
    for name in (f"mAP@{found.k}", "recall@1", f"recall@{found.k}"):
        columns += [name, "95 % interval"]
    rows = [
        (name, *_cells(scores.map), *_cells(scores.recall_at_1), *_cells(scores.recall))
        for name, scores in found.scores.items()
    ]
    bars = [figures.Bar.of(name, each.map, highlight=True) for name, each in found.scores.items()]
    label = f"mAP@{found.k} of the original, {found.metric} distance; {figures.ERROR_BARS}"
    return Section(
        "Which corrupted images find their originals",
        f"This is {MEANING}: an encoder trained on such corruptions wins here whatever its "
        "answers are worth. How good answers are takes labels to say (lookalike evaluate without "
        f"--self). There is one right answer, the original, so mAP@{found.k} is the mean of 1 / "
        f"its rank, and of 0 where it is not among the {found.k} nearest; other images that are "
        "as near as it count as nearer. Intervals are bootstrap intervals over the images.",
        png(figures.interval_chart(bars, label)),
        Table(columns, rows),
    )


def _cells(e: Estimate) -> tuple[str, str]:
    return f"{e.value:.4f}", f"{e.interval.low:.4f} to {e.interval.high:.4f}"


def _strengths(found: RobustnessResult) -> Section:
    said = "; ".join(f"{name}, {scores.summary}" for name, scores in found.scores.items())
    return Section(
        "How strong the corruptions are",
        f"Some of the images that were asked, as they are and corrupted: {said}. Within a range, "
        "the strength was drawn at random for each image.",
        png(figures.corruptions(found.examples)),
    )


def _settings(found: RobustnessResult, gallery: Gallery) -> Section:
    asked = {
        "images corrupted": found.queries,
        "seed": found.seed,
        "hits (n)": found.k,
        "metric": found.metric.value,
        "skipped images": len(found.skipped),
    }
    return settings_of(gallery, asked)
