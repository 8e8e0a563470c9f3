"""The report of a robustness evaluation as one HTML file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lookalike.evaluation.robustness import MEANING, RobustnessResult
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
from lookalike.search.contact_sheet import rows_sheet


def write_robustness_report(result: RobustnessResult, gallery: Gallery, path: Path) -> None:
    """Write the report of a robustness evaluation as one self-contained HTML file.

    Args:
        result: the result.
        gallery: the gallery that was evaluated.
        path: the file; its folder is created.

    Raises:
        StorageError: it could not be written.
    """
    page = Page(
        title=f"Robustness of {result.encoder} in {gallery.path.name}",
        subtitle=(
            f"{format_count(result.queries, 'image')} corrupted, each to find its original among "
            f"{format_count(result.rows, 'row')}, {result.metric} distance"
        ),
        verdict=result.verdict(),
        sections=[_scores(result), _corruptions(result), _settings(result, gallery)],
    )
    write_page(page, path)


def _scores(result: RobustnessResult) -> Section:
    k = result.k
    columns = ["corruption"]
    for name in (f"mAP@{k}", "R@1", f"recall@{k}"):
        columns += [name, INTERVAL]
    rows = [
        (
            name,
            *(
                cell
                for estimate in (scores.map, scores.recall_at_1, scores.recall)
                for _, cell in interval_cells("", estimate)
            ),
        )
        for name, scores in result.scores.items()
    ]
    bars = [
        figures.Bar.of(name, scores.map, highlight=True) for name, scores in result.scores.items()
    ]
    label = f"mAP@{k} of the original, {result.metric} distance; {figures.ERROR_BARS}"
    return Section(
        "Scores by corruption",
        f"These scores measure {MEANING}: they favor encoders trained with such corruptions as "
        "augmentations. To measure search quality, use lookalike evaluate with labels or ground "
        f"truth. The original is the only relevant row, so mAP@{k} is the mean of 1 / rank, and 0 "
        f"beyond rank {k}; other rows at its distance rank before it. Intervals are bootstrapped "
        "over the images.",
        chart(partial(figures.interval_chart, bars, label)),
        table=Table(columns, rows),
    )


def _corruptions(result: RobustnessResult) -> Section:
    strengths = "; ".join(f"{name}: {scores.summary}" for name, scores in result.scores.items())
    sheet = rows_sheet(
        [[(image, name) for name, image in example.items()] for example in result.examples]
    )
    return Section(
        "Corruptions",
        f"Example images and their corrupted versions. Strengths: {strengths}. Within a range, the "
        "strength is drawn at random for each image.",
        image=png(sheet),
    )


def _settings(result: RobustnessResult, gallery: Gallery) -> Section:
    return settings_section(
        gallery,
        {
            "corrupted images": result.queries,
            "seed": result.seed,
            "hits per query (k)": result.k,
            "metric": result.metric.value,
            "skipped images": len(result.skipped),
            "images without content": len(result.no_content),
        },
    )
