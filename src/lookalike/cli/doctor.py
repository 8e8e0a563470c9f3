"""lookalike doctor: what is installed and what works."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.cli import console


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Look at what is installed, what works, and which cache is used, one line each.

    Exit code 1 when something that lookalike cannot do without does not work.
    """
    from lookalike.diagnostics import check_up

    checks = []
    for check in check_up():
        checks.append(check)
        if not as_json:
            sign = {True: "ok", False: "BROKEN", None: "-"}[check.ok]
            print(f"{sign:6} {check.name:20} {check.said}", flush=True)
    if as_json:
        console.print_json([{"name": c.name, "ok": c.ok, "said": c.said} for c in checks])
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)
