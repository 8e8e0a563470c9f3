"""The search form of the page, from query strings that nobody has checked."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from starlette.datastructures import QueryParams

from lookalike.errors import InputError
from lookalike.filters import AllOf, Compare, In
from lookalike.filters.facets import Facet
from lookalike.server.forms import SearchForm
from lookalike.types import Metric

FACETS = [
    Facet("label", "text", 3, 3, {"cat": 1, "dog": 1, "": 1}),
    Facet("year", "number", 2, 2, None, 2000, 2024),
]


def form(*fields: tuple[str, str]) -> SearchForm:
    return SearchForm(QueryParams(urlencode(fields)))


def test_selected_values_become_a_filter() -> None:
    submitted = form(
        ("value:label", "cat"), ("value:label", "dog"), ("value:label", "cat"), ("min:year", "2010")
    )
    _, search = submitted.parse(FACETS, Metric.COSINE)
    parts = In("label", ("cat", "dog")), Compare("year", "gte", 2010)
    assert search.filter == AllOf(tuple(AllOf((part,)) for part in parts))
    assert list(submitted.selected_values(FACETS[0])) == ["cat", "dog"]
    assert not submitted.selected_values(FACETS[1])
    assert submitted.count_filters(FACETS) == 2


def test_messages_about_fields_are_short() -> None:
    for name, value in (("x" * 60_000, "1"), ("min:year", "9" * 60_000 + "x"), ("k", "x" * 60_000)):
        with pytest.raises(InputError) as error:
            form((name, value)).parse(FACETS, Metric.COSINE)
        assert len(str(error.value)) < 200
