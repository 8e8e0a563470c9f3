"""Facets: the columns of a gallery's metadata and their values, for filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lookalike.filters import Columns, kind_of

MAX_LISTED = 50
"""Values of a column with more distinct ones are not listed."""


@dataclass(frozen=True, slots=True)
class Facet:
    """One column of metadata.

    Args:
        column: its name.
        kind: ``boolean``, ``number``, ``text`` or ``mixed``.
        rows: rows that have a value.
        distinct: distinct values.
        values: rows by value, most frequent first, if there are few distinct values.
        low: the smallest number.
        high: the largest number.
    """

    column: str
    kind: str
    rows: int
    distinct: int
    values: Mapping[str | float | bool, int] | None = None
    low: float | None = None
    high: float | None = None


def facets(columns: Columns) -> list[Facet]:
    """Describe every column of booleans, numbers or texts, or lists of these."""
    described = (_facet(columns, name) for name in columns.names)
    return [facet for facet in described if facet is not None]


def _facet(columns: Columns, name: str) -> Facet | None:
    codes, values = columns.encoded(name)
    rows = np.bincount(codes[codes >= 0], minlength=len(values)).tolist()
    counts: Counter[tuple[str, Any]] = Counter()
    for value, count in zip(values, rows, strict=True):
        for inner in value if isinstance(value, list | tuple) else (value,):
            if (kind := kind_of(inner)) != "other":
                counts[kind, inner] += count
    if not counts:
        return None
    kinds = {kind for kind, _ in counts}
    kind = kinds.pop() if len(kinds) == 1 else "mixed"
    few = len(counts) <= MAX_LISTED and kind != "mixed"
    numbers = [value for _, value in counts] if kind == "number" else []
    return Facet(
        name,
        kind,
        sum(rows),
        len(counts),
        {value: count for (_, value), count in counts.most_common()} if few else None,
        min(numbers, default=None),
        max(numbers, default=None),
    )
