"""lookalike info: details of a gallery or encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli import console
from lookalike.cli.commands import message
from lookalike.cli.options import AsJson

if TYPE_CHECKING:
    from lookalike.gallery.gallery import Gallery


def command(
    path: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="Gallery or encoder folder, or milvus://HOST:PORT/NAME."
        ),
    ],
    recall: Annotated[
        bool,
        typer.Option("--recall", help="Also measure recall@10 of search against exact search."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show details of a gallery or encoder.

    lookalike info photos.gallery --recall
    lookalike info my.encoder --json
    """
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
    else:
        console.print_facts(_readable(facts))


def _readable(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts for people: a size in MB, dates, and whether an evaluation is up to date."""
    from datetime import datetime

    shown = dict(facts)
    if "bytes" in shown:
        shown["size"] = console.size(shown.pop("bytes"))
    if "evaluation" in shown:
        evaluation = dict(shown["evaluation"])
        changes = evaluation.pop("changes")
        created = datetime.fromisoformat(evaluation["created_at"])
        evaluation["created_at"] = f"{created:%Y-%m-%d %H:%M} UTC"
        evaluation["status"] = f"outdated ({changes} since)" if changes else "up to date"
        del evaluation["stale"]
        shown["evaluation"] = evaluation
    return shown


def _evaluation(gallery: Gallery) -> dict[str, Any]:
    """Return the facts of the saved evaluation, if there is one; a broken one is only noted."""
    from lookalike.errors import ArtifactError
    from lookalike.evaluation.saved import load_saved_evaluation

    try:
        saved = load_saved_evaluation(gallery)
    except ArtifactError as error:
        console.note(message(error))
        return {}
    if saved is None:
        return {}
    return {
        "evaluation": {
            "created_at": saved.origin.created_at,
            "verdict": saved.verdict,
            "stale": saved.origin.stale,
            "changes": saved.origin.changes,
        }
    }
