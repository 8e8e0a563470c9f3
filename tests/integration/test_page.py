"""The page in Debian's Chromium, as a person uses it.

Screenshots are left in build/page.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import pytest
from PIL import Image

from lookalike.download import NpmPackage
from lookalike.encoders.registry import open_encoder
from lookalike.explore import build_map
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import neighbor_graph
from lookalike.labels import save_session, suggest
from lookalike.server.api_keys import add_key, read_keys
from lookalike.server.limits import Limits
from lookalike.server.settings import LOOPBACK, ServeSettings
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.conftest import Require
from tests.integration.test_cli import lookalike
from tests.integration.test_mnist import fetched
from tests.serving import Serving, serving

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
    graph = neighbor_graph(galleries["shop"])
    save_session(galleries["shop"], graph, suggest(graph, 18), None)
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


def hits(page: Any) -> list[str]:
    """Return the ids of the results, once the search has finished."""
    page.wait_for_selector("#results:not([aria-busy]) .hit dl", state="attached")
    shown = page.locator("#results .hit dl dd:first-of-type").all_text_contents()
    return [text.strip() for text in shown]


def searched(page: Any, action: Callable[[], object]) -> list[str]:
    with page.expect_response(lambda response: "/results?" in response.url) as event:
        action()
    assert event.value.status == 200
    page.wait_for_function("() => !document.querySelector('#results').hasAttribute('aria-busy')")
    page.wait_for_timeout(50)
    return hits(page)


def screenshot(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def ids(site: Serving, name: str, *query: Any, **options: Any) -> list[str]:
    return [hit.id for hit in site.service.handle(name).gallery.search(*query, **options)]


def item(name: str = "red/4.png") -> str:
    return f"/g/shop?id={quote('colors:' + name, safe='')}"


def test_pick_an_example_and_go_back(tab: Open, site: Serving) -> None:
    page = tab("/g/shop")
    assert page.locator("#results .thumbnail").count() == 24
    screenshot(page, "start")
    with page.expect_response(lambda response: "/results?" in response.url):
        page.locator(".thumbnail").nth(5).click()
    results = hits(page)
    [query_id] = parse_qs(urlsplit(page.url).query)["id"]
    assert results == ids(site, "shop", id=query_id)
    screenshot(page, "results")
    again = tab(page.url.removeprefix(site.url))
    assert hits(again) == results
    page.go_back()
    page.wait_for_selector("text=Pick an image or upload your own")


def test_uploaded_file_and_its_url(tab: Open, site: Serving, colors: Path) -> None:
    page = tab("/g/shop")
    path = colors / "green" / "7.png"
    results = searched(page, lambda: page.set_input_files("#file", path))
    assert results == ids(site, "shop", path)
    page.wait_for_function("() => location.search.includes('upload=')")
    page.reload()
    assert hits(page) == results
    elsewhere = tab(page.url.removeprefix(site.url))
    elsewhere.wait_for_selector("text=Image not available")


def drop(page: Any, data: Any) -> None:
    page.dispatch_event("body", "drop", {"dataTransfer": data})


def paste(page: Any, data: Any) -> None:
    page.evaluate(
        "(data) => dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))", data
    )


def test_dropped_and_pasted_images(tab: Open, site: Serving, colors: Path) -> None:
    page = tab("/g/shop")
    for kind, name in (("drop", "dragenter"), ("paste", None)):
        path = colors / "red" / ("1.png" if kind == "drop" else "2.png")
        holder = page.evaluate_handle(
            """async ([base64, name]) => {
              const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
              const data = new DataTransfer();
              data.items.add(new File([bytes], name, { type: "image/png" }));
              return data;
            }""",
            [base64.b64encode(path.read_bytes()).decode(), path.name],
        )
        if name:
            page.dispatch_event("body", name, {"dataTransfer": holder})
            assert page.locator("#drop-overlay").is_visible()
        action = partial(drop if kind == "drop" else paste, page, holder)
        results = searched(page, action)
        assert results == ids(site, "shop", path)
        assert not page.locator("#drop-overlay").is_visible()


def test_camera(tab: Open) -> None:
    page = tab("/g/shop", permissions=["camera"])
    page.click("#camera")
    page.wait_for_function("() => document.querySelector('#camera-dialog video').videoWidth > 0")
    assert len(searched(page, lambda: page.click("#take-photo"))) == 7
    assert not page.locator("#camera-dialog").is_visible()
    assert page.evaluate("document.querySelector('#camera-dialog video').srcObject") is None


def test_drawing_a_seven_finds_sevens(tab: Open) -> None:
    page = tab("/g/digits")
    page.click("#draw")
    pad = page.locator("#drawing-pad canvas").bounding_box()

    def to(x: float, y: float, steps: int = 6) -> None:
        page.mouse.move(pad["x"] + x * pad["width"], pad["y"] + y * pad["height"], steps=steps)

    to(0.25, 0.25, 1)
    page.mouse.down()
    to(0.72, 0.25)
    page.wait_for_selector("#results .hit dl", state="attached")
    assert "upload=" not in page.url
    to(0.45, 0.85)
    page.mouse.up()
    page.wait_for_function("() => location.search.includes('upload=')")
    labels = page.locator("#results .label").all_text_contents()
    assert [text.strip() for text in labels].count("7") >= 5
    screenshot(page, "drawing")
    page.click("#undo-stroke")
    assert page.locator("#drawing-pad").get_attribute("data-side") == "28"
    assert not tab("/g/shop").locator("#draw").count()


def test_crop_box(tab: Open, site: Serving) -> None:
    page = tab(item())
    page.wait_for_selector("#crop:not([hidden])")
    frame = page.locator("#query-frame img").bounding_box()
    scale = 80 / frame["width"]

    def drag() -> None:
        page.mouse.move(frame["x"] + 10 / scale, frame["y"] + 5 / scale)
        page.mouse.down()
        page.mouse.move(frame["x"] + 50 / scale, frame["y"] + 35 / scale, steps=5)
        page.mouse.up()

    row = "colors:red/4.png"
    assert searched(page, drag) == ids(site, "shop", id=row, box=(10, 5, 40, 30))
    assert parse_qs(urlsplit(page.url).query)["box"] == ["10,5,40,30"]
    screenshot(page, "box")
    page.focus(".crop-box")
    results = searched(page, lambda: page.keyboard.press("ArrowRight"))
    assert results == ids(site, "shop", id=row, box=(12, 5, 40, 30))
    searched(page, lambda: page.keyboard.press("Shift+ArrowDown"))
    page.click("#crop summary")
    assert [page.input_value(f"#box-{each}") for each in "xywh"] == ["12", "5", "40", "32"]
    page.fill("#box-w", "9")
    results = searched(page, lambda: page.press("#box-w", "Enter"))
    assert results == ids(site, "shop", id=row, box=(12, 5, 9, 32))
    page.reload()
    page.wait_for_selector("main[data-ready]")
    assert hits(page) == results
    page.wait_for_selector(".crop-box:visible")
    assert searched(page, lambda: page.click("#reset-crop")) == ids(site, "shop", id=row)


def test_filters(tab: Open, site: Serving) -> None:
    page = tab(item())
    row = "colors:red/4.png"
    label = "value:label"
    values = (
        page.locator("fieldset:has(legend:text-is('label'))").locator("label").all_text_contents()
    )
    assert [" ".join(text.split()) for text in values] == ["<b>blue 10", "green 10", "red 10"]
    results = searched(page, lambda: page.check(f'input[name="{label}"][value="green"]'))
    assert results == ids(site, "shop", id=row, where="label = 'green'")
    page.fill('input[name="min:year"]', "2004")
    results = searched(page, lambda: page.press('input[name="min:year"]', "Enter"))
    assert results == ids(site, "shop", id=row, where="label = 'green' and year >= 2004")
    screenshot(page, "filters")
    assert hits(tab(page.url.removeprefix(site.url))) == results
    results = searched(page, lambda: page.check('input[name="value:sale"][value="yes"]'))
    assert results == ids(site, "shop", id=row, where="label='green' and year>=2004 and sale=true")
    page.fill("#where", "year = 2001")
    page.press("#where", "Enter")
    page.wait_for_selector("text=No results")
    page.fill("#where", "year >")
    page.press("#where", "Enter")
    page.wait_for_selector("[role=alert] >> text=filter")
    screenshot(page, "wrong-filter")


def test_search_options(tab: Open, site: Serving) -> None:
    page = tab(item())
    page.click("text=Search options")
    row = "colors:red/4.png"
    page.fill("#k", "12")
    assert searched(page, lambda: page.press("#k", "Enter")) == ids(site, "shop", id=row, k=12)
    results = searched(page, lambda: page.select_option("#metric", index=1))
    metric = page.input_value("#metric")
    assert results == ids(site, "shop", id=row, k=12, metric=metric)
    results = searched(page, lambda: page.select_option("#rerank", "aqe+k-reciprocal"))
    expected = ids(site, "shop", id=row, k=12, metric=metric, rerank="aqe+k-reciprocal")
    assert results == expected
    assert searched(page, lambda: page.check("input[name=multi_crop]")) == ids(
        site, "shop", id=row, k=12, metric=metric, rerank="aqe+k-reciprocal", multi_crop=True
    )


def test_two_galleries_side_by_side(tab: Open, site: Serving) -> None:
    page = tab(item())
    page.click("text=Search options")
    results = searched(page, lambda: page.select_option("#compare", "other"))
    row = "colors:red/4.png"
    assert results == ids(site, "shop", id=row) + ids(site, "other", id=row)
    screenshot(page, "beside")
    page = tab(f"/g/shop?id={quote(row)}&compare=digits")
    assert len(hits(page)) == 14  # searched by image in a gallery that does not have the item


def test_ids_and_metadata_are_escaped(tab: Open) -> None:
    page = tab(item(f"<b>blue/{HOSTILE}.png") + "&k=20")
    assert f"colors:<b>blue/{HOSTILE}.png" in page.locator("#query-caption").text_content()
    page.locator(".hit summary").first.click()
    text = page.locator(".hit dl").first.text_content()
    assert '<img src=x onerror=alert(1)> & "it\'s"' in text
    assert page.locator("#results script, #results b, #results dl img").count() == 0


def test_errors_are_shown(tab: Open, tmp_path: Path, colors: Path) -> None:
    page = tab("/g/shop", allow="404|422")
    broken = tmp_path / "broken.png"
    broken.write_bytes((colors / "red" / "1.png").read_bytes()[:200])
    page.set_input_files("#file", broken)
    page.wait_for_selector("[role=alert] >> text=Invalid image")
    heic = tmp_path / "IMG_1.heic"
    heic.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    page.set_input_files("#file", heic)
    page.wait_for_selector("#query-caption >> text=IMG_1.heic")
    page.wait_for_selector("#history span >> text=IMG_1.heic")
    assert page.inner_text("#query-frame") == "No preview in this browser"
    large = tmp_path / "large.png"
    large.write_bytes(b"\x89PNG" + bytes(20_000_000))
    page.set_input_files("#file", large)
    page.wait_for_selector("[role=alert] >> text=the limit is 20 MB")
    screenshot(page, "too-large")
    page = tab("/g/none", allow="404")
    assert "Gallery not found" in page.inner_text("main")
    page = tab(item("none.png"), allow="404")
    assert "no row with the id" in page.inner_text("#results [role=alert]")
    page = tab("/g/empty")
    assert "This gallery is empty" in page.inner_text("#results")
    page = tab("/g/shop/report")
    assert "Not evaluated yet" in page.inner_text("main")


def test_unreachable_service_is_reported(tab: Open, site: Serving) -> None:
    page = tab("/g/shop", allow="Failed to load resource|ERR_INTERNET_DISCONNECTED")
    page.context.set_offline(True)
    page.locator(".thumbnail").first.click()
    page.wait_for_selector("[role=alert] >> text=Service unreachable")


def test_recent_queries(tab: Open, site: Serving, colors: Path) -> None:
    page = tab("/g/shop")
    results = searched(page, lambda: page.set_input_files("#file", colors / "red" / "5.png"))
    searched(page, lambda: page.locator(".thumbnail").nth(2).click())
    page.wait_for_function("() => document.querySelectorAll('#history li').length === 2")
    assert searched(page, lambda: page.locator("#history button").nth(1).click()) == results
    page.click("#clear-history")
    page.wait_for_selector("#history", state="hidden")


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
        page.wait_for_selector("main[data-page=search][data-ready] img[src^=blob]")
        path = colors / "red" / "5.png"
        results = searched(page, lambda: page.set_input_files("#file", path))
        assert results == ids(site, "shop", path)
        page.wait_for_function(
            "() => [...document.querySelectorAll('.hits img')].some((i) => i.naturalWidth > 0)"
        )
        page.reload()
        page.wait_for_selector("main[data-page=search][data-ready]")
        assert hits(page) == results
        page.click("#sign-out")
        page.wait_for_selector("main[data-page=sign-in]")
        assert secret not in page.evaluate("JSON.stringify([sessionStorage, localStorage])")


def test_keyboard_navigation(tab: Open, site: Serving) -> None:
    page = tab("/g/shop")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('thumbnail')"):
            break
    first = page.evaluate("document.activeElement.href")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.href") != first
    page.keyboard.press("ArrowLeft")
    results = searched(page, lambda: page.keyboard.press("Enter"))
    [query_id] = parse_qs(urlsplit(first).query)["id"]
    assert results == ids(site, "shop", id=query_id)


def test_search_without_javascript(tab: Open, site: Serving) -> None:
    page = tab("/g/shop", java_script_enabled=False)
    with page.expect_navigation():
        page.locator(".thumbnail").first.click()
    assert page.locator("#results .hit").count() == 7
    page.locator("summary", has_text="Search options").click()
    page.fill("#k", "3")
    with page.expect_navigation():
        page.click("noscript button")
    assert page.locator("#results .hit").count() == 3


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
    assert page.get_by_role("link", name="Search with this image").get_attribute("href") == (
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
    for key in ("+", "ArrowRight", "ArrowDown", "-"):
        page.keyboard.press(key)
        seen.append(picture())
    assert len(set(seen)) == len(seen)


def test_missing_map_and_suggestions_name_the_command(tab: Open) -> None:
    assert "lookalike explore map" in tab("/g/digits/map", allow="404").inner_text("main")
    assert "label suggest" in tab("/g/digits/label", allow="404").inner_text("main")


def group(page: Any) -> list[str]:
    """Return the kinds of the images in the group."""
    page.wait_for_selector("#group img")
    titles = page.locator("#group button").evaluate_all("all => all.map((each) => each.title)")
    return [row_id.partition(":")[2].partition("/")[0] for row_id in titles]


def test_label_groups_by_keyboard(tab: Open) -> None:
    page = tab("/g/shop/label")
    assert page.inner_text("#progress") == "0 of 18 labeled"
    done = 0
    while done < 18:
        kinds = group(page)
        kind = kinds[0]
        for place, other in enumerate(kinds):
            if other != kind:
                page.locator("#group button").nth(place).click()
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
    page.wait_for_selector("#progress:has-text('of 18 labeled')")
    before = group(page)
    page.reload()
    page.wait_for_selector("main[data-ready]")
    assert group(page) == before
    page.locator("#labels button", has_text=before[0]).click()
    page.wait_for_selector("#progress:has-text('All images are labeled (18)')")
    with page.expect_download() as saved:
        page.click("#download")
    table = list(csv.DictReader(Path(saved.value.path()).read_text("utf-8").splitlines()))
    assert len(table) == 18
    assert all(row["label"] == row["id"].partition(":")[2].partition("/")[0] for row in table)


def test_skip_a_group(tab: Open) -> None:
    page = tab("/g/shop/label")
    first = page.get_attribute("#group", "data-group")
    page.keyboard.press(" ")
    assert page.get_attribute("#group", "data-group") != first
    page.keyboard.press("u")
    assert page.get_attribute("#group", "data-group") == first


def test_text_alone_and_with_an_image(tab: Open, site: Serving, colors: Path) -> None:
    page = tab("/g/shop")
    page.fill("#text", "green")
    results = searched(page, lambda: page.press("#text", "Enter"))
    assert results == ids(site, "shop", keywords="green")
    assert parse_qs(urlsplit(page.url).query) == {"text": ["green"]}
    assert page.locator("#results .number").count() == 0  # no distances
    assert page.locator("#results .hit").first.get_by_text("Rank 1").count() == 1
    page.wait_for_function("() => document.querySelectorAll('#history li').length === 1")
    again = tab(page.url.removeprefix(site.url))
    assert (hits(again), again.input_value("#text")) == (results, "green")
    page.fill("#text", "gren 4")
    searched(page, lambda: page.press("#text", "Enter"))
    assert "No name or metadata with 'gren' (similar: green)." in page.inner_text("#results")
    both = ids(site, "shop", id="colors:red/4.png", keywords="green")
    page = tab(item())
    page.fill("#text", "green")
    assert searched(page, lambda: page.press("#text", "Enter")) == both
    assert "best match of image and text first" in page.inner_text("#results [role=status]")
    assert hits(tab(item() + "&text=green")) == hits(tab(item() + "&keywords=green")) == both
    searched(page, lambda: page.locator(".thumbnail").nth(2).click())
    assert page.input_value("#text") == ""
    page = tab("/g/shop")
    searched(page, lambda: page.set_input_files("#file", colors / "red" / "5.png"))
    page.fill("#text", "green")
    results = searched(page, lambda: page.press("#text", "Enter"))
    assert results == ids(site, "shop", colors / "red" / "5.png", keywords="green")
    page.reload()
    page.wait_for_selector("main[data-ready]")
    assert (hits(page), page.input_value("#text")) == (results, "green")
    page.fill("#text", "qqqq")
    page.click("#clear")
    page.wait_for_selector("text=Pick an image or upload your own")


def test_text_without_javascript(tab: Open, site: Serving) -> None:
    page = tab(item(), java_script_enabled=False)
    page.fill("#text", "green")
    with page.expect_navigation():
        page.press("#text", "Enter")
    shown = page.locator("#results .hit dl dd:first-of-type").all_text_contents()
    assert shown == ids(site, "shop", id="colors:red/4.png", keywords="green")
    page = tab("/g/shop", java_script_enabled=False)
    page.fill("#text", "qqqq")
    with page.expect_navigation():
        page.locator("#text + button").click()
    assert "No name or metadata with 'qqqq'." in page.inner_text("#results")
    assert "empty" not in page.inner_text("#results")


@pytest.fixture(scope="module")
def axe(require: Require) -> str:
    try:
        return AXE.get(["axe.min.js"], lambda _: None)["axe.min.js"].decode()
    except Exception as error:
        require(False, f"axe-core could not be had from npm: {error}")
        raise


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_violations(tab: Open, axe: str, scheme: str) -> None:
    def check(page: Any, name: str) -> None:
        page.evaluate(axe)
        report = page.evaluate("axe.run()")
        serious = [
            (each["id"], node["html"], node["failureSummary"])
            for each in report["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
        assert serious == [], name
        screenshot(page, f"{name}-{scheme}")

    for path, name in [
        ("/", "galleries"),
        ("/g/shop", "search"),
        (item() + "&box=1,1,40,40&compare=other", "answer"),
        (item() + "&where=year%20%3E", "problem"),
        ("/g/digits", "paper"),
        ("/g/shop/judge", "judge"),
        ("/g/shop/report", "report"),
        ("/g/shop/map", "map"),
        ("/g/shop/label", "label"),
    ]:
        page = tab(path, color_scheme=scheme)
        for summary in page.locator("details:visible > summary").all()[:6]:
            summary.click()
        if name == "paper":
            page.click("#draw")
        if name == "judge":
            page.click("#judge-form button:not([type])")
            page.wait_for_selector("#stage .pair img >> nth=1")
        check(page, name)


def test_overload_is_reported(tab: Open, site: Serving, colors: Path) -> None:
    gallery = Gallery.open(site.service.handle("shop").gallery.path)
    settings = ServeSettings(hosts=LOOPBACK, limits=Limits(concurrent_requests=0))
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(serving({"shop": gallery}, settings))
        page = tab("/g/shop", base=served.url, allow="429")
        page.set_input_files("#file", colors / "red" / "5.png")
        page.wait_for_selector("[role=alert] >> text=Too many requests")
