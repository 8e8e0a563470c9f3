"""The page /docs shows all of the OpenAPI document, without scripts or other hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lookalike.server.api_docs import render_docs
from lookalike.server.api_keys import add_key, read_keys
from lookalike.server.settings import LOOPBACK, ServeSettings
from tests.integration.test_item_images import new_gallery
from tests.serving import Serving, serving

HTML = {"Accept": "text/html"}


class Page(HTMLParser):
    """The elements, ids, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.attributes |= values.keys()
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values[name] or "" for name in ("href", "src") if name in values]

    def handle_data(self, data: str) -> None:
        self.text += data + " "


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("docs")
    gallery = new_gallery(folder)
    add_key(folder / "keys.json", "web", write=False)
    settings = ServeSettings(keys=read_keys(folder / "keys.json"), hosts=LOOPBACK)
    with serving({"secret-gallery": gallery}, settings) as served:
        yield served


@pytest.fixture(scope="module")
def document(keyed: Serving) -> dict[str, Any]:
    document: dict[str, Any] = keyed.client().json("GET", "/openapi.json")
    return document


@pytest.fixture(scope="module")
def page(keyed: Serving) -> Page:
    response, body = keyed.request("GET", "/docs", None, HTML)
    assert response.status == 200
    return Page(body.decode())


def test_each_operation_has_its_summary_parameters_and_answers(
    page: Page, document: dict[str, Any]
) -> None:
    for path, methods in document["paths"].items():
        for method, each in methods.items():
            assert each["operationId"] in page.ids
            assert f"{method.upper()} {path}" in page.text
            assert each["summary"] in page.text
            for parameter in each.get("parameters", ()):
                assert " ".join(parameter["description"].split()).replace("`", "") in page.text
            for status in each["responses"]:
                assert status in page.text
    for name, schema in document["components"]["schemas"].items():
        assert f"schema-{name}" in page.ids
        for field in schema.get("properties", ()):
            assert field in page.text


def test_examples_are_shown_as_they_are(page: Page, document: dict[str, Any]) -> None:
    for methods in document["paths"].values():
        for each in methods.values():
            for sample in each.get("x-codeSamples", ()):
                assert " ".join(sample["source"].split()) in page.text
    operation = document["paths"]["/healthz"]["get"]
    sample = {"lang": "Shell", "label": "curl", "source": "curl '<&>' \"http://localhost\""}
    changed = {**document, "paths": {"/healthz": {"get": {**operation, "x-codeSamples": [sample]}}}}
    shown = Page(render_docs(changed))
    assert sample["source"] in shown.text
    assert "curl" in shown.text


def test_all_links_lead_somewhere(keyed: Serving, page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            assert keyed.request("GET", link, None, HTML)[0].status in (200, 401, 303)
    assert not [link for link in page.links if not re.match(r"[#/](?!/)", link)]


def test_it_has_no_scripts_and_a_strict_policy(keyed: Serving, page: Page) -> None:
    assert not page.tags & {"script", "style", "iframe", "object", "form"}
    assert "style" not in page.attributes
    assert not [name for name in page.attributes if name.startswith("on")]
    response, _ = keyed.request("GET", "/docs")
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_it_needs_no_key_and_tells_nothing_of_the_galleries(
    keyed: Serving, page: Page, tmp_path: Path
) -> None:
    assert "This service requires an API key" in page.text
    assert "secret-gallery" not in page.text
    assert "public" in page.text
    with serving({"g": new_gallery(tmp_path)}) as served:
        response, body = served.request("GET", "/docs")
        assert "This service requires an API key" not in Page(body.decode()).text
        tag = {"If-None-Match": response.headers["ETag"]}
        assert served.request("GET", "/docs", None, tag)[0].status == 304
        start = served.request("GET", "/g/g", None, HTML)[1]
        assert "/docs" in Page(start.decode()).links


def test_a_wrong_path_leads_to_it(keyed: Serving, tmp_path: Path) -> None:
    with serving({"g": new_gallery(tmp_path)}) as served:
        response, body = served.request("GET", "/v1")
        assert response.status == 404
        assert b"/docs" in body
        assert '</docs>; rel="service-doc"' in response.headers["Link"]
