"""Every picture, as matplotlib figures made from real results; nothing here computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import ConnectionPatch
from numpy.typing import NDArray

from lookalike.errors import SettingError, StorageError
from lookalike.evaluation import Evaluation, ranking
from lookalike.sources import open_items
from lookalike.types import Embeddings, Hits, ImageArray

INK = "#222222"
OURS = "#0b6e99"
OTHERS = "#b4b4b4"
RIGHT = "#1a7f37"
WRONG = "#cf222e"
_PALETTE = ("#e6a23c", "#67a86b", "#a67bc0", "#c97a7a", "#5b8fd6", "#8a8a5c", "#777777")
DPI = 130
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "text.color": INK,
    "axes.labelcolor": INK,
}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, or as what the suffix says (svg, pdf).

    Raises:
        SettingError: matplotlib does not write that kind of file.
        StorageError: it could not be written.
    """
    try:
        figure.savefig(path, dpi=DPI)
    except ValueError as error:
        raise SettingError(f"{path}: {error}") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error


def hits(found: Hits) -> Figure:
    """Draw one query beside its hits, with distances and labels."""
    return hits_grid([found])


def hits_grid(found: Sequence[Hits], labels: Sequence[str | None] | None = None) -> Figure:
    """Draw queries, one a row, beside their hits with the distances.

    Args:
        found: the queries' hits; a query's picture is drawn where its name opens as an image.
        labels: the queries' labels; then right hits are framed green and wrong ones red.

    Raises:
        SourceError, ImageError: an image is gone.
    """
    columns = max(len(row) for row in found) + 1
    uris = [uri for row in found for uri in (row.query, *(hit.uri for hit in row))]
    images = iter(_images(uris))
    figure, axes = _grid(len(found), columns, cell=(1.05, 1.38))
    for y, row in enumerate(found):
        label = labels[y] if labels else None
        _picture(axes[y, 0], next(images), label or "query", INK)
        for x, hit in enumerate(row, 1):
            own = str(hit.metadata.get("label", ""))
            colour = INK if label is None else (RIGHT if own == label else WRONG)
            mark = "" if label is None else ("✓ " if own == label else "✗ ")
            _picture(axes[y, x], next(images), f"{mark}{own}\n{hit.distance:.3g}", colour)
            if label is not None:
                _frame(axes[y, x], colour)
    return figure


def pipeline(
    query: ImageArray, embedding: Embeddings, distances: NDArray[np.float64], found: Hits
) -> Figure:
    """Draw how one query is answered: image, embedding, distances to all rows, the nearest.

    Args:
        query: the image.
        embedding: ``(1, dim)``.
        distances: ``(rows,)``, to every row of the gallery.
        found: its hits.
    """
    shown = min(4, len(found))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 2.5))
        names: list[Any] = ["query", "code", "all", *(f"hit{i}" for i in range(shown))]
        grid = {"left": 0.01, "right": 0.99, "top": 0.72, "bottom": 0.14, "wspace": 0.35}
        ratios = [1, 1, 2, *[0.8] * shown]
        parts = figure.subplot_mosaic([names], width_ratios=ratios, gridspec_kw=grid)
        _picture(parts["query"], query, "", INK)
        parts["query"].set_title("1  query", fontsize=9)
        side = int(np.ceil(np.sqrt(embedding.size)))
        code = np.full(side * side, np.nan)
        code[: embedding.size] = embedding[0]
        parts["code"].imshow(code.reshape(side, side), cmap="viridis")
        parts["code"].set_title(f"2  embedding\n{embedding.size} numbers", fontsize=9)
        parts["code"].axis("off")
        ax = parts["all"]
        ax.hist(distances, bins=60, color=OTHERS)
        ax.axvspan(0, found[-1].distance, color=OURS, alpha=0.4, lw=0)
        ax.set_title(f"3  {found.metric} distance to all\n{len(distances):,} rows", fontsize=9)
        ax.set_xlim(left=0)
        ax.set_yticks([])
        for i, image in enumerate(_images([hit.uri for hit in found[:shown]])):
            text = f"{found[i].metadata.get('label', '')}\n{found[i].distance:.3g}"
            _picture(parts[f"hit{i}"], image, text, INK)
        left = parts["hit0"].get_position().x0
        figure.text(left, 0.92, f"4  the nearest {len(found)} are its hits ({shown} shown)")
        for one, other in (("query", "code"), ("code", "all"), ("all", "hit0")):
            _arrow(figure, parts[one], parts[other])
    return figure


def class_distribution(gallery: Mapping[str, int], queries: Mapping[str, int]) -> Figure:
    """Draw how many images of each label the gallery and the queries have."""
    labels = sorted({*gallery, *queries})
    place = np.arange(len(labels))
    with mpl.rc_context(_STYLE):
        figure = _charted((7.5, 2.9))
        ax = figure.subplots()
        for offset, counts, name, colour in (
            (-0.2, gallery, "gallery", OURS),
            (0.2, queries, "queries", OTHERS),
        ):
            heights = [counts.get(label, 0) for label in labels]
            bars = ax.bar(place + offset, heights, 0.4, label=name, color=colour)
            if len(labels) <= 12:
                ax.bar_label(bars, fmt="{:,.0f}", fontsize=6.5, padding=1)
        ax.set_xticks(place, labels, rotation=30 if max(map(len, labels)) > 3 else 0)
        ax.set_ylabel("images")
        ax.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.17))
    return figure


def sample_grid(images: Sequence[ImageArray], labels: Sequence[str]) -> Figure:
    """Draw images with their labels, ten a row."""
    columns = min(10, len(images))
    rows = -(-len(images) // columns)
    figure, axes = _grid(rows, columns, cell=(0.8, 0.95))
    for ax, image, label in zip(axes.flat, images, labels, strict=False):
        _picture(ax, image, label, INK)
    return figure


def network_table(name: str, layers: Sequence[tuple[str, str, int]]) -> Figure:
    """Draw a network as a table of layers: what each does, its output's shape, its weights."""
    total = sum(weights for _, _, weights in layers)
    cells = [[layer, shape, f"{weights:,}" if weights else ""] for layer, shape, weights in layers]
    with mpl.rc_context(_STYLE):
        figure = _charted((7.5, 0.32 * len(layers) + 0.95))
        ax = figure.subplots()
        ax.axis("off")
        ax.set_title(f"{name}: {total:,} weights", loc="left")
        table = ax.table(
            [*cells, ["", "in all", f"{total:,}"]],
            colLabels=["layer", "output", "weights"],
            colWidths=[0.58, 0.24, 0.18],
            loc="upper center",
            cellLoc="left",
            colLoc="left",
        )
        table.auto_set_font_size(False)
        table.set_fontsize(8.5)
        table.scale(1, 1.35)
        for (row, column), cell in table.get_celld().items():
            cell.set_edgecolor("#dddddd")
            cell.visible_edges = "B"
            cell.PAD = 0.02
            if column == 2:
                cell.set_text_props(ha="right")
            if row == 0 or "= the code" in cell.get_text().get_text():
                cell.set_text_props(weight="bold")
    return figure


def training_curve(curves: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Draw how the mean squared error a pixel fell, a line a recipe.

    Args:
        curves: for each recipe ``(points, 2)``: epochs trained, and the mean error since the point
            before.
    """
    with mpl.rc_context(_STYLE):
        figure = _charted((7.5, 2.9))
        ax = figure.subplots()
        for name, points in curves.items():
            (line,) = ax.plot(*points.T, label=name, marker="." if len(points) < 40 else None)
            end = f"{points[-1, 1]:.5f}"
            ax.annotate(
                end, points[-1], (5, -3), textcoords="offset points", color=line.get_color()
            )
        ax.set_xlim(0, right=1.1 * max(points[-1, 0] for points in curves.values()))
        ax.set_ylim(bottom=0)
        ax.set_xlabel("epochs")
        ax.set_ylabel("mean squared error")
        ax.legend(frameon=False)
    return figure


def reconstructions(
    originals: Sequence[ImageArray], decoded: Mapping[str, NDArray[np.float32]]
) -> Figure:
    """Draw originals above what each autoencoder makes of them, ``(n, 1, H, W)`` in [0, 1]."""
    figure, axes = _grid(len(decoded) + 1, len(originals), cell=(0.8, 0.86), left=1.25)
    for ax, image in zip(axes[0], originals, strict=True):
        _picture(ax, image, "", INK)
    for row, values in zip(axes[1:], decoded.values(), strict=True):
        for ax, image in zip(row, values, strict=True):
            _picture(ax, np.rint(image[0] * 255).astype(np.uint8), "", INK)
    for row, name in zip(axes, ["original", *decoded], strict=True):
        row[0].text(-0.15, 0.5, name, transform=row[0].transAxes, ha="right", va="center")
    return figure


def confusion(labels: Sequence[str], counts: NDArray[np.int64]) -> Figure:
    """Draw which labels the hits of each label's queries have, in per cent of its hits."""
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = np.where(np.eye(len(labels), dtype=bool), np.nan, share)
    size = max(3.6, 0.46 * len(labels) + 1.4)
    with mpl.rc_context({**_STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = _charted((size + 0.8, size))
        ax = figure.subplots()
        picture = ax.imshow(wrong, cmap="Reds", vmin=0)
        for y, x in np.ndindex(share.shape):
            if len(labels) <= 20 and (x == y or share[y, x] >= 0.05):
                dark = x != y and share[y, x] > 0.6 * np.nanmax(wrong)
                text = f"{share[y, x]:.1f}"
                ax.text(
                    x, y, text, ha="center", va="center", fontsize=7, color="w" if dark else INK
                )
        ax.set_xticks(range(len(labels)), labels, rotation=40 if max(map(len, labels)) > 3 else 0)
        ax.set_yticks(range(len(labels)), labels)
        ax.tick_params(length=0)
        ax.set_xlabel("label of the hit")
        ax.set_ylabel("label of the query")
        figure.colorbar(picture, ax=ax, label="wrong hits, %", shrink=0.75)
    return figure


def precision_per_label(found: Evaluation) -> Figure:
    """Draw precision of each label's queries, beside the baselines'."""
    labels = sorted(found.scores.per_label)
    with mpl.rc_context(_STYLE):
        figure = _charted((7.5, 3.3))
        ax = figure.subplots()
        names = [name for name, _ in ranking(found) if name != "chance"]
        styles = iter(zip("s^vDP<>", _PALETTE, strict=True))
        for name, scores in ranking(found):
            if name not in names:
                continue
            ours = scores is found.scores
            marker, colour = ("o", OURS) if ours else next(styles, ("x", OTHERS))
            values = [scores.per_label[label].precision for label in labels]
            ax.plot(
                labels,
                values,
                marker,
                color=colour,
                ms=8 if ours else 5,
                label=name,
                zorder=3 if ours else 2,
            )
        ax.set_ylabel(f"precision@{found.n}")
        ax.grid(axis="y", color="#eeeeee")
        ax.tick_params(axis="x", rotation=30 if max(map(len, labels)) > 3 else 0)
        ax.legend(frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.16))
    return figure


def ladder(found: Evaluation) -> Figure:
    """Draw precision@n of the gallery's encoder and the baselines, with 95 % intervals."""
    scores = ranking(found)[::-1]
    values = [s.precision.value for _, s in scores]
    errors = [
        [s.precision.value - s.precision.interval.low for _, s in scores],
        [s.precision.interval.high - s.precision.value for _, s in scores],
    ]
    with mpl.rc_context(_STYLE):
        figure = _charted((7.5, 0.34 * len(scores) + 0.8))
        ax = figure.subplots()
        colours = [OURS if s is found.scores else OTHERS for _, s in scores]
        names = [name for name, _ in scores]
        ax.barh(names, values, xerr=errors, color=colours, ecolor=INK, height=0.7)
        for y, (value, high) in enumerate(zip(values, errors[1], strict=True)):
            ax.text(value + high + 0.006, y, f"{value:.4f}", va="center", fontsize=8)
        ax.set_xlim(0, 1.09)
        ax.set_xlabel(f"precision@{found.n}, {found.scores.metric}, 95 % interval")
    return figure


def _charted(size: tuple[float, float]) -> Figure:
    """Return a figure of this size in inches that lays out its charts without overlaps."""
    return Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))


def _images(uris: Sequence[str]) -> list[ImageArray]:
    return [item.image() for item in open_items(uris)]


def _grid(
    rows: int, columns: int, *, cell: tuple[float, float], left: float = 0.05
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure of rows x columns axes without ticks, ``cell`` inches each."""
    width = columns * cell[0] + left + 0.05
    with mpl.rc_context(_STYLE):
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


def _picture(ax: Axes, image: ImageArray, title: str, colour: str) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_title(title, fontsize=7.5, color=colour, pad=3)
    ax.axis("off")


def _frame(ax: Axes, colour: str) -> None:
    ax.axis("on")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, color=colour, linewidth=2)


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
