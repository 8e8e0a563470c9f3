"""Conditions on the metadata of rows."""

from __future__ import annotations

import contextlib
import difflib
import operator
import re
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError
from lookalike.filters.encoded import EncodedColumn, Mask, ValueTest, kind_of
from lookalike.filters.limits import MAX_DIGITS, TOO_LONG
from lookalike.filters.wildcards import Wildcards
from lookalike.texts import FORMS, normalized

Scalar = str | int | float | bool

OPERATORS = {
    "eq": "=",
    "ne": "!=",
    "lt": "<",
    "lte": "<=",
    "gt": ">",
    "gte": ">=",
}
"""Operators in structures, and their signs in text."""

_MAX_NAMED = 20
"""Columns that a message lists."""

_MAX_COMPARED = 1_000
"""Columns whose names are compared with an unknown one."""

_LONGEST_SHOWN = 60
"""Characters of a name or value that a message shows."""


class Columns(Protocol):
    """The metadata of rows by column."""

    def __len__(self) -> int: ...

    @property
    def names(self) -> Sequence[str]:
        """All columns."""
        ...

    def encoded(self, name: str) -> EncodedColumn:
        """Return the codes and values of a column that exists."""
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
        kind, operand = kind_of(self.value), self.value
        if self.operator == "eq":
            return In(self.column, (operand,)).mask(columns)
        if self.operator == "ne":
            kinds = _EQUATED if kind in _EQUATED else frozenset({kind})
            test = _differs_from_all(equal_values(operand), kinds)
            return _match_rows(columns, self.column, test, _kinds((operand,)), kind)
        test = _in_order(_ORDERS[self.operator], operand)
        return _match_rows(columns, self.column, test, frozenset({kind}), kind)


@dataclass(frozen=True, slots=True)
class In:
    """Match rows whose value is one of several."""

    column: str
    values: tuple[Scalar, ...]

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match."""
        test = _equals_one([each for value in self.values for each in equal_values(value)])
        kinds = {kind_of(value) for value in self.values}
        only = kinds.pop() if len(kinds) == 1 else ""
        comparable = _kinds(self.values) if only else frozenset[str]()
        return _match_rows(columns, self.column, test, comparable, only)


@dataclass(frozen=True, slots=True)
class Like:
    """Match texts with a pattern, ignoring case: ``%`` is any characters, ``_`` is one."""

    column: str
    pattern: str

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match."""
        pattern = Wildcards(self.pattern)
        test = ValueTest(
            lambda value: isinstance(value, str) and pattern.matches(value),
            texts=lambda texts: np.array(pattern.matching(texts), np.bool_),
        )
        return _match_rows(columns, self.column, test, frozenset({"text"}), "text")


@dataclass(frozen=True, slots=True)
class IsNull:
    """Match rows without a value in a column."""

    column: str

    def mask(self, columns: Columns) -> Mask:
        """Return which rows match."""
        _check_column(columns, self.column)
        return np.asarray(columns.encoded(self.column).codes < 0)


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


_FEW_TEXTS = 3
"""Texts up to which searching a list for each is faster than looking up the list's in a set."""

_ORDERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}


def _in_order(order: Callable[[Any, Any], Any], operand: Scalar) -> ValueTest:
    """Return the test of the values of an operand's kind that are in an order with it."""
    kind = kind_of(operand)

    def single(value: Any) -> bool:
        return kind_of(value) == kind and bool(order(value, operand))

    def numbers(array: NDArray[np.float64]) -> Mask:
        if float_of(operand) == operand:  # type: ignore[arg-type]
            return np.asarray(order(array, float_of(operand)))
        return np.array([order(each, operand) for each in array.tolist()], np.bool_)

    def texts(values: Sequence[str]) -> Mask:
        return np.fromiter(map(order, values, repeat(operand)), np.bool_, len(values))

    is_number, is_text = kind == "number", kind == "text"
    return ValueTest(single, numbers if is_number else None, texts if is_text else None)


def _equals_one(operands: Sequence[Scalar]) -> ValueTest:
    """Return the test of the values that equal one of several."""
    same = {(kind_of(each), each) for each in operands}
    texts = {each for each in operands if isinstance(each, str)}
    numbers = _exact_numbers(operands)
    return ValueTest(
        lambda value: (kind := kind_of(value)) != "other" and (kind, value) in same,
        (lambda array: np.isin(array, numbers)) if len(numbers) else None,
        (lambda values: _among(values, texts)) if texts else None,
    )


def _differs_from_all(operands: Sequence[Scalar], kinds: frozenset[str]) -> ValueTest:
    """Return the test of the values of some kinds that equal none of several."""
    same = {(kind_of(each), each) for each in operands}
    texts = {each for each in operands if isinstance(each, str)}
    numbers = _exact_numbers(operands)
    return ValueTest(
        lambda value: (kind := kind_of(value)) in kinds and (kind, value) not in same,
        (lambda array: np.isin(array, numbers, invert=True)) if "number" in kinds else None,
        (lambda values: ~_among(values, texts)) if "text" in kinds else None,
    )


def _among(values: Sequence[str], texts: Set[str]) -> Mask:
    """Return which values are among some texts."""
    if len(texts) > _FEW_TEXTS:
        return np.fromiter(map(texts.__contains__, values), np.bool_, len(values))
    mask = bytearray(len(values))
    for text in texts:
        place = -1
        with contextlib.suppress(ValueError):
            while True:
                place = values.index(text, place + 1)
                mask[place] = True
    return np.frombuffer(mask, np.bool_)


def _exact_numbers(operands: Sequence[Scalar]) -> NDArray[np.float64]:
    """Return the numbers among operands that float64 holds exactly."""
    numbers = (each for each in operands if kind_of(each) == "number")
    exact = [float_of(each) for each in numbers if float_of(each) == each]  # type: ignore[arg-type]
    return np.array(exact, np.float64)


def equal_values(value: Scalar) -> tuple[Scalar, ...]:
    """Return the values that equal a value: itself, and of a number its text and the reverse.

    A number has one text: an integer, also as 2.0, its digits; another the shortest that reads as
    it. So ``0`` equals ``'0'``, but neither ``'00'`` nor ``'0.0'``, which may be codes or versions.
    Texts that differ only in how accents are stored (NFC or NFD) are equal.
    """
    if isinstance(value, bool):
        return (value,)
    if isinstance(value, str):
        forms = (value, *(normalized(form, value) for form in FORMS))
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


_NUMERIC = re.compile(rf"-?[0-9]{{1,{MAX_DIGITS}}}(\.[0-9]+)?(e[-+][0-9]{{2,3}})?", re.ASCII)
_EQUATED = frozenset({"number", "text"})
_PLURAL = {"boolean": "booleans", "number": "numbers", "text": "texts", "other": "lists"}


def _kinds(values: Sequence[Scalar]) -> frozenset[str]:
    return frozenset(kind_of(each) for value in values for each in equal_values(value))


def _match_rows(
    columns: Columns, name: str, test: ValueTest, comparable: frozenset[str], kind: str
) -> Mask:
    """Return the rows with a value that passes a test.

    Some value must be of a comparable kind, if any are given; ``kind`` is that of the operand.
    """
    _check_column(columns, name)
    column = columns.encoded(name)
    if comparable:
        _check_kinds(name, column, comparable, kind)
    return column.rows_passing(test)


def _check_kinds(name: str, column: EncodedColumn, comparable: frozenset[str], kind: str) -> None:
    """Raise InputError if there are values, but none of a comparable kind."""
    if column.values.kinds <= comparable:
        return
    kinds = column.kinds
    if kinds and not kinds & comparable:
        actual = " and ".join(sorted(_PLURAL[each] for each in kinds))
        raise InputError(
            f"filter: column {shown(name)} has {actual}, it cannot be compared with {_PLURAL[kind]}"
        )


def _check_column(columns: Columns, name: str) -> None:
    check_cancelled()
    check_column(name, columns.names, what="filter")


def check_column(name: object, names: Sequence[str], *, what: str) -> None:
    """Check that a column exists; ``what`` begins the message.

    Raises:
        InputError: it does not; the message has the most similar one.
    """
    if name in names:
        return
    text = name if isinstance(name, str) else ""
    matches = difflib.get_close_matches(
        text[:_LONGEST_SHOWN], names[:_MAX_COMPARED], n=1, cutoff=0.4
    )
    hint = f"did you mean {shown(matches[0])}? " if matches else ""
    listed = ", ".join(each[:_LONGEST_SHOWN] for each in names[:_MAX_NAMED]) or "none"
    more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
    raise InputError(f"{what}: no column {shown(name)}: {hint}columns: {listed}{more}")


def shown(value: object) -> str:
    """Return a name or a value for a message, shortened; of other objects the type."""
    if isinstance(value, str):
        text = repr(value[: _LONGEST_SHOWN + 1])
    elif isinstance(value, int) and abs(value) >= TOO_LONG:
        text = f"an integer of over {MAX_DIGITS:,} digits"
    elif value is None or isinstance(value, int | float):
        text = repr(value)
    elif isinstance(value, Mapping | list | tuple):
        text = f"{'an object' if isinstance(value, Mapping) else 'a list'} of {len(value):,}"
    else:
        text = type(value).__name__
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
