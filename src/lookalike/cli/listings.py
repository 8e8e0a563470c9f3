"""lookalike encoders, recipes, datasets: what has a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import console

AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def encoders(as_json: AsJson = False) -> None:
    """List the encoders that need no training.

    Besides these: NAME/POOLING for another pooling of a pretrained one (gem, avg, max, rmac,
    attention, places, layers), timm:NAME for any model of timm (a DINOv2 one is a good first choice
    for photographs), hf-hub:NAME, onnx:FILE for a network of your own, and several of all these
    joined by +.

    Options follow a name, each after a comma: size=320 (or size=224:320, averaged) and
    fit=crop|stretch|white|border of pretrained ones; mirror, foreground and whiten=DIM of any.
    """
    from lookalike.encoders.registry import encoder_specs

    rows = [
        {
            "name": d.name,
            "summary": d.summary,
            "dim": "" if d.dim is None else d.dim,
            "input": d.input,
            "baseline": "yes" if d.baseline else "",
            "license": d.license,
            "source": d.source,
            "cached": str(d.cached) if d.cached is not None and d.cached.is_file() else "",
            "MB": _megabytes(d.cached),
        }
        for d in encoder_specs().values()
    ]
    _list(rows, as_json)


def recipes(as_json: AsJson = False) -> None:
    """List the recipes that lookalike train knows."""
    from lookalike.training.recipes import RECIPES

    rows = [
        {
            "name": r.name,
            "summary": r.summary,
            "augment": r.augment or "",
            "batch": r.batch,
            "learning_rate": r.learning_rate,
            "epochs": r.epochs,
        }
        for r in RECIPES.values()
    ]
    _list(rows, as_json)


def datasets(as_json: AsJson = False) -> None:
    """List the public data sets that dataset:NAME/SPLIT opens."""
    from lookalike.datasets import DATASETS

    rows = [
        {"name": d.name, "splits": ", ".join(d.splits), "summary": d.summary, "license": d.license}
        for d in DATASETS.values()
    ]
    _list(rows, as_json)


def _megabytes(path: Path | None) -> str:
    return f"{path.stat().st_size / 1e6:.1f}" if path is not None and path.is_file() else ""


def _list(rows: Sequence[Mapping[str, object]], as_json: bool) -> None:
    if as_json:
        console.print_json(rows)
    else:
        console.print_table(list(rows[0]), [[str(v) for v in row.values()] for row in rows])
