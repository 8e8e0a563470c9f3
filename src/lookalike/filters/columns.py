"""Metadata of rows by column, for filters."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from lookalike.cancellation import check_cancelled
from lookalike.filters.encoded import STEP, EncodedColumn, Values, code_type, kind_of
from lookalike.types import Metadata

KEPT_BYTES = 256 << 20
"""Memory for encoded columns; with more, those encoded first are encoded again."""

VALUE_BYTES = 64
"""Memory for a value of a column, about."""

_MAX_DEPTH = 40
"""Levels of lists and objects up to which values are compared with each other."""


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """What was added last, as much as fits into some memory, but at least one thing.

    Args:
        bytes_: memory for it.
    """

    def __init__(self, bytes_: int) -> None:
        self._limit = bytes_
        self._kept: dict[K, tuple[V, int]] = {}
        self._size = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: K) -> V | None:
        """Return what is kept by a key; None if there is nothing."""
        kept = self._kept.get(key)
        return None if kept is None else kept[0]

    def add(self, key: K, value: V, size: int) -> None:
        """Keep something of a size in bytes in the place of what had the key."""
        with self._lock:
            self._size += size - self._kept.pop(key, (None, 0))[1]
            self._kept[key] = value, size
            while self._size > self._limit and len(self._kept) > 1:
                self._size -= self._kept.pop(next(iter(self._kept)))[1]


class MetadataColumns:
    """The metadata of rows as columns; each column is encoded on first use."""

    def __init__(self, rows: Sequence[Metadata]) -> None:
        self._rows = rows
        self._encoded = Recent[str, EncodedColumn](KEPT_BYTES)
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
            size = encoded.codes.nbytes + VALUE_BYTES * len(encoded.values)
            self._encoded.add(name, encoded, size)
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
