"""lookalike doctor: check the installation."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import typer

from lookalike.cli import console
from lookalike.cli.options import AsJson

if TYPE_CHECKING:
    from lookalike.diagnostics import Check

_WIDTH = 80
_INDENT = 27


def command(as_json: AsJson = False) -> None:
    """Check the installation.

    Each part that is installed is used once, in a process of its own; the line
    says what was done. A missing part (-) is optional.

    JSON: a list of name, ok (null: optional and missing), required, tried and
    detail.

    Exit code 1: a required part does not work. An optional one that is broken
    is marked, too.
    """
    from lookalike.diagnostics import run_checks

    checks = []
    for check in run_checks():
        checks.append(check)
        if not as_json:
            _print(check)
    if as_json:
        console.print_json([check.as_dict() for check in checks])
    if any(check.required and not check.ok for check in checks):
        raise typer.Exit(1)


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
