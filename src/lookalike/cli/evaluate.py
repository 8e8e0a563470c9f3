"""lookalike evaluate: how good the answers are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import screen

_FIRST = 100


def command(
    gallery: Annotated[
        Path, typer.Argument(help="The gallery folder; its rows carry labels, or --self.")
    ],
    queries: Annotated[
        str | None,
        typer.Argument(help="Labelled images; without them each row is asked for the others."),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Hits for each query.")] = 7,
    first: Annotated[
        int, typer.Option(help="Also score the first so many queries (the report's protocol: 100).")
    ] = _FIRST,
    metric: Annotated[
        str | None, typer.Option(help="cosine or l2; the gallery's own unless given.")
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Beside chance, pixels, PCA, HOG, an untrained network."),
    ] = False,
    self_retrieval: Annotated[
        bool,
        typer.Option(
            "--self",
            help="Without labels: do distorted images find their originals? Says what this "
            "encoder is invariant to, not how good it is.",
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write the report with its figures, one HTML file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Judge a gallery by labels: a hit is right when it has the query's label.

    Precision@n is the share of right hits; mAP@n divides by min(n, relevant); intervals are 95 %
    bootstrap intervals over the queries. A query never counts as its own hit.

    With --self no labels are needed: up to 500 images are cropped, rotated, made brighter or
    darker, blurred, given noise, saved as poor JPEG and partly covered, and asked for their
    originals. This says what this encoder is invariant to, not how good it is: an encoder trained
    on such distortions wins it whatever its answers are worth.
    """
    if self_retrieval:
        _refuse_with_self(queries=queries, baselines=baselines, first=first)
        _judge_by_originals(gallery, n, metric, report, as_json)
        return
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
    screen.note_skipped(found.skipped, "queries")
    if found.skipped:
        raise typer.Exit(1)


def _refuse_with_self(*, queries: str | None, baselines: bool, first: int) -> None:
    """Refuse options that need labels.

    Raises:
        SettingError: one was given.
    """
    from lookalike.errors import SettingError

    given = {
        f"queries ({queries})": queries is not None,
        "--baselines": baselines,
        "--first": first != _FIRST,
    }
    for name, was_given in given.items():
        if was_given:
            raise SettingError(
                f"--self cannot be combined with {name}: it asks the gallery's own images, "
                "distorted, for their originals, and knows no labels; leave out one of the two"
            )


def _judge_by_originals(
    path: Path, n: int, metric: str | None, report: Path | None, as_json: bool
) -> None:
    from lookalike.gallery import Gallery
    from lookalike.invariance import self_retrieval

    opened = Gallery.open(path)
    with screen.progress() as on_progress:
        found = self_retrieval(opened, n=n, metric=metric, on_progress=on_progress)
        if report is not None:
            from lookalike.self_report import write_self_report

            write_self_report(found, opened, report)
    if as_json:
        screen.print_json(found.as_dict())
    else:
        screen.print_self_retrieval(found)
    if report is not None:
        screen.note(f"report: {report}")
    screen.note_skipped(found.skipped, "images")
    if found.skipped:
        raise typer.Exit(1)
