"""Figures of results at the edges; what they look like is for people to see."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lookalike as la
from lookalike.errors import SettingError
from lookalike.evaluation.metrics import Estimate, Interval
from lookalike.evaluation.results import Evaluation
from lookalike.evaluation.summary import ranking, verdict
from lookalike.gallery.gallery import Gallery
from lookalike.report import figures


@pytest.fixture
def found(gallery: Gallery) -> Evaluation:
    return la.evaluate(gallery, "dataset:digits/test[:30]", baselines=True)


def drawn(figure: object) -> int:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")  # type: ignore[attr-defined]
    return len(buffer.getvalue())


def test_the_ladder_takes_intervals_that_rounding_puts_beside_the_value(found: Evaluation) -> None:
    value = 0.1
    beside = Estimate(value, Interval(np.nextafter(value, 1), np.nextafter(value, 0)))
    chance = replace(found.baselines["chance"], precision=beside)
    odd = replace(found, baselines={**found.baselines, "chance": chance})
    assert drawn(figures.ladder(odd)) > 5_000


def test_a_baseline_that_is_the_gallery_s_own_encoder_stands_once(found: Evaluation) -> None:
    own = found.scores.encoder
    assert own in found.baselines
    assert sorted(name for name, _ in ranking(found)) == sorted(found.baselines)
    assert own not in verdict(found).partition("the best baseline")[2]
    axes = figures.ladder(found).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()].count(own) == 1


def test_one_label_and_long_names_fit(found: Evaluation) -> None:
    assert drawn(figures.class_distribution({"only": 3}, {})) > 3_000
    names = [f"a rather long label, number {i}" for i in range(30)]
    assert drawn(figures.confusion(names, np.eye(30, dtype=np.int64))) > 5_000
    assert drawn(figures.precision_per_label(found)) > 5_000


def test_hits_are_drawn_with_and_without_a_picture_of_the_query(gallery: Gallery) -> None:
    with_picture = gallery.search(id="digits/train:1", k=3)
    without = gallery.search(np.zeros((8, 8), np.uint8), k=3)
    assert drawn(figures.hits(with_picture)) > drawn(figures.hits(without)) > 1_000


def test_files_of_unknown_kinds_are_refused(gallery: Gallery, tmp_path: Path) -> None:
    figure = figures.hits(gallery.search(id="digits/train:1", k=1))
    with pytest.raises(SettingError, match=r"h\.xyz: "):
        figures.save(figure, tmp_path / "h.xyz")
    figures.save(figure, tmp_path / "h.svg")
    assert (tmp_path / "h.svg").read_text().startswith("<?xml")
