"""Filters in Milvus' own language, and the values that they are applied to there.

Milvus compares values of JSON by rules of its own: it tells 2020 from 2020.0, has no order among
lists, and finds values that are missing unequal. So that a filter means there what it means
everywhere (:mod:`lookalike.filters`), each value is kept as a text whose order is that of the
values of its kind, and whose first letter is the kind; all comparisons are of such texts. A user's
words reach an expression only as quoted texts.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lookalike.errors import InputError
from lookalike.filters import (
    AllOf,
    AnyOf,
    Compare,
    Filter,
    In,
    IsNull,
    Like,
    MetadataColumns,
    Not,
)
from lookalike.filters.conditions import kind_of
from lookalike.stores.milvus.client import quoted
from lookalike.types import Metadata

FIELD = "fields"
"""The JSON field that holds the values."""

ZERO = "zero"
"""What marks, among a row's values, a vector that Milvus leaves out of searches by cosine."""

MOST_VALUES = 5_000
"""Values that a pattern may stand for."""

_LETTERS = {"truth": "b", "number": "n", "text": "t"}
_NOTHING = "o"
"""What stands for a value that compares with nothing, as an object: it is only not missing."""

_PLAIN = re.compile(r"\w{1,100}", re.ASCII)
_WHOLE = 1 << 64
_LAST = chr(0x10FFFF)
_SURROGATES = range(0xD800, 0xE000)


@dataclass(slots=True)
class KnownColumns:
    """The columns that rows have or had: of which kinds their values are, and which hold lists.

    ``zeros`` says whether there are, or were, rows whose vector is zero.

    As a filter's columns it has no rows: it tells which filters are refused.
    """

    kinds: dict[str, set[str]] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)
    zeros: bool = False

    def add(self, name: str, kind: str) -> None:
        """Take up that a column has values of a kind, or ``list``; or that ``zero`` vectors are.

        A column is there too where it has ``none``.
        """
        if kind == "zero":
            self.zeros = True
        elif kind == "list":
            self.lists.add(name)
        else:
            self.kinds.setdefault(name, set()).add(kind)

    def has(self, name: str, kind: str) -> bool:
        """Tell whether that has been taken up."""
        if kind == "zero":
            return self.zeros
        if kind == "list":
            return name in self.lists
        return kind in self.kinds.get(name, ())

    def refuse(self, where: Filter) -> None:
        """Raise what the filter raises over columns such as these.

        Raises:
            InputError: it names a column that is not there, or compares other kinds.
        """
        examples = {"truth": True, "number": 0, "text": "", "other": {"": None}}
        row = {
            name: [examples[kind] for kind in sorted(kinds - {"none"})]
            for name, kinds in self.kinds.items()
        }
        where.mask(MetadataColumns([row] if row else []))


def facts_of(metadata: Metadata) -> Iterable[tuple[str, str]]:
    """Yield the columns of a row's metadata with the kinds of their values, and ``list``."""
    for name, value in metadata.items():
        inner = () if value is None else _inner(value)
        for each in inner:
            yield name, kind_of(each)
        if not inner:
            yield name, "none"
        if len({_key(each) for each in inner if _key(each)}) > 1:
            yield name, "list"


def values_of(metadata: Metadata) -> dict[str, Any]:
    """Return a row's metadata as the values that expressions compare.

    A column with one value is that value; one with several is the list of all and, for each kind,
    the least and the greatest.
    """
    found: dict[str, Any] = {}
    for name, value in metadata.items():
        if value is None:
            continue
        keys = sorted({key for each in _inner(value) if (key := _key(each))})
        column = _column(name)
        if len(keys) <= 1:
            found[f"s{column}"] = keys[0] if keys else _NOTHING
            continue
        found[f"l{column}"] = keys
        for letter in {key[0] for key in keys}:
            same = [key for key in keys if key[0] == letter]
            found[f"0{letter}{column}"], found[f"1{letter}{column}"] = same[0], same[-1]
    return found


def expression(
    where: Filter, known: KnownColumns, texts: Callable[[str], Iterable[str]]
) -> str | None:
    """Return a filter as an expression; None for one of a kind that this does not know.

    Args:
        where: the filter.
        known: the columns there are.
        texts: gives the distinct texts in a column, which patterns are matched against.

    Raises:
        InputError: a pattern matches more than 5,000 different texts.
    """
    if isinstance(where, Compare):
        return _compared(where, known)
    if isinstance(where, In):
        return _within(where.column, [_key(value) for value in where.values], known)
    if isinstance(where, Like):
        return _like(where, known, texts)
    if isinstance(where, IsNull):
        column = _column(where.column)
        return f"not ({_exists(f's{column}')} or {_exists(f'l{column}')})"
    if isinstance(where, Not):
        inner = expression(where.inner, known, texts)
        return None if inner is None else f"not ({inner})"
    if isinstance(where, AllOf | AnyOf):
        parts = [expression(part, known, texts) for part in where.parts]
        joint = " and " if isinstance(where, AllOf) else " or "
        return None if None in parts else "(" + joint.join(f"({part})" for part in parts) + ")"
    return None


def among(ids: Sequence[str]) -> str:
    """Return the expression for rows by id."""
    return f"id in {_listed(ids)}"


def within_source(prefix: str) -> str:
    """Return the expression for rows whose id begins with a text; an empty one for all."""
    if not prefix:
        return ""
    begins, before = f"id >= {quoted(prefix)}", prefix.rstrip(_LAST)
    if not before:
        return begins
    code = ord(before[-1]) + 1
    after = before[:-1] + chr(_SURROGATES.stop if code in _SURROGATES else code)
    return f"{begins} and id < {quoted(after)}"


def _compared(where: Compare, known: KnownColumns) -> str:
    key = _key(where.value)
    letter = key[0]
    column = _column(where.column)
    one = _value(f"s{column}")
    least, most = _value(f"0{letter}{column}"), _value(f"1{letter}{column}")
    literal = quoted(key)
    kind = f"{one} >= {quoted(letter)} and {one} < {quoted(chr(ord(letter) + 1))}"
    if where.operator == "eq":
        return _within(where.column, [key], known)
    if where.operator == "ne":
        single = f"{kind} and ({one} < {literal} or {one} > {literal})"
        several = f"{least} < {literal} or {most} > {literal}"
    else:
        sign = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}[where.operator]
        single = f"{kind} and {one} {sign} {literal}"
        several = f"{least if sign[0] == '<' else most} {sign} {literal}"
    return f"({single}) or ({several})" if where.column in known.lists else f"({single})"


def _within(name: str, keys: Sequence[str], known: KnownColumns) -> str:
    column = _column(name)
    one = f"{_value(f's{column}')} in {_listed(keys)}"
    if name not in known.lists:
        return one
    return f"({one} or json_contains_any({_value(f'l{column}')}, {_listed(keys)}))"


def _like(where: Like, known: KnownColumns, texts: Callable[[str], Iterable[str]]) -> str:
    column = MetadataColumns([{"": text} for text in texts(where.column)])
    codes, values = column.encoded("")
    matching = Like("", where.pattern).mask(column) if len(column) else codes > 0
    found = [values[code] for code, matches in zip(codes, matching, strict=True) if matches]
    if len(found) > MOST_VALUES:
        raise InputError(
            f"filter: {where.pattern!r} is like {len(found):,} different texts of column "
            f"{where.column!r}; Milvus is asked for at most {MOST_VALUES:,}, narrow it"
        )
    return _within(where.column, [_key(text) for text in found], known) if found else _NEVER


_NEVER = 'id < ""'


def _inner(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _key(value: Any) -> str:
    """Return a value as a text in the order of its kind; an empty one for what has no order."""
    letter = _LETTERS.get(kind_of(value), "")
    if letter == "b":
        return f"b{int(value)}"
    if letter == "n":
        return "" if math.isnan(value) else f"n{_ordered(value)}"
    return f"t{value}" if letter else ""


def _ordered(number: float) -> str:
    """Return a number as digits whose order as text is that of the numbers.

    The bits of an IEEE 754 double are in the order of the numbers once the sign is turned, all
    bits for negative ones; what a whole number of 64 bits is more than its double follows.
    """
    near = _double(number)
    [bits] = struct.unpack(">Q", struct.pack(">d", near + 0.0))
    bits = bits ^ (1 << 64) - 1 if bits >> 63 else bits | 1 << 63
    more = number - int(near) if isinstance(number, int) and abs(number) < _WHOLE else 0
    return f"{bits:016x}{more + 0x8000:04x}"


def _double(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.copysign(math.inf, number)


def _column(name: str) -> str:
    """Return a column's name in letters that need no quoting, two names never as the same."""
    return f"_{name}" if _PLAIN.fullmatch(name) else f".{name.encode().hex()}"


def _value(name: str) -> str:
    return f"{FIELD}[{quoted(name)}]"


def _exists(name: str) -> str:
    return f"(exists {_value(name)})"


def _listed(values: Sequence[str]) -> str:
    return f"[{', '.join(map(quoted, values))}]"


def pick(fields: Mapping[str, Any], name: str) -> Iterable[str]:
    """Yield the texts of a column of a row, from its values."""
    column = _column(name)
    one, several = fields.get(f"s{column}"), fields.get(f"l{column}", ())
    for key in (one, *several):
        if key is not None and key.startswith("t"):
            yield key[1:]


def having(name: str) -> str:
    """Return the expression for rows that have a value in a column."""
    column = _column(name)
    return f"{_exists(f's{column}')} or {_exists(f'l{column}')}"
