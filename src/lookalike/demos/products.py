"""The demo ``products``: find the item of a photograph among shop images, without labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lookalike.demos.result import DemoResult, shell_command, shell_line
from lookalike.encoders.base import MANIFEST, Encoder
from lookalike.encoders.persistence import load_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.evaluation.evaluate import evaluate
from lookalike.evaluation.relevance import mark_correct
from lookalike.gallery.gallery import Gallery
from lookalike.report.evaluation import write_report
from lookalike.search.contact_sheet import contact_sheet
from lookalike.sources import ItemSource, Source, open_items, open_source
from lookalike.training.adapt import BASE, AdaptOptions, adapt
from lookalike.types import ProgressCallback, ignore_progress

NAME = "products"
SHOP, STREET = "dataset:stamps/shop", "dataset:stamps/street"
VIEWS_PER_IMAGE = 4
VARIANTS = ("multi-crop", "multi-crop+k-reciprocal")

_ENCODER = "efficientnet-lite0"
_QUERY = 636
"""A query whose item the pretrained encoder does not find."""

_STEP = 3
"""Every third street photograph is a query: one of each item."""


def run_demo(
    out: Path, log: Callable[[str], None], on_progress: ProgressCallback = ignore_progress
) -> DemoResult:
    """Run the demo in ``out/products``; see :func:`lookalike.demos.run_demo`.

    Raises:
        FetchError: the images could not be downloaded.
        MissingDependencyError: a package that the demo needs is not installed.
    """
    start = time.perf_counter()
    folder = out / NAME
    shop = open_source(SHOP, on_progress)
    streets = open_source(STREET, on_progress)
    one_per_item = [streets[number] for number in range(0, len(streets), _STEP)]
    queries = ItemSource(streets.name, streets.spec, one_per_item)
    log(f"1. Data: {len(shop)} items on white ({SHOP}), photographed in scenes ({STREET})")

    path = folder / "plain.gallery"
    log("2. Index with a pretrained encoder, for comparison")
    log(shell_line("index", path, SHOP, "--encoder", _ENCODER))
    plain = _gallery(path, shop, lambda: open_encoder(_ENCODER, shop), on_progress)

    encoder = folder / "street.encoder"
    path = folder / "products.gallery"
    log("3. Adapt the encoder to the shop's images, and index with it")
    log("   (on synthetic views of the shop's images only; no query is used)")
    log(shell_line("adapt", SHOP, "-o", encoder, "--views-per-image", VIEWS_PER_IMAGE))
    log(shell_line("index", path, SHOP, "--encoder", encoder))
    if not (encoder / MANIFEST).exists():
        resume = (encoder / "views").exists()
        options = AdaptOptions(views_per_image=VIEWS_PER_IMAGE, resume=resume)
        adapt(shop, encoder=BASE, out=encoder, options=options, progress=on_progress)
    adapted = _gallery(path, shop, lambda: load_encoder(encoder), on_progress)

    (query,) = open_items([f"{STREET}#{_QUERY}"])
    log("4. Search for the item of a photograph")
    log(shell_line("search", plain.path, query.uri))
    log(shell_line("search", path, query.uri))
    log(shell_line("search", path, query.uri, "--multi-crop"))
    results = [
        plain.search(query),
        adapted.search(query),
        adapted.search(query, multi_crop=True),
    ]
    figure = folder / "hits.png"
    item = str(query.metadata["item"])
    sheet = contact_sheet(
        results,
        [mark_correct(hits, item, "item") for hits in results],
        query_titles=[item] * len(results),
        hit_titles=[[str(hit.metadata["item"]) for hit in hits] for hits in results],
        row_names=("pretrained", "adapted", "adapted, multi-crop"),
    )
    sheet.save(figure)

    log(f"5. Evaluate with {len(queries)} photographs, and with baselines")
    variants = ("--variants", ",".join(VARIANTS)) if VARIANTS else ()
    log(shell_line("evaluate", path, STREET, "--match", "item", "--baselines", *variants))
    before = evaluate(plain, queries, match="item", progress=on_progress)
    evaluation = evaluate(
        adapted, queries, match="item", baselines=True, variants=VARIANTS, progress=on_progress
    )
    evaluation = replace(evaluation, others={f"{_ENCODER}, pretrained": before.scores})

    log(f"6. Write the report: {folder / 'report.html'}")
    write_report(evaluation, adapted, folder / "report.html")
    return DemoResult(
        evaluation=evaluation,
        hits=results[-1],
        gallery=path,
        report=folder / "report.html",
        figure=figure,
        seconds=time.perf_counter() - start,
        next_commands=(
            shell_command(
                *("search", path, query.uri, "--multi-crop", "--rerank", "k-reciprocal"),
                *("--image", "hits.png"),
            ),
            shell_command("evaluate", path, "--synthetic-queries", "--variants", "multi-crop"),
            shell_command("info", path),
        ),
    )


def _gallery(
    path: Path, shop: Source, make: Callable[[], Encoder], on_progress: ProgressCallback
) -> Gallery:
    """Open the gallery of an earlier run or create it, and sync it."""
    gallery = Gallery.open(path) if path.exists() else Gallery.create(path, encoder=make())
    gallery.sync(shop, progress=on_progress)
    return gallery
