"""The page in Chromium: how soon results come, and how smoothly a long grid scrolls.

    python benchmarks/page.py WORK [--rows 100000]

    drop     an image file is dropped: milliseconds until the first results are shown, median and
             most of 15; target 300
    scroll   the wheel turns for ten seconds over all rows: frames per second, the longest frame,
             and how many are longer than 50 ms; target none
    jump     the scroll bar goes to places at random: milliseconds until all thumbnails in sight
             are shown, median and most of 15; target 200

WORK keeps the gallery, of MNIST and Fashion-MNIST with HOG. The service, Chromium without a screen
and its drawing in software share the cores of the machine, so the figures are those of a slow one.
Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import base64
import io
import random
import statistics
from pathlib import Path
from typing import Any

from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from screens import chromium, served

SOURCES = ("dataset:mnist/train", "dataset:fashion-mnist/train")
ROWS = 100_000
TIMES = 15
SCROLL_S = 10
LONG_MS = 50

SHOWN = """() => {
  const cells = [...document.querySelectorAll("#results .cell")].filter((cell) => {
    const { top, bottom } = cell.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  });
  return cells.length > 0 && cells.every((cell) => cell.querySelector(".loaded, .missing"));
}"""

DROP = """async ([base64, name]) => {
  const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  const old = document.querySelector("#results .pane");
  const start = performance.now();
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
  const isNew = () => document.querySelector("#results .pane") !== old;
  while (!isNew() || !document.querySelector(".cell .loaded")) {
    await new Promise(requestAnimationFrame);
  }
  return performance.now() - start;
}"""

JUMP = """async (share) => {
  const isShown = SHOWN;
  const start = performance.now();
  scrollTo(0, share * document.body.scrollHeight);
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  while (!isShown()) await new Promise(requestAnimationFrame);
  return performance.now() - start;
}""".replace("SHOWN", SHOWN)

FRAMES = """(seconds) => new Promise((resolve) => {
  const frames = [];
  const start = performance.now();
  let last = start;
  const step = (now) => {
    frames.push(now - last);
    last = now;
    scrollBy(0, 60);
    if (now - start < 1000 * seconds) requestAnimationFrame(step);
    else resolve(frames.slice(1));
  };
  requestAnimationFrame(step);
})"""


def build(work: Path, rows: int) -> Gallery:
    """Return the gallery, which is built once."""
    path = work / f"page-{rows}.gallery"
    if path.exists():
        return Gallery.open(path)
    work.mkdir(parents=True, exist_ok=True)
    sizes = [min(rows, 60_000), max(0, rows - 60_000)]
    gallery: Gallery | None = None
    for name, size in zip(SOURCES, sizes, strict=True):
        if not size:
            continue
        source = open_source(f"{name}[:{size}]")
        if gallery is None:
            encoder = open_encoder("hog", sample_images(source))
            gallery = Gallery.create(path, encoder=encoder)
        gallery.sync(source)
    assert gallery is not None
    return gallery


def digit(gallery: Gallery, rng: random.Random) -> list[str]:
    """Return an image of the gallery as a PNG in base64, and a name for it."""
    item = gallery.browse()[rng.randrange(len(gallery))]
    file = io.BytesIO()
    Image.fromarray(item.image()).save(file, "PNG")
    return [base64.b64encode(file.getvalue()).decode(), "query.png"]


def summary(values: list[float]) -> str:
    """Return the median and the largest of some milliseconds."""
    return f"median {statistics.median(values):.0f} ms, most {max(values):.0f} ms"


def measure(page: Any, url: str, gallery: Gallery) -> None:
    """Print the figures of a page."""
    rng = random.Random(0)
    page.goto(url)
    page.wait_for_function(SHOWN)
    drops = [page.evaluate(DROP, digit(gallery, rng)) for _ in range(TIMES + 1)][1:]
    print(f"drop: {summary(drops)} (target 300)", flush=True)
    page.goto(url)
    page.wait_for_function(SHOWN)
    page.wait_for_timeout(1000)
    frames = page.evaluate(FRAMES, SCROLL_S)
    long = sum(frame > LONG_MS for frame in frames)
    rate = len(frames) / (sum(frames) / 1000)
    print(
        f"scroll: {rate:.0f} frames/s, longest {max(frames):.0f} ms, {long} of {len(frames)} over "
        f"{LONG_MS} ms (target 0)",
        flush=True,
    )
    jumps = [page.evaluate(JUMP, rng.random()) for _ in range(TIMES)]
    print(f"jump: {summary(jumps)} (target 200)", flush=True)


def main() -> None:
    """Build the gallery, serve it and open it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args()
    gallery = build(options.work, options.rows)
    with served(gallery.path) as url, chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(60_000)
        print(f"{len(gallery):,} rows", flush=True)
        measure(page, f"{url}/g/{gallery.path.stem}", gallery)


if __name__ == "__main__":
    main()
