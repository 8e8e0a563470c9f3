"""Figures: the values, labels and marks they draw."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from typer.testing import CliRunner

import lookalike as la
from lookalike import cli
from lookalike.errors import InputError, SettingError
from lookalike.evaluation.metrics import Estimate, Interval
from lookalike.evaluation.relevance import mark_correct
from lookalike.evaluation.results import Evaluation
from lookalike.formatting import format_distance
from lookalike.gallery.gallery import Gallery
from lookalike.report import evaluation as report_evaluation
from lookalike.report import figures, svg
from lookalike.report.evaluation import report_page
from lookalike.report.figures.style import HIGHLIGHT, MUTED, PALETTE
from lookalike.search.hits import Hits
from lookalike.types import Hit, Metric


@pytest.fixture
def evaluation(gallery: Gallery) -> Evaluation:
    return la.evaluate(gallery, "dataset:digits/test[:30]", baselines=True)


@pytest.fixture
def ground_truth_evaluation(gallery: Gallery, tmp_path: Path) -> Evaluation:
    """By ground truth: the two nearest rows of one query and a distant row of another."""
    hits = gallery.search(la.open_source("dataset:digits/test[:1]")[0].image(), k=2)
    with (tmp_path / "truth.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["digits/test:0", *(hit.id for hit in hits)])
        writer.writerow(["digits/test:1", "digits/train:0"])
    return la.evaluate(
        gallery, "dataset:digits/test[:30]", ground_truth=tmp_path / "truth.csv", k=5
    )


def png_size(figure: Figure) -> int:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return len(buffer.getvalue())


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes if ax.images]


def axes_of(figure: Figure, place: int = 0) -> Any:
    """Return axes as Any: matplotlib types their artists too loosely."""
    return figure.axes[place]


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def tick_labels(ax: Any, axis: str) -> list[str]:
    ticks = ax.get_xticklabels() if axis == "x" else ax.get_yticklabels()
    return [label.get_text() for label in ticks]


def bar_widths(ax: Any) -> list[float]:
    (bars,) = (each for each in ax.containers if isinstance(each, BarContainer))
    return [bar.get_width() for bar in bars]


def results(gallery: Gallery, *distances: float, labels: str = "abcdefg") -> Hits:
    """Return hits on images of a gallery with the given labels and distances."""
    hits = gallery.search(id="digits/train:1", k=len(distances))
    rows = tuple(
        Hit(hit.rank, hit.id, hit.uri, distance, {"label": label})
        for hit, distance, label in zip(hits, distances, labels, strict=False)
    )
    return Hits(hits.query, Metric.COSINE, rows, hits.uri)


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (-1.998e-15, "0.0000"),
        (3.33e-15, "0.0000"),
        (-0.0, "0.0000"),
        (-0.00004, "0.0000"),
        (-0.00006, "-0.0001"),
        (0.12345, "0.1235"),
        (1234.5, "1234.5000"),
    ],
)
def test_distances_have_no_exponent_and_no_negative_zero(distance: float, text: str) -> None:
    assert format_distance(distance) == text


def test_distances_that_rounding_made_negative_are_shown_as_zero(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits = results(gallery, -2e-15, 3e-15, 0.25)
    monkeypatch.setattr(Gallery, "search", lambda *_, **__: [hits])
    shown = CliRunner().invoke(cli.app, ["search", str(gallery.path), "--id", "digits/train:1"])
    assert shown.exit_code == 0
    cells = [line.split() for line in shown.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert [row[1] for row in cells if len(row) == 4] == ["0.0000", "0.0000", "0.2500"]


def test_bars_are_drawn_with_values_and_intervals() -> None:
    bars = [
        figures.Bar("ours", 0.75, 0.5, 0.875, highlight=True),
        figures.Bar("theirs", 0.25, 0.125, 0.5),
        figures.Bar("theirs", 0.125, 0.125, 0.125),
    ]
    figure = figures.interval_chart(bars, "R@1", reference=0.5)
    assert png_size(figure) > 3_000
    ax = axes_of(figure)
    assert figure.get_supxlabel() == "R@1"
    assert tick_labels(ax, "y") == ["ours", "theirs", "theirs"]
    assert ax.yaxis_inverted()
    assert bar_widths(ax) == [0.75, 0.25, 0.125]
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches] == [HIGHLIGHT, MUTED, MUTED]
    assert texts(ax) == ["0.7500", "0.2500", "0.1250"]
    (errors,) = (each for each in ax.containers if isinstance(each, ErrorbarContainer))
    segments: Any = errors.lines[2][0]
    ends = [segment[:, 0].tolist() for segment in segments.get_segments()]
    assert ends == [[0.5, 0.875], [0.125, 0.5], [0.125, 0.125]]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [0.5]


def test_intervals_that_exclude_the_value_by_rounding_are_drawn() -> None:
    value = 0.1
    estimate = Estimate(value, Interval(np.nextafter(value, 1), np.nextafter(value, 0)))
    bar = figures.Bar.of("chance", estimate)
    assert (bar.name, bar.value, bar.highlight) == ("chance", value, False)
    figure = figures.interval_chart([bar], "precision@7")
    assert png_size(figure) > 3_000
    assert bar_widths(figure.axes[0]) == [value]


def recorded(
    monkeypatch: pytest.MonkeyPatch, name: str, evaluation: Evaluation, gallery: Gallery
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return the arguments that the report gives to a drawing function, call by call.

    Charts are drawn twice, also for phones; the calls for wide windows are returned.
    """
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    module = report_evaluation if name == "contact_sheet" else figures
    draw = getattr(module, name)

    def record(*args: Any, **kwargs: Any) -> Figure:
        calls.append((args, kwargs))
        figure: Figure = draw(*args, **kwargs)
        return figure

    monkeypatch.setattr(module, name, record)
    report_page(evaluation, gallery)
    return [call for call in calls if call[1].get("width", 7.5) == 7.5]


@pytest.mark.slow
def test_the_report_draws_precision_by_labels_and_map_otherwise(
    evaluation: Evaluation,
    ground_truth_evaluation: Evaluation,
    gallery: Gallery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (((bars, label), _),) = recorded(monkeypatch, "interval_chart", evaluation, gallery)
    assert label == "precision@7, cosine distance; error bars: 95 % confidence interval"
    assert [bar.value for bar in bars] == [s.precision.value for _, s in evaluation.ranking()]
    assert [bar.name for bar in bars if bar.highlight] == [evaluation.scores.encoder]
    (((bars, label), _),) = recorded(
        monkeypatch, "interval_chart", ground_truth_evaluation, gallery
    )
    assert label == "mAP@5, cosine distance; error bars: 95 % confidence interval"
    own = ground_truth_evaluation.scores
    assert own.map.value != own.precision.value
    assert bars == [figures.Bar.of(own.encoder, own.map, highlight=True)]


@pytest.mark.slow
def test_the_gallery_s_own_encoder_is_not_also_a_baseline(
    evaluation: Evaluation, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = evaluation.scores.encoder
    assert own in evaluation.baselines
    assert sorted(name for name, _ in evaluation.ranking()) == sorted(evaluation.baselines)
    assert own not in evaluation.verdict().partition("the best baseline")[2]
    (((bars, _), _),) = recorded(monkeypatch, "interval_chart", evaluation, gallery)
    assert [bar.name for bar in bars].count(own) == 1


def test_the_report_marks_hits_by_ground_truth_and_names_them_by_id(
    ground_truth_evaluation: Evaluation, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorded(monkeypatch, "contact_sheet", ground_truth_evaluation, gallery)
    assert len(calls) == 2
    ((best, best_marks), best_titles), ((_, worst_marks), worst_titles) = calls
    assert best_marks == [(True, True, False, False, False)]
    assert worst_marks == [ground_truth_evaluation.examples[1].correct]
    assert (best_titles["query_titles"], worst_titles["query_titles"]) == (["0"], ["1"])
    assert best_titles["hit_titles"] == [[hit.id.rpartition(":")[2] for hit in best[0]]]
    assert all("label" in hit.metadata for hit in best[0])


def test_a_report_without_any_hit_is_written(gallery: Gallery) -> None:
    evaluation = la.evaluate(gallery)
    examples = tuple(replace(each, hits=(), correct=()) for each in evaluation.examples)
    page = report_page(replace(evaluation, examples=examples), gallery)
    headings = [section.title for section in page.sections]
    assert "How a search works" not in headings
    assert "Search quality" in headings
    assert "Leakage: no query has an identical image" in page.sections[0].text


def test_class_distribution_and_confusion_in_percent() -> None:
    figure = figures.class_distribution({"cat": 3, "dog": 1}, {"dog": 2})
    assert png_size(figure) > 3_000
    ax = axes_of(figure)
    assert tick_labels(ax, "x") == ["cat", "dog"]
    assert [bar.get_height() for bar in ax.patches] == [3, 1, 0, 2]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("label", "number of images")
    figure = figures.confusion(("cat", "dog"), np.array([[3, 1], [0, 4]]))
    assert png_size(figure) > 3_000
    ax = axes_of(figure)
    assert texts(ax) == ["75.0", "25.0", "100.0"]
    assert ax.collections[0].get_array().filled(-1).tolist() == [[-1, 25], [-1, -1]]
    narrow = figures.confusion(("cat", "dog"), np.array([[998, 2], [30, 970]]), width=3.7)
    assert texts(axes_of(narrow)) == ["100", "3", "97"]


def test_one_label_and_long_names_fit_into_figures() -> None:
    assert png_size(figures.class_distribution({"only": 3}, {})) > 3_000
    assert png_size(figures.confusion(["only"], np.array([[3]]))) > 3_000
    names = [f"a rather long label, number {i}" for i in range(30)]
    assert png_size(figures.confusion(names, np.eye(30, dtype=np.int64))) > 5_000
    series = [figures.Series(f"an encoder of a long name {i}", [0.5] * 30) for i in range(9)]
    figure = figures.scores_per_label(names, series, "precision@7")
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.width


def test_scores_of_labels_are_drawn_for_each_encoder() -> None:
    series = [figures.Series("hog", [0.5, 1.0], highlight=True), figures.Series("pca", [0.25, 0.0])]
    figure = figures.scores_per_label(["0", "1"], series, "precision@7")
    ax = axes_of(figure)
    assert [line.get_label() for line in ax.lines] == ["hog", "pca"]
    assert [np.asarray(line.get_ydata()).tolist() for line in ax.lines] == [[0.5, 1], [0.25, 0]]
    assert [line.get_color() == HIGHLIGHT for line in ax.lines] == [True, False]
    assert tick_labels(ax, "x") == ["0", "1"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("label of the query", "precision@7")


def test_encoders_are_drawn_by_quality_and_speed() -> None:
    points = [
        figures.TradeOff("hog", 100, 0.9, 0.8, 1.0, best=True, tied=True),
        figures.TradeOff("pixels", 10_000, 0.85, 0.75, 0.9, tied=True),
        figures.TradeOff("color", 1_000, 0.5, 0.4, 0.6),
    ]
    figure = figures.quality_by_speed(points, "ROC AUC")
    assert png_size(figure) > 3_000
    ax = axes_of(figure)
    markers: list[Any] = [
        each.lines[0] for each in ax.containers if isinstance(each, ErrorbarContainer)
    ]
    places = [(float(m.get_xdata()[0]), float(m.get_ydata()[0])) for m in markers]
    assert places == [(100, 0.9), (10_000, 0.85), (1_000, 0.5)]
    assert [marker.get_markerfacecolor() == "w" for marker in markers] == [False, False, True]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["hog (best)", "pixels", "color"]
    assert ax.get_ylabel() == "ROC AUC"
    assert ax.get_xlabel().startswith("encoding speed, images per second")


def test_a_training_curve_names_its_loss() -> None:
    points, epochs = np.array([[0.5, 6.0], [1, 4.5], [1.5, 4.0]]), np.array([[1, 5.25], [1.5, 4.0]])
    curves = [figures.TrainingCurve("contrastive", points, epochs)]
    ax = axes_of(figures.training_curve(curves, "NT-Xent loss"))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epochs", "NT-Xent loss")
    assert [np.asarray(line.get_xydata()).tolist() for line in ax.lines] == [
        points.tolist(),
        epochs.tolist(),
    ]
    assert ax.get_legend_handles_labels()[1] == ["contrastive (last epoch: mean 4.00000)"]


def test_correct_hits_are_marked_by_values_compared_as_strings() -> None:
    def hit(**metadata: object) -> Hit:
        return Hit(1, "a", "a", 0.0, metadata)

    hits = [hit(label=3), hit(label="3"), hit(label="4"), hit(label=None), hit()]
    assert mark_correct(hits, 3) == (True, True, False, None, None)
    assert mark_correct(hits, "3") == (True, True, False, None, None)
    assert mark_correct(hits, None) == (None,) * 5
    assert mark_correct([hit(item=1), hit(label=1)], 1, "item") == (True, None)


def test_the_pipeline_shows_the_distances_and_the_nearest(gallery: Gallery) -> None:
    hits = results(gallery, 0.1, 0.2, 0.3, 0.4, 0.5)
    embedding = np.arange(10, dtype=np.float32)[None]
    distances = np.linspace(0, 1, 400)
    figure = figures.pipeline(np.zeros((8, 8), np.uint8), embedding, distances, hits)
    assert png_size(figure) > 3_000
    shown = [f"{label}\n0.{n}000" for n, label in enumerate("abcd", 1)]
    assert titles(figure) == ["1  query", "2  embedding\n10 dimensions", *shown]
    ax = axes_of(figure, 2)
    assert (ax.get_title(), ax.get_xlabel()) == ("3  distances to\n400 rows", "cosine distance")
    *columns, band = ax.patches
    assert sum(column.get_height() for column in columns) == 400
    assert band.get_width() == pytest.approx(0.5)
    names = [text.get_text() for text in figure.texts]
    assert names == ["4  hits: the 5 nearest rows (4 shown)"]
    few = figures.pipeline(
        np.zeros((8, 8), np.uint8), embedding, distances, results(gallery, 0.1), ["mine"]
    )
    assert titles(few)[-1] == "mine\n0.1000"


SERIES = [figures.Series("hog", [0.5, 0.9], highlight=True), figures.Series("pca", [0.2, 0.3])]
CURVE = figures.TrainingCurve("conv", np.array([[0.5, 2.0], [1, 1.0]]), np.array([[1, 1.5]]))
CHARTS: dict[str, Callable[..., Any]] = {
    "bars": partial(
        figures.interval_chart,
        [
            figures.Bar("a <b> & 日本 \x01", 0.5, 0.4, 0.6, highlight=True),
            figures.Bar("a name of many words, for two lines", 0.25, 0.2, 0.3),
        ],
        figures.ERROR_BARS,
        reference=0.5,
    ),
    "labels": partial(figures.scores_per_label, ["cat", "dog"], SERIES, "precision@7"),
    "classes": partial(figures.class_distribution, {"cat": 3, "a long name": 1}, {"cat": 2}),
    "confusion": partial(figures.confusion, ["cat", "dog"], np.array([[3, 1], [0, 4]])),
    "training": partial(figures.training_curve, [CURVE], "NT-Xent loss"),
}


@pytest.mark.parametrize("width", [7.5, 3.7])
@pytest.mark.parametrize("name", CHARTS)
def test_charts_for_pages_are_svg_of_text_without_styles(name: str, width: float) -> None:
    document = CHARTS[name](width=width).svg()
    assert document == CHARTS[name](width=width).svg()
    root = ElementTree.fromstring(document)
    elements = list(root.iter())
    tags = {element.tag.removeprefix("{http://www.w3.org/2000/svg}") for element in elements}
    assert "text" in tags
    assert tags <= {"svg", "g", "path", "text", "defs", "use", "clipPath", "rect"}
    assert not [each for each in elements if {"style", "class"} & each.attrib.keys()]
    _, _, wide, _ = map(float, root.attrib["viewBox"].split())
    assert wide == pytest.approx(72 * width)
    ids = {element.attrib["id"] for element in elements if "id" in element.attrib}
    references = re.findall(r"(?:href=\"|url\()#(\w+)", document)
    assert set(references) == ids
    sizes = [float(each.attrib["font-size"].rstrip("px")) for each in elements if each.text]
    assert min(sizes) >= 6.5
    colors = set(re.findall(r'(?:fill|stroke)="(#\w+)"', document))
    unmapped = colors - svg._DARK_COLORS.keys() - {*PALETTE, "#ffffff"}
    assert unmapped == set()


def test_names_in_charts_are_escaped() -> None:
    root = ElementTree.fromstring(CHARTS["bars"]().svg())
    written = [element.text for element in root.iter() if element.text]
    assert "a <b> & 日本 \ufffd" in written
    assert "a name of many words, for two lines" in written
    narrow = ElementTree.fromstring(CHARTS["bars"](width=3.7).svg())
    assert "a name of many" in [element.text for element in narrow.iter()]


def test_charts_of_many_labels_stay_small() -> None:
    labels = [f"label {i}" for i in range(120)]
    counts = np.random.default_rng(0).integers(0, 9, (120, 120))
    document = figures.confusion(labels, counts, width=7.5).svg()
    assert len(document) < 100_000
    root = ElementTree.fromstring(document)
    (picture,) = root.iter("{http://www.w3.org/2000/svg}image")
    assert picture.attrib["href"].startswith("data:image/png;base64,")
    figure = figures.class_distribution(dict.fromkeys(labels, 1), {}, width=3.7)
    assert len(tick_labels(axes_of(figure), "x")) < 40


def test_a_picture_has_a_version_for_each_color_scheme_and_width() -> None:
    wide, narrow = (CHARTS["bars"](width=width).svg() for width in (7.5, 3.7))
    html = svg.picture(wide, narrow, 'a "title" <b>')
    assert 'alt="a &#34;title&#34; &lt;b&gt;"' in html
    assert not re.search("style|script|http", re.sub(r"base64,[^\"]*", "", html))
    shown = [
        (media, base64.b64decode(data).decode())
        for media, data in re.findall(
            r'(?:media="(.*?)" srcset|<img src)="data:image/svg\+xml;base64,(.*?)"', html
        )
    ]
    dark = "(prefers-color-scheme: dark)"
    assert [media for media, _ in shown] == [
        f"(max-width: 36rem) and {dark}",
        "(max-width: 36rem)",
        dark,
        "",
    ]
    assert [document for _, document in shown[1::2]] == [narrow, wide]
    for (_, darkened), (_, document) in (shown[:2], shown[2:]):
        assert "#222222" in document
        assert HIGHLIGHT in document
        assert not re.search(f"#222222|{HIGHLIGHT}", darkened)
        plain = re.compile("#[0-9a-f]{6}")
        assert plain.sub("", darkened) == plain.sub("", document)


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (lambda: figures.class_distribution({}, {}), "gallery"),
        (lambda: figures.training_curve([], "loss"), "curves"),
        (lambda: figures.confusion([], np.zeros((0, 0), np.int64)), "labels"),
        (lambda: figures.scores_per_label([], [], "precision"), "labels"),
        (lambda: figures.interval_chart([], "precision"), "bars"),
        (lambda: figures.quality_by_speed([], "precision"), "points"),
        (lambda: figures.save(figures.class_distribution({"a": 1}, {}), 3), "path"),  # type: ignore[arg-type]
    ],
)
def test_nothing_to_draw_is_an_error_that_names_the_argument(
    draw: Callable[[], object], name: str
) -> None:
    with pytest.raises(InputError, match=f"^{name}"):
        draw()


def test_unsupported_file_types_are_refused(tmp_path: Path) -> None:
    figure = figures.class_distribution({"a": 1}, {})
    with pytest.raises(SettingError, match=r"h\.xyz: "):
        figures.save(figure, tmp_path / "h.xyz")
    figures.save(figure, tmp_path / "h.svg")
    assert (tmp_path / "h.svg").read_text().startswith("<?xml")
