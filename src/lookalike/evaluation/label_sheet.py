"""Images to label by hand before encoders are compared (``lookalike choose --ask``)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from lookalike.artifacts import write_atomically
from lookalike.csv_text import csv_bytes
from lookalike.errors import SettingError
from lookalike.sources import Item

FILE = "labels.csv"
_COLUMNS = ("number", "id", "uri", "label")


def draw_rows(total: int, ask: int, *, exclude: Collection[int] = (), seed: int = 0) -> list[int]:
    """Return ``ask`` of ``total`` row numbers, drawn at random.

    Random images need fewer labels than pairs of neighbors on which the encoders disagree: for 8
    correct choices of 10 at most 200, against 500 (measured by ``benchmarks/choose.py``, with the
    trained encoder among the candidates).

    Args:
        total: number of images.
        ask: how many to draw.
        exclude: rows that are not drawn.
        seed: of the draw.

    Raises:
        SettingError: ``ask`` is below 2 or above the number of images left.
    """
    available = total - len(exclude)
    if not 2 <= ask <= available:
        raise SettingError(
            f"{{ask}} must be from 2 to {available}, the number of unlabeled images", ask=ask
        )
    order = np.random.default_rng(seed).permutation(total).tolist()
    return [row for row in order if row not in exclude][:ask]


def write_label_sheet(folder: Path, items: Sequence[Item], labels: Mapping[str, str]) -> Path:
    """Write ``labels.csv`` with one row per item, its label empty unless known; return the path.

    Raises:
        StorageError: the file could not be written.
    """
    rows = (
        (number, item.id, item.uri, labels.get(item.id, "")) for number, item in enumerate(items, 1)
    )
    path = folder / FILE
    write_atomically(path, csv_bytes(_COLUMNS, rows))
    return path
