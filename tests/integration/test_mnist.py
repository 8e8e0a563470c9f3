"""The public data sets, downloaded or cached, and precision that is known for them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import lookalike as la
from lookalike.encoders.registry import open_encoder
from lookalike.errors import FetchError
from lookalike.sources import Source, open_source
from lookalike.sources.sampling import sample_images
from tests.conftest import Require


def fetched(spec: str, require: Require) -> Source:
    try:
        return open_source(spec)
    except FetchError as error:
        require(False, f"{spec} could not be downloaded: {error}")
        raise


def test_mnist_class_counts_and_precision_of_hog(tmp_path: Path, require: Require) -> None:
    train = fetched("dataset:mnist/train", require)
    counts = Counter(item.metadata["label"] for item in train)
    assert (len(train), counts["1"], counts["7"], counts["5"]) == (60_000, 6_742, 6_265, 5_421)
    hog = open_encoder("hog", sample_images(train))
    gallery = la.Gallery.create(tmp_path / "hog.gallery", encoder=hog)
    assert gallery.sync(train).added == 60_000
    evaluation = la.evaluate(gallery, "dataset:mnist/test[:1000]")
    assert evaluation.scores.precision.value > 0.96


@pytest.mark.parametrize("split", ["train", "test"])
def test_fashion_mnist_is_balanced(split: str, require: Require) -> None:
    source = fetched(f"dataset:fashion-mnist/{split}", require)
    counts = Counter(item.metadata["label"] for item in source)
    assert len(counts) == 10
    assert set(counts.values()) == {len(source) // 10}
