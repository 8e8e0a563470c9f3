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
    search = submitted.request(Query.of(id="a"), FACETS)
    parts = In("label", ("cat", "dog")), Compare("year", "gte", 2010)
    assert search.filter == AllOf(tuple(AllOf((part,)) for part in parts))
    assert list(submitted.selected_values(FACETS[0])) == ["cat", "dog"]
    assert not submitted.selected_values(FACETS[1])
    assert submitted.count_filters(FACETS) == 2


def test_messages_about_fields_are_short() -> None:
    for name, value in (("x" * 60_000, "1"), ("min:year", "9" * 60_000 + "x"), ("k", "x" * 60_000)):
        with pytest.raises(InputError) as error:
            form((name, value)).request(Query.of(id="a"), FACETS)
        assert len(str(error.value)) < 300


def test_the_query_of_a_form_is_one() -> None:
    assert form().query is None
    assert form(("id", ""), ("k", "3")).query is None
    assert form(("keywords", " red ")).query == Query()
    query = form(("id", "a"), ("keywords", "red"), ("min_similarity", "0.5")).query
    assert query is not None
    request = form(("min_similarity", "0.5"), ("k", "3")).request(query, FACETS)
    assert (query.name, request.k, request.min_similarity) == ("a", 3, 0.5)
    with pytest.raises(InputError, match="exactly one"):
        _ = form(("id", "a"), ("url", "b")).query
    for text in ("", " b "):
        with pytest.raises(InputError, match="exactly one"):
            _ = form(("id", "a"), ("url", "b"), ("text", text)).query
    one, both = form(("text", " b ")).query, form(("id", "a"), ("text", "b")).query
    assert one is not None
    assert both is not None
    assert [each.text for each in one.examples] == ["b"]
    assert (both.name, [each.weight for each in both.examples]) == ("a + b", [1, 1])
