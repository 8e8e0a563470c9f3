"""Figures of images: hits, the search pipeline, samples, corruptions, reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch
from numpy.typing import NDArray

from lookalike.plotting import HIGHLIGHT, INK, MUTED, STYLE, Figure, check_some
from lookalike.search.contact_sheet import (
    draw_hit,
    hit_title,
    image_grid,
    picture,
    shorten_title,
)
from lookalike.search.hits import Hits
from lookalike.types import Embeddings, ImageArray


def pipeline(
    query: ImageArray,
    embedding: Embeddings,
    distances: NDArray[np.float64],
    results: Hits,
    hit_titles: Sequence[str] | None = None,
) -> Figure:
    """Draw the stages of one search: image, embedding, distances to all rows, nearest rows.

    Args:
        query: the query image.
        embedding: ``(1, dim)``.
        distances: ``(rows,)``, to all rows of the gallery, or to a sample.
        results: the hits, at least one.
        hit_titles: the title of each hit; by default as in :func:`hits_grid`.
    """
    check_some(results=results)
    shown = min(4, len(results))
    titles = hit_titles or [hit_title(hit) for hit in results]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.6))
        names: list[Any] = ["query", "embedding", "all", *(f"hit{i}" for i in range(shown))]
        grid = {"left": 0.01, "right": 0.99, "top": 0.72, "bottom": 0.2, "wspace": 0.35}
        ratios = [1, 1, 2, *[0.8] * shown]
        parts = figure.subplot_mosaic([names], width_ratios=ratios, gridspec_kw=grid)
        picture(parts["query"], query, "", INK)
        parts["query"].set_title("1  query", fontsize=9)
        side = int(np.ceil(np.sqrt(embedding.size)))
        square = np.full(side * side, np.nan)  # NaN cells stay blank
        square[: embedding.size] = embedding[0]
        parts["embedding"].imshow(square.reshape(side, side), cmap="viridis")
        parts["embedding"].set_title(f"2  embedding\n{embedding.size:,} dimensions", fontsize=9)
        parts["embedding"].axis("off")
        ax = parts["all"]
        ax.hist(distances, bins=60, color=MUTED)
        ax.axvspan(0, results[-1].distance, color=HIGHLIGHT, alpha=0.4, lw=0)
        ax.set_title(f"3  distances to\n{len(distances):,} rows", fontsize=9)
        ax.set_xlabel(f"{results.metric} distance", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.set_xlim(left=0)
        ax.set_yticks([])
        for i, image in enumerate(results[:shown].images()):
            draw_hit(parts[f"hit{i}"], image, results[i], titles[i], None)
        left = parts["hit0"].get_position().x0
        nearest = "nearest row" if len(results) == 1 else f"{len(results)} nearest rows"
        omitted = f" ({shown} shown)" if shown < len(results) else ""
        figure.text(left, 0.92, f"4  hits: the {nearest}{omitted}")
        for one, other in (("query", "embedding"), ("embedding", "all"), ("all", "hit0")):
            _arrow(figure, parts[one], parts[other])
    return figure


def sample_grid(images: Sequence[ImageArray], labels: Sequence[str]) -> Figure:
    """Draw images with their labels, ten per row; labels may have two lines and are shortened."""
    check_some(images=images, labels=labels)
    columns = min(10, len(images))
    rows = -(-len(images) // columns)
    lines = max(label.count("\n") for label in labels)
    figure, axes = image_grid(rows, columns, cell=(0.8, 0.95 + 0.17 * lines))
    for ax, image, label in zip(axes.flat, images, labels, strict=False):
        picture(ax, image, "\n".join(shorten_title(line, 11) for line in label.split("\n")), INK)
    return figure


def corruptions(examples: Sequence[Mapping[str, ImageArray]]) -> Figure:
    """Draw images, one per row, beside their corrupted versions, by name."""
    check_some(examples=examples)
    figure, axes = image_grid(len(examples), len(examples[0]), cell=(1.05, 1.2))
    for row, images in zip(axes, examples, strict=True):
        for ax, (name, image) in zip(row, images.items(), strict=True):
            picture(ax, image, name, INK)
    return figure


def reconstructions(
    originals: Sequence[ImageArray], decoded: Mapping[str, NDArray[np.float32]]
) -> Figure:
    """Draw originals above each autoencoder's reconstructions, ``(n, 1, H, W)`` in [0, 1]."""
    check_some(originals=originals)
    figure, axes = image_grid(len(decoded) + 1, len(originals), cell=(0.8, 0.86), left=1.25)
    for ax, image in zip(axes[0], originals, strict=True):
        picture(ax, image, "", INK)
    for row, values in zip(axes[1:], decoded.values(), strict=True):
        for ax, image in zip(row, values, strict=True):
            picture(ax, np.rint(image[0] * 255).astype(np.uint8), "", INK)
    for row, name in zip(axes, ["original", *decoded], strict=True):
        row[0].text(-0.15, 0.5, name, transform=row[0].transAxes, ha="right", va="center")
    return figure


def _arrow(figure: Figure, left: Axes, right: Axes) -> None:
    figure.add_artist(
        ConnectionPatch(
            (1.04, 0.5),
            (-0.06, 0.5),
            left.transAxes,
            right.transAxes,
            arrowstyle="-|>",
            mutation_scale=12,
            color=INK,
        )
    )
