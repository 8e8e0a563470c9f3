"""lookalike demo: an end-to-end demo on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import console


def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Data: mnist, fashion-mnist, digits, photos or products."
        ),
    ] = "mnist",
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder.")
    ] = Path("demo"),
) -> None:
    """Run an end-to-end demo, from data to report.

      lookalike demo digits     small and offline
      lookalike demo            MNIST against the 2020 report
      lookalike demo photos     a folder of photos: index, change, filter, search
      lookalike demo products   find the product in a photo among shop images

    Repeated runs reuse what is in the output folder.
    """
    from lookalike.demos import run_demo

    try:
        with console.progress() as on_progress:
            result = run_demo(name, out, console.note, on_progress)
    except KeyboardInterrupt:
        console.note("interrupted; run the same command again to resume")
        raise typer.Exit(130) from None
    from lookalike.cli.evaluation_tables import print_evaluation

    console.print_lines("")
    print_evaluation(result.evaluation)
    labels = ", ".join(
        str(hit.metadata.get("item", hit.metadata.get("label", ""))) for hit in result.hits
    )
    console.print_lines(f"\n{result.hits.query}: {labels}  (contact sheet: {result.figure})")
    console.print_lines(f"\n{result.seconds:.0f} s in total. Report: {result.report}")
    console.print_lines("Next:")
    for line in result.next_commands:
        console.print_lines(f"  {line}")
