"""Conditions on the metadata of rows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import InputError

Scalar = str | int | float | bool
Mask = NDArray[np.bool_]

OPERATORS = {
    "eq": "=",
    "ne": "!=",
    "lt": "<",
    "lte": "<=",
    "gt": ">",
    "gte": ">=",
}
"""Operators in structures, and their signs in text."""

MAX_DEPTH = 50
"""Maximum nesting depth of conditions."""


class Columns(Protocol):
    """The metadata of rows by column."""

    def __len__(self) -> int: ...

    @property
    def names(self) -> Sequence[str]:
        """All columns."""
        ...

    def encoded(self, name: str) -> tuple[NDArray[np.int32], Sequence[Any]]:
        """Return codes ``(rows,)``, -1 for null, and the distinct values that they index."""
        ...


class Filter(Protocol):
    """A condition on the metadata of a row."""

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match, ``(rows,)``.

        Raises:
            InputError: unknown column, or a column with values of another kind.
        """
        ...


@dataclass(frozen=True, slots=True)
class Compare:
    """Compare a column with a value, by an operator in :data:`OPERATORS`."""

    column: str
    operator: str
    value: Scalar

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match."""
        kind = kind_of(self.value)
        test = _TESTS[self.operator]
        wanted = self.value

        def matches(value: Any) -> bool:
            return kind_of(value) == kind and bool(test(value, wanted))

        return _where(columns, self.column, matches, kind)


@dataclass(frozen=True, slots=True)
class In:
    """Match rows whose value is one of several."""

    column: str
    values: tuple[Scalar, ...]

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match."""
        wanted = {(kind_of(value), value) for value in self.values}
        kinds = {kind_of(value) for value in self.values}
        only = kinds.pop() if len(kinds) == 1 else None

        def matches(value: Any) -> bool:
            return kind_of(value) != "other" and (kind_of(value), value) in wanted

        return _where(columns, self.column, matches, only)


@dataclass(frozen=True, slots=True)
class Like:
    """Match texts with a pattern, ignoring case: ``%`` is any characters, ``_`` is one."""

    column: str
    pattern: str

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match."""
        parts = (
            ".*" if c == "%" else "." if c == "_" else re.escape(c) for c in self.pattern.casefold()
        )
        pattern = re.compile("".join(parts), re.DOTALL)

        def matches(value: Any) -> bool:
            return isinstance(value, str) and pattern.fullmatch(value.casefold()) is not None

        return _where(columns, self.column, matches, "text")


@dataclass(frozen=True, slots=True)
class IsNull:
    """Match rows without a value in a column."""

    column: str

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match."""
        _check_column(columns, self.column)
        return np.asarray(columns.encoded(self.column)[0] < 0)


@dataclass(frozen=True, slots=True)
class Not:
    """Match rows that a filter does not match."""

    inner: Filter

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match."""
        return ~self.inner.mask(columns)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Match rows that all of several filters match."""

    parts: tuple[Filter, ...]

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match."""
        mask = np.ones(len(columns), np.bool_)
        for part in self.parts:
            mask &= part.mask(columns)
        return mask


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Match rows that any of several filters matches."""

    parts: tuple[Filter, ...]

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match."""
        mask = np.zeros(len(columns), np.bool_)
        for part in self.parts:
            mask |= part.mask(columns)
        return mask


_TESTS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
}


def kind_of(value: Any) -> str:
    """Return the kind of a value: boolean, number, text, or other."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "other"


_PLURAL = {"boolean": "booleans", "number": "numbers", "text": "texts", "other": "lists"}


def _where(columns: Columns, name: str, matches: Callable[[Any], bool], kind: str | None) -> Mask:
    """Return the rows with a matching value; some value must be of this kind, if given."""
    _check_column(columns, name)
    codes, values = columns.encoded(name)
    if kind is not None and values:
        kinds = {kind_of(inner) for value in values for inner in _inner(value)}
        if kinds and kind not in kinds:
            actual = " and ".join(sorted(_PLURAL[each] for each in kinds))
            raise InputError(
                f"filter: column {name!r} has {actual}, it cannot be compared with {_PLURAL[kind]}"
            )
    table = np.array([*(any(map(matches, _inner(value))) for value in values), False], np.bool_)
    return np.asarray(table[codes])


def _inner(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _check_column(columns: Columns, name: str) -> None:
    if name in columns.names:
        return
    near = difflib.get_close_matches(name, columns.names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    names = ", ".join(columns.names) or "none"
    raise InputError(f"filter: no column {name!r}: {hint}columns: {names}")
