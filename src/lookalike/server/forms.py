"""The search form of the page: the query string of a URL, read into a search."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import QueryParams

from lookalike.errors import InputError
from lookalike.filters import AllOf, Filter, as_filter, from_structure
from lookalike.filters.facets import Facet
from lookalike.search.request import Example, Query, SearchRequest
from lookalike.server.schemas import MAX_EXAMPLES, OpenShared, UrlParameters

_UNLIKE = "not-"
_KINDS = ("id", "url", "shared")
_UPLOADS = ("upload", f"{_UNLIKE}upload")
"""Images that only a browser has."""

_EXAMPLES = (*_KINDS, *(f"{_UNLIKE}{kind}" for kind in _KINDS), *_UPLOADS)
_QUERY_FIELDS = (*_EXAMPLES, "weights", "text", "by")
_PAGE_FIELDS = ("compare", "group", "offset", "sort", *_QUERY_FIELDS)
"""Fields that are not search options."""

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
    def has_uploads(self) -> bool:
        """Whether the query has images that only a browser has, and its scripts can send."""
        return any(self.params.get(name) for name in _UPLOADS)

    def query(self, *, supports_text: bool, open_shared: OpenShared) -> Query | None:
        """Return the query, None if the form has none: its items are listed.

        Args:
            supports_text: whether a text is an example that can be combined with others; else its
                words are keywords beside them.
            open_shared: returns the image of a shared query.

        Raises:
            InputError: it has only images that results should be unlike.
            ProblemError: it has a shared query, and the service does not store them.
        """
        like, unlike = self._examples(open_shared)
        if like or unlike:
            is_example = self.text and supports_text and not self.by_words
            text = Example(text=self.text) if is_example else None
            weights = self._weights(len(like), len(unlike), has_text=text is not None)
            return Query.combine(like, unlike, text, weights)
        if self.text:
            return Query() if self.by_words else Query.of(text=self.text)
        return Query() if self.params.get("keywords") else None

    def _examples(self, open_shared: OpenShared) -> tuple[list[Example], list[Example]]:
        """Return what results should be like, and unlike, in the order of the URL."""
        like: list[Example] = []
        unlike: list[Example] = []
        for name, value in self.params.multi_items():
            kind = name.removeprefix(_UNLIKE)
            examples = like if kind == name else unlike
            if value and kind in _KINDS and len(examples) < MAX_EXAMPLES:
                is_shared = kind == "shared"
                fields = {"image": open_shared(value)} if is_shared else {kind: value}
                examples.append(Example.from_json(fields))
        return like, unlike

    def _weights(self, like: int, unlike: int, *, has_text: bool) -> list[float] | None:
        """Return the weights of examples; None, the usual ones, where they do not fit."""
        try:
            weights = [float(each) for each in self.params.get("weights", "").split(",")]
        except ValueError:
            return None
        if len(weights) != like + unlike or not all(0 <= each < math.inf for each in weights):
            return None
        return [*weights, 1.0] if has_text else weights

    @property
    def text(self) -> str:
        """The text to search by."""
        return self.params.get("text", "").strip()

    @property
    def by_words(self) -> bool:
        """Whether the text is searched for in names and metadata, though it has an embedding."""
        return self.params.get("by") == "words"

    @property
    def offset(self) -> int:
        """How many items or results are left out before those of the page."""
        text = self.params.get("offset", "0")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0

    @property
    def sort(self) -> str:
        """What a listing is sorted by: for groups, by what they have in common."""
        group = self.params.get("group")
        if group:
            return "-date" if group == "month" else group
        return self.params.get("sort") or "id"

    @property
    def options_query(self) -> str:
        """The options without the query, as a query string."""
        return self._query_string(without=(*_QUERY_FIELDS, "box", "offset"))

    def page_query(self, offset: int) -> str:
        """Return the query string of the same form from another offset on."""
        rest = self._query_string(without=("offset",))
        return f"{rest}&offset={offset}" if rest else f"offset={offset}"

    def _query_string(self, without: Sequence[str]) -> str:
        pairs = [
            (name, value)
            for name, value in self.params.multi_items()
            if value and name not in without
        ]
        return str(QueryParams(pairs))

    def request(self, query: Query, facets: Sequence[Facet], k: int) -> SearchRequest:
        """Return the request of ``k`` results of a query with the options of the form.

        Raises:
            InputError: a field is invalid; the message names it.
        """
        fields = {
            name: value
            for name, value in self.params.items()
            if value
            and name not in (*_PAGE_FIELDS, "where")
            and not name.startswith((VALUE, MIN, MAX))
        }
        if self.text and not any(each.text for each in query.examples):
            fields["keywords"] = self.text
        fields |= {name: "true" for name in ("foreground", "multi_crop", "exact") if name in fields}
        try:
            options = UrlParameters(**{**fields, "k": k, "offset": self.offset}).options()
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"{'/'.join(map(str, first['loc']))[:80]}: {first['msg']}") from None
        return replace(options.request(query), where=self.filter(facets))

    def filter(self, facets: Sequence[Facet]) -> Filter | None:
        """Return the filter of all fields.

        Raises:
            InputError: a field is invalid; the message names it.
        """
        conditions = [each for facet in facets if (each := self._filter(facet)) is not None]
        if where := self.params.get("where"):
            conditions.append(as_filter(where))
        if len(conditions) > 1:
            return AllOf(tuple(conditions))
        return conditions[0] if conditions else None

    def selected_values(self, facet: Facet) -> Collection[str]:
        """Return the selected values of a column, as texts."""
        return self._selected.get(VALUE + facet.column, ())

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
