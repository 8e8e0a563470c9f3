"""lookalike doctor: check the installation."""

from __future__ import annotations

import typer

from lookalike.cli import console
from lookalike.cli.options import AsJson


def command(as_json: AsJson = False) -> None:
    """Check the installation.

    Each line is one check: what is installed, what works, which cache is used.

    JSON: a list of name, ok (null: missing but optional) and detail.

    Exit code 1: a required part does not work.
    """
    from lookalike.diagnostics import run_checks

    checks = []
    for check in run_checks():
        checks.append(check)
        if not as_json:
            status = {True: "ok", False: "BROKEN", None: "-"}[check.ok]
            print(f"{status:6} {check.name:18} {check.detail}", flush=True)
    if as_json:
        console.print_json([{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks])
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)
