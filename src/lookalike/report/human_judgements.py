"""The report of what people said of hits as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lookalike._version import __version__
from lookalike.evaluation.human_judgements import JudgementsResult
from lookalike.evaluation.metrics import Estimate
from lookalike.report import figures
from lookalike.report.page import Page, Section, Table, png, write_page


def write_judgements_report(found: JudgementsResult, path: Path) -> None:
    """Write the report of people's judgements as one HTML file that needs no other.

    Args:
        found: what they came to.
        path: the file; its folder is made.

    Raises:
        StorageError: it could not be written.
    """
    said = [pair.verdict() for pair in found.preferences]
    said += [
        f"{each.precision.value:.1%} of the hits of {each.gallery} (n = {each.k}) are right"
        for each in found.hits
    ]
    page = Page(
        title="What people say of the hits",
        subtitle=f"{found.files:,} file{'s' * (found.files > 1)} of judgements, made blind",
        verdict="; ".join(said),
        sections=list(_sections(found)),
    )
    write_page(page, path)


def _sections(found: JudgementsResult) -> Iterator[Section]:
    if found.hits:
        yield _hits(found)
    if found.preferences:
        yield _preferences(found)
    yield Section(
        "How it was measured",
        f"lookalike {__version__}. People saw hits without rank and distance in an order "
        "that says nothing of either, or two galleries' answers side by side without their names. "
        "A query that several people judged counts once, with their mean. Intervals are 95 % "
        "bootstrap intervals over the queries (percentiles of 2,000 resamples): they speak of "
        "other queries of the same kind and the same people. Agreement is how often two people "
        "who judged the same said the same.",
    )


def _hits(found: JudgementsResult) -> Section:
    columns = ["gallery", "encoder", "k", "queries", "left out"]
    for name in ("precision@k", "mAP@k (found)", "R@1"):
        columns += [name, "95 % interval"]
    rows = [
        (
            *(each.gallery, each.encoder, str(each.k), f"{each.queries:,}", f"{each.left_out:,}"),
            *(*_cells(each.precision), *_cells(each.map_retrieved), *_cells(each.recall_at_1)),
            _share(each.agreement),
        )
        for each in found.hits
    ]
    bars = [
        figures.Bar.of(f"{each.gallery} (n = {each.k})", each.precision, highlight=True)
        for each in found.hits
    ]
    label = f"precision@k by human judgements; {figures.ERROR_BARS}"
    unfinished = ", ".join(found.unfinished)
    return Section(
        "Hits that people called right",
        "Precision@k is the share of right hits among those shown: n, or fewer where the gallery "
        "gave fewer; mAP@k (found) divides by the right hits among them; R@1 is the share of "
        "queries whose first hit is right. What was never found, nobody judged: none of these is "
        "a recall. Queries that were not judged to the end, or had no hits, are left out."
        f"{f' Of {unfinished}, no query was judged to the end.' if unfinished else ''}",
        png(figures.interval_chart(bars, label)),
        Table((*columns, "agreement"), rows),
    )


def _preferences(found: JudgementsResult) -> Section:
    rows = [
        (
            *(each.a, each.b, f"{each.queries:,}"),
            *(f"{count:,}" for count in (each.for_a, each.for_b, each.ties)),
            *(*_cells(each.share), f"{each.p_value:.3f}", _share(each.agreement)),
        )
        for each in found.preferences
    ]
    bars = [
        figures.Bar.of(
            f"{each.a} preferred to {each.b}", each.share, highlight=each.significant
        )
        for each in found.preferences
    ]
    label = (
        f"share of queries, a tie counts half; {figures.ERROR_BARS}\n"
        "dotted line: no preference; gray bar: no significant difference"
    )
    columns = ("first", "second", "queries", "for the first", "for the second", "neither")
    more = ("share for the first", "95 % interval", "sign test p", "agreement")
    said = "; ".join(pair.verdict() for pair in found.preferences)
    return Section(
        "Which answers people preferred",
        f"{said[:1].upper()}{said[1:]}. A difference counts as more than noise if the interval "
        "leaves out one half and so uneven a count would come by chance in fewer than one of 20 "
        "times (two-sided sign test), which takes six queries at least.",
        png(figures.interval_chart(bars, label, reference=0.5)),
        Table((*columns, *more), rows),
    )


def _cells(e: Estimate) -> tuple[str, str]:
    return f"{e.value:.4f}", f"{e.interval.low:.4f} to {e.interval.high:.4f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
