"""lookalike encoders, recipes, datasets: what can be named on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from lookalike.cli import console
from lookalike.cli.options import AsJson

_Name = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Show the details of one [default: list all].")
]
_WIDTH = 80


def encoders(name: _Name = None, as_json: AsJson = False) -> None:
    """List built-in and pretrained encoders.

      lookalike encoders
      lookalike encoders efficientnet-lite0

    More can be named wherever an encoder is:

      efficientnet-lite0/rmac     another pooling: gem, avg, max, rmac,
                                  attention, grid, layers
      timm:NAME, hf-hub:NAME      a model of timm, e.g. DINOv2
      onnx:FILE                   your own network
      hog+color                   several, joined by +
      NAME,size=320,fit=stretch   input size, or 224:320; fit: crop,
                                  stretch, white, border (pretrained)
      NAME,mirror,whiten=128      also foreground (any encoder)
    """
    from lookalike.encoders.registry import encoder_specs

    rows = []
    for each in encoder_specs().values():
        cached = each.cached if each.cached is not None and each.cached.is_file() else None
        rows.append(
            {
                "name": each.name,
                "summary": each.summary,
                "dim": each.dim,
                "input": each.input,
                "baseline": each.baseline,
                "license": each.license,
                "source": each.source,
                "cached": None if cached is None else str(cached),
                "bytes": None if cached is None else cached.stat().st_size,
            }
        )
    _show("encoder", rows, ("name", "summary"), name, as_json)


def recipes(name: _Name = None, as_json: AsJson = False) -> None:
    """List training recipes.

    lookalike recipes
    lookalike train photos -o my.encoder --recipe contrastive
    """
    from lookalike.training.recipes import load_recipes

    rows = [
        {
            "name": each.name,
            "summary": each.summary,
            "augment": each.augment_name,
            "batch": each.batch,
            "learning_rate": each.learning_rate,
            "epochs": each.epochs,
        }
        for each in load_recipes().values()
    ]
    _show("recipe", rows, ("name", "epochs", "summary"), name, as_json)


def datasets(name: _Name = None, as_json: AsJson = False) -> None:
    """List public data sets.

    lookalike datasets
    lookalike index digits.gallery dataset:digits/train
    lookalike index some.gallery "dataset:mnist/train[:5000]"
    """
    from lookalike.datasets import DATASETS

    rows = [
        {
            "name": each.name,
            "splits": list(each.splits),
            "summary": each.summary,
            "license": each.license,
        }
        for each in DATASETS.values()
    ]
    _show("data set", rows, ("name", "splits", "summary"), name, as_json)


def _show(
    kind: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    name: str | None,
    as_json: bool,
) -> None:
    """Print all rows as a table of some columns, or one with everything known of it."""
    from lookalike.errors import UnknownNameError

    if name is None:
        if as_json:
            console.print_json(rows)
            return
        cells = [[_cell(row[column]) for column in columns] for row in rows]
        console.print_table(columns, cells, max_width=_WIDTH)
        return
    by_name = {row["name"]: row for row in rows}
    if name not in by_name:
        raise UnknownNameError(kind, name, by_name)
    row = dict(by_name[name])
    if as_json:
        console.print_json(row)
        return
    if "bytes" in row:
        size = row.pop("bytes")
        row["size"] = None if size is None else console.size(size)
    console.print_facts(row)


def _cell(value: object) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
