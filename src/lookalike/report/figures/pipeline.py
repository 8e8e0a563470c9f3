"""The stages of one search as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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

_NARROW = 6.0


def pipeline(
    query: ImageArray,
    embedding: Embeddings,
    distances: NDArray[np.float64],
    results: Hits,
    hit_titles: Sequence[str] | None = None,
    *,
    width: float = 10,
) -> Figure:
    """Draw the stages of one search: image, embedding, distances to all rows, nearest rows.

    Args:
        query: the query image.
        embedding: ``(1, dim)``.
        distances: ``(rows,)``, to all rows of the gallery, or to a sample.
        results: the hits, at least one.
        hit_titles: the title of each hit; by default its label or, without one, its id.
        width: in inches; narrow ones have the hits in a second line.
    """
    check_some(results=results)
    shown = min(4, len(results))
    titles = hit_titles or [_hit_title(hit) for hit in results]
    with mpl.rc_context(STYLE):
        hits = [f"hit{i}" for i in range(shown)]
        figure, parts = _parts(width, hits)
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
        nearest = "nearest row" if len(results) == 1 else f"{len(results)} nearest rows"
        omitted = f" ({shown} shown)" if shown < len(results) else ""
        box = parts["hit0"].get_position()
        above = 0.5 / figure.get_figheight()  # half an inch
        figure.text(box.x0, box.y1 + above, f"4  hits: the {nearest}{omitted}")
        stages = ["query", "embedding", "all"] + ["hit0"] * (width >= _NARROW)
        for one, other in pairwise(stages):
            _arrow(figure, parts[one], parts[other])
    return figure


def _parts(width: float, hits: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    """Return a figure of this width in inches with axes for the stages and for each hit."""
    if width < _NARROW:
        figure = Figure(figsize=(width, 3.7))
        above = figure.add_gridspec(
            1, 3, left=0.01, right=0.97, top=0.87, bottom=0.6, wspace=0.4, width_ratios=(1, 1, 1.5)
        )
        below = figure.add_gridspec(1, 4, left=0.01, right=0.97, top=0.25, bottom=0.01, wspace=0.2)
        cells = [above[i] for i in range(3)] + [below[i] for i in range(len(hits))]
    else:
        figure = Figure(figsize=(width, 2.6))
        ratios = (1, 1, 2, *[0.8] * len(hits))
        line = figure.add_gridspec(
            1, len(ratios), left=0.01, right=0.99, top=0.72, bottom=0.2, wspace=0.35,
            width_ratios=ratios,
        )  # fmt: skip
        cells = [line[i] for i in range(len(ratios))]
    names = ("query", "embedding", "all", *hits)
    return figure, {name: figure.add_subplot(cell) for name, cell in zip(names, cells, strict=True)}


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
