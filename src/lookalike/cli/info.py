"""lookalike info: what a gallery or encoder folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli import console

if TYPE_CHECKING:
    from lookalike.gallery.gallery import Gallery


def command(
    path: Annotated[str, typer.Argument(help="A gallery or encoder folder, or milvus://...")],
    recall: Annotated[
        bool,
        typer.Option("--recall", help="Also measure search: recall@10 against looking at all."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Print the facts of a gallery or an encoder."""
    from lookalike.artifacts import read_manifest
    from lookalike.encoders.base import MANIFEST as ENCODER_MANIFEST
    from lookalike.encoders.persistence import load_encoder

    facts: dict[str, Any]
    if (Path(path) / ENCODER_MANIFEST).is_file():
        load_encoder(Path(path))
        facts = read_manifest(Path(path) / ENCODER_MANIFEST, what="an encoder")
    else:
        from lookalike.gallery.gallery import Gallery

        gallery = Gallery.open(path)
        facts = gallery.info()
        if recall:
            from lookalike.gallery.recall import measure_recall

            facts["search"] = measure_recall(gallery)
        facts |= _evaluation(gallery)
    if as_json:
        console.print_json(facts)
        return
    for name, value in facts.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, shown in inner:
            print(f"{f'{name} {key}'.strip():24} {shown}")


def _evaluation(gallery: Gallery) -> dict[str, Any]:
    """Return what is said of the evaluation that was kept, if one was; a broken one is no harm."""
    from lookalike.errors import ArtifactError
    from lookalike.evaluation.saved import load_saved_evaluation

    try:
        found = load_saved_evaluation(gallery)
    except ArtifactError as error:
        console.note(str(error))
        return {}
    if found is None:
        return {}
    return {
        "evaluation": {"made": found.made, "verdict": found.verdict, "stale": found.stale},
    }
