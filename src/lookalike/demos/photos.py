"""The story of a folder of photographs: index it, change it, filter, search, judge."""

from __future__ import annotations

import csv
import importlib
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lookalike.artifacts import write_atomically
from lookalike.demos.digits import DemoResult
from lookalike.encoders.batching import fit_encoder
from lookalike.encoders.registry import default_encoder
from lookalike.errors import MissingDependencyError
from lookalike.evaluation.evaluate import evaluate
from lookalike.evaluation.relevance import mark_correct
from lookalike.gallery.gallery import Gallery
from lookalike.images.decode import decode
from lookalike.report import figures
from lookalike.report.evaluation import write_report
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from lookalike.types import ImageArray, ProgressCallback, ignore_progress

NAME = "photos"
COLUMNS, ROWS = 5, 4
"""Pieces across and down each photograph."""

LEAST = 256
"""Pixels that a photograph must have on its shorter side."""

_TWINS = frozenset(("motorcycle_right",))
"""Photographs of what another one shows."""

_QUERY = "flower/11.jpg"
_NAMES = ("china/21.jpg", "china/another name.jpg")
"""Names that one piece has in turn."""


def tell_photos(
    out: Path, say: Callable[[str], None], on_progress: ProgressCallback = ignore_progress
) -> DemoResult:
    """Make a folder of pieces of photographs below ``out`` and keep a gallery of it.

    The photographs are those that scikit-learn and, where it is installed, scikit-image bring.

    Args:
        out: the folder for everything.
        say: told of each step in a sentence.
        on_progress: told of progress within the steps.
    """
    start = time.perf_counter()
    folder = out / NAME
    pieces = folder / "pieces"
    count = _write_pieces(pieces)
    say(f"1  get: {count} photographs that come with Python packages, cut into pieces: {pieces}")
    source = open_source(pieces, on_progress)
    name, kind = default_encoder(sample_images(source, 50))
    say(f"2  index: {len(source):,} files with {name} ({kind}), metadata from metadata.csv")
    path = folder / "photos.gallery"
    if path.exists():
        gallery = Gallery.open(path)
    else:
        gallery = Gallery.create(path, encoder=fit_encoder(name, source))
    report = gallery.sync(source, on_progress=on_progress)
    say(f"   {report.added:,} added, {report.unchanged:,} unchanged, in {report.seconds:.1f} s")
    moved = _move(pieces)
    report = gallery.sync(pieces, on_progress=on_progress)
    say(
        f"3  index again, after {moved} was moved: {report.moved} moved, {report.unchanged:,} "
        f"unchanged and not read, in {report.seconds:.2f} s"
    )
    query = pieces / _QUERY
    photograph = query.parent.name
    say(f"4  search: what looks like {query}?")
    found = gallery.search(query, k=7)
    where = f"label != '{photograph}' and row < {ROWS - 1}"
    say(f'   and among other photographs, their lowest pieces left out: --where "{where}"')
    others = gallery.search(query, k=7, where=where)
    picture = folder / "hits.png"
    grid = figures.hits_grid(
        [found, others],
        [mark_correct(found, photograph), None],
        query_titles=[photograph, None],
        row_names=["all", "other photographs"],
    )
    figures.save(grid, picture)
    say("5  evaluate: each piece asked for the others of its photograph, beside the baselines")
    judged = evaluate(gallery, baselines=True, on_progress=on_progress)
    say("6  report: every figure with its table, in one file")
    write_report(judged, gallery, folder / "report.html")
    seconds = time.perf_counter() - start
    return DemoResult(
        judged,
        found,
        path,
        folder / "report.html",
        picture,
        seconds,
        (
            f'lookalike search {path} {query} --where "{where}" --image hits.png',
            f"lookalike index {path} {pieces} --dry-run",
            f"lookalike info {path} --recall",
        ),
    )


def _photographs() -> Iterator[tuple[str, ImageArray]]:
    """Yield the photographs that are there, by name."""
    try:
        bunch = importlib.import_module("sklearn.datasets").load_sample_images()
    except ImportError:
        raise MissingDependencyError("scikit-learn", "the story photos", "train") from None
    for path, image in zip(bunch.filenames, bunch.images, strict=True):
        yield Path(path).stem, image
    try:
        folder = Path(importlib.import_module("skimage.data").__file__ or "").parent
    except ImportError:
        return
    for path in sorted([*folder.glob("*.png"), *folder.glob("*.jpg")]):
        image = decode(path)
        drawing = len(np.unique(image)) <= 64
        if min(image.shape[:2]) >= LEAST and not drawing and path.stem not in _TWINS:
            yield path.stem, image


def _write_pieces(folder: Path) -> int:
    """Write the pieces and ``metadata.csv``, unless they are there; return how many were cut."""
    table = folder / "metadata.csv"
    if table.exists():
        return len({row["label"] for row in csv.DictReader(table.read_text().splitlines())})
    rows = []
    count = 0
    for name, image in _photographs():
        count += 1
        for number in range(ROWS * COLUMNS):
            row, column = divmod(number, COLUMNS)
            height, width = image.shape[0] // ROWS, image.shape[1] // COLUMNS
            part = image[row * height : (row + 1) * height, column * width : (column + 1) * width]
            path = f"{name}/{row}{column}.jpg"
            file = io.BytesIO()
            Image.fromarray(part).save(file, "JPEG", quality=92)
            write_atomically(folder / path, file.getvalue())
            kind = "gray" if image.ndim == 2 else "color"
            rows.append((path, name, row, column, kind))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("path", "label", "row", "column", "kind"))
    writer.writerows(rows)
    write_atomically(table, text.getvalue().encode())
    return count


def _move(folder: Path) -> str:
    """Give a piece its other name, in the metadata table too; return the name it had."""
    old, new = _NAMES if (folder / _NAMES[0]).exists() else _NAMES[::-1]
    (folder / old).rename(folder / new)
    table = folder / "metadata.csv"
    write_atomically(table, table.read_bytes().replace(f"\n{old},".encode(), f"\n{new},".encode()))
    return old
