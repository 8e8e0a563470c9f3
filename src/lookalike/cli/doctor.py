"""lookalike doctor: check the installation, or a gallery."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console
from lookalike.cli.options import AsJson
from lookalike.errors import SettingError

if TYPE_CHECKING:
    from lookalike.diagnostics import Check

_WIDTH = 80
_INDENT = 27


def command(
    gallery: Annotated[
        str | None,
        typer.Argument(metavar="GALLERY", help="Check the files of this gallery instead."),
    ] = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Read every byte and compare all checksums."),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Remove damaged rows; make the rest again."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the installation, or the files of a gallery.

    Each part that is installed is used once, in a process of its own; the line
    says what was done. A missing part (-) is optional.

    Of a gallery, its files, their sizes and structure are checked; with --deep,
    every byte and all checksums. --repair removes rows that are damaged, which
    the next index adds again, and rebuilds what is derived from the others.

      lookalike doctor
      lookalike doctor photos.gallery
      lookalike doctor photos.gallery --deep

    JSON: a list of name, ok (null: optional and missing), required, tried and
    detail.

    Exit code 1: a required part does not work, or a file is damaged. An
    optional part that is broken is marked, too.
    """
    from lookalike.sources.path_kinds import PathKind, kind_of_path, no_gallery_error

    if gallery is None and (deep or repair):
        name = "repair" if repair else "deep"
        raise SettingError(f"{{{name}}} needs a gallery", **{name: None})
    if gallery is not None and kind_of_path(gallery) is PathKind.IMAGES:
        raise no_gallery_error(gallery)
    checks = []
    for check in _checks(gallery, deep, repair):
        checks.append(check)
        if not as_json:
            _print(check)
    if as_json:
        console.print_json([check.as_dict() for check in checks])
    if any(check.required and not check.ok for check in checks):
        raise typer.Exit(1)


def _checks(gallery: str | None, deep: bool, repair: bool) -> Iterator[Check]:
    from lookalike.diagnostics import check_gallery, run_checks

    if gallery is None:
        return run_checks()
    return check_gallery(gallery, deep=deep, repair=repair, progress=True)


def _print(check: Check) -> None:
    """Print a check in 80 columns, unless a path or a word is longer."""
    status = {True: "ok", False: "BROKEN", None: "-"}[check.ok]
    tried = f"; {check.tried}" if check.ok and check.tried else ""
    lines = textwrap.wrap(
        check.detail + tried,
        _WIDTH - _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    margin = "\n" + " " * _INDENT
    console.print_lines(f"{status:6} {check.name:18}  {margin.join(lines)}")
