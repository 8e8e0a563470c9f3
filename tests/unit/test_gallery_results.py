"""What the public functions on a gallery return: duplicates, outliers, maps, labels, issues."""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import lookalike as la
from lookalike.errors import (
    InputError,
    MissingDependencyError,
    MissingRowError,
    SettingError,
)
from lookalike.explore.map import load_map
from lookalike.labels.homogeneity import homogeneity, homogeneity_threshold
from lookalike.labels.session import load_session

COUNT = 60
FEW = 11
"""Images whose map is that of principal components, which takes no time."""

KINDS = ("red", "green", "blue")


def values_of(count: int = COUNT) -> np.ndarray:
    """Return embeddings of three clusters, ``(count, 16)``, and an outlier in the last row."""
    rng = np.random.default_rng(0)
    centers = np.eye(3, 16)[np.arange(count) % 3]
    values = centers + rng.normal(0, 0.05, (count, 16))
    values[-1] = -1
    return np.asarray(values, np.float32)


def ids_of(count: int = COUNT) -> list[str]:
    return [f"x:{number:02d}" for number in range(count)]


def embedded(count: int = COUNT) -> la.Gallery:
    """Return a gallery of embeddings without images, whose column ``kind`` tells the cluster."""
    kinds = [{"kind": KINDS[number % 3]} for number in range(count)]
    return la.Gallery.from_embeddings(values_of(count), ids=ids_of(count), metadata=kinds)


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> la.Gallery:
    """Return a gallery of images: noise, of which one was copied, and another saved again."""
    folder = tmp_path_factory.mktemp("pictured") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        small = rng.integers(0, 255, (6, 6, 3), np.uint8)
        image = Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:02d}.png")
    (folder / "copy.png").write_bytes((folder / "00.png").read_bytes())
    Image.open(folder / "01.png").save(folder / "again.jpg", quality=95)
    encoder = la.open_encoder("color", folder)
    gallery = la.Gallery.create(folder.parent / "photos.gallery", encoder=encoder)
    gallery.sync(folder, progress=False)
    return gallery


def labels_of(count: int = COUNT) -> dict[str, str]:
    return {row_id: KINDS[number % 3] for number, row_id in enumerate(ids_of(count)[:36])}


RESULTS: dict[str, Callable[[la.Gallery], Any]] = {
    "duplicates": lambda g: la.duplicates(g, max_distance=0.05, progress=False),
    "outliers": lambda g: la.outliers(g, progress=False),
    "map": lambda g: la.map(g, progress=False),
    "propagate_labels": lambda g: la.propagate_labels(g, labels_of(), progress=False),
    "suggest_labels": lambda g: la.suggest_labels(g, 4, progress=False),
    "find_label_issues": lambda g: la.find_label_issues(g, column="kind", progress=False),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_without_images_are_texts_and_tables(name: str) -> None:
    result = RESULTS[name](embedded(FEW) if name == "map" else embedded())
    assert len(repr(result)) < 160
    assert "\n" not in repr(result)
    frame = result.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert "id" in frame.columns
    page = result._repr_html_()
    assert html.escape(repr(result)) in page
    assert "no image" not in page
    assert name == "map" or "<img" not in page


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("name", RESULTS)
def test_fewer_than_two_images_have_no_results(name: str, count: int, tmp_path: Path) -> None:
    gallery = la.Gallery.create(tmp_path / "empty.gallery", encoder="efficientnet-lite0")
    works = RESULTS | {"propagate_labels": lambda g: la.propagate_labels(g, {})}
    with pytest.raises(InputError, match=r"at least|no image has a label|no metadata column"):
        works[name](embedded(1) if count else gallery)


def test_two_images_have_results_where_two_can_have_them() -> None:
    gallery = embedded(2)
    assert len(la.outliers(gallery, progress=False)) == 2
    assert len(la.suggest_labels(gallery, progress=False)) == 2
    assert la.duplicates(gallery, max_distance=0.1, progress=False).groups == ()
    both = la.propagate_labels(gallery, {"x:00": "a", "x:01": "b"}, progress=False)
    assert both.to_pandas().status.tolist() == ["labeled", "labeled"]
    assert len(la.find_label_issues(gallery, column="kind", progress=False)) == 2
    with pytest.raises(InputError, match="has 2 images; a map needs at least three"):
        la.map(gallery, progress=False)


@pytest.mark.parametrize("name", RESULTS)
def test_only_galleries_of_this_machine_are_taken(name: str) -> None:
    with pytest.raises(InputError, match=r"^gallery: expected an open lookalike.Gallery, got str"):
        RESULTS[name]("photos.gallery")  # type: ignore[arg-type]


def test_duplicates_are_shown_by_group(pictured: la.Gallery) -> None:
    result = la.duplicates(pictured, progress=False)
    frame = result.to_pandas()
    groups = [set(group.id) for _, group in frame.groupby("group")]
    assert {"photos:00.png", "photos:copy.png"} in groups
    assert {"photos:01.png", "photos:again.jpg"} in groups
    assert frame.keep.dtype == bool
    assert frame.distance[frame.keep].isna().all()
    assert set(frame.id[~frame.keep]) == set(result.redundant)
    page = result._repr_html_()
    assert page.count("<img") == len(frame)
    assert "group 1: 2 images" in page


def test_embeddings_without_images_have_duplicates_within_a_distance() -> None:
    values = values_of()
    values[7] = values[4] * 3  # the same direction
    gallery = la.Gallery.from_embeddings(values, ids=ids_of())
    with pytest.raises(InputError, match=r"none of 60 sampled images can be read.*max_distance"):
        la.duplicates(gallery, progress=False)
    result = la.duplicates(gallery, max_distance=0.01, progress=False)
    assert [(group.keep, group.duplicates[0].id) for group in result.groups] == [("x:04", "x:07")]
    assert result.groups[0].duplicates[0].correlation is None
    assert result.embeddings_only
    assert any("embeddings alone" in note for note in result.notes())
    assert la.duplicates(gallery, exact=True, progress=False).groups == ()
    gallery.remove(result.redundant)
    assert len(gallery) == COUNT - 1


@pytest.mark.parametrize("value", [-1, float("nan"), "far", True])
def test_distances_of_duplicates_are_checked(value: object) -> None:
    with pytest.raises(SettingError, match=r"max_distance=.* must be (at least 0|a number)"):
        la.duplicates(embedded(), max_distance=value)  # type: ignore[arg-type]


def test_outliers_come_first_and_equal_those_of_the_map() -> None:
    result = la.outliers(embedded(), 5, progress=False)
    assert result.ids[0] == ids_of()[-1]
    assert list(result.scores) == sorted(result.scores, reverse=True)
    assert (len(result), result.compared) == (5, COUNT)
    gallery = embedded(FEW)
    result = la.outliers(gallery, 5, progress=False)
    drawn = la.map(gallery, progress=False)
    place = drawn.ids.index(result.ids[0])
    assert drawn.lof_scores[place] == result.scores[0]
    again = la.outliers(gallery, 5, progress=False)
    assert (again.ids, list(again.scores)) == (result.ids, list(result.scores))
    assert len(la.outliers(gallery, 500, progress=False)) == FEW
    for k in (0, 1.5, True):
        with pytest.raises(SettingError, match=r"k=.* must be (at least 1|a whole number)"):
            la.outliers(gallery, k)  # type: ignore[arg-type]


def test_outliers_are_shown_as_images(pictured: la.Gallery) -> None:
    page = la.outliers(pictured, 3, progress=False)._repr_html_()
    assert page.count("<img") == 3


def test_a_map_is_a_picture_a_table_and_a_page(pictured: la.Gallery, tmp_path: Path) -> None:
    result = la.map(pictured, progress=False)
    frame = result.to_pandas()
    assert list(frame.columns) == ["id", "x", "y", "cluster", "name", "lof_score"]
    assert frame[["x", "y"]].to_numpy().min() == 0
    assert list(frame.id) == list(pictured)
    assert "data:image/" in result._repr_html_()
    path = result.save_html(tmp_path / "map.html", thumbnails=16)
    assert "photos:00.png" in path.read_text()
    saved = load_map(pictured)
    assert saved is not None
    assert saved.save_html(tmp_path / "again.html").is_file()


def test_a_map_names_its_clusters_by_labels_only() -> None:
    kinds = [{"label": ["red; x", "unknown", ""][number % 3]} for number in range(FEW)]
    gallery = la.Gallery.from_embeddings(values_of(FEW), ids=ids_of(FEW), metadata=kinds)
    result = la.map(gallery, progress=False)
    assert [each.label for each in result.clusters] == ["red;x"]
    assert result.column == "label"
    saved = la.map(gallery, progress=False)
    assert saved.created_at == result.created_at
    assert saved.clusters == result.clusters
    assert la.map(gallery, column="none", progress=False).clusters[0].label is None


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'lookalike\[explore\]'"):
        la.map(embedded(), progress=False)
    result = la.outliers(embedded(), progress=False)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match=r"Outliers.to_pandas .*lookalike\[pandas\]"):
        result.to_pandas()


def test_labels_are_propagated_and_written_back() -> None:
    gallery = embedded()
    labels = labels_of()
    result = la.propagate_labels(gallery, labels, progress=False)
    assert len(result) == COUNT
    assert ids_of()[40] in result
    one = result[ids_of()[40]]
    assert one.labels == (KINDS[40 % 3],)
    assert one.status == "propagated"
    assert 0.5 < one.confidence <= 1
    assert result[ids_of()[0]].status == "labeled"
    with pytest.raises(MissingRowError, match="no image has the id 'nobody'"):
        result["nobody"]
    assert la.read_labels(result.to_pandas()).by_id == la.read_labels(labels).by_id
    result.write("color")
    written = gallery[ids_of()[40]].metadata
    assert (written["color"], written["color_status"]) == (one.labels[0], "propagated")
    result.write("color")
    for column, error in (("kind", InputError), (" ", SettingError)):
        with pytest.raises(error):
            result.write(column)
    with pytest.raises(InputError, match="no gallery"):
        replace(result, gallery=None).write("color")


def test_labels_may_be_in_any_form(tmp_path: Path) -> None:
    gallery = embedded()
    labels = labels_of()
    path = tmp_path / "labels.csv"
    pd.DataFrame({"id": list(labels), "label": list(labels.values())}).to_csv(path, index=False)
    results = [
        la.propagate_labels(gallery, each, progress=False).labels
        for each in (labels, path, str(path), pd.Series(labels), la.read_labels(path))
    ]
    assert all(each == results[0] for each in results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": {}}, "no image has a label"),
        ({"labels": {"x:00": "a"}}, "the only label is 'a'"),
        ({"labels": {"x:00": "a", "y": "b"}}, "no image has the id 'y'"),
        ({"labels": 3}, "labels: expected a path of a label file"),
        ({"labels": labels_of(), "precision": 2}, "precision=2 must be between 0 and 1"),
        ({"labels": labels_of(), "precision": "high"}, "precision=high must be a number"),
        ({"labels": {"x:00": "a", "x:01": "b"}, "precision": 0.9}, "too few labels for a target"),
    ],
)
def test_what_cannot_be_propagated_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        la.propagate_labels(embedded(), **arguments, progress=False)


def test_suggestions_are_ids_that_can_be_labeled_and_saved() -> None:
    gallery = embedded()
    result = la.suggest_labels(gallery, 6, progress=False)
    assert len(result) == len(set(result)) == 6
    assert result[0] in set(ids_of())
    assert {int(row_id[2:]) % 3 for row_id in result} == {0, 1, 2}
    frame = result.to_pandas()
    frame["label"] = [KINDS[int(row_id[2:]) % 3] for row_id in frame.id]
    more = la.suggest_labels(gallery, labels=frame, progress=False)
    assert len(more) == COUNT - 6  # fewer than 100
    assert not set(more) & set(result)
    more.save()
    session = load_session(gallery)
    assert session is not None
    assert set(session.labels) == set(result)
    assert sum(map(len, session.groups)) == COUNT - 6
    expected = [homogeneity(more.graph, group) for group in session.groups]
    np.testing.assert_allclose(session.homogeneity, expected)
    assert session.min_homogeneity == homogeneity_threshold(more.graph)
    for k in (0, 61, 1.5, True):
        with pytest.raises(SettingError, match=f"k={k} must be"):
            la.suggest_labels(gallery, k, progress=False)  # type: ignore[arg-type]


def test_label_issues_of_the_metadata_or_of_a_file() -> None:
    gallery = embedded()
    wrong = {row_id: KINDS[int(row_id[2:]) % 3] for row_id in ids_of()} | {"x:10": "blue"}
    result = la.find_label_issues(gallery, wrong, progress=False)
    frame = result.to_pandas()
    assert frame.id[0] == "x:10"
    assert tuple(frame.iloc[0, 1:3]) == ("blue", "green")
    assert frame.disagreement[0] > 0.9
    right = la.find_label_issues(gallery, column="kind", progress=False)
    assert "x:10" not in {each.id for each in right}
    with pytest.raises(InputError, match="no metadata column 'label'; pass another column or lab"):
        la.find_label_issues(gallery, progress=False)
