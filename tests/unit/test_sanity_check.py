"""The sanity check after training: spectrum, comparison with baselines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lookalike.encoders.handcrafted import Pixels
from lookalike.encoders.registry import open_encoder
from lookalike.evaluation.comparison import Comparison
from lookalike.evaluation.metrics import Estimate, Interval
from lookalike.evaluation.sanity_check import SanityCheck, Spectrum, sanity_check
from lookalike.sources import ArraySource, open_source
from lookalike.sources.sampling import read_sample
from lookalike.types import Embeddings

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)


def test_the_spectrum_has_the_effective_rank_and_collapsed_dimensions() -> None:
    values = RNG.standard_normal((2000, 10)).astype(np.float32)
    even = Spectrum.of(values)
    assert (even.dim, even.collapsed) == (10, ())
    assert 9.8 < even.effective <= 10
    values[:, [2, 7]] = 0.5
    collapsed = Spectrum.of(values)
    assert collapsed.collapsed == (2, 7)
    assert 7.8 < collapsed.effective <= 8
    one = Spectrum.of(np.outer(values[:, 0], np.ones(10)).astype(np.float32))
    assert one.effective == pytest.approx(1, abs=1e-3)
    same = Spectrum.of(np.ones((50, 4), np.float32))
    assert same.collapsed == (0, 1, 2, 3)
    assert same.effective == 0


def checked(low: float, high: float) -> SanityCheck:
    difference = Estimate((low + high) / 2, Interval(low, high))
    base = Estimate(0.8, Interval(0.79, 0.81))
    comparison = Comparison(
        measure="precision@7",
        encoder="mine",
        score=base,
        baselines={"pixels": replace(base, value=0.5), "hog-fine": base},
        differences={"hog-fine": difference},
    )
    spectrum = Spectrum.of(np.eye(3, dtype=np.float32))
    return SanityCheck(500, spectrum, {}, comparison, queries=500, labels=10)


def test_the_verdict_is_about_the_best_baseline() -> None:
    assert checked(0.01, 0.03).verdict() == (
        "mine: precision@7 0.8000, better than the best baseline, hog-fine (0.8000): +0.0200 "
        "[+0.0100, +0.0300]"
    )
    worse = checked(-0.03, -0.01).verdict()
    assert ", worse than the best baseline, hog-fine (0.8000): -0.0200 [" in worse
    assert worse.endswith("; use hog-fine instead")
    tied = checked(-0.01, 0.01).verdict()
    assert ", not significantly different from the best baseline, hog-fine (0.8000): +0." in tied
    assert tied.endswith("; use hog-fine, which needs no training")


class FirstRow(Pixels):
    """Encodes only the first row of pixels."""

    def encode_batch(self, images: object) -> Embeddings:
        embeddings = super().encode_batch(images).copy()  # type: ignore[arg-type]
        embeddings[:, 8:] = 0
        return embeddings


@pytest.fixture(scope="module")
def source() -> ArraySource:
    opened = open_source("dataset:digits/train[:400]")
    assert isinstance(opened, ArraySource)
    return opened


def test_a_collapsed_encoder_is_worse_than_the_baselines(source: ArraySource) -> None:
    sample = [item.image() for item in source]
    pixels = open_encoder("pixels", sample)
    assert isinstance(pixels, Pixels)
    result = sanity_check(FirstRow("first-row", pixels.preprocessing), source)
    assert result.comparison is not None
    assert ", worse than the best baseline, " in result.verdict()
    assert len(result.spectrum.collapsed) >= 56
    text = "\n".join(result.sentences())
    assert f"; {len(result.spectrum.collapsed)} collapsed: " in text
    assert "not search quality" in text
    fields = result.as_dict()
    assert fields["comparison"]["queries"] == 400
    assert fields["comparison"]["baselines"].keys() == {
        "pixels",
        "pca",
        "hog",
        "hog-fine",
        "untrained",
    }


def test_precision_matches_brute_force(source: ArraySource) -> None:
    sample = [item.image() for item in source]
    result = sanity_check(open_encoder("hog", sample), source).comparison
    assert result is not None
    rows = open_encoder("hog", sample).encode(sample).astype(float)
    labels = np.array(source.labels)
    precisions = []
    for i, row in enumerate(rows):
        order = [j for j in np.argsort(-(rows @ row), kind="stable") if j != i][:7]
        precisions.append(np.mean(labels[order] == labels[i]))
    assert result.score.value == pytest.approx(np.mean(precisions))
    assert result.differences["hog"].value == pytest.approx(0)


def test_without_labels_search_quality_is_unknown(source: ArraySource) -> None:
    sample = [item.image() for item in source]
    result = sanity_check(open_encoder("pixels", sample), source, labels={})
    assert result.comparison is None
    assert result.as_dict()["comparison"] is None
    assert result.sentences()[-1].startswith("search quality: unknown without labels")
    few = {source[i].id: str(i % 2) for i in range(40)}
    some = sanity_check(open_encoder("pixels", sample), source, labels=few)
    assert some.comparison is not None
    assert (some.queries, some.labels) == (40, 2)


def test_labeled_images_are_added_to_the_sample(source: ArraySource) -> None:
    few = {source[i].id: str(i % 2) for i in range(1, 400, 10)}
    sample = read_sample(source, 20, frozenset(few))
    ids = {each.item.id for each in sample}
    assert ids == {source[i].id for i in range(0, 400, 20)} | few.keys()
    assert len(sample) == len(ids)
