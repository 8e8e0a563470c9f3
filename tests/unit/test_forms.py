"""The search form of the page, from query strings that nobody has checked."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from starlette.datastructures import QueryParams

from lookalike.errors import InputError
from lookalike.filters import AllOf, Compare, In
from lookalike.filters.facets import Facet
from lookalike.search.request import Query
from lookalike.server.forms import SearchForm

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
    search = submitted.request(Query.of(id="a"), FACETS, 7)
    assert search.k == 7
    assert submitted.filter(FACETS) == search.filter
    parts = In("label", ("cat", "dog")), Compare("year", "gte", 2010)
    assert search.filter == AllOf(tuple(AllOf((part,)) for part in parts))
    assert list(submitted.selected_values(FACETS[0])) == ["cat", "dog"]
    assert not submitted.selected_values(FACETS[1])


def test_messages_about_fields_are_short() -> None:
    for name, value in (("x" * 60_000, "1"), ("min:year", "9" * 60_000 + "x")):
        with pytest.raises(InputError) as error:
            form((name, value)).request(Query.of(id="a"), FACETS, 7)
        assert len(str(error.value)) < 300


def test_the_query_of_a_form() -> None:
    assert form().query is None
    assert form(("id", ""), ("sort", "name")).query is None
    assert form(("keywords", " red ")).query == Query()
    one = form(("text", " b ")).query
    assert one is not None
    assert [each.text for each in one.examples] == ["b"]
    several = form(("id", "a"), ("id", "c"), ("not-id", "d"), ("text", "b")).query
    assert several is not None
    assert [each.id for each in several.examples] == ["a", "c", "d", None]
    assert [each.weight for each in several.examples] == [1, 1, -0.5, 1]
    with pytest.raises(InputError):
        _ = form(("not-id", "d")).query


def test_pages_of_a_form() -> None:
    submitted = form(("text", "a b"), ("value:label", "cat"), ("offset", "60"), ("sort", "-year"))
    assert (submitted.offset, submitted.sort) == (60, "-year")
    assert submitted.page_query(120) == "text=a+b&value%3Alabel=cat&sort=-year&offset=120"
    assert form(("offset", "-1")).offset == form(("offset", "9" * 30)).offset == 0
