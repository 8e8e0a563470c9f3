"""Files and folders that commands write for people, none of them over an input."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console
from lookalike.formatting import format_count, printable

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


def check_output(
    out: Path | None,
    *,
    force: bool,
    gallery: Gallery | None = None,
    inputs: Iterable[str | Path | None] = (),
) -> None:
    """Check, before any work, that a file to be written is no input of the command.

    Files that exist and are no inputs, such as the report of an earlier run, are overwritten.

    Args:
        out: the file; None if nothing is written.
        force: overwrite it all the same.
        gallery: that the command reads: its files, and the images and manifests of its sources.
        inputs: other files and folders that it reads; what is no path is ignored.

    Raises:
        ArtifactError: it is one of them, by whatever path, or a folder.
    """
    from lookalike.errors import ArtifactError

    if out is None or not out.exists():
        return
    if not out.is_file():
        reason = "is a folder" if out.is_dir() else "is not a regular file"
        raise ArtifactError(f"{out}: {reason}; name a file")
    if force:
        return
    for path in _inputs(out, gallery, inputs):
        if _is_within(out, path):
            raise ArtifactError(
                f"{out}: is an input of this command; choose another file, or overwrite it with "
                "{force}",
                force=True,
            )


def _inputs(
    out: Path, gallery: Gallery | None, inputs: Iterable[str | Path | None]
) -> Iterator[str]:
    """Yield paths of inputs; of the images of a gallery those whose file has the same name."""
    from lookalike.files import unescape_name

    yield from (str(path) for path in inputs if path is not None)
    if gallery is None:
        return
    yield str(gallery.path)
    yield from map(unescape_name, gallery.sources.values())
    names = {out.name, Path(os.path.realpath(out)).name}
    for record in gallery.store.records():
        uri = unescape_name(record.uri)
        if os.path.basename(uri) in names:  # noqa: PTH119 - there may be millions
            yield uri


def _is_within(out: Path, path: str) -> bool:
    """Return whether an existing file is a file, or in a folder."""
    try:
        if os.path.samefile(out, path):  # noqa: PTH121 - may be no path at all
            return True
        real = os.path.realpath(path)
        return os.path.isdir(real) and os.path.realpath(out).startswith(f"{real}{os.sep}")  # noqa: PTH112
    except (OSError, ValueError):
        return False


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bytes:
    """Return a CSV file; cells that a row lacks are empty."""
    from lookalike import csv_text

    return csv_text.csv_bytes(columns, ([row.get(name, "") for name in columns] for row in rows))


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
    """Draw the first 100 images with their titles; write nothing without images.

    One that cannot be read any more is left blank: the sheet may be the result of long work.
    """
    from lookalike.gallery.lookup import records_of
    from lookalike.search.contact_sheet import image_sheet

    if not sheet:
        return
    drawn = sheet[:MAX_SHEET_IMAGES]
    ids = [row_id for row_id, _ in drawn]
    images = gallery.read_images(records_of(gallery.store, ids))
    image_sheet(images, [title for _, title in drawn]).save(path)
    unread = [row_id for row_id, image in zip(ids, images, strict=True) if image is None]
    if unread:
        console.note(
            f"{path}: {format_count(len(unread), 'image')} cannot be read and left blank, e.g. "
            f"{printable(unread[0])}"
        )
    if len(sheet) > len(drawn):
        console.note(f"{path}: shows the first {len(drawn)} of {len(sheet):,}")
