"""Metadata of rows by column, for filters."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from lookalike.cancellation import check_cancelled
from lookalike.filters.encoded import STEP, EncodedColumn, Values, code_type, kind_of
from lookalike.types import Metadata

_KEPT_BYTES = 256 << 20
"""Memory for the codes of encoded columns; with more, those encoded first are encoded again."""

_MAX_DEPTH = 40
"""Levels of lists and objects up to which values are compared with each other."""


class KeptColumns:
    """Columns that were encoded, as many as fit into some memory."""

    def __init__(self) -> None:
        self._columns: dict[str, EncodedColumn] = {}

    def __len__(self) -> int:
        return len(self._columns)

    def get(self, name: str) -> EncodedColumn | None:
        """Return a column; None if it is not kept."""
        return self._columns.get(name)

    def add(self, name: str, column: EncodedColumn) -> None:
        """Keep a column, and those encoded last."""
        keep = max(1, _KEPT_BYTES // max(1, column.codes.nbytes))
        self._columns = dict([*[*self._columns.items()][-keep:], (name, column)])


class MetadataColumns:
    """The metadata of rows as columns; each column is encoded on first use."""

    def __init__(self, rows: Sequence[Metadata]) -> None:
        self._rows = rows
        self._encoded = KeptColumns()
        self._names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> Sequence[str]:
        """All columns, sorted by name."""
        if self._names is None:
            names: set[str] = set()
            for start in range(0, len(self._rows), STEP):
                check_cancelled()
                names.update(*self._rows[start : start + STEP])
            self._names = tuple(sorted(names))
        return self._names

    def encoded(self, name: str) -> EncodedColumn:
        """Return the codes and values of a column."""
        encoded = self._encoded.get(name)
        if encoded is None:
            encoded = self._encode(name)
            self._encoded.add(name, encoded)
        return encoded

    def _encode(self, name: str) -> EncodedColumn:
        places: dict[Hashable, int] = {}
        values: list[Any] = []
        codes = np.full(len(self._rows), -1, np.int32)
        for i, row in enumerate(self._rows):
            if i % STEP == 0:
                check_cancelled()
            value = row.get(name)
            if value is None:
                continue
            key = _hashable(value)
            place = places.setdefault(key, len(values))
            if place == len(values):
                values.append(value)
            codes[i] = place
        return EncodedColumn(codes.astype(code_type(len(values))), Values(values))


def _hashable(value: Any, depth: int = 0) -> Hashable:
    if isinstance(value, Mapping | list | tuple):
        if depth == 0:
            check_cancelled()  # it may be long
        if depth > _MAX_DEPTH:
            return ("deep", id(value))
        if isinstance(value, Mapping):
            pairs = ((key, _hashable(inner, depth + 1)) for key, inner in value.items())
            return ("mapping", tuple(pairs))
        return ("list", tuple(_hashable(inner, depth + 1) for inner in value))
    return (kind_of(value), value)
