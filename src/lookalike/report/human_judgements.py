"""The report of human judgements as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lookalike._version import __version__
from lookalike.evaluation.human_judgements import JudgementsResult
from lookalike.formatting import format_count
from lookalike.report import figures
from lookalike.report.page import (
    INTERVAL,
    Page,
    Section,
    Table,
    chart,
    interval_cells,
    write_page,
)


def write_judgements_report(result: JudgementsResult, path: Path) -> None:
    """Write the report of human judgements as one self-contained HTML file.

    Args:
        result: the result.
        path: the file; its folder is created.

    Raises:
        StorageError: it could not be written.
    """
    verdicts = [preference.verdict() for preference in result.preferences]
    verdicts += [
        f"{each.gallery}: {each.precision.value:.1%} of the results judged relevant (k = {each.k})"
        for each in result.hits
    ]
    page = Page(
        title="Human judgements",
        subtitle=f"{format_count(result.files, 'file')} of blind judgements",
        verdict="; ".join(verdicts),
        sections=list(_sections(result)),
    )
    write_page(page, path)


def _sections(result: JudgementsResult) -> Iterator[Section]:
    if result.hits:
        yield _precision(result)
    if result.preferences:
        yield _preferences(result)
    yield Section(
        "Method",
        f"lookalike {__version__}. People saw results in random order, without rank and distance, "
        "or the results of two galleries side by side, without names. A query that several people "
        "judged counts once, with their mean. Intervals are 95 % confidence intervals, "
        "bootstrapped over the queries (2,000 resamples, percentiles); they hold for other queries "
        "of the same kind and the same people. Agreement is the share of equal judgements between "
        "two people.",
    )


def _precision(result: JudgementsResult) -> Section:
    columns = ["gallery", "encoder", "k", "queries", "left out"]
    for name in ("precision@k", "mAP@k (retrieved)", "R@1"):
        columns += [name, INTERVAL]
    rows = [
        (
            *(each.gallery, each.encoder, str(each.k)),
            *(f"{each.queries:,}", f"{each.left_out:,}"),
            *(
                cell
                for estimate in (each.precision, each.map_retrieved, each.recall_at_1)
                for _, cell in interval_cells("", estimate)
            ),
            _share(each.agreement),
        )
        for each in result.hits
    ]
    bars = [
        figures.Bar.of(f"{each.gallery} (k = {each.k})", each.precision, highlight=True)
        for each in result.hits
    ]
    label = f"precision@k by human judgements; {figures.ERROR_BARS}"
    unfinished = ", ".join(result.unfinished)
    return Section(
        "Relevant results",
        "Precision@k is the share of relevant results among those shown: k, or fewer where the "
        "gallery returned fewer. mAP@k (retrieved) divides by the relevant results, R@1 is the "
        "share of queries whose first result is relevant. Rows that were never retrieved are not "
        "judged, so none of these is a recall. Queries with unfinished judgements or without "
        "results are left out."
        f"{f' No query was judged completely for {unfinished}.' if unfinished else ''}",
        chart(partial(figures.interval_chart, bars, label)),
        table=Table((*columns, "agreement"), rows),
    )


def _preferences(result: JudgementsResult) -> Section:
    rows = [
        (
            *(each.a, each.b, f"{each.queries:,}"),
            *(f"{votes:,}" for votes in (each.for_a, each.for_b, each.ties)),
            *(cell for _, cell in interval_cells("", each.share)),
            *(f"{each.p_value:.3f}", _share(each.agreement)),
        )
        for each in result.preferences
    ]
    bars = [
        figures.Bar.of(f"{each.a} preferred to {each.b}", each.share, highlight=each.significant)
        for each in result.preferences
    ]
    label = (
        f"share of queries, ties count half; {figures.ERROR_BARS}\n"
        "dotted line: no preference; gray bar: no significant difference"
    )
    columns = ("first", "second", "queries", "prefer first", "prefer second", "ties")
    more = ("share for first", INTERVAL, "sign test p", "agreement")
    return Section(
        "Preferences",
        f"Result: {result.verdict()}. A difference is significant if the interval excludes one "
        "half and the two-sided sign test rejects equality (p < 0.05), which takes six queries or "
        "more.",
        chart(partial(figures.interval_chart, bars, label, reference=0.5)),
        table=Table((*columns, *more), rows),
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
