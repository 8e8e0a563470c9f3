"""Figures of images: hits, the search pipeline, samples, corruptions, reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from numpy.typing import NDArray

from lookalike.formatting import format_distance
from lookalike.images.decode import shrink_image
from lookalike.report.figures.style import (
    CORRECT,
    HIGHLIGHT,
    INCORRECT,
    INK,
    MUTED,
    STYLE,
)
from lookalike.sources import Item, open_items
from lookalike.types import Embeddings, Hit, Hits, ImageArray

_MAX_SIDE = 1024
"""Larger images are scaled down as they are read: many are in memory for one figure."""

RowOpener = Callable[[Sequence[Hit]], Sequence[Item]]


def hits(results: Hits, correct: Sequence[bool | None] | None = None) -> Figure:
    """Draw a query beside its hits, with their labels and distances.

    Args:
        results: of one query; without a URI its image is not drawn.
        correct: whether each hit is correct, None where unknown.

    Raises:
        SourceError, ImageError: an image cannot be read.
    """
    return hits_grid([results], None if correct is None else [correct])


def hits_grid(
    results: Sequence[Hits],
    correct: Sequence[Sequence[bool | None] | None] | None = None,
    *,
    query_titles: Sequence[str | None] | None = None,
    hit_titles: Sequence[Sequence[str]] | None = None,
    row_names: Sequence[str] | None = None,
    open_rows: RowOpener | None = None,
) -> Figure:
    """Draw queries, one per row, beside their hits with distances.

    Args:
        results: of each query; without a URI its image is not drawn.
        correct: for each query whether each hit is correct (green frame and check mark) or not
            (red frame and cross). None, for a hit or for all hits of a query, draws no frame.
        query_titles: the title of each query, below "query".
        hit_titles: the title of each hit; by default its label or, without one, its id.
        row_names: a title on the left of each row.
        open_rows: opens the images of hits, see :meth:`lookalike.Gallery.open_rows`.

    Raises:
        SourceError, ImageError: an image cannot be read.
    """
    columns = max(len(row) for row in results) + 1
    left = 0.3 if row_names else 0.05
    figure, axes = _grid(len(results), columns, cell=(1.05, 1.38), left=left)
    for name, ax in zip(row_names or (), axes[:, 0], strict=False):
        box = ax.get_position()
        middle = (box.y0 + box.y1) / 2
        figure.text(0.008, middle, name, fontsize=8, color=INK, rotation=90, va="center")
    for y, row in enumerate(results):
        if row.uri is not None:
            title = query_titles[y] if query_titles else None
            text = "query" if title is None else f"query\n{_short(title)}"
            _picture(axes[y, 0], open_items([row.uri])[0].image(), text, INK)
        titles = hit_titles[y] if hit_titles else [_hit_title(hit) for hit in row]
        marks = (correct[y] if correct else None) or [None] * len(row)
        images = _images(row, open_rows)
        for x, (image, hit) in enumerate(zip(images, row, strict=True)):
            _draw_hit(axes[y, 1 + x], image, hit, titles[x], marks[x])
    return figure


def _hit_title(hit: Hit) -> str:
    label = hit.metadata.get("label")
    return hit.id if label is None else str(label)


def _draw_hit(ax: Axes, image: ImageArray, hit: Hit, title: str, correct: bool | None) -> None:
    text = f"{_short(title)}\n{format_distance(hit.distance)}"
    if correct is None:
        _picture(ax, image, text, INK)
    else:
        color, mark = (CORRECT, "✓") if correct else (INCORRECT, "✗")
        _picture(ax, image, f"{mark} {text}", color)
        _frame(ax, color)


def pipeline(
    query: ImageArray,
    embedding: Embeddings,
    distances: NDArray[np.float64],
    results: Hits,
    hit_titles: Sequence[str] | None = None,
    open_rows: RowOpener | None = None,
) -> Figure:
    """Draw the stages of one search: image, embedding, distances to all rows, nearest rows.

    Args:
        query: the query image.
        embedding: ``(1, dim)``.
        distances: ``(rows,)``, to each row of the gallery.
        results: the hits, at least one.
        hit_titles: the title of each hit; by default as in :func:`hits_grid`.
        open_rows: as in :func:`hits_grid`.
    """
    shown = min(4, len(results))
    titles = hit_titles or [_hit_title(hit) for hit in results]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.6))
        names: list[Any] = ["query", "embedding", "all", *(f"hit{i}" for i in range(shown))]
        grid = {"left": 0.01, "right": 0.99, "top": 0.72, "bottom": 0.2, "wspace": 0.35}
        ratios = [1, 1, 2, *[0.8] * shown]
        parts = figure.subplot_mosaic([names], width_ratios=ratios, gridspec_kw=grid)
        _picture(parts["query"], query, "", INK)
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
        for i, image in enumerate(_images(results[:shown], open_rows)):
            _draw_hit(parts[f"hit{i}"], image, results[i], titles[i], None)
        left = parts["hit0"].get_position().x0
        nearest = "nearest row" if len(results) == 1 else f"{len(results)} nearest rows"
        omitted = f" ({shown} shown)" if shown < len(results) else ""
        figure.text(left, 0.92, f"4  hits: the {nearest}{omitted}")
        for one, other in (("query", "embedding"), ("embedding", "all"), ("all", "hit0")):
            _arrow(figure, parts[one], parts[other])
    return figure


def sample_grid(images: Sequence[ImageArray], labels: Sequence[str]) -> Figure:
    """Draw images with their labels, ten per row; labels may have two lines and are shortened."""
    columns = min(10, len(images))
    rows = -(-len(images) // columns)
    lines = max(label.count("\n") for label in labels)
    figure, axes = _grid(rows, columns, cell=(0.8, 0.95 + 0.17 * lines))
    for ax, image, label in zip(axes.flat, images, labels, strict=False):
        _picture(ax, image, "\n".join(_short(line, 11) for line in label.split("\n")), INK)
    return figure


def corruptions(examples: Sequence[Mapping[str, ImageArray]]) -> Figure:
    """Draw images, one per row, beside their corrupted versions, by name."""
    figure, axes = _grid(len(examples), len(examples[0]), cell=(1.05, 1.2))
    for row, images in zip(axes, examples, strict=True):
        for ax, (name, image) in zip(row, images.items(), strict=True):
            _picture(ax, image, name, INK)
    return figure


def reconstructions(
    originals: Sequence[ImageArray], decoded: Mapping[str, NDArray[np.float32]]
) -> Figure:
    """Draw originals above each autoencoder's reconstructions, ``(n, 1, H, W)`` in [0, 1]."""
    figure, axes = _grid(len(decoded) + 1, len(originals), cell=(0.8, 0.86), left=1.25)
    for ax, image in zip(axes[0], originals, strict=True):
        _picture(ax, image, "", INK)
    for row, values in zip(axes[1:], decoded.values(), strict=True):
        for ax, image in zip(row, values, strict=True):
            _picture(ax, np.rint(image[0] * 255).astype(np.uint8), "", INK)
    for row, name in zip(axes, ["original", *decoded], strict=True):
        row[0].text(-0.15, 0.5, name, transform=row[0].transAxes, ha="right", va="center")
    return figure


def _short(label: str, max_length: int = 15) -> str:
    """Return the last part of a label or id, shortened to fit above an image."""
    last = label.rpartition("/")[2]
    return last if len(last) <= max_length else f"{last[: max_length - 1]}…"


def _images(hits: Sequence[Hit], open_rows: RowOpener | None) -> list[ImageArray]:
    items = open_rows(hits) if open_rows else open_items([hit.uri for hit in hits])
    return [shrink_image(item.image(), _MAX_SIDE) for item in items]


def _grid(
    rows: int, columns: int, *, cell: tuple[float, float], left: float = 0.05
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure of rows x columns axes without ticks, ``cell`` inches each."""
    width = columns * cell[0] + left + 0.05
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, rows * cell[1] + 0.1))
        axes = figure.subplots(
            rows,
            columns,
            squeeze=False,
            gridspec_kw={
                "left": left / width,
                "right": 1 - 0.05 / width,
                "bottom": 0.02,
                "top": 1 - 0.33 / (rows * cell[1] + 0.1) if cell[1] > 0.9 else 0.98,
                "wspace": 0.12,
                "hspace": 0.12 if cell[1] < 0.9 else 0.42,
            },
        )
    for ax in axes.flat:
        ax.axis("off")
    return figure, axes


def _picture(ax: Axes, image: ImageArray, title: str, color: str) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_title(title, fontsize=7.5, color=color, pad=4)
    ax.axis("off")


def _frame(ax: Axes, color: str) -> None:
    ax.axis("on")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=2)


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
