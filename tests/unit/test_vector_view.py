"""Embeddings that are read in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import MissingRowError
from lookalike.stores.base import RowReader, Rows
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.stores.memory import MemoryStore
from lookalike.stores.row_index import row_index, vectors_of
from lookalike.types import Metric
from lookalike.vectors import (
    VectorView,
    has_direction,
    principal_axes,
    principal_axes_in_parts,
    unit_rows,
)

DIM = 6


def values(count: int, dim: int = DIM) -> np.ndarray:
    rng = np.random.default_rng(count)
    return (rng.normal(size=(count, dim)) * np.arange(1, dim + 1) + 3).astype(np.float32)


def test_rows_are_read_in_the_order_of_the_view() -> None:
    rows = values(20)
    numbers = np.random.default_rng(1).permutation(20)[:12]
    view = VectorView(rows.__getitem__, numbers, DIM)
    assert (len(view), view.dim) == (12, DIM)
    np.testing.assert_array_equal(view[:], rows[numbers])
    np.testing.assert_array_equal(view[[3, 0]], rows[numbers[[3, 0]]])
    np.testing.assert_array_equal(view.select(numbers > 9)[:], rows[numbers[numbers > 9]])
    parts = list(view.blocks(5))
    assert [(part.start, part.stop) for part, _ in parts] == [(0, 5), (5, 10), (10, 12)]
    np.testing.assert_array_equal(np.concatenate([block for _, block in parts]), view[:])


def test_rows_of_unit_length_are_scaled_as_they_are_read_and_zeros_stay() -> None:
    rows = values(9)
    rows[4] = 0
    view = VectorView.of(rows).of_unit_length()
    np.testing.assert_array_equal(view[2:7], unit_rows(rows)[2:7])
    np.testing.assert_array_equal(view.select([4, 5])[:], unit_rows(rows)[[4, 5]])
    assert has_direction(view).tolist() == has_direction(rows).tolist()


@pytest.mark.parametrize(
    ("count", "dim", "axes"), [(9_000, 12, 2), (30, 30, 5), (12, 40, 2), (1_600, 1_510, 3)]
)
def test_principal_axes_are_those_of_the_whole_array(count: int, dim: int, axes: int) -> None:
    rows = values(count, dim)
    expected_mean, expected_axes, expected_variances = principal_axes(rows, axes)
    mean, directions, variances = principal_axes_in_parts(VectorView.of(rows), axes)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-5)
    np.testing.assert_allclose(directions, expected_axes, atol=1e-5)
    np.testing.assert_allclose(variances, expected_variances, rtol=1e-4)


def rows_of(numbers: list[int], embeddings: np.ndarray) -> Rows:
    ids = [f"r:{number:03}" for number in numbers]
    return Rows(ids, ids, embeddings, [{} for _ in ids], ids)


@pytest.fixture(params=["memory", "folder", "folder with dead slots"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RowReader:
    """Sixty rows written in an order that is not that of their ids; a few of equal embeddings."""
    embeddings = values(60)
    embeddings[20:25] = embeddings[3]
    numbers = np.random.default_rng(2).permutation(60)
    kept: MemoryStore | EmbeddedStore = (
        MemoryStore(DIM)
        if request.param == "memory"
        else EmbeddedStore.create(tmp_path / "store", DIM)
    )
    if request.param == "folder with dead slots":
        others = values(60)[::-1].copy()
        kept.upsert(rows_of(numbers[::2].tolist(), others[numbers[::2]]))
        kept.upsert(rows_of([100, 101], others[:2]))
    kept.upsert(rows_of(numbers.tolist(), embeddings[numbers]))
    kept.delete(["r:100", "r:101"])
    return kept.snapshot()


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("part", [False, True])
def test_the_index_of_a_store_finds_rows_by_number(
    store: RowReader, metric: Metric, part: bool
) -> None:
    ids = store.ids()
    matrix = store.embeddings(ids)
    index, numbers = row_index(store), store.row_numbers(ids)
    np.testing.assert_array_equal(index.at(numbers), matrix)
    chosen = np.sort(numbers[::3]) if part else np.sort(numbers)
    place = {number: row for row, number in enumerate(numbers.tolist())}
    searched = matrix[[place[number] for number in chosen.tolist()]].astype(np.float64)
    for query, nearest in zip(
        matrix[:30],
        index.search_with_ties(matrix[:30], 4, metric, chosen if part else None),
        strict=True,
    ):
        if metric is Metric.L2:
            distances = np.linalg.norm(searched - query, axis=1)
        else:
            lengths = np.linalg.norm(searched, axis=1) * np.linalg.norm(query.astype(np.float64))
            distances = 1 - searched @ query.astype(np.float64) / lengths
        expected = chosen[distances <= np.sort(distances)[3] + 1e-12]
        assert sorted(nearest.rows.tolist()) == sorted(expected.tolist())
        np.testing.assert_allclose(nearest.distances[:4], np.sort(distances)[:4], atol=1e-7)


def test_embeddings_of_ids_are_in_their_order(store: RowReader) -> None:
    ids = ["r:005", "r:001", "r:033"]
    np.testing.assert_array_equal(vectors_of(store, ids)[:], store.embeddings(ids))
    with pytest.raises(MissingRowError, match="r:100"):
        vectors_of(store, ["r:005", "r:100"])
