"""What the page's form asks for: the query of an address, read into a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import QueryParams

from lookalike.errors import InputError
from lookalike.filters import AllOf, Filter, from_structure
from lookalike.gallery.facets import Facet
from lookalike.search.query import QueryRegion
from lookalike.search.search import SearchOptions
from lookalike.server.schemas import AddressOptions
from lookalike.server.service import SearchQuery
from lookalike.types import Metric

_QUERIES = ("id", "text", "url")
_ITS_OWN = ("local", "start", "with", *_QUERIES)
VALUE, LOW, HIGH = "value:", "low:", "high:"
"""What begins the names of fields that filter a column."""


@dataclass(frozen=True, slots=True)
class Form:
    """A form as it was sent; ``beside`` is another gallery to be asked the same."""

    params: QueryParams

    @property
    def ask(self) -> SearchQuery | None:
        """The query, None if the address holds none."""
        row_id, text, url = (self.params.get(name) or None for name in _QUERIES)
        return SearchQuery(id=row_id, text=text, url=url) if row_id or text or url else None

    @property
    def beside(self) -> str | None:
        """The gallery to compare with."""
        return self.params.get("with") or None

    @property
    def again(self) -> str:
        """The options without the query, as the query of an address."""
        rest = [(name, value) for name, value in self.params.multi_items() if value]
        gone = ("box", "local", "start", *_QUERIES)
        return str(QueryParams([pair for pair in rest if pair[0] not in gone]))

    def read(self, facets: Sequence[Facet], own: Metric) -> tuple[QueryRegion, SearchOptions]:
        """Return which part of the query is looked at and what is searched for.

        Raises:
            InputError: a field holds what cannot be used; it is named.
        """
        fields = {
            name: value
            for name, value in self.params.items()
            if value and name not in _ITS_OWN and not name.startswith((VALUE, LOW, HIGH))
        }
        fields |= {name: "true" for name in ("foreground", "multi_crop", "exact") if name in fields}
        try:
            options = AddressOptions(**fields).options()
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"{'/'.join(map(str, first['loc']))}: {first['msg']}") from None
        search = options.search(own)
        chosen = [found for each in facets if (found := self._filter(each)) is not None]
        conditions = [*chosen, *([search.filter] if search.filter is not None else [])]
        if len(conditions) > 1:
            search = replace(search, where=AllOf(tuple(conditions)))
        elif conditions:
            search = replace(search, where=conditions[0])
        return options.look(), search

    def chosen(self, facet: Facet) -> list[str]:
        """Return the values of a column that were ticked, as texts."""
        return self.params.getlist(VALUE + facet.column)

    def _filter(self, facet: Facet) -> Filter | None:
        found: dict[str, Any] = {}
        if chosen := self.chosen(facet):
            found["in"] = [_value(text, facet) for text in chosen]
        for mark, operator in ((LOW, "gte"), (HIGH, "lte")):
            if text := self.params.get(mark + facet.column):
                found[operator] = _number(text, facet.column)
        return from_structure({"and": [{facet.column: found}]}) if found else None


def shown(value: object) -> str:
    """Return a value of metadata as people read it, and as a field of the form has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _value(text: str, facet: Facet) -> str | float | bool:
    """Return the value that a text stands for, among those the column has.

    Raises:
        InputError: a number was expected.
    """
    if facet.kind == "boolean":
        return text == "yes"
    return _number(text, facet.column) if facet.kind == "number" else text


def _number(text: str, column: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{column}: {text[:40]!r} is not a number")
    return number
