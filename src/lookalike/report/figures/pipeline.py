"""The stages of one search as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch
from numpy.typing import NDArray

from lookalike.formatting import format_distance
from lookalike.report.figures.style import HIGHLIGHT, MUTED, STYLE, Figure
from lookalike.search.contact_sheet import INK, check_some
from lookalike.search.hits import Hits
from lookalike.types import Embeddings, Hit, ImageArray


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
        hit_titles: the title of each hit; by default its label or, without one, its id.
    """
    check_some(results=results)
    shown = min(4, len(results))
    titles = hit_titles or [_hit_title(hit) for hit in results]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.6))
        names: list[Any] = ["query", "embedding", "all", *(f"hit{i}" for i in range(shown))]
        grid = {"left": 0.01, "right": 0.99, "top": 0.72, "bottom": 0.2, "wspace": 0.35}
        ratios = [1, 1, 2, *[0.8] * shown]
        parts = figure.subplot_mosaic([names], width_ratios=ratios, gridspec_kw=grid)
        _picture(parts["query"], query, "")
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
            title = f"{_shorten_title(titles[i])}\n{format_distance(results[i].distance)}"
            _picture(parts[f"hit{i}"], image, title)
        left = parts["hit0"].get_position().x0
        nearest = "nearest row" if len(results) == 1 else f"{len(results)} nearest rows"
        omitted = f" ({shown} shown)" if shown < len(results) else ""
        figure.text(left, 0.92, f"4  hits: the {nearest}{omitted}")
        for one, other in (("query", "embedding"), ("embedding", "all"), ("all", "hit0")):
            _arrow(figure, parts[one], parts[other])
    return figure


def _hit_title(hit: Hit) -> str:
    """Return the label of a hit or, without one, its id."""
    label = hit.metadata.get("label")
    return hit.id if label is None else str(label)


def _picture(ax: Axes, image: ImageArray | None, title: str) -> None:
    """Draw an image with a title above it."""
    if image is None:
        ax.text(0.5, 0.5, "no image", ha="center", va="center", fontsize=7.5, color=MUTED)
    else:
        ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_title(title, fontsize=7.5, color=INK, pad=4)
    ax.axis("off")


def _shorten_title(title: str, max_length: int = 15) -> str:
    """Return the last part of a label or id, shortened to fit above an image."""
    last = title.rpartition("/")[2]
    return last if len(last) <= max_length else f"{last[: max_length - 1]}…"


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
