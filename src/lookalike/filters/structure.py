"""Parse filters from structures of mappings and lists, as in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lookalike.errors import InputError
from lookalike.filters.conditions import (
    MAX_DEPTH,
    MAX_DIGITS,
    OPERATORS,
    AllOf,
    AnyOf,
    Compare,
    Filter,
    In,
    IsNull,
    Like,
    Not,
    Scalar,
)


def from_structure(where: Mapping[str, Any], depth: int = 0) -> Filter:
    """Parse a filter from a structure.

    A mapping of a column to a value (``{"label": "cat"}``, equality), or to operators
    (``{"year": {"gte": 2020, "lt": 2024}}``; eq, ne, lt, lte, gt, gte, in, like, null), or of
    ``and`` and ``or`` to a list of structures, or of ``not`` to one.

    Raises:
        InputError: it is none of these; the message names the column.
    """
    if depth > MAX_DEPTH:
        raise InputError(f"filter: nested more than {MAX_DEPTH} levels deep")
    parts = [_from_entry(str(name), value, depth) for name, value in where.items()]
    if not parts:
        raise InputError("filter: it is empty; remove it to search all rows")
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _from_entry(name: str, value: Any, depth: int) -> Filter:
    if name in ("and", "or") and isinstance(value, Sequence) and not isinstance(value, str):
        parts = tuple(_from_list_entry(name, each, depth + 1) for each in value)
        if not parts:
            raise InputError(f"filter: {name!r} has no conditions")
        return AllOf(parts) if name == "and" else AnyOf(parts)
    if name == "not" and isinstance(value, Mapping):
        return Not(from_structure(value, depth + 1))
    if not isinstance(value, Mapping):
        return Compare(name, "eq", _scalar(name, value))
    parts = tuple(_from_operator(name, operator, each) for operator, each in value.items())
    if not parts:
        raise InputError(f"filter: column {name!r} has no conditions")
    return parts[0] if len(parts) == 1 else AllOf(parts)


def _from_list_entry(name: str, value: Any, depth: int) -> Filter:
    if not isinstance(value, Mapping):
        raise InputError(f"filter: {name!r} takes a list of structures, not {value!r}")
    return from_structure(value, depth)


def _from_operator(name: str, operator: str, value: Any) -> Filter:
    if operator in OPERATORS:
        return Compare(name, operator, _scalar(name, value))
    if operator == "in":
        if not isinstance(value, list | tuple) or not value:
            raise InputError(f"filter: column {name!r}: 'in' takes a list of values, not {value!r}")
        return In(name, tuple(_scalar(name, each) for each in value))
    if operator == "like":
        if not isinstance(value, str):
            raise InputError(f"filter: column {name!r}: 'like' takes a text, not {value!r}")
        return Like(name, value)
    if operator == "null":
        if not isinstance(value, bool):
            raise InputError(f"filter: column {name!r}: 'null' takes true or false, not {value!r}")
        return IsNull(name) if value else Not(IsNull(name))
    operators = ", ".join((*OPERATORS, "in", "like", "null"))
    raise InputError(f"filter: column {name!r}: no operator {operator!r}; operators: {operators}")


def _scalar(name: str, value: Any) -> Scalar:
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise InputError(f"filter: column {name!r}: compared with over {MAX_DIGITS:,} digits")
    if isinstance(value, str | bool | int) or (isinstance(value, float) and np.isfinite(value)):
        return value
    raise InputError(
        f"filter: column {name!r}: compared with {value!r}; expected a text, a number, true or "
        "false"
    )
