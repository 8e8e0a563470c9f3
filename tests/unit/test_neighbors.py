"""The nearest neighbors of every row of a gallery, in its metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import InputError, SettingError
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import neighbors
from lookalike.stores.base import Rows
from lookalike.types import Metric

VALUES = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
IDS = [f"x:{row:02d}" for row in range(40)]


def gallery_of(values: np.ndarray, metric: Metric = Metric.COSINE) -> Gallery:
    return Gallery.from_embeddings(values, ids=IDS[: len(values)], metric=metric)


@pytest.mark.parametrize("metric", Metric)
def test_neighbors_equal_brute_force(metric: Metric) -> None:
    result = neighbors(gallery_of(VALUES, metric), 5, progress=False)
    rows = VALUES.astype(float)
    if metric is Metric.COSINE:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        distances = 1 - rows @ rows.T
    else:
        distances = np.linalg.norm(rows[:, None] - rows, axis=2)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(result.rows, distances.argsort(axis=1)[:, :5])
    np.testing.assert_allclose(result.distances, np.sort(distances)[:, :5], atol=1e-6)
    assert result.ids == tuple(IDS)
    assert repr(result) == f"<Neighbors of 40 rows: k=5, {metric}>"


def test_edges_as_a_table() -> None:
    result = neighbors(gallery_of(VALUES[:4]), progress=False)
    assert result.rows.shape == (4, 3)  # there are no more others
    frame = result.to_pandas()
    assert list(frame.columns) == ["id", "rank", "neighbor", "distance"]
    assert list(frame["rank"]) == [1, 2, 3] * 4
    first = frame[frame.id == IDS[0]]
    assert list(first.neighbor) == [IDS[row] for row in result.rows[0]]
    assert list(first.distance) == list(result.distances[0])


def test_rows_of_zeros_are_left_out() -> None:
    values = VALUES[:5].copy()
    values[2] = 0
    result = neighbors(gallery_of(values), progress=False)
    assert result.zero_embeddings == (IDS[2],)
    assert len(result) == 4
    assert IDS[2] not in set(result.to_pandas().neighbor)


@pytest.mark.parametrize("k", [0, -1, 2.5, "3", True, 20_000])
def test_k_is_checked(k: object) -> None:
    with pytest.raises(SettingError, match=r"k=.* must be a number from 1 to 16,384"):
        neighbors(gallery_of(VALUES), k)  # type: ignore[arg-type]


def test_fewer_than_two_rows_have_no_neighbors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 1 row, at least 2 are needed"):
        neighbors(gallery_of(VALUES[:1]))
    empty = Gallery.create(tmp_path / "e.gallery", encoder="efficientnet-lite0")
    with pytest.raises(InputError, match="has 0 rows, at least 2 are needed"):
        neighbors(empty)


@pytest.mark.parametrize("metric", Metric)
def test_equal_distances_are_ordered_by_id_whatever_the_order_of_writing(
    metric: Metric, tmp_path: Path
) -> None:
    values = VALUES.copy()
    values[10:25] = values[10]  # more than there are neighbors of each
    if metric is Metric.COSINE:
        values[30] = 0
    order = np.random.default_rng(5).permutation(len(values))
    ids = [IDS[row] for row in order]
    written = Gallery.from_embeddings(
        VALUES[order[:20]], ids=ids[:20], path=tmp_path / "a.gallery", metric=metric
    )
    rows = Rows(ids, [""] * len(ids), values[order], [{} for _ in ids], ids)
    written.upsert(rows, fingerprint=written.fingerprint)  # replaces twenty
    result = neighbors(written, 5, progress=False)
    expected = neighbors(gallery_of(values, metric), 5, progress=False)
    assert result.ids == expected.ids
    np.testing.assert_array_equal(result.rows, expected.rows)
    np.testing.assert_array_equal(result.distances, expected.distances)
    twins = [result.ids.index(IDS[row]) for row in range(10, 25)]
    assert result.rows[twins[0]].tolist() == twins[1:6]
    assert result.rows[twins[-1]].tolist() == twins[:5]
    assert result.distances[twins].max() < 1e-12
