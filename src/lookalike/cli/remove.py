"""lookalike remove: delete rows of a gallery."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from lookalike.cli import console
from lookalike.cli.options import AsJson, Gallery
from lookalike.formatting import format_count, printable

_LISTED = 10
"""Ids that are listed, at most."""


def command(
    gallery: Gallery,
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Remove a source with all its rows."),
    ] = None,
    id: Annotated[  # noqa: A002 - the name of the option
        list[str] | None,
        typer.Option("--id", metavar="ID", help="Remove an image, by ID or pattern (repeatable)."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="FILTER", help='Remove images by metadata, e.g. "year < 2020".'),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed without writing.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Allow removing more than half of the gallery.")
    ] = False,
    purge: Annotated[
        bool,
        typer.Option("--purge", help="Delete their metadata from disk at once, labels too."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove images from a gallery; their files stay where they are.

    The next index of their source leaves them out, until index --restore-removed.
    What label propagate wrote is kept for 30 days, and comes back if an image of
    the same content is indexed again. Uploaded images are deleted with their
    metadata. What is left of removed rows on disk goes when it is over 30 %, or
    at once with --purge, which alone does that for all rows removed before.

      lookalike remove photos.gallery --source holidays
      lookalike remove photos.gallery --id photos:a.jpg --id 'photos:thumbs/*'
      lookalike remove photos.gallery --where "label = 'blurred'" --dry-run
      lookalike remove photos.gallery --purge

    JSON: removed, ids, rows and dry_run.
    """
    from lookalike.errors import SettingError
    from lookalike.gallery.gallery import Gallery

    opened = Gallery.open(gallery)
    rows = len(opened)
    if purge and not (id or source or where):
        if not dry_run:
            with interruptible(gallery, purge=True), console.progress():
                opened.purge()
        _report_purge(gallery, rows, dry_run=dry_run, as_json=as_json)
        return
    chosen = opened.select(id or (), source=source, where=where)
    if 2 * len(chosen) > rows and not (yes or dry_run or _confirm(len(chosen), rows)):
        raise SettingError(
            f"{gallery}: {len(chosen):,} of its {format_count(rows, 'row')} would be removed; to "
            "remove them, set {yes}. Nothing was changed",
            yes=True,
        )
    if dry_run:
        count = len(chosen)
    else:
        with interruptible(gallery, purge=purge), console.progress():
            count = (
                opened.remove_rows(chosen, purge=purge)
                if source is None
                else opened.remove_rows(source=source, purge=purge)
            )
    left = rows - count if dry_run else len(opened)
    if as_json:
        console.print_json({"removed": count, "ids": chosen, "rows": left, "dry_run": dry_run})
        return
    would = "dry run, nothing written: " if dry_run else ""
    print(f"{printable(gallery)}: {would}{format_count(count, 'row')} removed, {left:,} left")
    for row_id in chosen[:_LISTED]:
        console.note(f"removed: {printable(row_id)}")
    if len(chosen) > _LISTED:
        console.note(f"... and {len(chosen) - _LISTED:,} more; --json lists them all")
    if any(each.partition(":")[0] in opened.sources for each in chosen) and not dry_run:
        console.note(
            "the next index leaves them out; to add them again: lookalike index "
            f"{shlex.quote(gallery)} --restore-removed"
        )


@contextlib.contextmanager
def interruptible(gallery: str, *, purge: bool) -> Iterator[None]:
    """End the command in one line after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        rest = f"; to finish: lookalike remove {shlex.quote(gallery)} --purge" if purge else ""
        console.note(f"interrupted{rest}")
        raise typer.Exit(130) from None


def _report_purge(gallery: str, rows: int, *, dry_run: bool, as_json: bool) -> None:
    """Say that what rows removed before have left on disk is gone."""
    if as_json:
        console.print_json({"removed": 0, "ids": [], "rows": rows, "dry_run": dry_run})
        return
    done = "dry run, nothing written" if dry_run else "what removed rows left on disk is deleted"
    print(f"{printable(gallery)}: {done}; {format_count(rows, 'row')}")


def _confirm(count: int, rows: int) -> bool:
    """Ask whether more than half of the rows are to be removed; no where nobody can answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    question = f"remove {count:,} of {format_count(rows, 'row')}?"
    return typer.confirm(question, default=False, err=True)
