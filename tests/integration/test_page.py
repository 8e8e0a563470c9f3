"""The page in Debian's Chromium, as a person uses it.

Screenshots are left in build/page.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.download import NpmPackage
from lookalike.encoders.registry import open_encoder
from lookalike.evaluation.saved import save_evaluation
from lookalike.explore import build_map
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import neighbor_graph
from lookalike.labels import save_session, suggest
from lookalike.report.evaluation import report_page
from lookalike.server.api_keys import add_key, read_keys
from lookalike.server.limits import Limits
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.color_words import color_words
from tests.conftest import Require
from tests.integration.test_cli import lookalike
from tests.integration.test_mnist import fetched
from tests.serving import Serving, serving
from tests.unit.test_image_header import photograph

SCREENSHOTS = Path(__file__).parents[2] / "build" / "page"
AXE = NpmPackage("axe-core", "4.14.1", "package")
NOTE = '<img src=x onerror=alert(1)> & "it\'s"'
HOSTILE = "<script>alert(1)<"
COLORS = {"red": (200, 20, 20), "green": (20, 200, 20), "<b>blue": (9, 9, 200)}

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page") / "colors"
    rng = np.random.default_rng(0)
    lines = ["path,year,note,sale"]
    for label, color in COLORS.items():
        (root / label).mkdir(parents=True)
        for number in range(10):
            spread = 20 + 6 * number
            noise = rng.integers(-spread, spread, (60, 80, 3))
            pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
            name = f"{label}/{HOSTILE if number == 3 else number}.png"
            Image.fromarray(pixels).save(root / name)
            note = '"' + NOTE.replace('"', '""') + f' {number}{label}"'
            lines.append(f"{name},{2000 + number},{note},{'true' if number % 2 else 'false'}")
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, colors: Path, require: Require
) -> Iterator[Serving]:
    """A shop with two encoders, digits for the drawing pad, and an empty gallery."""
    folder = tmp_path_factory.mktemp("site")
    digits = fetched("dataset:mnist/train[:6000]", require)
    galleries = {}
    for name, encoder, source in [
        ("shop", "color", open_source(colors)),
        ("other", "pixels", open_source(colors)),
        ("digits", "hog", digits),
    ]:
        gallery = Gallery.create(
            folder / f"{name}.gallery", encoder=open_encoder(encoder, sample_images(source))
        )
        gallery.sync(source)
        galleries[name] = gallery
    build_map(galleries["shop"])
    for name, count in (("shop", 18), ("other", 6)):  # 6: one group of all colors
        graph = neighbor_graph(galleries[name])
        save_session(galleries[name], graph, suggest(graph, count), None)
    evaluation = la.evaluate(galleries["other"])
    save_evaluation(
        evaluation, galleries["other"], asdict(report_page(evaluation, galleries["other"]))
    )
    galleries["empty"] = Gallery.create(folder / "empty.gallery", encoder=galleries["shop"].encoder)
    with serving(galleries) as served:
        yield served


@pytest.fixture(scope="module")
def chromium(require: Require) -> Iterator[Any]:
    path = shutil.which("chromium")
    require(path, "Chromium is not installed (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Any, site: Serving) -> Iterator[Open]:
    """Open pages; console errors and requests to other hosts fail the test."""
    errors: list[str] = []
    contexts = []

    def opened(path: str, *, base: str = site.url, allow: str = r"^$", **how: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **how})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)

        def logged(message: Any) -> None:
            if message.type in ("error", "warning") and not re.search(allow, message.text):
                errors.append(message.text)

        def requested(request: Any) -> None:
            if urlsplit(request.url).netloc != urlsplit(base).netloc and not request.url.startswith(
                ("blob:", "data:")
            ):
                errors.append(f"requested {request.url}")

        page.on("console", logged)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.on("request", requested)
        page.goto(base + path)
        if how.get("java_script_enabled", True):
            page.wait_for_selector("main[data-ready]")
        return page

    yield opened
    for context in contexts:
        assert context.cookies() == []
        context.close()
    assert errors == []


SETTLED = """() => document.querySelector("main").hasAttribute("data-ready")
  && !document.querySelector("#results").hasAttribute("aria-busy")
  && !document.querySelector("#results .cell.empty")
  && document.querySelector("#results .cell, #results .empty, #results .problem")"""


DRAWN = """() => document.querySelector("#results .cell")
  && !document.querySelector("#results .thumbnail:not(.loaded, .missing)")"""


def shown(page: Any) -> list[str]:
    """Return the ids in the grid, once they have been loaded."""
    page.wait_for_function(SETTLED)
    links = page.locator("#results .cell .thumbnail").evaluate_all(
        "all => all.map((each) => [Number(each.parentNode.dataset.index), each.href])"
    )
    return [parse_qs(urlsplit(url).query)["id"][0] for _, url in sorted(links)]


def answered(page: Any, action: Callable[[], object], path: str = "/search") -> list[str]:
    """Do something that is answered by the API; return the ids that are shown then."""
    with page.expect_response(lambda response: path in response.url) as event:
        action()
    assert event.value.status == 200
    page.wait_for_timeout(100)
    return shown(page)


def listed(page: Any, action: Callable[[], object]) -> list[str]:
    return answered(page, action, "/items?")


def combined(
    site: Serving, like: list[str], unlike: list[str] | None = None, **options: Any
) -> list[str]:
    """Return the ids of the results of several items of the shop."""
    gallery = site.service.handle("shop").gallery
    items = {
        name: [gallery[row_id] for row_id in rows]
        for name, rows in (("like", like), ("unlike", unlike or []))
        if rows
    }
    return ids(site, "shop", **items, **options)


def is_start(part: list[str], whole: list[str]) -> bool:
    """Return whether a grid shows the first ones of all."""
    return len(part) > 5 and part == whole[: len(part)]


def screenshot(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def ids(site: Serving, name: str, *query: Any, **options: Any) -> list[str]:
    return [hit.id for hit in site.service.handle(name).gallery.search(*query, **options)]


def item(name: str = "red/4.png") -> str:
    return f"/g/shop?id={quote('colors:' + name, safe='')}"


def test_the_list_of_galleries_shows_some_of_their_images(tab: Open, site: Serving) -> None:
    page = tab("/")
    cards = page.locator(".galleries li")
    names = [handle.name for handle in site.service]
    assert cards.locator("a").all_inner_texts() == names
    for place, name in enumerate(names):
        images = cards.nth(place).locator(".covers img")
        assert images.count() == (0 if name == "empty" else 4)
        for number in range(images.count()):
            handle = images.nth(number).element_handle()
            page.wait_for_function("(image) => image.naturalWidth > 0", arg=handle)
    screenshot(page, "galleries")
    with page.expect_navigation():
        cards.nth(1).click(position={"x": 5, "y": 5})
    assert urlsplit(page.url).path == f"/g/{names[1]}"
    page.wait_for_function(DRAWN)


def test_browse_in_an_order_and_in_groups(tab: Open, site: Serving) -> None:
    page = tab("/g/shop")
    gallery = site.service.handle("shop").gallery
    assert is_start(shown(page), list(gallery.store.ids()))
    assert page.inner_text("#count") == "30 images"
    screenshot(page, "browse")
    newest = [each.id for each in gallery.browse(sort="-metadata.year")]
    assert is_start(listed(page, lambda: page.select_option("#sort", "-metadata.year")), newest)
    page.select_option("#sort", "")
    listed(page, lambda: page.select_option("#group", "metadata.label"))
    headings = page.locator(".group-heading h2").all_inner_texts()
    assert headings[:2] == ["<b>blue", "green"]
    assert page.locator(".group-heading .muted").all_inner_texts()[:2] == ["10", "10"]
    assert page.locator("#sort").is_disabled()
    screenshot(page, "groups")
    again = tab(page.url.removeprefix(site.url))
    shown(again)
    assert again.locator(".group-heading h2").all_inner_texts()[:2] == headings[:2]
    listed(page, lambda: page.select_option("#group", "month"))
    months = page.locator(".group-heading h2").all_inner_texts()
    assert months == [f"{datetime.now(UTC):%B %Y}"]  # when the files were written


def test_only_what_is_in_sight_is_in_the_page(tab: Open, site: Serving) -> None:
    page = tab("/g/digits")
    rows = [each.id for each in site.service.handle("digits").gallery.browse()]
    assert page.inner_text("#count") == "6,000 images"
    assert is_start(shown(page), rows)
    assert page.locator(".cell").count() < 150
    listed(page, lambda: page.evaluate("scrollTo(0, document.body.scrollHeight / 2)"))
    assert page.locator(".cell").count() < 150
    listed(page, lambda: page.evaluate("scrollTo(0, document.body.scrollHeight)"))
    assert shown(page)[-10:] == rows[-10:]
    page.locator(".cell .thumbnail").last.focus()
    page.keyboard.press("Home")
    assert is_start(shown(page), rows)


def test_keyboard(tab: Open, site: Serving) -> None:
    page = tab("/g/shop")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.evaluate("document.activeElement.blur()")
    names = shown(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#lightbox[open]")
    assert names[1].rpartition("/")[2] == page.inner_text("#lightbox-title")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#lightbox .position >> text=3 of 30")
    page.keyboard.press("Escape")
    page.wait_for_selector("#lightbox", state="hidden")
    focused = page.evaluate("document.activeElement.parentNode.dataset.index")
    assert focused == "2"
    page.keyboard.press(" ")
    page.wait_for_selector("#selection-bar >> text=1 selected")
    page.keyboard.press("Escape")
    page.wait_for_selector("#selection-bar", state="hidden")


def test_search_with_an_item_and_go_back(tab: Open, site: Serving) -> None:
    page = tab("/g/shop")
    first = shown(page)
    cell = page.locator(".cell").nth(5)
    cell.hover()
    results = answered(page, cell.locator(".similar").click)
    assert is_start(results, ids(site, "shop", id=first[5], k=30))
    assert parse_qs(urlsplit(page.url).query)["id"] == [first[5]]
    assert page.locator(".chip").count() == 1
    assert re.fullmatch(r"\d+\s?%", page.locator(".similarity").first.inner_text())
    screenshot(page, "results")
    assert shown(tab(page.url.removeprefix(site.url))) == results
    listed(page, page.go_back)
    assert shown(page) == first


def test_the_first_results_of_a_url_come_with_the_page(tab: Open, site: Serving) -> None:
    page = tab("/g/empty")
    paths: list[str] = []
    page.on("request", lambda request: paths.append(urlsplit(request.url).path))
    rows = list(site.service.handle("shop").gallery.store.ids())
    sales = site.service.handle("shop").gallery.browse(where="sale = true", sort="name")
    like, unlike = [rows[4]], [rows[20]]
    k = len(rows)
    for query, expected in {
        "sort=name&value:sale=yes": list(sales.ids(slice(0, k))),
        f"id={quote(rows[4])}&min:year=2003": ids(
            site, "shop", id=rows[4], where="year >= 2003", k=k
        ),
        f"id={quote(rows[4])}&not-id={quote(rows[20])}&weights=1,.25": combined(
            site, like, unlike, weights=[1, 0.25], k=k
        ),
        f"id={quote(rows[4])}&text=green": ids(site, "shop", id=rows[4], keywords="green", k=k),
        f"id={quote(rows[4])}&min_similarity=0.9": ids(
            site, "shop", id=rows[4], min_similarity=0.9, k=k
        ),
    }.items():
        page.goto(f"{site.url}/g/shop?{query}")
        page.wait_for_selector("main[data-ready]")
        assert is_start(shown(page), expected)
    assert not [path for path in paths if path.endswith(("/search", "/items"))]


def test_words_that_match_nothing_are_named(tab: Open, site: Serving) -> None:
    page = tab("/g/shop")
    for type_words in (lambda: page.fill("#text", "green grean"), page.reload):
        type_words()
        page.wait_for_selector("#count >> text=No name or metadata with 'grean' (similar: green).")
        assert is_start(shown(page), ids(site, "shop", text="green", k=100))


def test_uploaded_file_and_its_url(tab: Open, site: Serving, colors: Path) -> None:
    page = tab("/g/shop")
    path = colors / "green" / "7.png"
    results = answered(page, lambda: page.set_input_files("#file", path))
    assert is_start(results, ids(site, "shop", path, k=30))
    page.wait_for_function("() => location.search.includes('upload=')")
    page.reload()
    assert shown(page) == results
    elsewhere = tab(page.url.removeprefix(site.url))
    elsewhere.wait_for_selector("[role=alert] >> text=Image not available")


def test_dropped_and_pasted_images(tab: Open, site: Serving, colors: Path) -> None:
    page = tab("/g/shop")
    make = """async (files) => {
      const data = new DataTransfer();
      for (const [base64, name] of files) {
        const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
        data.items.add(new File([bytes], name, { type: "image/png" }));
      }
      return data;
    }"""

    def data(*names: str) -> Any:
        paths = [colors / name for name in names]
        files = [[base64.b64encode(path.read_bytes()).decode(), path.name] for path in paths]
        return page.evaluate_handle(make, files)

    holder = data("red/1.png")
    page.dispatch_event("body", "dragenter", {"dataTransfer": holder})
    assert page.locator("#drop-overlay").is_visible()
    drop = partial(page.dispatch_event, "body", "drop", {"dataTransfer": holder})
    assert is_start(answered(page, drop), ids(site, "shop", colors / "red/1.png", k=30))
    assert not page.locator("#drop-overlay").is_visible()
    paste = partial(
        page.evaluate,
        "(data) => dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))",
        data("green/2.png"),
    )
    answered(page, paste)
    assert page.locator(".chip-name").all_inner_texts() == ["1.png", "2.png"]
    holder = data("red/1.png", "red/2.png", "red/5.png")
    drop = partial(page.dispatch_event, "body", "drop", {"dataTransfer": holder})
    answered(page, drop)
    assert page.locator(".chip-name").all_inner_texts() == ["1.png", "2.png", "5.png"]


def test_camera(tab: Open) -> None:
    page = tab("/g/shop", permissions=["camera"])
    page.click("#camera")
    page.wait_for_function("() => document.querySelector('#camera-dialog video').videoWidth > 0")
    assert len(answered(page, lambda: page.click("#take-photo"))) > 5
    assert not page.locator("#camera-dialog").is_visible()
    assert page.evaluate("document.querySelector('#camera-dialog video').srcObject") is None


def test_drawing_a_seven_finds_sevens(tab: Open) -> None:
    page = tab("/g/digits")
    page.click("button[data-popover=drawing-pad]")
    pad = page.locator("#drawing-pad canvas").bounding_box()

    def to(x: float, y: float, steps: int = 6) -> None:
        page.mouse.move(pad["x"] + x * pad["width"], pad["y"] + y * pad["height"], steps=steps)

    to(0.25, 0.25, 1)
    page.mouse.down()
    to(0.72, 0.25)
    page.wait_for_selector(".chip")
    to(0.45, 0.85)
    answered(page, page.mouse.up)
    page.wait_for_timeout(500)
    shown(page)
    labels = page.locator("#results .label").all_text_contents()[:7]
    assert labels.count("7") >= 5
    screenshot(page, "drawing")
    page.click("#undo-stroke")
    assert page.locator("#drawing-pad").get_attribute("data-side") == "28"
    assert not tab("/g/shop").locator("#drawing-pad").count()


def test_region(tab: Open, site: Serving) -> None:
    page = tab(item())
    row = "colors:red/4.png"

    def open_region() -> None:
        shown(page)
        page.click(".chip-main")
        page.click(".chip-panel >> text=Choose a region")
        page.wait_for_function(
            "() => document.querySelector('.region-frame img')?.naturalWidth > 0"
        )

    open_region()
    frame = page.locator(".region-frame img").bounding_box()
    scale = 80 / frame["width"]
    page.mouse.move(frame["x"] + 10 / scale, frame["y"] + 5 / scale)
    page.mouse.down()
    page.mouse.move(frame["x"] + 50 / scale, frame["y"] + 35 / scale, steps=5)
    page.mouse.up()
    screenshot(page, "region")
    results = answered(page, lambda: page.click("#apply-region"))
    assert is_start(results, ids(site, "shop", id=row, box=(10, 5, 40, 30), k=30))
    assert parse_qs(urlsplit(page.url).query)["box"] == ["10,5,40,30"]
    page.reload()
    assert shown(page) == results
    open_region()
    page.focus(".crop-box")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    assert [page.input_value(f"#box-{each}") for each in "xywh"] == ["12", "5", "40", "32"]
    page.fill("#box-w", "9")
    page.press("#box-w", "Tab")
    results = answered(page, lambda: page.click("#apply-region"))
    assert is_start(results, ids(site, "shop", id=row, box=(12, 5, 9, 32), k=30))
    open_region()
    page.click("#whole-image")
    results = answered(page, lambda: page.click("#apply-region"))
    assert is_start(results, ids(site, "shop", id=row, k=30))


def test_filters_act_at_once(tab: Open, site: Serving) -> None:
    page = tab("/g/shop")
    gallery = site.service.handle("shop").gallery
    values = page.locator("fieldset[data-column=label] label").all_text_contents()
    assert [" ".join(text.split()) for text in values] == ["<b>blue 10", "green 10", "red 10"]
    green = 'input[name="value:label"][value="green"]'
    assert listed(page, lambda: page.check(green)) == gallery.select(where="label = 'green'")
    assert page.inner_text("#count") == "10 images"
    page.wait_for_selector("fieldset[data-column=label] label.none >> text=red")
    where = "label = 'green' and year >= 2004"
    results = listed(page, lambda: page.fill('input[name="min:year"]', "2004"))
    assert results == gallery.select(where=where)
    screenshot(page, "filters")
    assert shown(tab(page.url.removeprefix(site.url))) == results
    where += " and sale = true"
    sale = 'input[name="value:sale"][value="yes"]'
    assert listed(page, lambda: page.check(sale)) == gallery.select(where=where)
    page.fill("#where", "year = 2001")
    page.press("#where", "Enter")
    page.wait_for_selector("#results >> text=The 4 filters exclude every image.")
    screenshot(page, "nothing-found")
    page.click("#results >> text=Clear filters")
    page.wait_for_selector("#count >> text=30 images")


def test_an_invalid_filter_is_reported_at_its_field(tab: Open) -> None:
    page = tab("/g/shop", allow="422")
    before = shown(page)
    page.fill("#where", "year >")
    page.press("#where", "Enter")
    page.wait_for_selector("#where-error >> text=expected")
    assert page.input_value("#where") == "year >"
    assert shown(page) == before
    screenshot(page, "wrong-filter")
    page.fill("#where", "year > 2005")
    listed(page, lambda: page.press("#where", "Enter"))
    assert not page.locator("#where-error").is_visible()


def test_filters_and_a_query(tab: Open, site: Serving) -> None:
    page = tab(item())
    shown(page)
    green = 'input[name="value:label"][value="green"]'
    results = answered(page, lambda: page.check(green))
    assert results == ids(site, "shop", id="colors:red/4.png", where="label = 'green'", k=30)


def test_examples_attract_and_repel(tab: Open, site: Serving) -> None:
    page = tab("/g/shop")
    like, unlike = "colors:red/4.png", "colors:green/1.png"
    page.goto(f"{page.url}?id={quote(like, safe='')}&not-id={quote(unlike, safe='')}")
    expected = combined(site, [like], [unlike], k=30)
    assert is_start(shown(page), expected)
    assert page.locator(".chip.unlike .chip-name").inner_text() == "\u22121.png"
    page.click(".chip.unlike .chip-main")
    slider = page.locator(".chip.unlike input[type=range]")
    results = answered(page, lambda: slider.fill("1"))
    assert is_start(results, combined(site, [like], [unlike], weights=[1, 1], k=30))
    assert parse_qs(urlsplit(page.url).query)["weights"] == ["1,1"]
    answered(page, lambda: page.click(".chip.unlike .chip-remove"))
    assert is_start(shown(page), ids(site, "shop", id=like, k=30))


def test_threshold_and_options(tab: Open, site: Serving) -> None:
    page = tab(item())
    row = "colors:red/4.png"
    shown(page)

    def set_threshold() -> None:
        page.fill("#threshold", "80")
        page.dispatch_event("#threshold", "change")

    similar = ids(site, "shop", id=row, k=30, min_similarity=0.8)
    assert 0 < len(similar) < 29
    assert is_start(answered(page, set_threshold), similar)
    page.wait_for_selector(f"#count >> text={len(similar)} results")
    page = tab(item())
    page.click("summary >> text=Options")
    other = "l2" if site.service.handle("shop").gallery.metric == "cosine" else "cosine"
    results = answered(page, lambda: page.select_option("#metric", other))
    assert is_start(results, ids(site, "shop", id=row, k=30, metric=other))
    results = answered(page, lambda: page.check("#multi_crop"))
    assert is_start(results, ids(site, "shop", id=row, k=30, metric=other, multi_crop=True))
    results = answered(page, lambda: page.select_option("#rerank", "aqe+k-reciprocal"))
    assert len(results) > 5


def test_two_galleries_side_by_side(tab: Open, site: Serving) -> None:
    page = tab(item())
    shown(page)
    page.click("summary >> text=Options")
    offered = page.locator("#compare option").all_inner_texts()
    assert offered == ["None", "other"]  # not those of other images
    answered(page, lambda: page.select_option("#compare", "other"))
    page.wait_for_function(SETTLED)
    row = "colors:red/4.png"
    for place, name in enumerate(("shop", "other")):
        links = page.locator(".pane").nth(place).locator(".cell .thumbnail")
        urls = links.evaluate_all("all => all.map((each) => each.href)")
        assert all(url.startswith(f"{site.url}/g/{name}?") for url in urls)
        assert is_start(
            [parse_qs(urlsplit(url).query)["id"][0] for url in urls], ids(site, name, id=row, k=30)
        )
    screenshot(page, "beside")


def test_ids_and_metadata_are_escaped(tab: Open) -> None:
    page = tab(item(f"<b>blue/{HOSTILE}.png"))
    shown(page)
    assert f"{HOSTILE}.png" in page.inner_text(".chip-name")
    page.locator(".cell .thumbnail").first.click()
    page.wait_for_selector("#lightbox dd >> text=onerror")
    text = page.inner_text("#lightbox .facts")
    assert '<img src=x onerror=alert(1)> & "it\'s"' in text
    assert page.locator("#results script, #results b, .facts img, .facts b").count() == 0


def test_lightbox(tab: Open, site: Serving) -> None:
    page = tab("/g/shop", permissions=["clipboard-read", "clipboard-write"])
    names = shown(page)
    page.locator(".cell .thumbnail").nth(10).click()
    page.wait_for_function("() => document.querySelector('#lightbox .full').naturalWidth === 80")
    assert page.inner_text("#lightbox-title") == names[10].rpartition("/")[2]
    facts = page.inner_text("#lightbox .facts").split("\n")
    assert names[10] in facts
    assert "year" in facts
    link = page.get_by_role("link", name="Open original").get_attribute("href")
    assert "/item/image?" in link
    page.keyboard.press("+")
    assert "scale(1.5)" in page.get_attribute("#lightbox .full", "style")
    page.keyboard.press("0")
    assert "scale(1)" in page.get_attribute("#lightbox .full", "style")
    page.click("#lightbox >> text=Copy path")
    page.wait_for_selector(".toast.shown")
    assert page.evaluate("navigator.clipboard.readText()") == names[10].partition(":")[2]
    screenshot(page, "lightbox")
    page.click("#lightbox .next")
    page.wait_for_selector("#lightbox .position >> text=12 of 30")
    answered(page, lambda: page.click("#lightbox >> text=Find similar"))
    assert is_start(shown(page), ids(site, "shop", id=names[11], k=30))
    page.locator(".cell .thumbnail").nth(2).click()
    page.wait_for_selector("#lightbox[open]")
    answered(page, lambda: page.click("#lightbox >> text=Not like this"))
    assert page.locator(".chip.unlike").count() == 1


def saved(page: Any, name: str) -> bytes:
    """Return what the selection is exported as."""
    page.click("#selection-bar summary >> text=Export")
    with page.expect_download() as download:
        page.click(f"#selection-bar .menu-items >> text={name}")
    return Path(download.value.path()).read_bytes()


def test_select_and_export(tab: Open, site: Serving, colors: Path) -> None:
    page = tab("/g/shop")
    names = shown(page)
    links = page.locator(".cell .thumbnail")
    links.nth(2).click(modifiers=["Control"])
    links.nth(5).click(modifiers=["Shift"])
    page.wait_for_selector("#selection-bar >> text=4 selected")
    links.nth(3).click(modifiers=["Control"])
    page.wait_for_selector("#selection-bar >> text=3 selected")
    chosen = [names[2], names[4], names[5]]
    screenshot(page, "selection")
    table = list(csv.DictReader(saved(page, "CSV").decode().splitlines()))
    assert [row["id"] for row in table] == chosen
    assert {"year", "label"} <= set(table[0])
    assert [each["id"] for each in json.loads(saved(page, "JSON"))] == chosen
    paths = [name.partition(":")[2] for name in chosen]
    assert saved(page, "Paths").decode().splitlines() == paths
    archive = zipfile.ZipFile(io.BytesIO(saved(page, "ZIP")))
    assert archive.testzip() is None
    assert sorted(archive.namelist()) == sorted(paths)
    with Image.open(archive.open(paths[0])) as image:
        assert image.size == (80, 60)
    page.goto(site.url + item())
    page.wait_for_selector("#selection-bar >> text=3 selected")
    results = answered(page, lambda: page.click("#selection-bar >> text=Find similar"))
    assert is_start(results, combined(site, chosen, k=30))


def test_upload_label_and_remove(tab: Open, tmp_path: Path, colors: Path) -> None:
    gallery = Gallery.create(tmp_path / "new.gallery", encoder=open_encoder("color", colors))
    paths = [colors / "red" / f"{number}.png" for number in (0, 1, 2)]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG nothing")
    with serving({"new": gallery}) as served:
        page = tab("/g/new", base=served.url, allow="422")
        page.wait_for_selector("text=This gallery is empty")
        page.click("#open-upload")
        page.set_input_files("#upload-dialog input[type=file]", [*paths, broken])
        page.wait_for_selector("#upload-dialog [role=status] >> text=3 images added. 1 file failed")
        assert "broken.png" in page.inner_text("#upload-dialog .failures")
        screenshot(page, "upload")
        listed(page, lambda: page.click("#upload-dialog .close"))
        assert page.inner_text("#count") == "3 images"
        page.locator(".cell .thumbnail").nth(0).click(modifiers=["Control"])
        page.fill(".tag-form input", "first")
        listed(page, lambda: page.click(".tag-form button"))
        page.wait_for_selector(".cell .label >> text=first")
        page.click("#selection-bar >> text=Remove from the index")
        listed(page, lambda: page.click("#confirm-dialog button[value=confirm]"))
        page.wait_for_selector("#count >> text=2 images")
        assert len(gallery) == 2


def test_errors_are_shown(tab: Open, tmp_path: Path, colors: Path) -> None:
    page = tab("/g/shop", allow="404|422")
    broken = tmp_path / "broken.png"
    broken.write_bytes((colors / "red" / "1.png").read_bytes()[:200])
    page.set_input_files("#file", broken)
    page.wait_for_selector("[role=alert] >> text=Invalid image")
    assert page.inner_text("#results .problem p").startswith("broken.png: ")
    assert page.locator("#results .problem >> text=Try again").count() == 0  # it would not help
    assert page.inner_text(".chip-name") == "broken.png"
    assert page.locator("#history li").count() == 0  # what was not answered is not a recent query
    assert len(shown(page)) > 5  # and the images stay
    page = tab("/g/none", allow="404")
    assert "Gallery not found" in page.inner_text("main")
    page = tab(item("none.png"), allow="404")
    page.wait_for_selector("#results [role=alert] >> text=no row with the id")
    page = tab("/g/empty")
    assert "This gallery is empty" in page.inner_text("#results")
    page = tab("/g/shop/report")
    assert "Not evaluated yet" in page.inner_text("main")


def test_files_that_are_too_large_are_named_beside_the_results_of_the_others(
    tab: Open, site: Serving, tmp_path: Path, colors: Path
) -> None:
    page = tab("/g/shop")
    before = shown(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    large = [tmp_path / "large.png", tmp_path / "larger.png"]
    for path in large:
        path.write_bytes(b"\x89PNG" + bytes(20_000_000))
    page.set_input_files("#file", large[0])
    page.wait_for_selector("#notices [role=alert] >> text=large.png is larger than 20 MB.")
    page.set_input_files("#file", large)
    both = "large.png and larger.png are larger than 20 MB."
    page.wait_for_selector(f"#notices [role=alert] >> text={both}")
    assert page.inner_text("#notices h2") == "2 files left out"
    screenshot(page, "too-large")
    assert shown(page) == before
    assert not any("/search" in url for url in requests)
    usable = colors / "red" / "5.png"
    results = answered(page, lambda: page.set_input_files("#file", [large[0], usable, large[1]]))
    assert is_start(results, ids(site, "shop", usable, k=30))
    assert both in page.inner_text("#notices")
    assert page.locator(".chip-name").all_inner_texts() == ["5.png"]
    page.click("#notices .dismiss")
    assert page.locator("[role=alert]:visible").count() == 0
    page.set_input_files("#file", large[0])
    answered(page, lambda: page.fill("#text", "green"))  # the next query
    assert page.locator("#notices .problem").count() == 0


def test_files_beyond_those_of_a_query_are_left_out(tab: Open, tmp_path: Path) -> None:
    page = tab("/g/shop")
    paths = [tmp_path / f"{number}.png" for number in range(34)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    answered(page, lambda: page.set_input_files("#file", paths))
    page.wait_for_selector("#notices >> text=2 files left out")
    assert "A query has at most 32 images." in page.inner_text("#notices")
    assert page.locator(".chip").count() == 32


CHARTS = """() => [...document.querySelectorAll('.report picture img')].map(image => ({
  document: atob(image.currentSrc.split(',')[1]), ratio: image.naturalWidth / image.naturalHeight,
  left: image.getBoundingClientRect().left, right: image.getBoundingClientRect().right,
  scale: image.getBoundingClientRect().width / image.naturalWidth,
}))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1440])
def test_charts_follow_the_color_scheme_and_are_readable(
    tab: Open, width: int, scheme: str
) -> None:
    page = tab("/g/other/report", color_scheme=scheme, viewport={"width": width, "height": 900})
    charts = page.evaluate(CHARTS)
    assert len(charts) >= 4
    for chart in charts:
        assert chart["left"] >= 0
        assert chart["right"] <= width
        assert ('"#e6e6e6"' in chart["document"]) == (scheme == "dark")
        assert ('"#222222"' in chart["document"]) == (scheme == "light")
        sizes = map(float, re.findall('font-size="([0-9.]+)px"', chart["document"]))
        assert min(sizes) * chart["scale"] >= 8  # pixels
    assert page.evaluate("document.documentElement.scrollWidth") == width
    screenshot(page, f"charts-{width}-{scheme}")


def test_offline_what_was_loaded_stays_and_the_search_is_repeated(tab: Open, site: Serving) -> None:
    page = tab("/g/shop", allow="Failed to load resource|ERR_INTERNET_DISCONNECTED")
    before = shown(page)
    page.context.set_offline(True)
    page.check('input[name="value:label"][value="green"]')
    page.wait_for_selector("[role=alert] >> text=You are offline")
    assert shown(page) == before
    drawn = "(icon) => icon.getBBox().width > 0"  # icons need no connection
    assert page.eval_on_selector("#results .problem .dismiss .icon", drawn)
    page.context.set_offline(False)
    page.wait_for_selector("#count >> text=10 images")
    assert page.locator("#results .problem").count() == 0


def test_unreachable_service_is_reported(tab: Open, site: Serving) -> None:
    gallery = Gallery.open(site.service.handle("shop").gallery.path)
    with serving({"shop": gallery}) as served:
        page = tab("/g/shop", base=served.url, allow="Failed to load resource|ERR_")
        before = shown(page)
    page.check('input[name="value:label"][value="green"]')
    page.wait_for_selector("[role=alert] >> text=Service unreachable")
    assert page.is_visible("[role=alert] >> text=Try again")
    assert shown(page) == before


def test_a_gallery_that_changes_is_listed_again_where_it_was(tab: Open, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        Image.new("RGB", (8, 8), (number % 256, 9, 90)).save(folder / f"{number:03}.png")
    gallery = Gallery.create(tmp_path / "many.gallery", encoder=open_encoder("color", folder))
    gallery.sync(open_source(folder))
    with serving({"many": gallery}) as served:
        page = tab("/g/many", base=served.url, allow="410")
        rows = shown(page)
        assert page.inner_text("#count") == "300 images"
        page.wait_for_function(DRAWN)
        served.client().gallery("many").add(folder / "299.png", ids=["aaa.png"])
        with page.expect_response(lambda response: response.status == 410):
            page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_selector("#count >> text=301 images")
        assert shown(page)[-1] == "many:299.png"
        assert page.evaluate("scrollY") > 0
        assert page.locator("[role=alert]:visible").count() == 0
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_function(SETTLED)
        assert shown(page)[:3] == ["api:aaa.png", *rows[:2]]
        page.wait_for_function(DRAWN)


def test_two_galleries_whose_folders_have_one_name(tab: Open, tmp_path: Path, colors: Path) -> None:
    galleries = {}
    for name, folder in (("a", "red"), ("b", "green")):
        path = tmp_path / name / "photos.gallery"
        gallery = Gallery.create(path, encoder=open_encoder("color", colors))
        gallery.sync(open_source(colors / folder))
        galleries[name] = gallery
    with serving(galleries) as served:
        page = tab("/g/a", base=served.url)
        assert shown(page)[0] == "red:0.png"
        page.locator(".cell .thumbnail").first.click(modifiers=["Control"])
        page.locator(".cell").nth(2).hover()
        answered(page, page.locator(".cell .similar").nth(2).click)
        page.wait_for_function("() => document.querySelectorAll('#history li').length === 1")
        page.wait_for_function(DRAWN)
        with page.expect_navigation():
            page.select_option("#galleries", "b")
        page.wait_for_selector("main[data-ready]")
        page.wait_for_function(DRAWN)
        assert shown(page)[0] == "green:0.png"
        assert page.locator("#history li").count() == 0
        assert page.is_hidden("#selection-bar")
        with page.expect_navigation():
            page.select_option("#galleries", "a")
        page.wait_for_selector("#selection-bar >> text=1 selected")
        page.wait_for_function(DRAWN)


def test_recent_queries(tab: Open, site: Serving, colors: Path) -> None:
    page = tab("/g/shop")
    shown(page)
    results = answered(page, lambda: page.set_input_files("#file", colors / "red" / "5.png"))
    page.locator(".cell").nth(2).hover()
    answered(page, page.locator(".cell .similar").nth(2).click)
    page.wait_for_function("() => document.querySelectorAll('#history li').length === 2")
    assert answered(page, lambda: page.locator("#history li button").nth(1).click()) == results
    page.click("#history > button")
    page.wait_for_selector("#history", state="hidden")


def test_recent_queries_of_images_that_are_gone_are_forgotten(
    tab: Open, tmp_path: Path, colors: Path
) -> None:
    gallery = Gallery.create(tmp_path / "new.gallery", encoder=open_encoder("color", colors))
    gallery.sync(open_source(colors))
    gone = "colors:red/4.png"
    with serving({"new": gallery}) as served:
        page = tab(f"/g/new?id={quote(gone, safe='')}", base=served.url, allow="404")
        shown(page)
        answered(page, lambda: page.set_input_files("#file", colors / "red" / "5.png"))
        page.wait_for_function("() => document.querySelectorAll('#history li').length === 2")
        answered(page, lambda: page.fill("#text", "green"))
        page.press("#text", "Enter")
        page.wait_for_function("() => document.querySelectorAll('#history li').length === 3")
        gallery.remove([gone])
        page.evaluate(DELETE_UPLOADS)
        page.goto(f"{served.url}/g/new?text=green")
        page.wait_for_function("() => document.querySelectorAll('#history li').length === 1")
        assert page.inner_text("#history li") == "green"
        assert page.locator("#history img").count() == 0


DELETE_UPLOADS = """() => new Promise((resolve) => {
  indexedDB.open("lookalike").onsuccess = ({ target }) => {
    const transaction = target.result.transaction("uploads", "readwrite");
    transaction.objectStore("uploads").clear();
    transaction.oncomplete = resolve;
  };
})"""


def test_page_in_german(tab: Open) -> None:
    page = tab("/g/shop", locale="de-DE")
    shown(page)
    assert page.evaluate("document.documentElement.lang") == "de"
    assert page.inner_text("#count") == "30 Bilder"
    assert page.inner_text("button.search-button") == "Suchen"
    page.fill("#text", "qqqq")
    page.wait_for_selector("text=Nichts gefunden")
    page = tab("/g/shop?where=year%20%3E", locale="de-DE", allow="422")
    page.wait_for_selector("#results [role=alert] >> text=Ungültige Anfrage")
    page = tab("/g/none", locale="de-DE", allow="404")
    assert page.inner_text("h1") == "Galerie nicht gefunden"
    for view, title in (
        ("shop/label", "Bilder beschriften"),
        ("shop/judge", "Ergebnisse bewerten"),
        ("shop/map", "Karte von shop"),
        ("digits/report", "Noch nicht evaluiert"),
    ):
        page = tab(f"/g/{view}", locale="de-DE")
        assert title in page.inner_text("main"), view
        screenshot(page, f"{view.partition('/')[2]}-german")


def download_judgements(page: Any, tmp_path: Path) -> tuple[Path, Any]:
    with page.expect_download() as download:
        page.click("#download")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    return path, json.loads(path.read_text())


def test_judge_results_by_keyboard(tab: Open, site: Serving, tmp_path: Path) -> None:
    page = tab("/g/shop/judge")
    page.fill("#queries", "3")
    page.fill("#k", "4")
    page.click("#judge-form button:not([type])")
    for number in range(12):
        page.wait_for_selector(f"#progress >> text={number} of 12 judged")
        page.wait_for_selector("#stage .pair img >> nth=1")
        if number == 5:
            screenshot(page, "judging")
            page.reload()
            page.wait_for_selector("main[data-ready]")
            page.click("#resume")
            page.wait_for_selector("#progress >> text=5 of 12 judged")
            page.wait_for_selector("#stage .pair img >> nth=1")
        page.keyboard.press("r" if number % 4 else "n")
    page.wait_for_selector("text=All judged")
    page.keyboard.press("u")
    page.wait_for_selector("#progress >> text=11 of 12 judged")
    page.keyboard.press("n")
    page.wait_for_selector("text=All judged")
    _, document = download_judgements(page, tmp_path)
    gallery = site.service.handle("shop").gallery
    assert document["galleries"]["shop"]["fingerprint"] == gallery.encoder.fingerprint
    assert len(document["hits"]) == 3
    for each in document["hits"]:
        expected = ids(site, "shop", id=each["query"], k=4)
        assert [hit["id"] for hit in each["answers"]] == expected
        assert [hit["rank"] for hit in each["answers"]] == [1, 2, 3, 4]
    relevant = [hit["relevant"] for each in document["hits"] for hit in each["answers"]]
    assert relevant.count(True) == 8


def test_only_galleries_with_a_common_source_are_compared(tab: Open, site: Serving) -> None:
    page = tab("/g/shop/judge")
    assert page.locator("#other option").all_inner_texts() == ["other"]
    for path, base in (("/g/digits/judge", site.url), ("/g/empty/judge", site.url)):
        page = tab(path, base=base)
        assert page.locator("#other, #kind").count() == 0
        assert "compare" not in page.inner_text("main")
    gallery = Gallery.open(site.service.handle("shop").gallery.path)
    with serving({"shop": gallery}, ServeSettings(hosts=LOOPBACK)) as served:
        page = tab("/g/shop/judge", base=served.url)
        assert page.locator("#other, #kind").count() == 0
        page.fill("#queries", "1")
        page.click("#judge-form button:not([type])")
        page.wait_for_selector("#stage .pair img >> nth=1")


def test_compare_two_galleries_blind(tab: Open, site: Serving, tmp_path: Path) -> None:
    page = tab("/g/shop/judge")
    page.select_option("#kind", "sets")
    page.select_option("#other", "other")
    page.fill("#queries", "6")
    page.fill("#k", "3")
    page.click("#judge-form button:not([type])")
    image_counts = []
    for number in range(6):
        page.wait_for_selector(f"#progress >> text={number} of 6 judged")
        page.wait_for_selector("#stage .result-set >> nth=1")
        assert "shop" not in page.inner_text("#stage")
        assert "other" not in page.inner_text("#stage")
        image_counts.append(page.locator("#stage .result-set").first.locator("img").count())
        page.keyboard.press("1")
    screenshot(page, "judged")
    path, document = download_judgements(page, tmp_path)
    assert image_counts == [3] * 6
    sides = [each["preferred"] for each in document["preferences"]]
    assert set(sides) == {"a", "b"}  # the sides are swapped at random
    done = lookalike("evaluate", "judgements", path, "--json")
    assert done.returncode == 0, done.stderr


def test_sign_in_with_an_api_key(tab: Open, site: Serving, tmp_path: Path, colors: Path) -> None:
    file = tmp_path / "keys.json"
    secret = add_key(file, "reader", write=False)
    gallery = site.service.handle("shop").gallery
    settings = ServeSettings(keys=read_keys(file), hosts=LOOPBACK)
    with serving({"shop": Gallery.open(gallery.path)}, settings) as served:
        page = tab("/g/shop", base=served.url, allow="401")
        assert "API key required" in page.inner_text("main")
        page.fill("#key", "la_wrong")
        page.click("text=Sign in")
        page.wait_for_selector("#sign-in-error >> text=Invalid API key")
        screenshot(page, "sign-in")
        page.fill("#key", secret)
        page.click("text=Sign in")
        page.wait_for_selector("main[data-page=browse][data-ready]")
        path = colors / "red" / "5.png"
        results = answered(page, lambda: page.set_input_files("#file", path))
        assert is_start(results, ids(site, "shop", path, k=30))
        page.wait_for_selector(".cell .thumbnail.loaded")
        page.reload()
        page.wait_for_selector("main[data-page=browse][data-ready]")
        assert shown(page) == results
        link = page.locator(".cell img").first.get_attribute("src")
        assert "signature=" in link
        for view, image in (("label", "#group img"), ("judge", "#stage .pair img >> nth=1")):
            page.goto(f"{served.url}/g/shop/{view}")
            page.wait_for_selector(f"main[data-page={view}][data-ready]")
            if view == "judge":
                page.click("#judge-form button:not([type])")
            handle = page.wait_for_selector(image)
            page.wait_for_function("(image) => image.naturalWidth > 0", arg=handle)
        page.click("#sign-out")
        page.wait_for_selector("main[data-page=sign-in]")
        assert secret not in page.evaluate("JSON.stringify([sessionStorage, localStorage])")


def plain_results(page: Any) -> list[str]:
    """Return the ids that a page without scripts shows."""
    links = page.locator("#results .thumbnail").all()
    return [parse_qs(urlsplit(each.get_attribute("href")).query)["id"][0] for each in links]


def test_without_javascript(tab: Open, site: Serving) -> None:
    page = tab("/g/shop", java_script_enabled=False)
    rows = site.service.handle("shop").gallery.store.ids()
    plain = partial(plain_results, page)
    assert plain() == list(rows)
    with page.expect_navigation():
        page.locator(".thumbnail").first.click()
    assert plain() == ids(site, "shop", id=rows[0], k=30)
    page.fill("#text", "green")
    with page.expect_navigation():
        page.click(".search-button")
    assert plain() == ids(site, "shop", keywords="green", k=30)
    page.check('input[name="value:sale"][value="yes"]')
    with page.expect_navigation():
        page.click("noscript button")
    assert plain() == ids(site, "shop", keywords="green", where="sale = true", k=30)
    page.fill("#text", "qqqq")
    with page.expect_navigation():
        page.click(".search-button")
    assert "Nothing found" in page.inner_text("#results")
    page.goto(f"{site.url}/g/shop?upload={'0' * 64}")
    assert "Image not available" in page.inner_text("#results")


@pytest.mark.parametrize("width", [320, 390, 768])
def test_no_horizontal_scrolling_on_a_phone(tab: Open, width: int) -> None:
    for path in (
        "/",
        "/g/shop",
        item() + "&compare=other",
        "/g/shop/judge",
        "/g/digits",
        "/g/shop/map",
        "/g/shop/label",
    ):
        page = tab(path, viewport={"width": width, "height": 800}, has_touch=True, is_mobile=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        screenshot(
            page, f"phone-{width}-{re.sub('[^a-z]+', '-', path.partition('?')[0]).strip('-')}"
        )


WHERE = """async (row) => {
  const data = await (await fetch("/v1/galleries/shop/map")).json();
  const bytes = Uint8Array.from(atob(data.points), (each) => each.charCodeAt(0));
  const steps = [...new Uint16Array(bytes.buffer)].map((each) => each / 65535);
  const [xs, ys] = [0, 1].map((axis) => steps.filter((_, i) => i % 2 === axis));
  const box = document.querySelector(".viewport canvas").getBoundingClientRect();
  const extent = (values) => Math.max(...values) - Math.min(...values);
  const middle = (values) => (Math.max(...values) + Math.min(...values)) / 2;
  const scale = 0.92 * Math.min(box.width / extent(xs), box.height / extent(ys));
  return [box.left + box.width / 2 + (xs[row] - middle(xs)) * scale,
          box.top + box.height / 2 + (ys[row] - middle(ys)) * scale];
}"""


def test_map_hover_click_and_lasso(tab: Open, site: Serving) -> None:
    page = tab("/g/shop/map")
    gallery = site.service.handle("shop").gallery
    rows = gallery.store.ids()
    x, y = page.evaluate(WHERE, 4)  # with the whole map in view
    page.mouse.move(x, y)
    page.wait_for_selector(".tooltip:not([hidden]) canvas")
    screenshot(page, "map-hover")
    page.mouse.click(x, y)
    page.wait_for_selector(".thumbnails canvas")
    assert rows[4] in page.inner_text("aside [role=status]")
    assert page.get_by_role("link", name="Find similar").get_attribute("href") == (
        f"/g/shop?id={quote(rows[4], safe='')}"
    )
    near = [hit.id.rpartition("/")[2] for hit in gallery.search(id=rows[4], k=8)]
    shown = page.locator(".thumbnails button").evaluate_all("all => all.map((each) => each.title)")
    assert shown[1:] == near
    page.keyboard.press("Escape")
    page.click("text=Lasso")
    box = page.locator(".viewport canvas").first.bounding_box()
    left, top = box["x"] + 2, box["y"] + 2
    relevant, bottom = box["x"] + box["width"] - 2, box["y"] + box["height"] - 2
    page.mouse.move(left, top)
    page.mouse.down()
    for to in ((relevant, top), (relevant, bottom), (left, bottom)):
        page.mouse.move(*to, steps=4)
    page.mouse.up()
    page.wait_for_selector(f"aside [role=status]:has-text('{len(rows)} images')")
    page.fill("aside input", 'a "b", c')
    with page.expect_download() as saved:
        page.click("text=Download CSV")
    table = list(csv.DictReader(Path(saved.value.path()).read_text("utf-8").splitlines()))
    assert [row["id"] for row in table] == list(rows)
    assert {row["label"] for row in table} == {'a "b", c'}


def test_map_keyboard_and_colors(tab: Open) -> None:
    page = tab("/g/shop/map")
    page.select_option(".toolbar select", label="label")
    assert page.locator(".legend button").count() == len(COLORS)
    page.click(".legend button >> nth=0")
    page.wait_for_selector("aside [role=status]:has-text('10 images')")

    def picture() -> str:
        page.wait_for_timeout(150)
        return str(page.evaluate("document.querySelector('.viewport canvas').toDataURL()"))

    page.focus(".viewport canvas")
    seen = [picture()]
    for key in ("+", "+", "ArrowRight", "ArrowDown", "-"):
        page.keyboard.press(key)
        seen.append(picture())
    assert len(set(seen)) == len(seen)


def test_missing_map_and_suggestions_name_the_command(tab: Open) -> None:
    for view, command in (("map", "explore map"), ("label", "label suggest")):
        page = tab(f"/g/digits/{view}", allow="404")
        assert page.inner_text(".empty code").startswith(f"lookalike {command} GALLERY")
        assert page.locator("[role=alert]").count() == 0
    page = tab("/g/digits/report")
    assert page.inner_text(".empty code") == "lookalike evaluate GALLERY --save"


def group(page: Any) -> list[str]:
    """Return the kinds of the images in the group."""
    page.wait_for_selector("#group img")
    titles = page.locator("#group .thumbnail").evaluate_all("all => all.map((each) => each.title)")
    return [row_id.partition(":")[2].partition("/")[0] for row_id in titles]


def test_label_groups_by_keyboard(tab: Open) -> None:
    page = tab("/g/shop/label")
    assert page.inner_text("#progress") == "0 of 18 images labeled"
    done = 0
    while done < 18:
        kinds = group(page)
        kind = kinds[0]
        for place, other in enumerate(kinds):
            if other != kind:
                page.locator("#group .thumbnail").nth(place).click()
        key = page.locator("#labels button", has_text=kind).locator("kbd")
        if key.count():
            page.keyboard.press(key.inner_text().lower())
        else:
            page.fill("#label-name", kind)
            page.press("#label-name", "Enter")
        done += kinds.count(kind)
        page.wait_for_selector(f"#progress:has-text('{done}')")
    page.wait_for_selector("#coverage:has-text('of 30 images')")
    screenshot(page, "label-all")
    page.keyboard.press("u")
    page.wait_for_selector("#progress:has-text('of 18 images labeled')")
    before = group(page)
    page.reload()
    page.wait_for_selector("main[data-ready]")
    assert group(page) == before
    page.locator("#labels button", has_text=before[0]).click()
    page.wait_for_selector("#finished >> text=All 18 images are labeled")
    assert "--labels shop-labels.csv" in page.inner_text("#finished code")
    with page.expect_download() as saved:
        page.click("#download")
    table = list(csv.DictReader(Path(saved.value.path()).read_text("utf-8").splitlines()))
    assert len(table) == 18
    assert all(row["label"] == row["id"].partition(":")[2].partition("/")[0] for row in table)


def test_a_mixed_group_is_labeled_after_a_confirmation(tab: Open) -> None:
    page = tab("/g/other/label")
    assert len(set(group(page))) == 3
    assert re.fullmatch(r"6 images · homogeneity \d+%", page.inner_text("#group-facts"))
    assert page.is_visible("#mixed")
    page.fill("#label-name", "thing")
    page.press("#label-name", "Enter")
    page.wait_for_selector("#confirm-dialog >> text=Label all 6 images “thing”?")
    screenshot(page, "label-confirm")
    page.keyboard.press("t")  # the label's key does nothing there
    page.keyboard.press("Escape")
    page.wait_for_selector("#confirm-dialog", state="hidden")
    assert page.inner_text("#progress") == "0 of 6 images labeled"
    page.keyboard.press("t")
    page.wait_for_selector("#confirm-dialog[open]")
    page.evaluate(  # opened again before the event of its closing
        """() => {
          document.querySelector("#confirm-dialog").close();
          document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "t", bubbles: true }));
        }"""
    )
    page.wait_for_selector("#confirm-dialog[open]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#progress:has-text('6 of 6')")
    page.keyboard.press("u")
    page.wait_for_selector("#progress:has-text('0 of 6')")
    page.locator("#group .thumbnail").first.click()
    page.keyboard.press("t")  # one is taken out: without a confirmation
    page.wait_for_selector("#progress:has-text('5 of 6')")
    assert page.inner_text("#group-facts") == "1 image left of a group"
    assert page.is_hidden("#mixed")
    page.keyboard.press("t")
    page.wait_for_selector("#progress:has-text('6 of 6')")


def test_images_to_label_are_enlarged(tab: Open) -> None:
    page = tab("/g/shop/label")
    thumbnails = page.locator("#group .thumbnail")
    pressed = "all => all.map((each) => each.ariaPressed)"
    page.wait_for_selector("#group img")
    count = thumbnails.count()
    thumbnails.first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#lightbox .stage:not([aria-busy])")
    title = page.inner_text("#lightbox h2")
    page.keyboard.press("ArrowRight")
    changed = "(title) => document.querySelector('#lightbox h2').textContent !== title"
    page.wait_for_function(changed, arg=title)
    screenshot(page, "label-lightbox")
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    page.wait_for_selector("#lightbox", state="hidden")
    assert thumbnails.evaluate_all(pressed) == ["true", "false", *["true"] * (count - 2)]
    assert thumbnails.nth(1).evaluate("(each) => each === document.activeElement")
    thumbnails.nth(1).dblclick()
    page.wait_for_selector("#lightbox[open]")
    assert page.inner_text("#lightbox h2") == thumbnails.nth(1).get_attribute("aria-label")
    assert thumbnails.evaluate_all(pressed)[1] == "false"


def test_skip_a_group(tab: Open) -> None:
    page = tab("/g/shop/label")
    first = page.get_attribute("#group", "data-group")
    page.keyboard.press(" ")
    assert page.get_attribute("#group", "data-group") != first
    page.keyboard.press("u")
    assert page.get_attribute("#group", "data-group") == first


def test_text_alone_and_with_an_image(tab: Open, site: Serving, colors: Path) -> None:
    page = tab("/g/shop")
    shown(page)
    results = answered(page, lambda: page.fill("#text", "green"))
    assert results == ids(site, "shop", keywords="green", k=30)
    page.press("#text", "Enter")
    page.wait_for_function("() => document.querySelectorAll('#history li').length === 1")
    assert parse_qs(urlsplit(page.url).query) == {"text": ["green"]}
    again = tab(page.url.removeprefix(site.url))
    assert (shown(again), again.input_value("#text")) == (results, "green")
    page.fill("#text", "gren 4")
    page.wait_for_selector("#count >> text=No name or metadata with 'gren' (similar: green).")
    both = ids(site, "shop", id="colors:red/4.png", keywords="green", k=30)
    page = tab(item())
    shown(page)
    assert is_start(answered(page, lambda: page.fill("#text", "green")), both)
    assert is_start(shown(tab(item() + "&text=green")), both)
    page.locator(".cell").nth(2).hover()
    answered(page, page.locator(".cell .similar").nth(2).click)
    assert page.input_value("#text") == ""


def test_a_text_is_searched_by_content_or_by_words(tab: Open, tmp_path: Path, colors: Path) -> None:
    gallery = Gallery.create(tmp_path / "words.gallery", encoder=color_words())
    gallery.sync(open_source(colors))
    by_content = [hit.id for hit in gallery.search(text="green", k=30)]
    by_words = [hit.id for hit in gallery.search(keywords="green", k=30)]
    red = "colors:red/4.png"
    fused = [hit.id for hit in gallery.search(id=red, keywords="green", k=30)]
    assert len({tuple(each[:10]) for each in (by_content, by_words, fused)}) == 3
    with serving({"words": gallery}) as served:
        page = tab("/g/words", base=served.url)
        shown(page)
        assert page.get_attribute("#text", "placeholder").startswith("Describe an image")
        assert is_start(answered(page, lambda: page.fill("#text", "green")), by_content)
        assert answered(page, lambda: page.select_option("#by", "words")) == by_words
        assert page.get_attribute("#text", "placeholder").startswith("Words in captions")
        assert parse_qs(urlsplit(page.url).query) == {"text": ["green"], "by": ["words"]}
        assert page.is_hidden("#rank-tools")  # keywords have no similarity
        page.wait_for_function("() => document.querySelectorAll('#history li').length > 0")
        path = page.url.removeprefix(served.url)
        again = tab(path, base=served.url)
        assert shown(again) == by_words
        assert again.input_value("#by") == "words"
        screenshot(again, "by-words")
        both = f"{path}&id={quote(red, safe='')}"
        assert is_start(shown(tab(both, base=served.url)), fused)
        answered(page, page.go_back)
        assert is_start(shown(page), by_content)
        assert page.input_value("#by") == ""

        plain = tab(path, base=served.url, java_script_enabled=False)
        assert plain_results(plain) == by_words
        plain.select_option("#by", "")
        with plain.expect_navigation():
            plain.click(".search-button")
        assert plain_results(plain) == by_content


@pytest.fixture(scope="module")
def axe(require: Require) -> str:
    try:
        return AXE.get(["axe.min.js"], lambda _: None)["axe.min.js"].decode()
    except Exception as error:
        require(False, f"axe-core could not be had from npm: {error}")
        raise


def check_accessibility(axe: str, scheme: str, page: Any, name: str) -> None:
    page.evaluate(axe)
    report = page.evaluate("axe.run()")
    serious = [
        (each["id"], node["html"], node["failureSummary"])
        for each in report["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
    assert serious == [], name
    page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dialogs_and_problems_are_accessible(
    tab: Open, site: Serving, axe: str, scheme: str, tmp_path: Path
) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    check = partial(check_accessibility, axe, scheme)
    page = tab("/g/shop", color_scheme=scheme, permissions=["camera"], allow="422|ERR_INTERNET")
    shown(page)
    page.click("#open-upload")
    check(page, "upload")
    page.click("#upload-dialog .close")
    page.click("#camera")
    check(page, "camera")
    page.click("#close-camera")
    large = tmp_path / "large.png"
    large.write_bytes(bytes(20_000_001))
    page.set_input_files("#file", large)
    page.wait_for_selector("#notices .problem")
    check(page, "notice")
    page.fill("#where", "year >")
    page.press("#where", "Enter")
    page.wait_for_selector("#where-error:visible")
    check(page, "filter-error")
    page.context.set_offline(True)
    page.fill("#where", "")
    page.press("#where", "Enter")
    page.wait_for_selector("#results .problem")
    check(page, "offline")
    page = tab(f"{item()}&not-id={quote('colors:green/1.png', safe='')}", color_scheme=scheme)
    shown(page)
    page.locator(".chip-main").first.click()
    check(page, "chip")
    page = tab(item(), color_scheme=scheme)
    shown(page)
    page.click(".chip-main")
    page.click(".chip-panel >> text=Choose a region")
    check(page, "region")
    page = tab("/g/shop/map", color_scheme=scheme)
    page.click(".legend button >> nth=0")
    check(page, "map-selection")
    page = tab("/g/none", color_scheme=scheme, allow="404")
    check(page, "problem")
    page.goto(f"{site.url}/docs")
    check(page, "docs")
    gallery = Gallery.open(site.service.handle("shop").gallery.path)
    add_key(tmp_path / "keys.json", "reader", write=False)
    settings = ServeSettings(keys=read_keys(tmp_path / "keys.json"), hosts=LOOPBACK)
    with serving({"shop": gallery}, settings) as served:
        check(tab("/g/shop", base=served.url, allow="401", color_scheme=scheme), "sign-in")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_sheets_of_phones_are_accessible_and_close_at_a_tap_outside(
    tab: Open, axe: str, scheme: str
) -> None:
    check = partial(check_accessibility, axe, scheme)
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    page = tab(item(), color_scheme=scheme, **phone)
    shown(page)
    check(page, "phone-answer")
    links = page.locator(".page-header nav a")
    assert links.count() == 5
    for link in links.all():
        box = link.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    page.click("#open-filters")
    page.click("#sheet-tools summary")
    check(page, "phone-filters")
    page.touchscreen.tap(200, 60)
    page.wait_for_selector("#filters", state="hidden")
    assert page.url.endswith(item())  # the tap did nothing else
    page.click(".chip-main")
    check(page, "phone-chip")
    page.keyboard.press("Escape")
    page.wait_for_selector(".chip-panel", state="hidden")
    page.click(".chip-main")
    page.touchscreen.tap(100, 400)
    page.wait_for_selector(".chip-panel", state="hidden")
    assert page.locator("#lightbox[open]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_violations(tab: Open, axe: str, scheme: str) -> None:
    check = partial(check_accessibility, axe, scheme)
    for path, name in [
        ("/", "galleries"),
        ("/g/shop", "browse"),
        (item() + "&box=1,1,40,40&compare=other", "answer"),
        ("/g/shop?text=qqqq", "nothing"),
        ("/g/digits", "paper"),
        ("/g/shop/judge", "judge"),
        ("/g/shop/report", "report"),
        ("/g/other/report", "charts"),
        ("/g/shop/map", "map"),
        ("/g/shop/label", "label"),
        ("/g/other/label", "label-mixed"),
        ("/g/digits/label", "label-none"),
    ]:
        page = tab(path, color_scheme=scheme, allow="404" if name == "label-none" else "^$")
        for summary in page.locator("details:visible > summary").all()[:6]:
            summary.click()
        if name == "paper":
            page.click("button[data-popover=drawing-pad]")
        if name == "judge":
            page.click("#judge-form button:not([type])")
            page.wait_for_selector("#stage .pair img >> nth=1")
        if name == "label-mixed":
            page.fill("#label-name", "thing")
            page.press("#label-name", "Enter")
            page.wait_for_selector("#confirm-dialog[open]")
        check(page, name)
        if name == "browse":
            page.locator(".cell .thumbnail").first.click(modifiers=["Control"])
            check(page, "selected")
            page.locator(".cell .thumbnail").nth(1).click()
            page.wait_for_timeout(300)
            check(page, "lightbox")


def test_overload_is_reported(tab: Open, site: Serving, colors: Path) -> None:
    gallery = Gallery.open(site.service.handle("shop").gallery.path)
    settings = ServeSettings(hosts=LOOPBACK, limits=Limits(concurrent_requests=0))
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(serving({"shop": gallery}, settings))
        page = tab("/g/shop", base=served.url, allow="429|ERR_CONNECTION_REFUSED")
        page.set_input_files("#file", colors / "red" / "5.png")
        page.wait_for_selector("[role=alert] >> text=Too many requests")


def test_images_of_a_folder_are_labeled_and_removed(
    tab: Open, tmp_path: Path, colors: Path
) -> None:
    """What is done on the page stays when the folder is indexed again, and the files stay."""
    gallery = Gallery.create(tmp_path / "folder.gallery", encoder=open_encoder("color", colors))
    gallery.sync(colors / "red")
    with serving({"folder": gallery}) as served:
        page = tab("/g/folder", base=served.url)
        names = shown(page)
        for number in (0, 1):
            page.locator(".cell .thumbnail").nth(number).click(modifiers=["Control"])
        page.fill(".tag-form input", "best")
        listed(page, lambda: page.click(".tag-form button"))
        page.wait_for_selector(".cell .label >> text=best")
        table = list(csv.DictReader(saved(page, "CSV").decode().splitlines()))
        assert [row["label"] for row in table] == ["best", "best"]
        page.locator(".cell .thumbnail").nth(1).click(modifiers=["Control"])
        page.click("#selection-bar >> text=Remove from the index")
        listed(page, lambda: page.click("#confirm-dialog button[value=confirm]"))
        page.wait_for_selector("#count >> text=9 images")
        report = gallery.sync(colors / "red")
        assert (report.added, report.updated, report.unchanged) == (0, 0, 9)
        assert gallery.select(where="label = 'best'") == [names[1]]
        assert len(list((colors / "red").iterdir())) == 10


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("width", [390, 1440])
def test_facts_of_a_photograph_are_shown_as_photographers_write_them(
    tab: Open, tmp_path: Path, language: str, width: int
) -> None:
    """Beside them long names and values stay within the panel."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / f"{'long' * 50}.jpg").write_bytes(photograph("JPEG", **{"829A": 0.5}))
    column = "column_" * 20
    (photos / "metadata.csv").write_text(f"path,{column}\n{'long' * 50}.jpg,{'x' * 500}\n")
    gallery = Gallery.create(tmp_path / "p.gallery", encoder=open_encoder("color", photos))
    gallery.sync(gallery.open_source(photos, options={"exif": True, "gps": True}))
    gallery.update_metadata(next(iter(gallery)), {"stars": 5})
    with serving({"p": gallery}) as served:
        size = {"width": width, "height": 844}
        page = tab("/g/p", base=served.url, locale=language, viewport=size)
        page.locator(".cell .thumbnail").click()
        page.wait_for_selector("#lightbox .stage:not([aria-busy])")
        facts = page.inner_text("#lightbox .facts").replace("\u00a0", " ").split("\n")
        screenshot(page, f"photograph-{language}-{width}")
        expected = {
            "en": {
                "Taken": "July 14, 2023 at 6:30 PM",
                "Camera": "Canon EOS R5",
                "Lens": "RF50mm F1.8 STM",
                "Size": "40 × 30 pixels",
                "Exposure": "0.5 s, f/2.8, 50 mm, ISO 800",
                "stars": "5",
                "Place": "33.8569° S, 151.2150° W",
                "Changed in the gallery": "stars",
            },
            "de": {
                "Aufgenommen": "14. Juli 2023 um 18:30",
                "Kamera": "Canon EOS R5",
                "Objektiv": "RF50mm F1.8 STM",
                "Größe": "40 × 30 Pixel",
                "Belichtung": "0,5 s, f/2,8, 50 mm, ISO 800",
                "stars": "5",
                "Ort": "33,8569° S, 151,2150° W",
                "In der Galerie geändert": "stars",
            },
        }[language]
        shown_facts = {name: facts[facts.index(name) + 1] for name in expected if name in facts}
        assert shown_facts == expected
        assert not {"iso", "camera_make", "edited_columns"} & set(facts)
        panel = page.locator(".lightbox-side")
        assert panel.evaluate("each => each.scrollWidth - each.clientWidth") == 0
        assert all(
            box["width"] > 80 for box in (each.bounding_box() for each in panel.locator("dd").all())
        )
