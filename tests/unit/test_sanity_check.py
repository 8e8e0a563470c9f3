"""What is said at the end of training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lookalike.encoders.handcrafted import Pixels
from lookalike.encoders.registry import open_encoder
from lookalike.evaluation.metrics import Estimate, Interval
from lookalike.evaluation.sanity_check import Spectrum, Verdict, sanity_check
from lookalike.sources import ArraySource, open_source
from lookalike.sources.sampling import read_sample
from lookalike.types import Embeddings

RNG = np.random.default_rng(0)


def test_the_spectrum_counts_dimensions_that_matter_and_names_dead_ones() -> None:
    values = RNG.standard_normal((2000, 10)).astype(np.float32)
    even = Spectrum.of(values)
    assert (even.dim, even.collapsed) == (10, ())
    assert 9.8 < even.effective <= 10
    values[:, [2, 7]] = 0.5
    dead = Spectrum.of(values)
    assert dead.collapsed == (2, 7)
    assert 7.8 < dead.effective <= 8
    one = Spectrum.of(np.outer(values[:, 0], np.ones(10)).astype(np.float32))
    assert one.effective == pytest.approx(1, abs=1e-3)
    same = Spectrum.of(np.ones((50, 4), np.float32))
    assert same.collapsed == (0, 1, 2, 3)


def verdict(low: float, high: float) -> Verdict:
    by = Estimate((low + high) / 2, Interval(low, high))
    base = Estimate(0.8, Interval(0.79, 0.81))
    worse = replace(base, value=0.5)
    return Verdict(7, 500, 10, base, {"pixels": worse, "hog-fine": base}, {"hog-fine": by})


def test_the_verdict_is_about_the_best_baseline() -> None:
    assert verdict(0.01, 0.03).sentence() == (
        "better than the best baseline, hog-fine, by +0.0200 [+0.0100, +0.0300]"
    )
    assert verdict(-0.03, -0.01).sentence() == (
        "keep `hog-fine`: training did not help here (-0.0200 [-0.0300, -0.0100])"
    )
    assert verdict(-0.01, 0.01).sentence().startswith("keep `hog-fine`: the difference cannot be")


class Blind(Pixels):
    """Sees the first row of pixels only."""

    def encode(self, images: object) -> Embeddings:
        found = super().encode(images).copy()  # type: ignore[arg-type]
        found[:, 8:] = 0
        return found


@pytest.fixture(scope="module")
def source() -> ArraySource:
    opened = open_source("dataset:digits/train[:400]")
    assert isinstance(opened, ArraySource)
    return opened


def test_an_encoder_that_learnt_nothing_is_told_so(source: ArraySource) -> None:
    sample = [item.image() for item in source]
    pixels = open_encoder("pixels", sample)
    assert isinstance(pixels, Pixels)
    found = sanity_check(Blind("blind", pixels.preprocessing), source)
    assert found.verdict is not None
    assert "keep `" in found.verdict.sentence()
    assert len(found.spectrum.collapsed) >= 56
    said = "\n".join(found.sentences())
    assert "collapsed (hardly vary)" in said
    assert "not how good it is" in said
    fields = found.as_dict()
    assert fields["verdict"]["queries"] == 400
    assert fields["verdict"]["baselines"].keys() == {
        "pixels",
        "pca",
        "hog",
        "hog-fine",
        "untrained",
    }


def test_its_precision_is_that_of_brute_force(source: ArraySource) -> None:
    sample = [item.image() for item in source]
    found = sanity_check(open_encoder("hog", sample), source).verdict
    assert found is not None
    rows = open_encoder("hog", sample).encode(sample).astype(float)
    labels = np.array(source.labels)
    right = []
    for i, row in enumerate(rows):
        order = [j for j in np.argsort(-(rows @ row), kind="stable") if j != i][:7]
        right.append(np.mean(labels[order] == labels[i]))
    assert found.precision.value == pytest.approx(np.mean(right))
    assert found.differences["hog"].value == pytest.approx(0)


def test_without_labels_nothing_is_said_of_quality(source: ArraySource) -> None:
    sample = [item.image() for item in source]
    found = sanity_check(open_encoder("pixels", sample), source, labels={})
    assert found.verdict is None
    assert found.sentences()[-1].startswith("quality: not known without labels")
    few = {source[i].id: str(i % 2) for i in range(40)}
    some = sanity_check(open_encoder("pixels", sample), source, labels=few).verdict
    assert some is not None
    assert (some.queries, some.labels) == (40, 2)


def test_labeled_images_are_looked_at_wherever_they_lie(source: ArraySource) -> None:
    few = {source[i].id: str(i % 2) for i in range(1, 400, 10)}
    sample = read_sample(source, 20, frozenset(few))
    found = {each.item.id for each in sample}
    assert found == {source[i].id for i in range(0, 400, 20)} | few.keys()
    assert len(sample) == len(found)
