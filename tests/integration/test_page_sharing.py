"""Links to searches: copied as they are, or with images that are stored for some days first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.server.api_keys import KeyFile, add_key
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.integration.test_page import Open, answered, chromium, is_start, shown, tab
from tests.serving import Serving, serving

__all__ = ["chromium", "tab"]

CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}
DETAIL = "Uploaded images of this search are stored by the service for 7 days"


@pytest.fixture(scope="module")
def galleries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Gallery]:
    """Two galleries of the same images."""
    folder = tmp_path_factory.mktemp("sharing")
    root = folder / "noise"
    root.mkdir()
    for number in range(20):
        color = np.random.default_rng(number).integers(0, 200, 3)
        pixels = np.random.default_rng(number).integers(0, 50, (40, 60, 3)) + color
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{number}.png")
    source = open_source(root)
    opened = {}
    for name, encoder in (("shop", "color"), ("other", "pixels")):
        built = open_encoder(encoder, sample_images(source))
        opened[name] = Gallery.create(folder / f"{name}.gallery", encoder=built)
        opened[name].sync(source)
    return opened


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def site(galleries: dict[str, Gallery], shared: Path) -> Iterator[Serving]:
    settings = ServeSettings(hosts=LOOPBACK, share_days=7, share_folder=shared)
    with serving(galleries, settings) as served:
        yield served


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("uploads")
    for number in range(2):
        pixels = np.random.default_rng(90 + number).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(2)]


def copied(page: Any) -> str:
    page.wait_for_selector(".toast.shown >> text=Link copied")
    return str(page.evaluate("navigator.clipboard.readText()"))


def expected_ids(site: Serving, *files: str, name: str = "shop") -> list[str]:
    gallery = site.service.handle(name).gallery
    query: dict[str, Any] = {"like": list(files)} if len(files) > 1 else {"query": files[0]}
    return [hit.id for hit in gallery.search(**query, k=20)]


def test_a_link_without_uploads_is_copied_at_once(tab: Open, site: Serving, shared: Path) -> None:
    page = tab("/g/shop?id=noise%3A3.png&min_similarity=0.1", **CLIPBOARD)
    page.click("#copy-link")
    assert copied(page) == page.url
    assert list(shared.iterdir()) == []


def test_a_query_with_uploads_is_shared(
    tab: Open, site: Serving, shared: Path, files: list[str]
) -> None:
    page = tab("/g/shop", **CLIPBOARD)
    assert page.locator("#copy-link").is_visible()
    results = answered(page, lambda: page.set_input_files("#file", files))
    before = page.url
    page.click("#copy-link")
    page.wait_for_selector("#share-dialog[open]")
    assert DETAIL in page.inner_text("#share-dialog")
    page.click("#share-dialog >> text=Cancel")
    page.wait_for_selector("#share-dialog", state="hidden")
    assert (page.url, list(shared.iterdir())) == (before, [])
    page.click("#copy-link")
    page.click("text=Store and copy link")
    link = copied(page)
    assert shown(page) == results
    assert page.url == link
    ids = parse_qs(urlsplit(link).query)["shared"]
    assert sorted(path.stem for path in shared.iterdir()) == sorted(ids)
    assert len(ids) == 2
    assert "upload" not in parse_qs(urlsplit(link).query)
    assert page.locator(".chip img").count() == 2
    page.click("#copy-link")
    assert copied(page) == link

    other = tab(link.removeprefix(site.url))
    assert is_start(shown(other), expected_ids(site, *files))
    assert other.locator(".chip").all_inner_texts() == page.locator(".chip").all_inner_texts()
    assert other.locator(".chip img").count() == 2
    assert "Shared image" in other.locator(".chip").first.inner_text()

    plain = tab(link.removeprefix(site.url), java_script_enabled=False, locale="de-DE")
    names = plain.locator(".cell .name").all_inner_texts()
    rows = expected_ids(site, *files)
    assert names == [row_id.rpartition(":")[2] for row_id in rows]
    for path in shared.iterdir():
        path.unlink()
    lost = tab(link.removeprefix(site.url), allow="404")
    lost.wait_for_selector(".problem >> text=Shared query not found")


def test_a_shared_query_is_cropped_and_compared(
    tab: Open, site: Serving, shared: Path, files: list[str]
) -> None:
    page = tab("/g/shop", **CLIPBOARD)
    answered(page, lambda: page.set_input_files("#file", files[0]))
    page.click("#copy-link")
    page.click("text=Store and copy link")
    copied(page)
    shown(page)
    page.click(".chip-main")
    page.click(".chip-panel >> text=Choose a region")
    page.wait_for_function("() => document.querySelector('.region-frame img')?.naturalWidth > 0")
    for name, value in (("x", 2), ("y", 3), ("w", 20), ("h", 10)):
        page.fill(f"#box-{name}", str(value))
        page.dispatch_event(f"#box-{name}", "change")
    answered(page, lambda: page.click("#apply-region"))
    gallery = site.service.handle("shop").gallery
    results = [hit.id for hit in gallery.search(files[0], box=(2, 3, 20, 10), k=20)]
    assert is_start(shown(page), results)
    link = re.sub("&box=[^&]*", "", page.url) + "&compare=other"
    both = tab(link.removeprefix(site.url))
    both.wait_for_function("document.querySelectorAll('#results .pane').length === 2")
    both.wait_for_selector("#results .pane:nth-child(2) .cell:not(.empty)")
    first = both.locator("#results .pane:nth-child(2) .cell .thumbnail").first
    expected = expected_ids(site, files[0], name="other")[0]
    assert parse_qs(urlsplit(first.get_attribute("href") or "").query)["id"] == [expected]


def test_without_a_clipboard_the_link_is_shown(tab: Open, site: Serving) -> None:
    page = tab("/g/shop?text=3")
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error()) }")
    page.click("#copy-link")
    page.wait_for_selector("#share-dialog[open]")
    assert page.input_value("#share-dialog input") == page.url
    assert DETAIL not in page.inner_text("#share-dialog")
    page.click("#share-dialog >> text=Close")
    page.wait_for_selector("#share-dialog", state="hidden")


def test_texts_are_in_german(tab: Open, site: Serving, files: list[str]) -> None:
    page = tab("/g/shop", locale="de-DE")
    answered(page, lambda: page.set_input_files("#file", files[0]))
    page.click("text=Link kopieren")
    page.wait_for_selector("text=für 7 Tage auf dem Server gespeichert")
    assert page.locator("text=Speichern und Link kopieren").is_visible()


def test_sharing_is_not_offered_by_default(
    tab: Open, galleries: dict[str, Gallery], files: list[str]
) -> None:
    with serving(galleries) as served:
        page = tab("/g/shop", base=served.url)
        assert page.locator("#copy-link").is_visible()
        answered(page, lambda: page.set_input_files("#file", files[0]))
        assert not page.locator("#copy-link").is_visible()


def test_images_are_shared_with_a_key(
    tab: Open, galleries: dict[str, Gallery], shared: Path, files: list[str], tmp_path: Path
) -> None:
    key = add_key(tmp_path / "keys.json", "reader", write=False)
    settings = ServeSettings(
        hosts=LOOPBACK, share_days=7, share_folder=shared, keys=KeyFile(tmp_path / "keys.json")
    )
    with serving(galleries, settings) as served:
        page = tab("/g/shop", base=served.url, allow="401", **CLIPBOARD)
        page.fill("#key", key)
        page.click("#sign-in button")
        page.wait_for_selector("main[data-page=browse][data-ready]")
        answered(page, lambda: page.set_input_files("#file", files[0]))
        page.click("#copy-link")
        page.click("text=Store and copy link")
        copied(page)
        page.wait_for_selector(".chip img")
        assert "Shared image" in page.locator(".chip").inner_text()
