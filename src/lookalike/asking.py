"""Which images to ask a person about, and the file that the answers are written into."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from io import StringIO
from pathlib import Path

import numpy as np

from lookalike.artifacts import write_atomically
from lookalike.errors import SettingError
from lookalike.sources import Item

FILE = "labels.csv"
COLUMNS = ("number", "id", "uri", "label")


def images_to_ask(
    total: int, count: int, *, left_out: Collection[int] = (), seed: int = 0
) -> list[int]:
    """Return ``count`` of ``total`` rows, drawn at random.

    Random images were measured to need fewer labels than pairs of neighbours about which the
    encoders disagree (``benchmarks/choose.py``): at most 200 for 8 right choices of 10 with the
    trained encoder among the candidates, against 500.

    Args:
        total: how many images there are.
        count: how many rows.
        left_out: rows that are not to be asked.
        seed: of the draw.

    Raises:
        SettingError: ``count`` is below 2, or there are fewer images.
    """
    if not 2 <= count <= total - len(left_out):
        raise SettingError(
            f"--ask {count}: must be from 2 to {total - len(left_out)}, the images that can be "
            "asked about"
        )
    drawn = np.random.default_rng(seed).permutation(total).tolist()
    return [row for row in drawn if row not in left_out][:count]


def write_asked(folder: Path, items: Sequence[Item], labels: Mapping[str, str]) -> Path:
    """Write a CSV of items to be labelled, one a line; labels already given are filled in.

    Raises:
        StorageError: it could not be written.
    """
    text = StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for number, item in enumerate(items, 1):
        writer.writerow([number, item.id, item.uri, labels.get(item.id, "")])
    path = folder / FILE
    write_atomically(path, text.getvalue().encode())
    return path
