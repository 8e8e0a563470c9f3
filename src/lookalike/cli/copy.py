"""lookalike copy: copy a gallery."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli import console
from lookalike.cli.options import AsJson, Gallery
from lookalike.formatting import format_count


def command(
    gallery: Gallery,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="Folder or milvus://HOST:PORT/NAME; created if missing."
        ),
    ],
    store: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Store rows of a new folder at milvus://HOST:PORT/NAME."
        ),
    ] = None,
    allow_removals: Annotated[
        bool,
        typer.Option("--allow-removals", help="Delete target rows missing from the source."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a gallery, or update a copy, and verify it.

    Encoder, rows, sources and uploaded images are copied; other images stay
    where they are. Interrupted runs resume where they stopped. A gallery of an earlier lookalike
    is migrated by copying it (pip install 'lookalike[lance]').

      lookalike copy photos.gallery backup.gallery
      lookalike copy photos.gallery milvus://localhost:19530/photos
    """
    from lookalike.gallery.copy import copy

    try:
        with console.progress() as on_progress:
            report = copy(
                gallery,
                target,
                store=store,
                allow_removals=allow_removals,
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        console.note("interrupted; run the same command again to resume")
        raise typer.Exit(130) from None
    if as_json:
        console.print_json(report.as_dict())
        return
    console.print_lines(
        f"{target}: {format_count(report.rows, 'row')}; {report.added:,} added, "
        f"{report.updated:,} updated, {report.removed:,} removed, {report.unchanged:,} unchanged, "
        f"in {report.seconds:.1f} s; verified: {format_count(report.compared, 'row')} compared"
        f"{_recall(report.recall, report.queries)}"
    )


def _recall(recall: float | None, queries: int) -> str:
    from lookalike.gallery.copy import RECALL_K

    if recall is None:
        return ""
    return f", recall@{RECALL_K} {recall:.3f} over {format_count(queries, 'query', 'queries')}"
