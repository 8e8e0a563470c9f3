"""The story of a shop: find the item of a photograph among shop images, without any labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lookalike.demos.digits import DemoResult
from lookalike.encoders.base import MANIFEST, Encoder
from lookalike.encoders.batching import fit_encoder
from lookalike.encoders.persistence import load_encoder
from lookalike.evaluation.evaluate import evaluate
from lookalike.evaluation.relevance import mark_correct
from lookalike.gallery.gallery import Gallery
from lookalike.report import figures
from lookalike.report.evaluation import write_report
from lookalike.sources import ItemSource, Source, open_items, open_source
from lookalike.training.adapt import BASE, AdaptOptions, adapt
from lookalike.types import ProgressCallback, ignore_progress

NAME = "products"
SHOP, STREET = "dataset:stamps/shop", "dataset:stamps/street"
VIEWS_PER_IMAGE = 4
VARIANTS = ("multi-crop", "multi-crop+k-reciprocal")

_PLAIN = "efficientnet-lite0"
_QUERY = 636
"""One that the network as it is does not find."""

_EVERY = 3
"""Of the street views every third is judged: one of each item."""


def tell_products(
    out: Path, say: Callable[[str], None], on_progress: ProgressCallback = ignore_progress
) -> DemoResult:
    """Make a shop's gallery below ``out`` and ask it with street photographs.

    Args:
        out: the folder for everything.
        say: told of each step in a sentence.
        on_progress: told of progress within the steps.

    Raises:
        FetchError: the items, a package of Debian's, could not be had.
        MissingDependencyError: a package that it takes is not installed.
    """
    start = time.perf_counter()
    folder = out / NAME
    shop = open_source(SHOP, on_progress)
    streets = open_source(STREET, on_progress)
    one_each = [streets[number] for number in range(0, len(streets), _EVERY)]
    asked = ItemSource(streets.name, streets.spec, one_each)
    say(f"1  get: {len(shop)} photographed items on white, and street views of each to ask with")
    say(f"2  index: {_PLAIN} as it is, for comparison")
    plain = _gallery(folder / "plain.gallery", shop, lambda: fit_encoder(_PLAIN, shop), on_progress)
    say(
        f"3  adapt: {VIEWS_PER_IMAGE} street views of each shop image, on collages of the shop's own, and "
        "from these a projection; none of the queries, nor the photographs behind them, is seen"
    )
    encoder = folder / "street.encoder"
    if not (encoder / MANIFEST).exists():
        options = AdaptOptions(views_per_image=VIEWS_PER_IMAGE, resume=(encoder / "views").exists())
        adapt(shop, encoder=BASE, out=encoder, options=options, on_progress=on_progress)
    path = folder / "products.gallery"
    adapted = _gallery(path, shop, lambda: load_encoder(encoder), on_progress)
    (query,) = open_items([f"{STREET}#{_QUERY}"])
    say(f"4  search: which item is on {query.uri}? plain, adapted, and adapted with --multi-crop")
    found = [
        plain.search(query),
        adapted.search(query),
        adapted.search(query, multi_crop=True),
    ]
    picture = folder / "hits.png"
    item = str(query.metadata["item"])
    grid = figures.hits_grid(
        found,
        [mark_correct(hits, item, "item") for hits in found],
        query_titles=[item] * len(found),
        hit_titles=[[str(hit.metadata["item"]) for hit in hits] for hits in found],
        row_names=("plain", "adapted", "adapted, --multi-crop"),
    )
    figures.save(grid, picture)
    say(f"5  evaluate: {len(asked)} street views, each to find its item; beside the baselines")
    before = evaluate(plain, asked, match="item", on_progress=on_progress)
    judged = evaluate(
        adapted, asked, match="item", baselines=True, variants=VARIANTS, on_progress=on_progress
    )
    judged = replace(judged, others={f"{_PLAIN}, plain": before.scores})
    say("6  report: every figure with its table, in one file")
    write_report(judged, adapted, folder / "report.html")
    return DemoResult(
        judged,
        found[-1],
        path,
        folder / "report.html",
        picture,
        time.perf_counter() - start,
        (
            f"lookalike search {path} '{query.uri}' --multi-crop --rerank k-reciprocal "
            "--image hits.png",
            f"lookalike evaluate {path} --synthetic-queries --variants multi-crop",
            f"lookalike info {path}",
        ),
    )


def _gallery(
    path: Path, shop: Source, make: Callable[[], Encoder], on_progress: ProgressCallback
) -> Gallery:
    gallery = Gallery.open(path) if path.exists() else Gallery.create(path, encoder=make())
    gallery.sync(shop, on_progress=on_progress)
    return gallery
