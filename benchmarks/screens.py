"""The screenshots of the page in docs/images, from a service of real galleries.

    python benchmarks/screens.py WORK

WORK is a folder for the galleries: MNIST by HOG, and the stamps' shop by a pretrained encoder as it
is and adapted to street views. They are made unless they are there. Chromium must be installed.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

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


def gallery(path: Path, source: str, encoder: Encoder) -> None:
    """Make a gallery unless it is there."""
    if not path.exists():
        Gallery.create(path, encoder=encoder).sync(source)


def galleries(work: Path) -> list[Path]:
    """Make the galleries that are not there."""
    digits, shop, street = (
        work / name for name in ("digits.gallery", "shop.gallery", "shop-street.gallery")
    )
    gallery(digits, DIGITS, open_encoder("hog", sample_images(open_source(DIGITS))))
    opened = Gallery.open(digits)
    build_map(opened)
    if load_session(opened) is None:
        graph = neighbor_graph(opened)
        save_session(opened, graph, suggest(graph, 100), None)
    gallery(shop, SHOP, open_encoder("efficientnet-lite0", []))
    adapted = work / "street.encoder"
    if not (adapted / "encoder.json").exists():
        adapt(SHOP, out=adapted, options=AdaptOptions(views_per_image=4))
    gallery(street, SHOP, load_encoder(adapted))
    return [digits, shop, street]


def ready(page: Any, address: str) -> None:
    """Open a page and wait until it is."""
    page.goto(address)
    page.wait_for_selector("main[data-ready]")
    page.wait_for_load_state("networkidle")


def shoot(page: Any, name: str) -> None:
    """Keep what is seen, as a PNG of few colors."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(300)
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        path = IMAGES / f"{name}.png"
        shot.convert("RGB").quantize(_COLORS).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def draw(page: Any, url: str) -> float:
    """Draw a seven; return the median of milliseconds from a stroke's end to new hits."""
    ready(page, f"{url}/g/digits")
    page.click("#draw")
    pad = page.locator("#pad canvas").bounding_box()
    took = []
    for _ in range(7):
        page.click("#wipe")
        places = [(pad["x"] + x * pad["width"], pad["y"] + y * pad["height"]) for x, y in SEVEN]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=6)
        page.wait_for_timeout(500)
        page.evaluate(
            """() => {
              const results = document.querySelector("#results");
              window.told = new Promise((resolve) => {
                const start = { at: 0 };
                addEventListener("pointerup", () => (start.at = performance.now()), { once: true, capture: true });
                const watch = new MutationObserver(() => {
                  if (start.at) { watch.disconnect(); resolve(performance.now() - start.at); }
                });
                watch.observe(results, { childList: true });
              });
            }"""  # noqa: E501
        )
        page.mouse.up()
        took.append(page.evaluate("window.told"))
        page.wait_for_timeout(200)
    return sorted(took)[len(took) // 2]


def whole(page: Any, url: str) -> None:
    """Show the map of the digits, and some of them being named."""
    ready(page, f"{url}/g/digits/map")
    sea = page.locator(".sea canvas").first.bounding_box()
    page.mouse.move(sea["x"] + 0.45 * sea["width"], sea["y"] + 0.3 * sea["height"])
    page.wait_for_timeout(500)
    shoot(page, "page-map")
    ready(page, f"{url}/g/digits/label")
    truth = {item.id: str(item.metadata["label"]) for item in open_source(DIGITS)}
    for _ in range(6):
        page.wait_for_selector("#group img")
        shown = page.locator("#group button")
        kinds = [truth[row_id] for row_id in shown.evaluate_all("all => all.map((e) => e.title)")]
        most = max(kinds, key=kinds.count)
        for place, kind in enumerate(kinds):
            if kind != most:
                shown.nth(place).click()
        page.fill("#name", most)
        page.press("#name", "Enter")
        page.wait_for_timeout(2_000)
    shoot(page, "page-label")


def main(work: Path) -> None:
    """Serve the galleries and take the pictures."""
    paths = galleries(work)
    command = [sys.executable, "-m", "lookalike", "serve", *map(str, paths), "--port", "0"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service,
        sync_playwright() as playwright,
    ):
        assert service.stderr is not None
        said = next(line for line in service.stderr if "serving at" in line)
        found = re.search(r"http://[^/]+", said)
        assert found is not None
        url = found[0]
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        wide = {"viewport": {"width": 1200, "height": 760}}
        page = browser.new_page(**wide)
        ready(page, f"{url}/g/shop")
        shoot(page, "page")
        print(f"a drawn stroke to new hits: {draw(page, url):.0f} ms (median of 7)")
        shoot(page, "page-drawing")
        ready(page, f"{url}/g/shop?id=stamps%2Fshop%3A116&with=shop-street")
        shoot(page, "page-beside")
        whole(page, url)
        page = browser.new_page(**wide, color_scheme="dark")
        ready(page, f"{url}/g/shop?id=stamps%2Fshop%3A116&box=110,10,140,110")
        shoot(page, "page-dark")
        phone = {"viewport": {"width": 390, "height": 760}, "is_mobile": True, "has_touch": True}
        page = browser.new_page(**phone)
        ready(page, f"{url}/g/shop?id=stamps%2Fshop%3A292")
        shoot(page, "page-phone")
        browser.close()
        service.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
