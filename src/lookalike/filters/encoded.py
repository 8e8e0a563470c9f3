"""Encoded columns of metadata: a code for each row, and the values that the codes stand for.

A condition is evaluated once for each value, and not for each row. Numbers that float64 holds
exactly are compared as one array; a row is then looked up by its code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled

Mask = NDArray[np.bool_]
Codes = NDArray[np.signedinteger[Any]]

STEP = 4_096
"""Values that are compared between checks whether the work was cancelled."""

_PART = 4 * STEP
"""Values whose numbers become one array."""

_EXACT = 2**53
"""Integers up to which float64 holds each exactly."""

_COMPARISONS = {np.dtype(np.int8): 8, np.dtype(np.int16): 16, np.dtype(np.int32): 16}
"""Comparisons of all codes with one that take as long as looking up all in a table."""

_RANGE = 3
"""Comparisons that take as long as one with a range of codes."""

_LOOKED_UP = 1 << 16
"""Codes that are looked up together, few enough for the processor's cache."""


def kind_of(value: Any) -> str:
    """Return the kind of a value: boolean, number, text, or other."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "other"


def code_type(values: int) -> type[np.signedinteger[Any]]:
    """Return the smallest type for the codes of a number of values, and -1."""
    if values <= 1 << 7:
        return np.int8
    return np.int16 if values <= 1 << 15 else np.int32


@dataclass(frozen=True, slots=True)
class ValueTest:
    """A condition on one value of a column. A list passes if one of its values does.

    Args:
        single: whether a boolean, number, text or object passes.
        numbers: which numbers pass, for an array of float64; None if none does.
        texts: which of several texts pass; None if none does.
    """

    single: Callable[[Any], bool]
    numbers: Callable[[NDArray[np.float64]], Mask] | None = None
    texts: Callable[[Sequence[str]], Mask] | None = None

    def passes(self, value: Any) -> bool:
        """Return whether a value passes."""
        if isinstance(value, list | tuple):
            check_cancelled()  # it may be long
            return any(map(self.single, value))
        return self.single(value)


class Values(Sequence[Any]):
    """Values of a column by code, from 0. Equal values may have several codes."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._parts: tuple[_Part, ...] = _parts_of(values)
        self._count = len(values)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, code: int) -> Any: ...

    @overload
    def __getitem__(self, code: slice) -> list[Any]: ...

    def __getitem__(self, code: int | slice) -> Any:
        if isinstance(code, slice):
            return [self[each] for each in range(*code.indices(self._count))]
        code = range(self._count)[code]
        return self._parts[code // _PART].values[code % _PART]

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(part.values for part in self._parts)

    def __repr__(self) -> str:
        return f"Values({self._count:,})"

    def extended(self, values: Sequence[Any]) -> Values:
        """Return these values and more after them."""
        longer = Values(())
        complete = self._count // _PART
        rest = self._parts[complete].values if self._count % _PART else []
        longer._parts = (*self._parts[:complete], *_parts_of([*rest, *values]))
        longer._count = self._count + len(values)
        return longer

    @cached_property
    def kinds(self) -> frozenset[str]:
        """Kinds of the values, of lists those of their values."""
        kinds: set[str] = set()
        for part in self._parts:
            kinds |= part.kinds
        return frozenset(kinds)

    def passing(self, test: ValueTest) -> Mask:
        """Return which values pass a test, by code."""
        table = np.zeros(self._count, np.bool_)
        for number, part in enumerate(self._parts):
            check_cancelled()
            part.fill(table[number * _PART : (number + 1) * _PART], test)
        return table


class _Part:
    """Some values of a column, divided by how they are compared."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values
        self._divided = False

    def _divide(self) -> None:
        """Find the numbers and texts, and their places."""
        types = set(map(type, self.values))
        self._texts: list[str] = []
        self._text_places: slice | list[int] = []
        self._numbers = np.empty(0)
        self._number_places: slice | list[int] = []
        self._others: list[int] = []
        whole = slice(len(self.values))
        if types == {str}:
            self._texts, self._text_places = self.values, whole
        elif types == {float}:
            self._numbers, self._number_places = np.array(self.values), whole
        else:
            for place, value in enumerate(self.values):
                kind = type(value)
                if kind is str:
                    self._text_places.append(place)
                elif kind is float or (kind is int and -_EXACT <= value <= _EXACT):
                    self._number_places.append(place)
                else:
                    self._others.append(place)
            self._texts = [self.values[place] for place in self._text_places]
            numbers = [self.values[place] for place in self._number_places]
            self._numbers = np.array(numbers, np.float64)
        self._divided = True

    @cached_property
    def kinds(self) -> frozenset[str]:
        """Kinds of the values, of lists those of their values."""
        kinds: set[str] = set()
        for kind in set(map(type, self.values)):
            if kind in (str, int, float, bool):
                kinds.add(kind_of(kind()))
            else:
                others = (each for each in self.values if type(each) is kind)
                kinds.update(*map(kinds_of, others))
        return frozenset(kinds)

    def fill(self, table: Mask, test: ValueTest) -> None:
        """Set which values pass a test."""
        if not self._divided:
            self._divide()
        if test.numbers is not None and len(self._numbers):
            table[self._number_places] = test.numbers(self._numbers)
        if test.texts is not None and self._texts:
            passing = np.empty(len(self._texts), np.bool_)
            for start in range(0, len(self._texts), STEP):
                check_cancelled()
                texts = self._texts[start : start + STEP]
                passing[start : start + STEP] = test.texts(texts)
            table[self._text_places] = passing
        for place in self._others:
            table[place] = test.passes(self.values[place])


def _parts_of(values: Sequence[Any]) -> tuple[_Part, ...]:
    return tuple(_Part([*values[start : start + _PART]]) for start in range(0, len(values), _PART))


def kinds_of(value: Any) -> set[str]:
    """Return the kind of a value; of a list the kinds of its values."""
    if isinstance(value, list | tuple):
        check_cancelled()  # it may be long
        return set(map(kind_of, value))
    return {kind_of(value)}


@dataclass(frozen=True)
class EncodedColumn:
    """A column: a code for each row, and the values that they stand for.

    Args:
        codes: ``(rows,)``, -1 for null.
        values: by code; values that no row has may be among them.
    """

    codes: Codes
    values: Values

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """The number of rows with each value, ``(values,)``."""
        counts = np.bincount(self.codes.astype(np.int64) + 1, minlength=len(self.values) + 1)
        return counts[1:].astype(np.int64, copy=False)

    @cached_property
    def kinds(self) -> frozenset[str]:
        """Kinds of the values that some row has, of lists those of their values."""
        exists = self.counts > 0
        if exists.all():
            return self.values.kinds
        kinds: set[str] = set()
        codes = np.flatnonzero(exists).tolist()
        return frozenset(kinds.union(*(kinds_of(self.values[code]) for code in codes)))

    def rows_passing(self, test: ValueTest) -> Mask:
        """Return the rows whose value passes a test, ``(rows,)``."""
        return _look_up(self.codes, self.values.passing(test))


def _look_up(codes: Codes, table: Mask) -> Mask:
    """Return the value in a table by code for each code; False for -1."""
    edges = np.flatnonzero(np.diff(table, prepend=False, append=False))
    limit = _COMPARISONS[codes.dtype]
    if len(edges) <= 2 * limit:
        runs = [*pairwise(edges.tolist())][::2]
        if sum(1 if end == first + 1 else _RANGE for first, end in runs) <= limit:
            return _in_runs(codes, runs)
    by_byte = table[: 1 << 7].tobytes().ljust(1 << 8, b"\0")
    wide = np.append(table, False)
    mask = np.empty(len(codes), np.bool_)
    for start in range(0, len(codes), _LOOKED_UP):
        part = slice(start, start + _LOOKED_UP)
        if codes.dtype == np.int8:  # -1 is byte 255
            mask[part] = np.frombuffer(codes[part].tobytes().translate(by_byte), np.bool_)
        else:  # -1 is the last one
            np.take(wide, codes[part], out=mask[part], mode="wrap")
    return mask


def _in_runs(codes: Codes, runs: Sequence[tuple[int, int]]) -> Mask:
    """Return whether each code is in one of several ranges: of the first, and the end."""
    mask = np.zeros(len(codes), np.bool_)
    within = np.empty(len(codes), np.bool_)
    below = np.empty(len(codes), np.bool_)
    for first, end in runs:
        if end == first + 1:
            np.equal(codes, first, out=within)
        else:
            np.greater_equal(codes, first, out=within)
            np.less_equal(codes, end - 1, out=below)
            np.logical_and(within, below, out=within)
        np.logical_or(mask, within, out=mask)
    return mask
