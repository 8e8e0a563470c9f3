"""lookalike evaluate: search quality, robustness, and people's judgements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console
from lookalike.cli.commands import Command, DefaultGroup, new_group
from lookalike.cli.options import AsJson, Force, Gallery, MetricName, Report
from lookalike.cli.output_files import check_output

if TYPE_CHECKING:
    from lookalike.evaluation.results import Evaluation
    from lookalike.gallery import gallery as galleries

app = new_group("Measure search quality.", cls=DefaultGroup)


@app.command("evaluate", cls=Command)
def evaluate_command(
    gallery: Gallery,
    queries: Annotated[
        str | None,
        typer.Argument(metavar="QUERIES", help="Source of query images [default: every row]."),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Relevant: rows with the query's value in this column."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels of images by id, instead of folder names."),
    ] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Relevant: as in this CSV; lines of QUERY,ID,ID,..."),
    ] = None,
    synthetic_queries: Annotated[
        bool,
        typer.Option(
            "--synthetic-queries", help="Use synthetic street photos as queries (no labels)."
        ),
    ] = False,
    backgrounds: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Photos behind synthetic queries [default: collages]."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Published protocol: perfect-500k (sets K)."),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", metavar="K", help="Results per query.", show_default="7")
    ] = None,
    metric: MetricName = None,
    first: Annotated[int, typer.Option(metavar="N", help="Also report the first N queries.")] = 100,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="Compare with chance, pixels, PCA, HOG, untrained CNN.",
        ),
    ] = False,
    variants: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Compare variants: all, or e.g. aqe,dba,multi-crop+aqe.",
        ),
    ] = None,
    exclude_duplicates: Annotated[
        bool,
        typer.Option(
            "--exclude-duplicates", help="Ignore rows that are copies of the query in its ranking."
        ),
    ] = False,
    save: Annotated[
        bool, typer.Option("--save", help="Save in the gallery, for info and serve.")
    ] = False,
    report: Report = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Measure search quality: precision@k, mAP@k and R@1 with 95 % intervals.

    A result is relevant if it has the query's label, unless --match or
    --ground-truth says otherwise. A query never counts as its own result; other
    copies of it do, and are counted as leakage (near-duplicates: of QUERIES).

      lookalike evaluate photos.gallery --baselines --report report.html
      lookalike evaluate shop.gallery queries --match product
      lookalike evaluate shop.gallery queries --ground-truth pairs.csv
      lookalike evaluate shop.gallery --synthetic-queries --variants all

    JSON: precision, map, map_retrieved, recall and recall_at_1, each with
    NAME_interval; queries, skipped, without_relevant, zero_embeddings, leakage
    (exact, near, excluded, examples), relevance, per_label, first, baselines
    (each with difference), baselines_left_out (reasons by name),
    baselines_unread (rows), variants (each with map_delta and latency_ms) and
    latency_ms (null where no query could be encoded).

    Exit code 1: some queries were skipped; each is listed.
    """
    from lookalike.evaluation.evaluate import evaluate
    from lookalike.gallery.gallery import Gallery

    opened = Gallery.open(gallery).snapshot()
    inputs = (queries, labels, ground_truth, backgrounds)
    check_output(report, force=force, gallery=opened, inputs=inputs)
    _check_installed(report, save=save)
    with console.progress() as on_progress:
        evaluation = evaluate(
            opened,
            queries,
            k=k,
            first=first,
            metric=metric,
            labels=labels,
            match=match,
            ground_truth=ground_truth,
            protocol=protocol,
            synthetic_queries=synthetic_queries,
            backgrounds=backgrounds,
            variants=variants,
            baselines=baselines,
            exclude_duplicates=exclude_duplicates,
            progress=on_progress,
        )
    if as_json:
        console.print_json(evaluation.as_dict())
    else:
        from lookalike.cli.evaluation_tables import print_evaluation

        print_evaluation(evaluation)
    if report is not None or save:
        _write(evaluation, opened, report, save=save)
    if evaluation.criterion.ground_truth is not None:
        for text in evaluation.criterion.ground_truth.notes():
            console.note(text)
    console.note_skipped(evaluation.skipped, "query", "queries")
    if evaluation.skipped:
        raise typer.Exit(1)


@app.command("robustness", cls=Command)
def robustness_command(
    gallery: Gallery,
    k: Annotated[int, typer.Option("-k", metavar="K", help="Results per query.")] = 7,
    metric: MetricName = None,
    report: Report = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Measure robustness to image corruptions.

    Up to 500 images are cropped, rotated, brightened, darkened, blurred, given
    noise, compressed and partly covered, and have to find their originals; no
    labels needed. This measures invariance to corruptions, not search quality.

      lookalike evaluate robustness photos.gallery
      lookalike evaluate robustness photos.gallery --report robustness.html

    Exit code 1: some images were skipped; each is listed.
    """
    from lookalike.evaluation.robustness import evaluate_robustness
    from lookalike.gallery.gallery import Gallery

    opened = Gallery.open(gallery).snapshot()
    check_output(report, force=force, gallery=opened)
    _check_installed(report)
    with console.progress() as on_progress:
        result = evaluate_robustness(opened, k=k, metric=metric, progress=on_progress)
    if as_json:
        console.print_json(result.as_dict())
    else:
        from lookalike.cli.evaluation_tables import print_robustness

        print_robustness(result)
    if report is not None:
        from lookalike.report.robustness import write_robustness_report

        write_robustness_report(result, opened, report)
        console.note(f"report: {report}")
    console.note_skipped(result.skipped, "image", "images")
    if result.skipped:
        raise typer.Exit(1)


@app.command("judgements", cls=Command)
def judgements_command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Files saved from the Judge view of lookalike serve."),
    ],
    report: Report = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Summarize people's relevance judgements and preferences.

    Reports precision@k per gallery and, where two galleries were compared, how
    often each was preferred, with 95 % intervals over the queries. Unfinished
    queries are left out.

      lookalike evaluate judgements anna.json ben.json --report judged.html
    """
    from lookalike.evaluation.human_judgements import evaluate_judgements

    check_output(report, force=force, inputs=files)
    _check_installed(report)
    result = evaluate_judgements(files)
    if as_json:
        console.print_json(result.as_dict())
    else:
        from lookalike.cli.evaluation_tables import print_judgements

        print_judgements(result)
    if report is not None:
        from lookalike.report.human_judgements import write_judgements_report

        write_judgements_report(result, report)
        console.note(f"report: {report}")


def _check_installed(report: Path | None, *, save: bool = False) -> None:
    """Check, before any work, that what draws the charts of a report is installed."""
    from lookalike.errors import require

    if report is not None or save:
        require("matplotlib", "a report", "report")


def _write(
    evaluation: Evaluation, gallery: galleries.Gallery, report: Path | None, *, save: bool
) -> None:
    from dataclasses import asdict, replace

    from lookalike.evaluation import saved
    from lookalike.report.evaluation import report_page
    from lookalike.report.page import SETTINGS, write_page

    page = report_page(evaluation, gallery)
    if report is not None:
        write_page(page, report)
        console.note(f"report: {report}")
    if save:
        sections = [section for section in page.sections if section.title != SETTINGS]
        path = saved.save_evaluation(evaluation, gallery, asdict(replace(page, sections=sections)))
        console.note(f"saved: {path}")
