"""Filters on metadata: parsed from text or from a structure, then applied to columns of values.

As text, ``year >= 2020 and tag in ('a', 'b')``; as a structure, the same is
``{"and": [{"year": {"gte": 2020}}, {"tag": {"in": ["a", "b"]}}]}``, and several columns in one
mapping are joined by "and". A text never reaches any query language: it becomes the same few
objects as the structure.

A row without a value in a column matches no comparison with it, neither ``=`` nor ``!=``; only
``is null`` and ``not (...)`` find it. A list of values matches if one of its values does. Truth
values are no numbers, and texts are compared as they are, by code point.
"""

from collections.abc import Mapping
from typing import Any

from lookalike.filters.columns import MetadataColumns
from lookalike.filters.conditions import (
    OPERATORS,
    AllOf,
    AnyOf,
    Columns,
    Compare,
    Filter,
    In,
    IsNull,
    Like,
    Not,
    kind_of,
)
from lookalike.filters.structure import from_structure
from lookalike.filters.text import parse

__all__ = [
    "OPERATORS",
    "AllOf",
    "AnyOf",
    "Columns",
    "Compare",
    "Filter",
    "In",
    "IsNull",
    "Like",
    "MetadataColumns",
    "Not",
    "Where",
    "as_filter",
    "from_structure",
    "kind_of",
    "parse",
]

Where = str | Mapping[str, Any] | Filter
"""What a search takes: a text, a structure, or a filter."""


def as_filter(where: Where) -> Filter:
    """Return a filter from a text, a structure, or itself.

    Raises:
        InputError: it cannot be understood; the place is shown.
    """
    if isinstance(where, str):
        return parse(where)
    if isinstance(where, Mapping):
        return from_structure(where)
    return where
