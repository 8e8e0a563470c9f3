"""lookalike copy: a gallery in another place."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli import console


def command(
    gallery: Annotated[str, typer.Argument(help="The gallery: its folder, or milvus://...")],
    target: Annotated[
        str, typer.Argument(help="Where to: a folder, or milvus://HOST:PORT/NAME; made if missing.")
    ],
    store: Annotated[
        str | None, typer.Option(help="With a new folder: where its rows go, milvus://...")
    ] = None,
    allow_removals: Annotated[
        bool, typer.Option("--allow-removals", help="Delete rows there that the gallery has not.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Copy encoder, rows and sources to another place, and check them there.

    Interrupted and run again, it goes on where it was; run again later, it brings the copy up to
    date. Images stay where they are.
    """
    from lookalike.gallery.copy import N, copy
    from lookalike.gallery.gallery import Gallery

    opened = Gallery.open(gallery)
    try:
        with console.progress() as on_progress:
            report = copy(
                opened, target, store=store, allow_removals=allow_removals, on_progress=on_progress
            )
    except KeyboardInterrupt:
        console.note("interrupted; what was copied stays, the same command goes on from there")
        raise typer.Exit(130) from None
    if as_json:
        console.print_json(report.as_dict())
        return
    print(
        f"{target}: {report.rows:,} rows; {report.added:,} added, {report.updated:,} updated, "
        f"{report.removed:,} removed, {report.unchanged:,} unchanged, in {report.seconds:.1f} s; "
        f"{report.compared:,} compared and the same; recall@{N} of {report.asked:,} searches "
        f"{report.recall:.3f}"
    )
