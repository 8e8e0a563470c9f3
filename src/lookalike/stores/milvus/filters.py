"""Filters as Milvus expressions, and the values that they compare.

Milvus compares JSON values by rules of its own: 2020 differs from 2020.0, lists have no order, and
missing values are unequal. To give filters the same meaning as in other stores
(:mod:`lookalike.filters`), each value is stored as a key: a text that starts with a letter for the
value's kind and sorts like the values of that kind. All comparisons are of such keys. User input
reaches an expression only as a quoted text.
"""

from __future__ import annotations

import hashlib
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
    equal_values,
    float_of,
)
from lookalike.filters.conditions import Scalar
from lookalike.filters.encoded import kind_of
from lookalike.stores.milvus.client import quote
from lookalike.types import Metadata

FIELD = "fields"
"""The JSON field that holds the values."""

ZERO = "zero"
"""Marks, among a row's values, a zero vector, which Milvus omits from cosine searches."""

ORDER = "order"
"""A row's place, among its values, in a random order of all rows; older versions wrote none."""

_PLACES = 1 << 32

MAX_VALUES = 5_000
"""Maximum number of distinct texts that a pattern may match."""

_LETTERS = {"boolean": "b", "number": "n", "text": "t"}
_OTHER = "o"
"""Key of a value that cannot be compared, such as an object; it is only not null."""

_PLAIN = re.compile(r"\w{1,100}", re.ASCII)
_FEW = 0x8000
_COMPLEMENTS = str.maketrans("0123456789abcdef", "fedcba9876543210")
_EQUATED = "nt"
"""Letters of numbers and texts, which may be equal."""

_LAST = chr(0x10FFFF)
_SURROGATES = range(0xD800, 0xE000)


@dataclass(slots=True)
class ColumnTypes:
    """The metadata columns that rows have or had.

    Args:
        kinds: kinds of values, by column.
        lists: columns with lists of several values.
        zeros: whether there are or were rows with a zero vector.
    """

    kinds: dict[str, set[str]] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)
    zeros: bool = False

    def add(self, name: str, kind: str) -> None:
        """Record that a column has values of a kind, ``list`` or ``none``, or a ``zero`` vector."""
        if kind == "zero":
            self.zeros = True
        elif kind == "list":
            self.lists.add(name)
        else:
            self.kinds.setdefault(name, set()).add(kind)

    def has(self, name: str, kind: str) -> bool:
        """Return whether that is recorded."""
        if kind == "zero":
            return self.zeros
        if kind == "list":
            return name in self.lists
        return kind in self.kinds.get(name, ())

    def check(self, where: Filter) -> None:
        """Check a filter against the columns.

        Raises:
            InputError: it names an unknown column, or compares values of different kinds.
        """
        examples = {"boolean": True, "number": 0, "text": "", "other": {"": None}}
        row = {
            name: [examples[kind] for kind in sorted(kinds - {"none"})]
            for name, kinds in self.kinds.items()
        }
        where.mask(MetadataColumns([row] if row else []))


def column_types_of(metadata: Metadata) -> Iterable[tuple[str, str]]:
    """Yield pairs of column and kind for a row's metadata, see :meth:`ColumnTypes.add`."""
    for name, value in metadata.items():
        inner = () if value is None else _inner(value)
        for each in inner:
            yield name, kind_of(each)
        if not inner:
            yield name, "none"
        if len({_key(each) for each in inner if _key(each)}) > 1:
            yield name, "list"


def comparable_values(metadata: Metadata) -> dict[str, Any]:
    """Return a row's metadata as the values that expressions compare.

    A column with one value has its key; one with several has the list of keys and, for each kind,
    the minimum and the maximum.
    """
    fields: dict[str, Any] = {}
    for name, value in metadata.items():
        if value is None:
            continue
        keys = sorted({key for each in _inner(value) if (key := _key(each))})
        column = _column(name)
        if len(keys) <= 1:
            fields[f"s{column}"] = keys[0] if keys else _OTHER
            continue
        fields[f"l{column}"] = keys
        for letter in {key[0] for key in keys}:
            same = [key for key in keys if key[0] == letter]
            fields[f"0{letter}{column}"], fields[f"1{letter}{column}"] = same[0], same[-1]
    return fields


def translate(
    where: Filter, types: ColumnTypes, texts: Callable[[str], Iterable[str]]
) -> str | None:
    """Return a filter as an expression; None if its type is unknown.

    Args:
        where: the filter.
        types: the columns.
        texts: returns the distinct texts of a column, to match patterns against.

    Raises:
        InputError: a pattern matches more than 5,000 different texts.
    """
    if isinstance(where, Compare):
        return _compared(where, types)
    if isinstance(where, In):
        return _within(where.column, _equal_keys(where.values), types)
    if isinstance(where, Like):
        return _like(where, types, texts)
    if isinstance(where, IsNull):
        column = _column(where.column)
        return f"not ({_exists(f's{column}')} or {_exists(f'l{column}')})"
    if isinstance(where, Not):
        inner = translate(where.inner, types, texts)
        return None if inner is None else f"not ({inner})"
    if isinstance(where, AllOf | AnyOf):
        parts = [translate(part, types, texts) for part in where.parts]
        joint = " and " if isinstance(where, AllOf) else " or "
        return None if None in parts else "(" + joint.join(f"({part})" for part in parts) + ")"
    return None


def ids_expression(ids: Sequence[str]) -> str:
    """Return the expression that matches rows by id."""
    return f"id in {_listed(ids)}"


def prefix_expression(prefix: str) -> str:
    """Return the expression that matches ids with a prefix; empty if the prefix is."""
    if not prefix:
        return ""
    start, before = f"id >= {quote(prefix)}", prefix.rstrip(_LAST)
    if not before:
        return start
    code = ord(before[-1]) + 1
    after = before[:-1] + chr(_SURROGATES.stop if code in _SURROGATES else code)
    return f"{start} and id < {quote(after)}"


def _compared(where: Compare, types: ColumnTypes) -> str:
    key = _key(where.value)
    letter = key[0]
    column = _column(where.column)
    one = _value(f"s{column}")
    smallest, largest = _value(f"0{letter}{column}"), _value(f"1{letter}{column}")
    literal = quote(key)
    if where.operator == "eq":
        return _within(where.column, _equal_keys((where.value,)), types)
    if where.operator == "ne":
        return _differs(where, types)
    kind = _of_kind(one, letter)
    sign = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}[where.operator]
    single = f"{kind} and {one} {sign} {literal}"
    several = f"{smallest if sign[0] == '<' else largest} {sign} {literal}"
    return f"({single}) or ({several})" if where.column in types.lists else f"({single})"


def _differs(where: Compare, types: ColumnTypes) -> str:
    """Return the expression that a value differs from the operand.

    From a number or text differ other numbers and texts; from another value those of its kind.
    """
    keys = _equal_keys((where.value,))
    letter = keys[0][0]
    column = _column(where.column)
    one = _value(f"s{column}")
    parts = []
    for each in _EQUATED if letter in _EQUATED else letter:
        smallest, largest = _value(f"0{each}{column}"), _value(f"1{each}{column}")
        literal = next((quote(key) for key in keys if key[0] == each), None)
        kind = _of_kind(one, each)
        if literal is None:
            parts.append(f"({kind})")
            several = f"{smallest} >= {quote(each)}"
        else:
            parts.append(f"({kind} and ({one} < {literal} or {one} > {literal}))")
            several = f"{smallest} < {literal} or {largest} > {literal}"
        if where.column in types.lists:
            parts.append(f"({several})")
    return f"({' or '.join(parts)})"


def random_place(row_id: str) -> str:
    """Return the place of a row in a random order: eight hexadecimal digits of a hash of its id."""
    return hashlib.sha256(row_id.encode()).hexdigest()[:8]


def places_expression(start: float, share: float) -> str:
    """Return the expression that matches a share of all rows, at random.

    ``start`` is from 0 to 1: where in the random order they begin, which ends where it starts.
    """
    place, low = _value(ORDER), int(start * _PLACES)
    high = low + int(share * _PLACES)
    if share >= 1:
        return _exists(ORDER)
    first, last = quote(f"{low:08x}"), quote(f"{high % _PLACES:08x}")
    joint = "or" if high >= _PLACES else "and"
    return f"({_exists(ORDER)} and ({place} >= {first} {joint} {place} < {last}))"


def _of_kind(value: str, letter: str) -> str:
    return f"{value} >= {quote(letter)} and {value} < {quote(chr(ord(letter) + 1))}"


def _equal_keys(values: Iterable[Scalar]) -> list[str]:
    """Return the keys of some values, and of those that equal them."""
    return list(dict.fromkeys(_key(each) for value in values for each in equal_values(value)))


def _within(name: str, keys: Sequence[str], types: ColumnTypes) -> str:
    column = _column(name)
    one = f"{_value(f's{column}')} in {_listed(keys)}"
    if name not in types.lists:
        return one
    return f"({one} or json_contains_any({_value(f'l{column}')}, {_listed(keys)}))"


def _like(where: Like, types: ColumnTypes, texts: Callable[[str], Iterable[str]]) -> str:
    listed = [*texts(where.column)]
    column = MetadataColumns([{"": text} for text in listed])
    matches = []
    if listed:
        mask = Like("", where.pattern).mask(column).tolist()
        matches = [text for text, match in zip(listed, mask, strict=True) if match]
    if len(matches) > MAX_VALUES:
        raise InputError(
            f"filter: {where.pattern!r} matches {len(matches):,} distinct texts of column "
            f"{where.column!r}, at most {MAX_VALUES:,} are allowed in Milvus; narrow the pattern"
        )
    return _within(where.column, [_key(text) for text in matches], types) if matches else _NEVER


_NEVER = 'id < ""'


def _inner(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _key(value: Any) -> str:
    """Return the key of a value; empty if it cannot be compared."""
    letter = _LETTERS.get(kind_of(value), "")
    if letter == "b":
        return f"b{int(value)}"
    if letter == "n":
        return "" if math.isnan(float_of(value)) else f"n{_ordered(value)}"
    return f"t{value}" if letter else ""


def _ordered(number: float) -> str:
    """Return a number as a text that sorts like the numbers.

    The bits of an IEEE 754 double sort like the numbers if the sign bit is flipped, and all bits of
    negative numbers. The difference of an integer to its double is appended: up to 64 bits as four
    hexadecimal digits around 8000; more as its length and its digits, after a letter that sorts
    after all digits, or, with the complements of both, after a sign that sorts before them.
    """
    near = float_of(number)
    [bits] = struct.unpack(">Q", struct.pack(">d", near + 0.0))
    bits = bits ^ (1 << 64) - 1 if bits >> 63 else bits | 1 << 63
    more = number - int(near) if isinstance(number, int) else 0
    if abs(more) < _FEW:
        return f"{bits:016x}{more + _FEW:04x}"
    digits = f"{abs(more):x}"
    text = f"{len(digits):04x}{digits}"
    if more > 0:
        return f"{bits:016x}g{text}"
    return f"{bits:016x}-{text.translate(_COMPLEMENTS)}"


def _column(name: str) -> str:
    """Return a column's name in characters that need no quoting; distinct names stay distinct."""
    return f"_{name}" if _PLAIN.fullmatch(name) else f".{name.encode().hex()}"


def _value(name: str) -> str:
    return f"{FIELD}[{quote(name)}]"


def _exists(name: str) -> str:
    return f"(exists {_value(name)})"


def _listed(values: Sequence[str]) -> str:
    return f"[{', '.join(map(quote, values))}]"


def texts_of(fields: Mapping[str, Any], name: str) -> Iterable[str]:
    """Yield the texts of a column, from the values of a row."""
    column = _column(name)
    one, several = fields.get(f"s{column}"), fields.get(f"l{column}", ())
    for key in (one, *several):
        if key is not None and key.startswith("t"):
            yield key[1:]


def has_value_expression(name: str) -> str:
    """Return the expression that matches rows with a value in a column."""
    column = _column(name)
    return f"{_exists(f's{column}')} or {_exists(f'l{column}')}"
