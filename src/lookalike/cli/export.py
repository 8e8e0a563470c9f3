"""lookalike export: a gallery's rows for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import console
from lookalike.cli.options import AsJson, Gallery
from lookalike.formatting import format_count


def command(
    gallery: Gallery,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output file or folder.")],
    layout: Annotated[
        str,
        typer.Option(metavar="NAME", help="parquet, npy (as clip-retrieval), jsonl, or lance."),
    ] = "parquet",
    as_json: AsJson = False,
) -> None:
    """Export ids, URIs, metadata and embeddings.

    lookalike export photos.gallery photos.parquet
    lookalike export photos.gallery embeddings --layout npy
    lookalike export photos.gallery rows --layout jsonl

    All but jsonl need pip install 'lookalike[parquet]' or 'lookalike[lance]'.
    """
    from lookalike.gallery.gallery import Gallery

    with console.progress() as on_progress:
        rows = Gallery.open(gallery).export(out, layout=layout, progress=on_progress)
    if as_json:
        console.print_json({"path": str(out), "rows": rows, "layout": layout})
    else:
        console.print_lines(f"{out}: {format_count(rows, 'row')}, {layout}")
