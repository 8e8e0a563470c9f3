"""The search form of the page, from query strings that nobody has checked."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from starlette.datastructures import QueryParams

from lookalike.errors import InputError
from lookalike.filters import AllOf, Compare, In
from lookalike.filters.facets import Facet
from lookalike.search.request import Query, SentImage
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


def test_a_text_is_an_example_unless_it_is_searched_by_words() -> None:
    text, words = ("text", "green"), ("by", "words")
    assert examples(text) == [("green", 1)]
    assert examples(text, words) == []
    assert examples(("id", "a"), text) == [("a", 1), ("green", 1)]
    assert examples(("id", "a"), text, words) == [("a", 1)]
    for fields in ((text, words), (("id", "a"), text, words)):
        search = form(*fields).request(query(*fields) or Query(), FACETS, 7)
        assert search.keywords == "green"
    assert query(words) is None
    assert form(text, words, ("sort", "name")).options_query == "sort=name"


def test_messages_about_fields_are_short() -> None:
    for name, value in (("x" * 60_000, "1"), ("min:year", "9" * 60_000 + "x")):
        with pytest.raises(InputError) as error:
            form((name, value)).request(Query.of(id="a"), FACETS, 7)
        assert len(str(error.value)) < 300


def query(*fields: tuple[str, str], supports_text: bool = True) -> Query | None:
    return form(*fields).query(supports_text=supports_text, open_shared=shared_image)


def shared_image(query_id: str) -> SentImage:
    return SentImage(b"", query_id)


def examples(
    *fields: tuple[str, str], supports_text: bool = True
) -> list[tuple[str | None, float]]:
    parsed = query(*fields, supports_text=supports_text)
    assert parsed is not None
    return [(each.id or each.url or each.text, each.weight) for each in parsed.examples]


def test_the_query_of_a_form() -> None:
    assert query() is None
    assert query(("id", ""), ("sort", "name")) is None
    assert query(("keywords", " red ")) == Query()
    assert examples(("text", " b ")) == [("b", 1)]
    several = ("id", "a"), ("url", "https://b"), ("id", "c"), ("not-id", "d"), ("text", "t")
    assert examples(*several) == [("a", 1), ("https://b", 1), ("c", 1), ("d", -0.5), ("t", 1)]
    shared = query(("shared", "x"), ("not-shared", "y"))
    assert shared is not None
    assert [(each.name, each.weight) for each in shared.examples] == [("x", 1), ("y", -0.5)]
    with pytest.raises(InputError):
        query(("not-id", "d"))


def test_weights_of_a_form() -> None:
    several = ("id", "a"), ("not-id", "d"), ("text", "t")
    assert examples(*several, ("weights", "2,.25")) == [("a", 2), ("d", -0.25), ("t", 1)]
    for unfit in ("2", "1,2,3", "1,x", "1,-1", "1,nan", "1,inf", ","):
        assert examples(*several, ("weights", unfit)) == [("a", 1), ("d", -0.5), ("t", 1)]


def test_the_text_of_a_form_beside_an_image() -> None:
    both = form(("text", " red shoe "), ("id", "a"))
    for supports_text, texts, keywords in (
        (True, [None, "red shoe"], None),
        (False, [None], "red shoe"),
    ):
        parsed = both.query(supports_text=supports_text, open_shared=shared_image)
        assert parsed is not None
        assert [each.text for each in parsed.examples] == texts
        assert both.request(parsed, FACETS, 7).keywords == keywords
    assert examples(("text", "red"), supports_text=False) == [("red", 1)]


def test_images_that_only_a_browser_has() -> None:
    assert form(("upload", "ab")).has_uploads
    assert form(("not-upload", "ab"), ("id", "a")).has_uploads
    assert not form(("upload", ""), ("id", "a")).has_uploads


def test_a_form_that_groups_is_sorted_by_what_its_groups_have_in_common() -> None:
    assert form(("group", "month"), ("sort", "name")).sort == "-date"
    assert form(("group", "metadata.label"), ("sort", "name")).sort == "metadata.label"
    assert form(("sort", "name")).sort == "name"
    assert form().sort == "id"


def test_pages_of_a_form() -> None:
    submitted = form(("text", "a b"), ("value:label", "cat"), ("offset", "60"), ("sort", "-year"))
    assert (submitted.offset, submitted.sort) == (60, "-year")
    assert submitted.page_query(120) == "text=a+b&value%3Alabel=cat&sort=-year&offset=120"
    assert form(("offset", "-1")).offset == form(("offset", "9" * 30)).offset == 0
