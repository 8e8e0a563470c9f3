"""lookalike demo: the whole story on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import console


def command(
    story: Annotated[
        str, typer.Argument(help="mnist, fashion-mnist, digits, photos or products.")
    ] = "mnist",
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for everything.")] = Path(
        "demo"
    ),
) -> None:
    """Tell the whole story on real data: get, train, index, search, evaluate, report.

    The story photos keeps a gallery of a folder of photographs: index, change, filter, search.
    The story products finds the item of a photograph among shop images.

    Run again, it uses what is there; remove the folder to begin anew.
    """
    from lookalike.demos import photos, products
    from lookalike.demos.digits import tell

    try:
        with console.progress() as on_progress:
            if story == photos.NAME:
                told = photos.tell_photos(out, console.note, on_progress)
            elif story == products.NAME:
                told = products.tell_products(out, console.note, on_progress)
            else:
                told = tell(story, out, console.note, on_progress)
    except KeyboardInterrupt:
        console.note("interrupted; the same command goes on where it stopped")
        raise typer.Exit(130) from None
    from lookalike.cli.evaluation_tables import print_evaluation

    print()
    print_evaluation(told.evaluation)
    labels = ", ".join(
        str(hit.metadata.get("item", hit.metadata.get("label", ""))) for hit in told.hits
    )
    print(f"\n{told.hits.query} found: {labels}  (picture: {told.picture})")
    print(f"\nAll in {told.seconds:.0f} s. The report: {told.report}")
    print("What to type next:")
    for command in told.then:
        print(f"  {command}")
