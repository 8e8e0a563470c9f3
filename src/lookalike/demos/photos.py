"""The demo ``photos``: keep a gallery of a folder of photographs in sync, search and evaluate."""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lookalike.artifacts import write_atomically
from lookalike.csv_text import csv_bytes
from lookalike.demos.result import DemoResult, shell_command, shell_line
from lookalike.errors import MissingDependencyError
from lookalike.evaluation.evaluate import evaluate
from lookalike.evaluation.relevance import mark_correct
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.on_demand import index_on_demand
from lookalike.images.decode import decode
from lookalike.report.evaluation import write_report
from lookalike.search.contact_sheet import contact_sheet
from lookalike.sources import open_source
from lookalike.sources.tables import read_table
from lookalike.types import ImageArray, ProgressCallback, ignore_progress

NAME = "photos"

_COLUMNS, _ROWS = 5, 4
"""Pieces across and down each photograph."""

_MIN_SIDE = 256
"""Pixels that a photograph must have on its shorter side."""

_MIN_COLORS = 65
"""Images with fewer distinct values are drawings."""

_EXCLUDED = frozenset(("motorcycle_right",))
"""The second half of a stereo pair."""

_QUERY = "flower/11.jpg"
_NAMES = ("china/21.jpg", "china/another name.jpg")
"""Two names of one piece; each run of the demo renames it from one to the other."""


def run_demo(
    out: Path, log: Callable[[str], None], on_progress: ProgressCallback = ignore_progress
) -> DemoResult:
    """Run the demo in ``out/photos``; see :func:`lookalike.demos.run_demo`.

    The photographs come with scikit-learn and, where it is installed, scikit-image.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    start = time.perf_counter()
    folder = out / NAME
    pieces = folder / "pieces"
    path = folder / "photos.gallery"
    count = write_pieces(pieces)
    source = open_source(pieces, on_progress)
    log(f"1. Data: {count} photographs, cut into {len(source):,} pieces: {pieces}")

    query = pieces / _QUERY
    log("2. Search the folder in one command; its gallery is kept in the cache")
    log(shell_line(pieces, query))
    first = index_on_demand(pieces, progress=on_progress)
    nearest = ", ".join(
        str(hit.metadata["label"]) for hit in first.gallery.search(query) if hit.distance > 1e-6
    )
    log(f"   {first.report.added:,} added in {first.report.seconds:.1f} s; nearest: {nearest}")

    log("3. Index it into a gallery of its own; metadata comes from its metadata.csv")
    log(shell_line("index", path, pieces))
    if path.exists():
        gallery = Gallery.open(path)
    else:
        gallery = Gallery.create(path, encoder=first.gallery.encoder)
    report = gallery.sync(source, progress=on_progress)
    log(
        f"   {report.added:,} added, {report.unchanged:,} unchanged in {report.seconds:.1f} s; "
        f"encoder {gallery.encoder.name}"
    )

    old, new = _rename_piece(pieces)
    log(f"4. Index again after renaming {old} to {new}")
    log(shell_line("index", path, pieces))
    report = gallery.sync(pieces, progress=on_progress)
    log(
        f"   {report.moved} moved, {report.unchanged:,} unchanged (not read again) in "
        f"{report.seconds:.1f} s"
    )

    photograph = query.parent.name
    where = f"label != '{photograph}' and row < {_ROWS - 1}"
    log("5. Search, in all pieces and with a metadata filter")
    log(shell_line("search", path, query))
    log(shell_line("search", path, query, "--where", where))
    hits = gallery.search(query, k=7)
    filtered = gallery.search(query, k=7, where=where)
    figure = folder / "hits.png"
    sheet = contact_sheet(
        [hits, filtered],
        [mark_correct(hits, photograph), None],
        query_titles=[photograph, None],
        row_names=["all", "other photographs"],
    )
    sheet.save(figure)

    log("6. Evaluate: every piece is a query for the others of its photograph")
    log(shell_line("evaluate", path, "--baselines"))
    evaluation = evaluate(gallery, baselines=True, progress=on_progress)

    log(f"7. Write the report: {folder / 'report.html'}")
    write_report(evaluation, gallery, folder / "report.html")
    return DemoResult(
        evaluation=evaluation,
        hits=hits,
        gallery=path,
        report=folder / "report.html",
        figure=figure,
        seconds=time.perf_counter() - start,
        next_commands=(
            shell_command("search", path, query, "--where", where, "--image", "hits.png"),
            shell_command("index", path, pieces, "--dry-run"),
            shell_command("info", path, "--recall"),
        ),
    )


def _photographs() -> Iterator[tuple[str, ImageArray]]:
    """Yield the installed photographs and their names."""
    try:
        bunch = importlib.import_module("sklearn.datasets").load_sample_images()
    except ImportError:
        raise MissingDependencyError("scikit-learn", "the demo photos", "stamps") from None
    for path, image in zip(bunch.filenames, bunch.images, strict=True):
        yield Path(path).stem, image
    try:
        folder = Path(importlib.import_module("skimage.data").__file__ or "").parent
    except ImportError:
        return
    for path in sorted([*folder.glob("*.png"), *folder.glob("*.jpg")]):
        image = decode(path)
        photograph = len(np.unique(image)) >= _MIN_COLORS
        if min(image.shape[:2]) >= _MIN_SIDE and photograph and path.stem not in _EXCLUDED:
            yield path.stem, image


def write_pieces(folder: Path) -> int:
    """Write the pieces and ``metadata.csv`` unless they exist; return the number of photographs."""
    table = folder / "metadata.csv"
    if table.exists():
        return len({row["label"] for row in read_table(table).only("label")})
    rows = []
    count = 0
    for name, image in _photographs():
        count += 1
        height, width = image.shape[0] // _ROWS, image.shape[1] // _COLUMNS
        kind = "gray" if image.ndim == 2 else "color"
        for number in range(_ROWS * _COLUMNS):
            row, column = divmod(number, _COLUMNS)
            piece = image[row * height : (row + 1) * height, column * width : (column + 1) * width]
            path = f"{name}/{row}{column}.jpg"
            file = io.BytesIO()
            Image.fromarray(piece).save(file, "JPEG", quality=92)
            write_atomically(folder / path, file.getvalue())
            rows.append((path, name, row, column, kind))
    write_atomically(table, csv_bytes(("path", "label", "row", "column", "kind"), rows))
    return count


def _rename_piece(folder: Path) -> tuple[str, str]:
    """Rename a piece, in the metadata table too; return its old and new name."""
    old, new = _NAMES if (folder / _NAMES[0]).exists() else _NAMES[::-1]
    (folder / old).rename(folder / new)
    table = folder / "metadata.csv"
    write_atomically(table, table.read_bytes().replace(f"\n{old},".encode(), f"\n{new},".encode()))
    return old, new
