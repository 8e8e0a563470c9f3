"""What public functions say to arguments of a wrong type: one typed error that names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lookalike as la

la_: Any = la
"""The same without types: the calls below are mistakes."""


@pytest.fixture(scope="module")
def vectors() -> Any:
    return la.Gallery.from_embeddings(np.eye(4), ids=list("abcd"))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: la_.open_encoder(3), "name"),
        (lambda: la_.load_encoder(3), "folder"),
        (lambda: la_.load_encoder(""), "folder"),
        (lambda: la_.save_encoder(3, "x"), "encoder"),
        (lambda: la_.combine(3), "encoders"),
        (lambda: la_.combine([3, 4]), "encoders"),
        (lambda: la_.open_source(3), "spec"),
        (lambda: la_.Gallery.open(3), "path"),
        (lambda: la_.Gallery.open("x", encoder="hog"), "encoder"),
        (lambda: la_.Gallery.from_embeddings("x"), "embeddings"),
        (lambda: la_.Client(3), "url"),
        (lambda: la_.Metric(3), "metric"),
        (lambda: la_.evaluate("x"), "gallery"),
        (lambda: la_.evaluate_robustness("x"), "gallery"),
        (lambda: la_.evaluate_judgements("x"), "files"),
        (lambda: la_.evaluate_judgements([3]), "files"),
        (lambda: la_.duplicates("x"), "gallery"),
        (lambda: la_.outliers(3), "gallery"),
        (lambda: la_.map(3), "gallery"),
        (lambda: la_.propagate_labels(3, {}), "gallery"),
        (lambda: la_.suggest_labels(3), "gallery"),
        (lambda: la_.find_label_issues(3), "gallery"),
        (lambda: la_.read_labels(3), "labels"),
        (lambda: la_.train(3), "images"),
        (lambda: la_.adapt(3), "images"),
        (lambda: la_.choose(3), "source"),
        (lambda: la_.figures.save("x", "y.png"), "figure"),
        (lambda: la_.contact_sheet(3), "results"),
    ],
)
def test_functions_name_the_argument(call: Callable[[], object], name: str) -> None:
    with pytest.raises(la.InputError, match=rf"^(images|{name})\b"):
        call()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda g: g.search(3), "query"),
        (lambda g: g.search(id=3), "id"),
        (lambda g: g.search(id="a", k="7"), "k"),
        (lambda g: g.search(id=[]), "id"),
        (lambda g: g.search(vector=[[1, 0, 0, 0]]), "vector"),
        (lambda g: g.search(vector=[1, 2]), "vector"),
        (lambda g: g.search(vector=[1, 0, 0, float("nan")]), "vector"),
        (lambda g: g.search(vectors="x"), "vectors"),
        (lambda g: g.search(id="a", where=3), "where"),
        (lambda g: g.search(id="a", min_similarity="x"), "min_similarity"),
        (lambda g: g.get(3), "ids?"),
        (lambda g: g[3], "id"),
        (lambda g: 3 in g or g.remove(3), "ids"),
        (lambda g: g.neighbors(k="x"), "k"),
        (lambda g: g.export(3), "path"),
        (lambda g: g.copy_to(3), "target"),
        (lambda g: g.sync(3), "source"),
        (lambda g: g.search(id="a").save_sheet(3), "path"),
    ],
)
def test_methods_of_a_gallery_name_the_argument(
    vectors: Any, call: Callable[[Any], object], name: str
) -> None:
    with pytest.raises(la.InputError, match=rf"^{name}\b"):
        call(vectors)
