"""Folders that commands write for people: a CSV file and a contact sheet."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console

if TYPE_CHECKING:
    from lookalike.gallery.gallery import Gallery

OutputFolder = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FOLDER", help="Save a CSV and a contact sheet."),
]

MAX_SHEET_IMAGES = 100


def check_free(out: Path | None) -> None:
    """Check that a folder can be written without touching what exists.

    Raises:
        ArtifactError: it is a file, or a folder with something in it.
    """
    from lookalike.errors import ArtifactError

    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ArtifactError(f"{out}: already exists; choose another {{out}} or remove it", out=None)


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> bytes:
    """Return a CSV file; cells that a row lacks are empty."""
    text = StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def write_folder(
    gallery: Gallery,
    path: Path,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, str]],
    sheet: Sequence[tuple[str, str]],
) -> None:
    """Write a CSV file and, beside it, ``sheet.png`` with images by id, each below its title."""
    from lookalike.artifacts import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    sheet_path = path.parent / "sheet.png"
    _write_sheet(gallery, sheet, sheet_path)
    write_atomically(path, csv_bytes(columns, rows))
    console.note(f"{path}" if not sheet else f"{path}, {sheet_path}")


def _write_sheet(gallery: Gallery, sheet: Sequence[tuple[str, str]], path: Path) -> None:
    """Draw the first 100 images with their titles; write nothing without images."""
    from lookalike.report import figures
    from lookalike.sources import open_items

    if not sheet:
        return
    drawn = sheet[:MAX_SHEET_IMAGES]
    items = open_items(list(gallery.store.get([row_id for row_id, _ in drawn]).uris))
    titles = [title for _, title in drawn]
    figures.save(figures.sample_grid([item.image() for item in items], titles), path)
    if len(sheet) > len(drawn):
        console.note(f"{path}: shows the first {len(drawn)} of {len(sheet):,}")
