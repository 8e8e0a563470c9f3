"""Metadata of rows by column, for filters."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.filters.conditions import kind_of
from lookalike.types import Metadata


class MetadataColumns:
    """The metadata of rows as columns; each column is encoded on first use."""

    def __init__(self, rows: Sequence[Metadata]) -> None:
        self._rows = rows
        self._encoded: dict[str, tuple[NDArray[np.int32], list[Any]]] = {}
        self._names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> Sequence[str]:
        """All columns, sorted by name."""
        if self._names is None:
            self._names = tuple(sorted({name for row in self._rows for name in row}))
        return self._names

    def encoded(self, name: str) -> tuple[NDArray[np.int32], list[Any]]:
        """Return codes ``(rows,)``, -1 for null, and the distinct values that they index."""
        if name not in self._encoded:
            places: dict[Hashable, int] = {}
            values: list[Any] = []
            codes = np.full(len(self._rows), -1, np.int32)
            for i, row in enumerate(self._rows):
                value = row.get(name)
                if value is None:
                    continue
                key = _hashable(value)
                place = places.setdefault(key, len(values))
                if place == len(values):
                    values.append(value)
                codes[i] = place
            self._encoded[name] = codes, values
        return self._encoded[name]


def _hashable(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return ("mapping", tuple((key, _hashable(inner)) for key, inner in value.items()))
    if isinstance(value, list | tuple):
        return ("list", tuple(map(_hashable, value)))
    return (kind_of(value), value)
