"""lookalike evaluate: how good the answers are."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console

if TYPE_CHECKING:
    from lookalike.evaluation.results import Evaluation
    from lookalike.gallery.gallery import Gallery

_FIRST = 100
_N = 7


def command(
    gallery: Annotated[
        str | None,
        typer.Argument(
            help="The gallery folder; its rows carry labels, or --match, --ground-truth, --self."
        ),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Argument(help="Images to ask with; without them each row is asked for the others."),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", help="Hits for each query.", show_default="7")
    ] = None,
    first: Annotated[
        int, typer.Option(help="Also score the first so many queries (the report's protocol: 100).")
    ] = _FIRST,
    metric: Annotated[
        str | None, typer.Option(help="cosine or l2; the gallery's own unless given.")
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(help="A column: a hit is right when it has the query's value there."),
    ] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(help="A CSV file: on each line a query and the ids of its right answers."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="What published figures were measured by: perfect-500k, with --ground-truth."
        ),
    ] = None,
    synthetic_queries: Annotated[
        bool,
        typer.Option(
            "--synthetic-queries",
            help="Without labels: ask with street views of the gallery's own items.",
        ),
    ] = False,
    backgrounds: Annotated[
        str | None,
        typer.Option(
            help="With --synthetic-queries: photographs to put items on; collages unless given."
        ),
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(
            help="Also ask in other ways, and say what each adds and costs: foreground, parts, "
            "aqe, dba, k-reciprocal, diffusion, geometric, several joined by +, with commas "
            "between ways; or all."
        ),
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
    judgements: Annotated[
        list[Path] | None,
        typer.Option(help="Files saved from the page's judging view, and no gallery."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--save", help="Keep it in the gallery, where lookalike serve shows it.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write the report with its figures, one HTML file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Judge a gallery by labels: a hit is right when it has the query's label.

    Precision@k is the share of right hits; mAP@k divides by min(n, relevant) and mAP@k (found) by
    the right hits among the n; R@1 is the share of queries whose first hit is right; intervals
    are 95 % bootstrap intervals over the queries. A query never counts as its own hit.

    The same item in another picture has one right answer or a few. --match COLUMN makes rows right
    that have the query's value in a column of metadata; --ground-truth FILE those that a file
    names, with a query at the beginning of each line. There, queries and rows are named by their
    ids, by a column id of their metadata, by their ids without the source's name, or by their
    files' names, with the suffix or without it. What is named and not there is said.

    --json prints: n, queries (how many), skipped, gallery, protocol, relevance (by: label, match or
    truth; for a truth file what it left out and what it names that is not there),
    precision_ceiling, then of the gallery's encoder: encoder, metric, precision, map, map_found,
    recall, first_right (R@1), each with its NAME_interval, first, per_label (empty unless labels
    judge), baselines (the same by name), ways (by name the same, with map_gain and ms), latency_ms.

    With --synthetic-queries no labels are needed either: up to 500 of the gallery's items are put
    on other ground, in other light, turned and partly covered, and each is to find itself.

    With --self no labels are needed: up to 500 images are cropped, rotated, made brighter or
    darker, blurred, given noise, saved as poor JPEG and partly covered, and asked for their
    originals. This says what this encoder is invariant to, not how good it is: an encoder trained
    on such distortions wins it whatever its answers are worth.

    With --judgements people are the measure: files saved from the judging view of lookalike serve,
    several people's together, give precision@k of each gallery (of the hits shown, which are n or
    what there was), and where two were compared how often one is preferred, with intervals over
    the queries. Queries that were not judged to the end are left out. --json then prints: files,
    hits (of each gallery and n: queries, left_out, precision, map_found, first_right, agreement
    between people), preferences (a, b, for_a, for_b, ties, share for a, within_noise, agreement)
    and unfinished.

    With --save the figures and the report stay in the gallery as evaluation.json, without the
    places of files: lookalike info, the page and the service show them.
    """
    others = {
        "--match": match is not None,
        "--ground-truth": ground_truth is not None,
        "--protocol": protocol is not None,
        "--synthetic-queries": synthetic_queries,
        "--backgrounds": backgrounds is not None,
        "--variants": variants is not None,
        "--baselines": baselines,
        "--first": first != _FIRST,
        "--save": keep,
    }
    if judgements:
        given = {f"a gallery ({gallery})": gallery is not None, "--self": self_retrieval}
        given |= {"-k": k is not None, "--metric": metric is not None}
        _refuse_with(
            "--judgements", "it is what people said of hits, and asks nothing", given, others
        )
        _say_judgements(judgements, report, as_json)
        return
    if gallery is None:
        from lookalike.errors import SettingError

        raise SettingError("which gallery? give its folder, or --judgements FILE")
    if self_retrieval:
        _refuse_with(
            "--self",
            "it asks the gallery's own images, distorted, for their originals, and knows no labels",
            {f"queries ({queries})": queries is not None},
            others,
        )
        _judge_by_originals(gallery, k, metric, report, as_json)
        return
    from lookalike.evaluation.evaluate import evaluate
    from lookalike.gallery.gallery import Gallery

    opened = Gallery.open(gallery)
    with console.progress() as on_progress:
        found = evaluate(
            opened,
            queries,
            k=k,
            first=first,
            metric=metric,
            match=match,
            ground_truth=ground_truth,
            protocol=protocol,
            synthetic_queries=synthetic_queries,
            backgrounds=backgrounds,
            variants=variants,
            baselines=baselines,
            on_progress=on_progress,
        )
        if report is not None or keep:
            _write(found, opened, report, keep)
    if as_json:
        console.print_json(found.as_dict())
    else:
        console.print_evaluation(found)
    if report is not None:
        console.note(f"report: {report}")
    if found.basis.ground_truth is not None:
        for said in found.basis.ground_truth.notes():
            console.note(said)
    console.note_skipped(found.skipped, "queries")
    if found.skipped:
        raise typer.Exit(1)


def _write(found: Evaluation, gallery: Gallery, report: Path | None, keep: bool) -> None:
    from dataclasses import asdict, replace

    from lookalike.evaluation import saved
    from lookalike.report.evaluation import report_page
    from lookalike.report.page import SETTINGS, write_page

    page = report_page(found, gallery)
    if report is not None:
        write_page(page, report)
    if keep:
        shown = [section for section in page.sections if section.title != SETTINGS]
        console.note(f"kept: {saved.keep(found, gallery, asdict(replace(page, sections=shown)))}")


def _say_judgements(files: Sequence[Path], report: Path | None, as_json: bool) -> None:
    from lookalike.evaluation.human_judgements import evaluate_judgements

    found = evaluate_judgements(files)
    if report is not None:
        from lookalike.report.human_judgements import write_hit_report

        write_hit_report(found, report)
    if as_json:
        console.print_json(found.as_dict())
    else:
        console.print_hit_judgements(found)
    if report is not None:
        console.note(f"report: {report}")


def _refuse_with(mode: str, why: str, *given: Mapping[str, bool]) -> None:
    """Refuse options that a mode has no use for; ``given`` says which of them are there.

    Raises:
        SettingError: one was given.
    """
    from lookalike.errors import SettingError

    for name, was_given in ChainMap(*map(dict, reversed(given))).items():
        if was_given:
            raise SettingError(
                f"{mode} cannot be combined with {name}: {why}; leave out one of the two"
            )


def _judge_by_originals(
    path: str, k: int | None, metric: str | None, report: Path | None, as_json: bool
) -> None:
    from lookalike.evaluation.robustness import self_retrieval
    from lookalike.gallery.gallery import Gallery

    opened = Gallery.open(path)
    with console.progress() as on_progress:
        found = self_retrieval(
            opened, k=_N if k is None else k, metric=metric, on_progress=on_progress
        )
        if report is not None:
            from lookalike.report.robustness import write_self_report

            write_self_report(found, opened, report)
    if as_json:
        console.print_json(found.as_dict())
    else:
        console.print_self_retrieval(found)
    if report is not None:
        console.note(f"report: {report}")
    console.note_skipped(found.skipped, "images")
    if found.skipped:
        raise typer.Exit(1)
