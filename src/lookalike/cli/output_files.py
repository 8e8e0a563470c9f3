"""What commands write for people to look through: a CSV and a contact sheet in a folder."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.cli import console

if TYPE_CHECKING:
    from lookalike.gallery.gallery import Gallery

SHEET = 100
"""Images on a contact sheet, at most."""


def check_free(out: Path | None) -> None:
    """See that a folder may be written.

    Raises:
        ArtifactError: there is a file, or a folder with something in it.
    """
    from lookalike.errors import ArtifactError

    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ArtifactError(f"{out}: already exists; choose another -o or remove it first")


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> bytes:
    """Return a CSV file; cells that a row lacks are empty."""
    text = StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def write_sheet(gallery: Gallery, ids: Sequence[str], titles: Sequence[str], path: Path) -> None:
    """Draw the first 100 images with their titles; none if there is none."""
    from lookalike.report import figures
    from lookalike.sources import open_items

    if not ids:
        return
    items = open_items(list(gallery.store.get(list(ids[:SHEET])).uris))
    images = [item.image() for item in items]
    figures.save(figures.sample_grid(images, list(titles[:SHEET])), path)
    if len(ids) > SHEET:
        console.note(f"{path}: shows the first {SHEET} of {len(ids):,}")
