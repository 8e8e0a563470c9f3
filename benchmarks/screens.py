"""Take the screenshots of the page in docs/images.

    python benchmarks/screens.py WORK

WORK is a folder for the galleries, which are created if they do not exist: MNIST with HOG, and the
stamps shop with a pretrained encoder, as it is and adapted to photos. Needs Chromium.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from lookalike.encoders.base import Encoder
from lookalike.encoders.persistence import load_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.explore import build_map
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import neighbor_graph
from lookalike.labels import load_session, save_session, suggest
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from lookalike.training.adapt import AdaptOptions, adapt

IMAGES = Path(__file__).parents[1] / "docs" / "images"
DIGITS, SHOP = "dataset:mnist/train", "dataset:stamps/shop"
SEVEN = ((0.22, 0.25), (0.74, 0.25), (0.42, 0.85))
_COLORS = 256


def create_gallery(path: Path, source: str, encoder: Encoder) -> None:
    """Create a gallery unless it exists."""
    if not path.exists():
        Gallery.create(path, encoder=encoder).sync(source)


def galleries(work: Path) -> list[Path]:
    """Return the galleries, creating those that do not exist."""
    digits, shop, adapted_shop = (
        work / name for name in ("digits.gallery", "shop.gallery", "shop-adapted.gallery")
    )
    create_gallery(digits, DIGITS, open_encoder("hog", sample_images(open_source(DIGITS))))
    gallery = Gallery.open(digits)
    build_map(gallery)
    if load_session(gallery) is None:
        graph = neighbor_graph(gallery)
        save_session(gallery, graph, suggest(graph, 100), None)
    create_gallery(shop, SHOP, open_encoder("efficientnet-lite0", []))
    adapted = work / "adapted.encoder"
    if not (adapted / "encoder.json").exists():
        adapt(SHOP, out=adapted, options=AdaptOptions(views_per_image=4))
    create_gallery(adapted_shop, SHOP, load_encoder(adapted))
    return [digits, shop, adapted_shop]


def open_page(page: Any, url: str) -> None:
    """Open a page and wait until it is ready."""
    page.goto(url)
    page.wait_for_selector("main[data-ready]")
    page.wait_for_load_state("networkidle")


def screenshot(page: Any, name: str) -> None:
    """Save what is visible as a PNG with few colors."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(300)
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        path = IMAGES / f"{name}.png"
        shot.convert("RGB").quantize(_COLORS).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def draw(page: Any, url: str) -> float:
    """Draw a seven; return the median time from the end of the stroke to new results, in ms."""
    open_page(page, f"{url}/g/digits")
    page.click("button[data-popover=drawing-pad]")
    pad = page.locator("#drawing-pad canvas").bounding_box()
    latencies: list[float] = []
    for _ in range(7):
        page.click("#clear-drawing")
        points = [(pad["x"] + x * pad["width"], pad["y"] + y * pad["height"]) for x, y in SEVEN]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=6)
        page.wait_for_timeout(500)
        page.evaluate(
            """() => {
              const results = document.querySelector("#results");
              window.latency = new Promise((resolve) => {
                let start = 0;
                const options = { once: true, capture: true };
                addEventListener("pointerup", () => (start = performance.now()), options);
                const observer = new MutationObserver(() => {
                  if (start) { observer.disconnect(); resolve(performance.now() - start); }
                });
                observer.observe(results, { childList: true });
              });
            }"""
        )
        page.mouse.up()
        latencies.append(page.evaluate("window.latency"))
        page.wait_for_timeout(200)
    return sorted(latencies)[len(latencies) // 2]


def map_and_labels(page: Any, url: str) -> None:
    """Take the screenshots of the map of the digits, and of labeling some of them."""
    open_page(page, f"{url}/g/digits/map")
    box = page.locator(".viewport canvas").first.bounding_box()
    page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 0.3 * box["height"])
    page.wait_for_timeout(500)
    screenshot(page, "page-map")
    open_page(page, f"{url}/g/digits/label")
    labels = {item.id: str(item.metadata["label"]) for item in open_source(DIGITS)}
    for _ in range(6):
        page.wait_for_selector("#group img")
        shown = page.locator("#group .thumbnail")
        kinds = [labels[row_id] for row_id in shown.evaluate_all("all => all.map((e) => e.title)")]
        majority = max(kinds, key=kinds.count)
        for place, kind in enumerate(kinds):
            if kind != majority:
                shown.nth(place).click()
        page.fill("#label-name", majority)
        page.press("#label-name", "Enter")
        page.wait_for_timeout(2_000)
    screenshot(page, "page-label")


@contextlib.contextmanager
def served(*paths: Path) -> Iterator[str]:
    """Serve galleries in a process of its own; yield the URL."""
    command = [sys.executable, "-m", "lookalike", "serve", *map(str, paths), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        line = next(line for line in service.stderr if "serving at" in line)
        match = re.search(r"http://[^/]+", line)
        assert match is not None
        try:
            yield match[0]
        finally:
            service.terminate()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium without a screen."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


def main(work: Path) -> None:
    """Serve the galleries and take the screenshots."""
    with served(*galleries(work)) as url, chromium() as browser:
        wide: dict[str, Any] = {"viewport": {"width": 1200, "height": 760}}
        page = browser.new_page(**wide)
        open_page(page, f"{url}/g/shop?group=metadata.label")
        screenshot(page, "page-browse")
        open_page(page, f"{url}/g/shop?id=stamps%2Fshop%3A116")
        screenshot(page, "page")
        page.locator(".cell .thumbnail").nth(3).click()
        page.wait_for_timeout(800)
        screenshot(page, "page-lightbox")
        print(f"drawn stroke to new results: {draw(page, url):.0f} ms (median of 7)")
        screenshot(page, "page-drawing")
        open_page(page, f"{url}/g/shop?id=stamps%2Fshop%3A116&compare=shop-adapted")
        screenshot(page, "page-beside")
        map_and_labels(page, url)
        page = browser.new_page(**wide, color_scheme="dark")
        open_page(page, f"{url}/g/shop?id=stamps%2Fshop%3A116&box=110,10,140,110")
        screenshot(page, "page-dark")
        phone: dict[str, Any] = {"viewport": {"width": 390, "height": 760}, "is_mobile": True}
        phone["has_touch"] = True
        page = browser.new_page(**phone)
        open_page(page, f"{url}/g/shop?id=stamps%2Fshop%3A292")
        screenshot(page, "page-phone")
        page.click("#open-filters")
        screenshot(page, "page-phone-filters")
        tablet: dict[str, Any] = {"viewport": {"width": 820, "height": 1180}}
        page = browser.new_page(**tablet, color_scheme="dark")
        open_page(page, f"{url}/g/digits/map")
        page.wait_for_timeout(500)
        screenshot(page, "page-tablet")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
