"""Filters on metadata, parsed from text or from a structure.

As text: ``year >= 2020 and tag in ('a', 'b')``. As a structure:
``{"and": [{"year": {"gte": 2020}}, {"tag": {"in": ["a", "b"]}}]}``; several columns in
one mapping are joined by "and". Both become the same objects: text never reaches a query language.

A row without a value in a column matches no comparison with it, neither ``=`` nor ``!=``, but
``is null`` and ``not (...)``. A list matches if one of its values does. A number and its text are
equal: ``0`` and ``'0'``; in order, only values of one kind are compared. Booleans are not numbers;
texts are compared by code point.

Filters come from strangers: how large they may be is in :mod:`lookalike.filters.limits`, and their
evaluation takes a time linear in the rows, patterns included, and can be cancelled.
"""

from collections.abc import Mapping
from typing import Any

from lookalike.documents import parse_json
from lookalike.errors import InputError
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
    equal_values,
    float_of,
    shown,
)
from lookalike.filters.encoded import EncodedColumn, kind_of
from lookalike.filters.rows import RowFilter
from lookalike.filters.structure import from_structure
from lookalike.filters.text import parse

__all__ = [
    "OPERATORS",
    "AllOf",
    "AnyOf",
    "Columns",
    "Compare",
    "EncodedColumn",
    "Filter",
    "In",
    "IsNull",
    "Like",
    "MetadataColumns",
    "Not",
    "RowFilter",
    "Where",
    "as_filter",
    "equal_values",
    "float_of",
    "from_structure",
    "kind_of",
    "parse",
]

Where = str | Mapping[str, Any] | Filter
"""A filter as text (also a structure in JSON), as a structure, or parsed."""


def as_filter(where: Where) -> Filter:
    """Parse a filter from text or from a structure; a filter is returned as it is.

    A text that begins with ``{`` is a structure in JSON.

    Raises:
        InputError: it cannot be parsed, and the message shows the position; or it is too large.
    """
    if isinstance(where, str):
        if not where.lstrip().startswith("{"):
            return parse(where)
        data = where.encode(errors="surrogatepass")
        return from_structure(parse_json(data, "filter", error=InputError))
    if isinstance(where, Mapping):
        return from_structure(where)
    if not hasattr(where, "mask"):
        raise InputError(
            '{where} must be a text such as "year >= 2020", or a structure, not ' + shown(where),
            where=None,
        )
    return where
