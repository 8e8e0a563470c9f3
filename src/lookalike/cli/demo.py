"""lookalike demo: the whole story on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import screen


def command(
    story: Annotated[str, typer.Argument(help="mnist, fashion-mnist or digits.")] = "mnist",
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for everything.")] = Path(
        "demo"
    ),
) -> None:
    """Tell the whole story on real data: get, train, index, search, evaluate, report.

    Run again, it uses what is there; remove the folder to begin anew.
    """
    from lookalike.demo import tell

    try:
        with screen.progress() as on_progress:
            told = tell(story, out, screen.note, on_progress)
    except KeyboardInterrupt:
        screen.note("interrupted; the same command goes on where it stopped")
        raise typer.Exit(130) from None
    print()
    screen.print_evaluation(told.evaluation)
    labels = ", ".join(str(hit.metadata.get("label", "")) for hit in told.hits)
    print(f"\n{told.hits.query} found: {labels}  (picture: {told.picture})")
    print(f"\nAll in {told.seconds:.0f} s. The report: {told.report}")
    print(
        "What to type next:\n"
        f"  lookalike search {told.gallery} dataset:{story}/test#3 --image hits.png\n"
        f"  lookalike evaluate {told.gallery} dataset:{story}/test --baselines --json\n"
        "  lookalike index mine.gallery FOLDER-OF-IMAGES\n"
        "  lookalike search mine.gallery ONE-IMAGE.jpg"
    )
