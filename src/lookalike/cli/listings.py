"""lookalike encoders, recipes, datasets: what can be named on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli import console
from lookalike.cli.options import AsJson

if TYPE_CHECKING:
    from pathlib import Path

    from lookalike.encoders.short_names import Family
    from lookalike.encoders.specs import EncoderSpec

_Name = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Show the details of one [default: list all].")
]
_WIDTH = 80


def encoders(name: _Name = None, as_json: AsJson = False) -> None:
    """List encoders.

      lookalike encoders
      lookalike encoders clip-b32

    Options follow an encoder's name; + joins several encoders:

      NAME,mirror,whiten=128      also foreground (any encoder)
      NAME,size=320,fit=stretch   input size, or 224:320; fit: crop,
                                  stretch, white, border (networks)
      efficientnet-lite0/rmac     another pooling: gem, avg, max, rmac,
                                  attention, grid, layers
      clip-b32,dtype=fp16         another precision: q8, fp16, fp32
      efficientnet-lite0+sscd     concatenated embeddings
    """
    from lookalike.encoders.registry import encoder_specs, find_encoder_spec
    from lookalike.encoders.short_names import FAMILIES

    if name is not None and name not in {family.form for family in FAMILIES}:
        _show_one(_encoder_row(find_encoder_spec(name)), as_json)
        return
    rows = [_encoder_row(spec) for spec in encoder_specs().values()]
    families = [_family_row(family) for family in FAMILIES]
    if name is not None or as_json:
        _show("encoder", [*rows, *families], (), name, as_json)
        return
    _print_columns(
        [row for row in rows if row["download"] is None],
        ("name", "summary"),
        title="Without weights",
    )
    networks = [row for row in rows if row["download"] is not None]
    columns = ("name", "summary", "dim", "px", "license", "text", "state")
    _print_columns([_brief(row) for row in networks], columns, title="\nPretrained networks")
    _print_columns(families, ("example", "summary", "state"), title="\nMore by name")


def _encoder_row(spec: EncoderSpec) -> dict[str, Any]:
    files = spec.weight_files()
    return {
        "name": spec.name,
        "summary": spec.summary,
        "dim": spec.dim,
        "input": spec.input,
        "text": spec.supports_text,
        "baseline": spec.baseline,
        "license": spec.license,
        "source": spec.source,
        "download": spec.download,
        "state": _state(spec, files),
        "cached": str(files[0]) if files else None,
        "bytes": sum(file.stat().st_size for file in files) if files else None,
    }


def _state(spec: EncoderSpec, files: Sequence[Path]) -> str | None:
    """Return whether an encoder's weights are here, or what opening it downloads.

    None if nobody knows before it is opened.
    """
    from lookalike.config import settings

    if spec.download is None:
        if spec.kind:  # of another package
            return "installed"
        return "built in" if spec.source == "built in" else None
    if files:
        return "cached" if settings().data in files[0].parents else "installed"
    if settings().offline:
        return "not cached"
    return f"download {spec.download / 1e6:,.0f} MB"


def _family_row(family: Family) -> dict[str, Any]:
    from lookalike.errors import is_installed

    missing = family.module and not is_installed(family.module)
    return {
        "name": family.form,
        "summary": family.summary,
        "example": family.example,
        "state": f"needs [{family.extra}]" if missing else "ready",
        "install": f"pip install 'lookalike[{family.extra}]'" if missing else None,
    }


def _brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's row as the table shows it: the side of its input, and yes or no."""
    return {
        **row,
        "dim": row["dim"] or "-",
        "px": row["input"].partition("x")[0],
        "text": "yes" if row["text"] else "no",
    }


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
        else:
            _print_columns(rows, columns)
        return
    by_name = {row["name"]: row for row in rows}
    if name not in by_name:
        raise UnknownNameError(kind, name, by_name)
    _show_one(by_name[name], as_json)


def _show_one(row: Mapping[str, Any], as_json: bool) -> None:
    """Print everything known of one; sizes for people in MB."""
    if as_json:
        console.print_json(row)
        return
    facts = {"size" if name == "bytes" else name: value for name, value in row.items()}
    for name in {"size", "download"} & facts.keys():
        facts[name] = None if facts[name] is None else console.size(facts[name])
    console.print_facts(facts)


def _print_columns(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, title: str = ""
) -> None:
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    if title:
        console.print_lines(title)
    console.print_table(columns, cells, max_width=_WIDTH)


def _cell(value: object) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
