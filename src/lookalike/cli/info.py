"""lookalike info: what a gallery or encoder folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lookalike.cli import screen


def command(
    path: Annotated[Path, typer.Argument(help="A gallery or encoder folder.")],
    recall: Annotated[
        bool,
        typer.Option("--recall", help="Also measure search: recall@10 against looking at all."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Print the facts of a gallery or an encoder."""
    from lookalike.artifacts import read_manifest
    from lookalike.encoders.catalog import MANIFEST as ENCODER_MANIFEST
    from lookalike.encoders.catalog import load_encoder

    facts: dict[str, Any]
    if (path / ENCODER_MANIFEST).is_file():
        load_encoder(path)
        facts = read_manifest(path / ENCODER_MANIFEST, what="an encoder")
    else:
        from lookalike.gallery import Gallery

        gallery = Gallery.open(path)
        facts = gallery.info()
        if recall:
            from lookalike.checkup import measure_search

            facts["search"] = measure_search(gallery)
    if as_json:
        screen.print_json(facts)
        return
    for name, value in facts.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, shown in inner:
            print(f"{f'{name} {key}'.strip():24} {shown}")
