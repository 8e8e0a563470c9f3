"""lookalike export: a gallery's rows for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import console


def command(
    gallery: Annotated[str, typer.Argument(help="The gallery: its folder, or milvus://...")],
    out: Annotated[Path, typer.Argument(help="The file or folder to make.")],
    layout: Annotated[
        str,
        typer.Option(help="parquet: one file; npy: a folder as clip-retrieval has it."),
    ] = "parquet",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Write ids, uris, metadata and embeddings of all rows."""
    from lookalike.gallery.export import export
    from lookalike.gallery.gallery import Gallery

    with console.progress() as on_progress:
        rows = export(Gallery.open(gallery), out, layout=layout, on_progress=on_progress)
    if as_json:
        console.print_json({"path": str(out), "rows": rows, "layout": layout})
    else:
        print(f"{out}: {rows:,} rows, {layout}")
