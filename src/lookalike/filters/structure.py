"""Parse filters from structures of mappings and lists, as in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from lookalike.errors import InputError
from lookalike.filters.conditions import (
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
    shown,
)
from lookalike.filters.limits import MAX_DEPTH, MAX_DIGITS, TOO_LONG, Budget


def from_structure(where: Mapping[str, Any]) -> Filter:
    """Parse a filter from a structure.

    A mapping of a column to a value (``{"label": "cat"}``, equality), or to operators
    (``{"year": {"gte": 2020, "lt": 2024}}``; eq, ne, lt, lte, gt, gte, in, like, null), or of
    ``and`` and ``or`` to a list of structures, or of ``not`` to one.

    Raises:
        InputError: it is none of these, and the message names the column; or it is larger than the
            limits of :mod:`lookalike.filters.limits`.
    """
    return _Parser().parse(where, 0)


class _Parser:
    """Parses one structure, within the limits of a filter."""

    def __init__(self) -> None:
        self._budget = Budget()

    def parse(self, where: Mapping[str, Any], depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise InputError(f"filter: nested more than {MAX_DEPTH} levels deep")
        self._budget.take_conditions(len(where))
        parts = [self._parse_entry(self._name(name), value, depth) for name, value in where.items()]
        if not parts:
            raise InputError("filter: it is empty; remove it to search all rows")
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _name(self, name: object) -> str:
        if not isinstance(name, str):
            raise InputError(f"filter: the name of a column is a text, not {shown(name)}")
        return self._budget.take_text(name)

    def _parse_entry(self, name: str, value: Any, depth: int) -> Filter:
        if name in ("and", "or") and isinstance(value, list | tuple):
            self._budget.take_conditions(len(value))
            parts = tuple(self._parse_list_entry(name, each, depth + 1) for each in value)
            if not parts:
                raise InputError(f"filter: {name!r} has no conditions")
            return AllOf(parts) if name == "and" else AnyOf(parts)
        if name == "not" and isinstance(value, Mapping):
            return Not(self.parse(value, depth + 1))
        if not isinstance(value, Mapping):
            return Compare(name, "eq", self._scalar(name, value))
        self._budget.take_conditions(len(value))
        parts = tuple(self._parse_operator(name, *pair) for pair in value.items())
        if not parts:
            raise InputError(f"filter: column {shown(name)} has no conditions")
        return parts[0] if len(parts) == 1 else AllOf(parts)

    def _parse_list_entry(self, name: str, value: Any, depth: int) -> Filter:
        if not isinstance(value, Mapping):
            raise InputError(f"filter: {name!r} takes a list of structures, not {shown(value)}")
        return self.parse(value, depth)

    def _parse_operator(self, name: str, operator: str, value: Any) -> Filter:
        place = f"filter: column {shown(name)}"
        if operator in OPERATORS:
            return Compare(name, operator, self._scalar(name, value))
        if operator == "in":
            if not isinstance(value, str) and hasattr(value, "tolist"):  # an array or a Series
                value = value.tolist()
            if not isinstance(value, list | tuple | Set) or not value:
                raise InputError(f"{place}: 'in' takes a list of values, not {shown(value)}")
            self._budget.take_values(len(value))
            return In(name, tuple(self._scalar(name, each) for each in value))
        if operator == "like":
            if not isinstance(value, str):
                raise InputError(f"{place}: 'like' takes a text, not {shown(value)}")
            return Like(name, self._budget.take_pattern(self._budget.take_text(value)))
        if operator == "null":
            if not isinstance(value, bool):
                raise InputError(f"{place}: 'null' takes true or false, not {shown(value)}")
            return IsNull(name) if value else Not(IsNull(name))
        operators = ", ".join((*OPERATORS, "in", "like", "null"))
        raise InputError(f"{place}: no operator {shown(operator)}; operators: {operators}")

    def _scalar(self, name: str, value: Any) -> Scalar:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, int) and abs(value) >= TOO_LONG:
            raise InputError(
                f"filter: column {shown(name)}: compared with over {MAX_DIGITS:,} digits"
            )
        if isinstance(value, str):
            return self._budget.take_text(value)
        if isinstance(value, bool | int) or (isinstance(value, float) and np.isfinite(value)):
            return value
        raise InputError(
            f"filter: column {shown(name)}: compared with {shown(value)}; expected a text, a "
            "number, true or false"
        )
