"""Charts and tables of figures: bars, curves, matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from lookalike.evaluation.human_judgements import HitJudgements
from lookalike.evaluation.metrics import Estimate
from lookalike.evaluation.model_selection import Choice
from lookalike.evaluation.results import Evaluation
from lookalike.evaluation.robustness import SelfRetrieval
from lookalike.evaluation.summary import ranking
from lookalike.report.figures.style import INK, OTHERS, OURS, PALETTE, STYLE


def class_distribution(gallery: Mapping[str, int], queries: Mapping[str, int]) -> Figure:
    """Draw how many images of each label the gallery and the queries have."""
    labels = sorted({*gallery, *queries})
    place = np.arange(len(labels))
    with mpl.rc_context(STYLE):
        figure = _charted((7.5, 2.9))
        ax = figure.subplots()
        for offset, counts, name, color in (
            (-0.2, gallery, "gallery", OURS),
            (0.2, queries, "queries", OTHERS),
        ):
            heights = [counts.get(label, 0) for label in labels]
            bars = ax.bar(place + offset, heights, 0.4, label=name, color=color)
            if len(labels) <= 12:
                ax.bar_label(bars, fmt="{:,.0f}", fontsize=6.5, padding=1)
        ax.set_xticks(place, labels, rotation=30 if max(map(len, labels)) > 3 else 0)
        ax.set_ylabel("images")
        ax.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.17))
    return figure


def network_table(name: str, layers: Sequence[tuple[str, str, int]]) -> Figure:
    """Draw a network as a table of layers: what each does, its output's shape, its weights."""
    total = sum(weights for _, _, weights in layers)
    cells = [[layer, shape, f"{weights:,}" if weights else ""] for layer, shape, weights in layers]
    with mpl.rc_context(STYLE):
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
    with mpl.rc_context(STYLE):
        figure = _charted((7.5, 2.9))
        ax = figure.subplots()
        for name, points in curves.items():
            label = f"{name}, at the end {points[-1, 1]:.5f}"
            ax.plot(*points.T, label=label, marker="." if len(points) < 40 else None)
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("epochs")
        ax.set_ylabel("mean squared error")
        ax.legend(frameon=False)
    return figure


def confusion(labels: Sequence[str], counts: NDArray[np.int64]) -> Figure:
    """Draw which labels the hits of each label's queries have, in per cent of its hits."""
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = np.where(np.eye(len(labels), dtype=bool), np.nan, share)
    size = max(3.6, 0.46 * len(labels) + 1.4)
    with mpl.rc_context({**STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
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
    with mpl.rc_context(STYLE):
        figure = _charted((7.5, 3.3))
        ax = figure.subplots()
        names = [name for name, _ in ranking(found) if name != "chance"]
        styles = iter(zip("s^vDP<>", PALETTE, strict=True))
        for name, scores in ranking(found):
            if name not in names:
                continue
            ours = scores is found.scores
            marker, color = ("o", OURS) if ours else next(styles, ("x", OTHERS))
            values = [scores.per_label[label].precision for label in labels]
            ax.plot(
                labels,
                values,
                marker,
                color=color,
                ms=8 if ours else 5,
                label=name,
                zorder=3 if ours else 2,
            )
        ax.set_ylabel(f"precision@{found.k}")
        ax.grid(axis="y", color="#eeeeee")
        ax.tick_params(axis="x", rotation=30 if max(map(len, labels)) > 3 else 0)
        ax.legend(frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.16))
    return figure


def ladder(found: Evaluation) -> Figure:
    """Draw precision@k of the gallery's encoder and the baselines, with 95 % intervals."""
    scores = ranking(found)[::-1]
    with mpl.rc_context(STYLE):
        figure = _charted((7.5, 0.34 * len(scores) + 0.8))
        ax = figure.subplots()
        colors = [OURS if s is found.scores else OTHERS for _, s in scores]
        _barh(ax, [name for name, _ in scores], [s.precision for _, s in scores], colors)
        ax.set_xlabel(f"precision@{found.k}, {found.scores.metric}, 95 % interval")
    return figure


def invariance(found: SelfRetrieval) -> Figure:
    """Draw how well distorted images found their originals: mAP@k with 95 % intervals."""
    scores = list(found.scores.items())[::-1]
    estimates = [s.map for _, s in scores]
    with mpl.rc_context(STYLE):
        figure = _charted((7.5, 0.34 * len(scores) + 0.8))
        ax = figure.subplots()
        _barh(ax, [name for name, _ in scores], estimates, [OURS] * len(scores))
        ax.set_xlabel(f"mAP@{found.k} of finding the original, {found.metric}, 95 % interval")
    return figure


def judged_hits(found: HitJudgements) -> Figure:
    """Draw the share of hits that people called right, for each gallery, with 95 % intervals."""
    hits = found.hits[::-1]
    with mpl.rc_context(STYLE):
        figure = _charted((7.5, 0.34 * len(hits) + 0.8))
        ax = figure.subplots()
        names = [f"{each.gallery}, n = {each.k}" for each in hits]
        _barh(ax, names, [each.precision for each in hits], [OURS] * len(hits))
        ax.set_xlabel("precision@k as people judge it, 95 % interval")
    return figure


def preferences(found: HitJudgements) -> Figure:
    """Draw how often the first of two galleries was preferred, with 95 % intervals."""
    pairs = found.preferences[::-1]
    with mpl.rc_context(STYLE):
        figure = _charted((7.5, 0.34 * len(pairs) + 0.8))
        ax = figure.subplots()
        names = [f"{each.a} rather than {each.b}" for each in pairs]
        colors = [OTHERS if each.within_noise else OURS for each in pairs]
        _barh(ax, names, [each.share for each in pairs], colors)
        ax.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        ax.set_xlabel("share of queries, ties as half, 95 % interval; the dotted line: as good")
    return figure


def choice(found: Choice) -> Figure:
    """Draw quality, with 95 % intervals, against encode rate; candidates without one are left out.

    The best is drawn in our color, and those within the noise are filled.
    """
    with mpl.rc_context(STYLE):
        figure = _charted((7.5, 3.8))
        ax = figure.subplots()
        for number, candidate in enumerate(found.candidates):
            if candidate.quality is None:
                continue
            estimate = candidate.quality.estimate
            low, high = estimate.interval.low, estimate.interval.high
            errors = np.maximum([[estimate.value - low], [high - estimate.value]], 0)
            color = OURS if candidate.best else PALETTE[number % len(PALETTE)]
            ax.errorbar(
                candidate.rate,
                estimate.value,
                yerr=errors,
                fmt="os^vDP<>"[number % 8],
                color=color,
                mfc=color if candidate.quality.within_noise else "w",
                capsize=2,
                label=f"{candidate.name}, {candidate.encoder.dim} dimensions",
            )
        ax.set_xscale("log")
        ax.set_xlabel("images encoded a second (filled: cannot be told apart from the best)")
        ax.set_ylabel(found.judgements.measure if found.judgements else "")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def _barh(
    ax: Axes, names: Sequence[str], estimates: Sequence[Estimate], colors: Sequence[str]
) -> None:
    """Draw a bar from 0 to 1 for each estimate, with its interval and its value in figures."""
    values = [e.value for e in estimates]
    lows = [e.value - e.interval.low for e in estimates]
    highs = [e.interval.high - e.value for e in estimates]
    errors = np.maximum([lows, highs], 0)  # a difference of nothing may round to below it
    places = np.arange(len(names))  # not the names, since a gallery's encoder may be a baseline too
    ax.barh(places, values, xerr=errors, color=colors, ecolor=INK, height=0.7)
    ax.set_yticks(places, names)
    for y, (value, high) in enumerate(zip(values, errors[1], strict=True)):
        ax.text(value + high + 0.006, y, f"{value:.4f}", va="center", fontsize=8)
    ax.set_xlim(0, 1.09)


def _charted(size: tuple[float, float]) -> Figure:
    """Return a figure of this size in inches that lays out its charts without overlaps."""
    return Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
