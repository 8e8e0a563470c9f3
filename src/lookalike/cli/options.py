"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Gallery = Annotated[
    str, typer.Argument(metavar="GALLERY", help="Gallery folder, or milvus://HOST:PORT/NAME.")
]
_SOURCE_HELP = (
    "Folder, manifest (.csv, .jsonl, .parquet), tar or Parquet shards, IDX file, or "
    "dataset:NAME/SPLIT."
)
Source = Annotated[str, typer.Argument(metavar="SOURCE", help=_SOURCE_HELP)]
OptionalSource = Annotated[
    str | None,
    typer.Argument(metavar="SOURCE", help=_SOURCE_HELP, show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Output JSON.")]
K = Annotated[int, typer.Option("-k", metavar="K", help="Results per query.")]
MetricName = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC", help="Distance: cosine or l2.", show_default="the gallery's own"
    ),
]
Report = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Save a report with figures (HTML).")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an output that is an input.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Random seed.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run in --out.")]
