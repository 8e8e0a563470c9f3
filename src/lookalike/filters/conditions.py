"""Conditions on the metadata of rows."""

from __future__ import annotations

import difflib
import re
import sys
import unicodedata
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
        kind, wanted = kind_of(self.value), self.value
        if self.operator == "eq":
            return In(self.column, (wanted,)).mask(columns)
        if self.operator == "ne":
            same = _keys((wanted,))
            kinds = _EQUATED if kind in _EQUATED else {kind}

            def differs(value: Any) -> bool:
                return kind_of(value) in kinds and (kind_of(value), value) not in same

            return _match_rows(columns, self.column, differs, _kinds((wanted,)), kind)
        test = _TESTS[self.operator]

        def matches(value: Any) -> bool:
            return kind_of(value) == kind and bool(test(value, wanted))

        return _match_rows(columns, self.column, matches, {kind}, kind)


@dataclass(frozen=True, slots=True)
class In:
    """Match rows whose value is one of several."""

    column: str
    values: tuple[Scalar, ...]

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match."""
        wanted = _keys(self.values)
        kinds = {kind_of(value) for value in self.values}
        only = kinds.pop() if len(kinds) == 1 else ""

        def matches(value: Any) -> bool:
            return kind_of(value) != "other" and (kind_of(value), value) in wanted

        return _match_rows(
            columns, self.column, matches, _kinds(self.values) if only else set(), only
        )


@dataclass(frozen=True, slots=True)
class Like:
    """Match texts with a pattern, ignoring case: ``%`` is any characters, ``_`` is one."""

    column: str
    pattern: str

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match."""
        parts = (
            ".*" if c == "%" else "." if c == "_" else re.escape(c) for c in _folded(self.pattern)
        )
        pattern = re.compile("".join(parts), re.DOTALL)

        def matches(value: Any) -> bool:
            return isinstance(value, str) and pattern.fullmatch(_folded(value)) is not None

        return _match_rows(columns, self.column, matches, {"text"}, "text")


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


def _folded(text: str) -> str:
    """Return a text without case, with accents stored in one way."""
    return unicodedata.normalize("NFC", text.casefold())


def equal_values(value: Scalar) -> tuple[Scalar, ...]:
    """Return the values that equal a value: itself, and of a number its text and the reverse.

    A number has one text: an integer, also as 2.0, its digits; another the shortest that reads as
    it. So ``0`` equals ``'0'``, but neither ``'00'`` nor ``'0.0'``, which may be codes or versions.
    Texts that differ only in how accents are stored (NFC or NFD) are equal.
    """
    if isinstance(value, bool):
        return (value,)
    if isinstance(value, str):
        forms = (value, *(unicodedata.normalize(form, value) for form in ("NFC", "NFD")))
        number = _number(value)
        return (*dict.fromkeys(forms), *(() if number is None else (number,)))
    return (value, _text(value))


def _text(number: float) -> str:
    """Return the text of a number."""
    if isinstance(number, float) and not number.is_integer():
        return repr(number)
    return str(int(number))


def _number(text: str) -> int | float | None:
    """Return the number that a text is the text of; None if it is of none."""
    if _NUMERIC.fullmatch(text) is None:
        return None
    number = int(text) if text.lstrip("-").isdigit() else float(text)
    return number if np.isfinite(float_of(number)) and _text(number) == text else None


def float_of(number: float) -> float:
    """Return the nearest float64 of a number; of a larger integer the largest."""
    try:
        return float(number)
    except OverflowError:
        return sys.float_info.max if number > 0 else -sys.float_info.max


MAX_DIGITS = 1_000
"""Digits of an integer that a filter compares with."""

_NUMERIC = re.compile(rf"-?[0-9]{{1,{MAX_DIGITS}}}(\.[0-9]+)?(e[-+][0-9]{{2,3}})?", re.ASCII)
_EQUATED = {"number", "text"}
_PLURAL = {"boolean": "booleans", "number": "numbers", "text": "texts", "other": "lists"}


def _keys(values: Sequence[Scalar]) -> set[tuple[str, Scalar]]:
    return {(kind_of(each), each) for value in values for each in equal_values(value)}


def _kinds(values: Sequence[Scalar]) -> set[str]:
    return {kind_of(each) for value in values for each in equal_values(value)}


def _match_rows(
    columns: Columns, name: str, matches: Callable[[Any], bool], comparable: set[str], kind: str
) -> Mask:
    """Return the rows with a matching value.

    Some value must be of a comparable kind, if any are given; ``kind`` is that of the operand.
    """
    _check_column(columns, name)
    codes, values = columns.encoded(name)
    if comparable and values:
        kinds = {kind_of(inner) for value in values for inner in _inner(value)}
        if kinds and not kinds & comparable:
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
    matches = difflib.get_close_matches(name, columns.names, n=1, cutoff=0.4)
    hint = f"did you mean {matches[0]!r}? " if matches else ""
    names = ", ".join(columns.names) or "none"
    raise InputError(f"filter: no column {name!r}: {hint}columns: {names}")
