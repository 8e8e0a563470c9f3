"""Tables of evaluations, in 80 columns; reports and JSON have every interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lookalike.cli.console import note, print_lines, print_table
from lookalike.formatting import format_count

if TYPE_CHECKING:
    from lookalike.evaluation.human_judgements import JudgementsResult
    from lookalike.evaluation.results import Evaluation
    from lookalike.evaluation.robustness import RobustnessResult


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the scores of gallery and baselines, those of variants, and the verdict."""
    from lookalike.evaluation.baselines import baseline_notes
    from lookalike.evaluation.summary import cautions, ceiling_note, most_confused

    print_table(*_scores(evaluation), title=_title(evaluation))
    k = evaluation.k
    if not evaluation.criterion.labeled:
        print_lines(
            f"relevant results {evaluation.criterion.description}; mAP@{k} divides by "
            f"min({k}, relevant rows), mAP retrieved by the relevant results"
        )
    for text in baseline_notes(evaluation.baselines_left_out, evaluation.baselines_unread):
        print_lines(text)
    for text in cautions(evaluation):
        print_lines(text)
    leakage = evaluation.leakage
    if leakage is not None and leakage.leaked and not leakage.excluded:
        print_lines("without these rows: --exclude-duplicates")
    if text := ceiling_note(evaluation):
        print_lines(text)
    if evaluation.variants:
        _print_variants(evaluation)
    first = evaluation.scores.first
    if first.queries < len(evaluation.examples):
        queries = format_count(first.queries, "query", "queries")
        print_lines(f"first {queries}: precision@{k} {first.precision_estimate!s}")
    print_lines(f"* {evaluation.verdict()}")
    if text := most_confused(evaluation):
        print_lines(f"most confused: {text}")
    if (latency := evaluation.latency) is not None:
        print_lines(
            f"latency per query: median {latency.p50:.2f} ms, 95th percentile {latency.p95:.2f} ms"
        )


def _title(evaluation: Evaluation) -> str:
    title = (
        f"{format_count(len(evaluation.examples), 'query', 'queries')} from {evaluation.queries}, "
        f"{format_count(evaluation.rows, 'row')}, {evaluation.scores.metric.value}"
    )
    return title if evaluation.protocol is None else f"{evaluation.protocol.name}: {title}"


def _scores(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows, the best encoder first."""
    k, rows = evaluation.k, []
    for name, scores in evaluation.ranking():
        marked = f"{name} *" if scores is evaluation.scores else name
        first = f"{scores.recall_at_1.value:.4f}"
        if evaluation.criterion.labeled:
            rows.append([marked, str(scores.precision), str(scores.map), first])
        else:
            retrieved, recall = (f"{e.value:.4f}" for e in (scores.map_retrieved, scores.recall))
            rows.append([marked, str(scores.map), retrieved, first, recall])
    if evaluation.criterion.labeled:
        return ["encoder", f"precision@{k}", f"mAP@{k}", "R@1"], rows
    return ["encoder", f"mAP@{k}", "mAP retrieved", "R@1", f"recall@{k}"], rows


def _print_variants(evaluation: Evaluation) -> None:
    baseline = [
        "plain search",
        f"{evaluation.scores.map.value:.4f}",
        "",
        f"{evaluation.scores.recall_at_1.value:.4f}",
        "" if evaluation.latency is None else f"{evaluation.latency.p50:.1f}",
    ]
    rows = [
        [
            name,
            f"{result.scores.map.value:.4f}",
            f"{result.map_delta.value:+.4f} [{result.map_delta.interval.describe('+.3f')}]",
            f"{result.scores.recall_at_1.value:.4f}",
            f"{result.latency_ms:.1f}",
        ]
        for name, result in evaluation.variants.items()
    ]
    columns = ("variant", f"mAP@{evaluation.k}", "difference", "R@1", "median ms")
    print_table(columns, [baseline, *rows])


def print_robustness(result: RobustnessResult) -> None:
    """Print the scores under each corruption, and the verdict."""
    rows = [
        (
            name,
            str(scores.map),
            f"{scores.recall_at_1.value:.4f}",
            f"{scores.recall.value:.4f}",
            scores.summary,
        )
        for name, scores in result.scores.items()
    ]
    title = (
        f"{format_count(result.queries, 'corrupted image')}, each to find its original among "
        f"{format_count(result.rows, 'row')}, {result.metric.value}"
    )
    columns = ("corruption", f"mAP@{result.k}", "R@1", f"recall@{result.k}", "strength")
    print_table(columns, rows, title=title)
    if result.no_content:
        images = format_count(len(result.no_content), "image")
        print_lines(f"{images} without content (blank or nearly of one color): in no score")
    print_lines(result.verdict())


def print_judgements(result: JudgementsResult) -> None:
    """Print people's judgements by gallery, and their preferences by pair of galleries."""
    rows = [
        (
            each.gallery,
            str(each.k),
            str(each.precision),
            f"{each.map_retrieved.value:.4f}",
            f"{each.recall_at_1.value:.4f}",
            f"{each.queries:,}",
            _share(each.agreement),
        )
        for each in result.hits
    ]
    if rows:
        columns = ("gallery", "k", "precision@k", "mAP", "R@1", "queries", "agreement")
        print_table(columns, rows, title="Results judged relevant")
        print_lines(
            "precision@k is over the results shown; mAP divides by the relevant ones among them"
        )
    pairs = [
        (
            f"{pair.a} : {pair.b}",
            f"{pair.for_a} : {pair.for_b}",
            str(pair.ties),
            str(pair.share),
            _share(pair.agreement),
        )
        for pair in result.preferences
    ]
    if pairs:
        headings = ("galleries", "preferred", "ties", "share of the first", "agreement")
        print_table(headings, pairs, title="Preferences")
    for pair in result.preferences:
        print_lines(pair.verdict())
    for each in result.hits:
        if each.left_out:
            queries = format_count(each.left_out, "query", "queries")
            note(f"{each.gallery}: {queries} left out (judgements unfinished, or no results)")
    for name in result.unfinished:
        note(f"{name}: no query was judged completely")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
