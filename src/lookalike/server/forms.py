"""The search form of the page: the query string of a URL, read into a search."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import QueryParams

from lookalike.errors import InputError
from lookalike.filters import AllOf, Filter, as_filter, from_structure
from lookalike.filters.facets import Facet
from lookalike.search.request import Example, Query, SearchRequest
from lookalike.server.schemas import UrlParameters

_IMAGE_FIELDS = ("id", "url")
_QUERY_FIELDS = (*_IMAGE_FIELDS, "text")
_PAGE_FIELDS = ("upload", "sample", "compare", *_QUERY_FIELDS)
"""Fields that are not search options."""

_LIMITS = ("max_distance", "min_similarity")

VALUE, MIN, MAX = "value:", "min:", "max:"
"""Prefixes of fields that filter by a column."""


@dataclass(frozen=True, slots=True)
class SearchForm:
    """A submitted search form."""

    params: QueryParams
    _selected: Mapping[str, Collection[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        selected: dict[str, dict[str, None]] = {}
        for name, value in self.params.multi_items():
            selected.setdefault(name, {})[value] = None
        object.__setattr__(self, "_selected", selected)

    @property
    def query(self) -> Query | None:
        """The query, an empty one if keywords or filters are all there is; None for no search.

        Raises:
            InputError: it has several images.
        """
        fields = {name: value for name in _IMAGE_FIELDS if (value := self.params.get(name))}
        if fields and self.text:
            return self.query_with(Example.from_json(fields))
        if self.text:
            fields["text"] = self.text
        if fields:
            return Query.from_json(fields)
        return Query() if self.keywords or self._has_filter else None

    @property
    def _has_filter(self) -> bool:
        return any(
            value and (name == "where" or name.startswith((VALUE, MIN, MAX)))
            for name, value in self.params.multi_items()
        )

    def query_with(self, image: Example) -> Query:
        """Return the query of an image, and of the text of the form, if it has one."""
        return Query((image, *([Example(text=self.text)] if self.text else [])))

    @property
    def text(self) -> str:
        """The text to search by."""
        return self.params.get("text", "").strip()

    @property
    def keywords(self) -> str:
        """The keywords to search in names and metadata."""
        return self.params.get("keywords", "").strip()

    @property
    def compared_gallery(self) -> str | None:
        """Another gallery to search with the same query."""
        return self.params.get("compare") or None

    @property
    def options_query(self) -> str:
        """The options without the query, as a query string."""
        excluded = ("box", "upload", "sample", *_QUERY_FIELDS)
        return str(
            QueryParams(
                [
                    (name, value)
                    for name, value in self.params.multi_items()
                    if value and name not in excluded
                ]
            )
        )

    def request(self, query: Query, facets: Sequence[Facet]) -> SearchRequest:
        """Return the request of a query with the options of the form.

        Raises:
            InputError: a field is invalid; the message names it.
        """
        fields = {
            name: value
            for name, value in self.params.items()
            if value and name not in _PAGE_FIELDS and not name.startswith((VALUE, MIN, MAX))
        }
        fields |= {name: "true" for name in ("foreground", "multi_crop", "exact") if name in fields}
        if query.is_empty and not self.keywords:  # there are no distances to limit
            fields = {name: value for name, value in fields.items() if name not in _LIMITS}
        try:
            options = UrlParameters(**fields).options()
        except ValidationError as error:
            first = error.errors()[0]
            name = first.get("ctx", {}).get("field") or "/".join(map(str, first["loc"]))
            raise InputError(f"{name[:80]}: {first['msg']}").about(name[:80]) from None
        conditions = [each for facet in facets if (each := self._filter(facet)) is not None]
        if options.where is not None:
            conditions.append(as_filter(options.where))
        if len(conditions) > 1:
            conditions = [AllOf(tuple(conditions))]
        return options.request(query, where=conditions[0] if conditions else None)

    def selected_values(self, facet: Facet) -> Collection[str]:
        """Return the selected values of a column, as texts."""
        return self._selected.get(VALUE + facet.column, ())

    def count_filters(self, facets: Sequence[Facet]) -> int:
        """Return how many fields filter the results."""
        fields = [prefix + facet.column for facet in facets for prefix in (VALUE, MIN, MAX)]
        return sum(bool(self.params.get(name)) for name in (*fields, "where"))

    @property
    def is_restricted(self) -> bool:
        """Whether filters or a maximum distance may exclude results."""
        return any(
            name in ("where", "max_distance", "min_similarity")
            or name.startswith((VALUE, MIN, MAX))
            for name in self.params
        )

    def _filter(self, facet: Facet) -> Filter | None:
        operators: dict[str, Any] = {}
        if selected := self.selected_values(facet):
            operators["in"] = [_value(text, facet) for text in selected]
        for prefix, operator in ((MIN, "gte"), (MAX, "lte")):
            if text := self.params.get(prefix + facet.column):
                operators[operator] = _number(text, facet.column)
        return from_structure({"and": [{facet.column: operators}]}) if operators else None


def display_text(value: object) -> str:
    """Return a metadata value as the page and the fields of the form show it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _value(text: str, facet: Facet) -> str | float | bool:
    """Return the value that is displayed as ``text``.

    Raises:
        InputError: the column holds numbers, and the text is not a number.
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
