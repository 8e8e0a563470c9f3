"""lookalike evaluate: how good the answers are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import screen


def command(
    gallery: Annotated[Path, typer.Argument(help="The gallery folder; its rows carry labels.")],
    queries: Annotated[
        str | None,
        typer.Argument(help="Labelled images; without them each row is asked for the others."),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Hits for each query.")] = 7,
    first: Annotated[
        int, typer.Option(help="Also score the first so many queries (the report's protocol: 100).")
    ] = 100,
    metric: Annotated[
        str | None, typer.Option(help="cosine or l2; the gallery's own unless given.")
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Beside chance, pixels, PCA, HOG, an untrained network."),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write the report with its figures, one HTML file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Judge a gallery by labels: a hit is right when it has the query's label.

    Precision@n is the share of right hits; mAP@n divides by min(n, relevant); intervals are 95 %
    bootstrap intervals over the queries. A query never counts as its own hit.
    """
    from lookalike.evaluation import evaluate
    from lookalike.gallery import Gallery

    opened = Gallery.open(gallery)
    with screen.progress() as on_progress:
        found = evaluate(
            opened,
            queries,
            n=n,
            first=first,
            metric=metric,
            baselines=baselines,
            on_progress=on_progress,
        )
        if report is not None:
            from lookalike.report import write_report

            write_report(found, opened, report)
    if as_json:
        screen.print_json(found.as_dict())
    else:
        screen.print_evaluation(found)
    if report is not None:
        screen.note(f"report: {report}")
    for failure in found.skipped[:20]:
        screen.note(f"skipped: {failure.uri}: {failure.reason}")
    if found.skipped:
        screen.note(f"{len(found.skipped):,} queries skipped")
        raise typer.Exit(1)
