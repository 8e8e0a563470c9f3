"""The data of the benchmarks of search: clustered unit vectors, with metadata as galleries have.

Block ``n`` of a collection is always the same, so that a large one is made in parts, by several
processes, and again after an interruption.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIM = 256
K = 10
BLOCK = 10_000
"""Rows of a block."""

_CENTERS = 2_000
_NOISE = np.float32(0.7)
_WORDS = 20_000

SHARES = {"half": 2, "tenth": 10, "hundredth": 100, "thousandth": 1_000}
"""Columns whose every value has the same number of rows, and the number of their values."""


def clusters(count: int, seed: int, dim: int = DIM) -> NDArray[np.float32]:
    """Return unit vectors ``(count, dim)`` around centers that do not depend on the seed."""
    parts = list(blocks(count, seed, dim))
    return np.concatenate(parts) if parts else np.empty((0, dim), np.float32)


def blocks(count: int, seed: int, dim: int = DIM, first: int = 0) -> Iterator[NDArray[np.float32]]:
    """Yield vectors in blocks, from the block ``first`` on."""
    centers = np.random.default_rng(0).standard_normal((_CENTERS, dim), np.float32)
    for number in range(first, -(-count // BLOCK)):
        rng = np.random.default_rng((seed, number))
        rows = rng.standard_normal((min(BLOCK, count - number * BLOCK), dim), np.float32)
        rows *= _NOISE
        rows += centers[rng.integers(0, _CENTERS, len(rows))]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        yield rows


def metadata(first: int, count: int) -> list[dict[str, Any]]:
    """Return the metadata of rows: a label, a caption of eight words, and the columns of SHARES.

    Words are as frequent as in a language (Zipf's law).
    """
    rng = np.random.default_rng((9, first))
    ranks = np.minimum(rng.zipf(1.3, (count, 8)), _WORDS).tolist()
    return [
        {
            "label": f"l{number % 97}",
            "caption": " ".join(f"word{rank}" for rank in words),
            **{name: number % values for name, values in SHARES.items()},
        }
        for number, words in enumerate(ranks, first)
    ]


def row_id(number: int) -> str:
    """Return the id of a row."""
    return f"b:{number:08}"
