"""Quantized rows: their error bounds hold, and searches with them are exact."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.stores import exact, quantized
from lookalike.stores.exact import ExactIndex
from lookalike.stores.quantized import QuantizedRows
from lookalike.types import Metric


def table(seed: int, kind: str, count: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "extreme":  # the largest possible sums
        return rng.choice(np.array([-1, 1], np.float32), (count, dim))
    if kind == "crowded":
        base = rng.normal(size=(3, dim))
        return (base[rng.integers(0, 3, count)] + 1e-4 * rng.normal(size=(count, dim))).astype(
            np.float32
        )
    rows = rng.normal(size=(count, dim)).astype(np.float32)
    if kind == "scales":
        rows *= 10.0 ** rng.integers(-4, 5, (count, 1)).astype(np.float32)
    if kind == "sparse":
        rows[rng.random((count, dim)) < 0.9] = 0
    if kind == "twins":
        rows = rows[rng.integers(0, max(1, count // 5), count)]
    return rows


KINDS = ("plain", "extreme", "crowded", "scales", "sparse", "twins")


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 999),
    st.sampled_from(KINDS),
    st.integers(2, 300),
    st.sampled_from((1, 3, 64, 257)),
    st.integers(1, 12),
    st.sampled_from(list(Metric)),
    st.booleans(),
)
def test_search_with_quantized_rows_is_exact(
    seed: int, kind: str, count: int, dim: int, k: int, metric: Metric, filtered: bool
) -> None:
    rows = table(seed, kind, count, dim)
    rng = np.random.default_rng(seed)
    query = rows[:1] if seed % 3 == 0 else rng.normal(size=(1, dim)).astype(np.float32)
    subset = np.flatnonzero(rng.random(count) < 0.5) if filtered else None
    plain, quantizing = ExactIndex(rows), ExactIndex(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_MIN_QUANTIZED", 1)
        for _ in range(2):
            result = quantizing.search(query, k, metric, subset)
    assert quantizing._quantized is not None or not quantizing._in_range
    expected = plain.search(query, k, metric, subset)
    np.testing.assert_array_equal(result.rows, expected.rows)
    np.testing.assert_array_equal(result.distances, expected.distances)


@pytest.mark.parametrize("kind", KINDS)
def test_error_bounds_of_products_hold(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "_CHUNK", 50)
    monkeypatch.setattr(quantized, "_PART", 50 * 128)
    rows = table(1, kind, 260, 128)
    quantized_rows = QuantizedRows(rows)
    query = table(2, "extreme" if kind == "extreme" else "plain", 1, 128)[0]
    codes, step, rounded = quantized_rows.products(query)
    products = codes * quantized_rows.scales.astype(float) * step
    true = rows.astype(np.float64) @ query
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    bound = np.linalg.norm(query - rounded) * lengths + np.linalg.norm(query) * np.minimum(
        quantized_rows.max_error, quantized_rows.max_relative_error * lengths
    )
    assert (np.abs(products - true) <= 1.001 * bound + 1e-4 * lengths).all()
    assert quantized_rows.max_relative_error < 0.2
    assert np.linalg.norm(query - rounded) <= 0.05 * np.linalg.norm(query)


def test_the_model_is_valid_onnx() -> None:
    model = onnx.load_from_string(quantized._model(np.ones((300, 20_000), np.int8)))
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["MatMulInteger"]


def test_rows_are_quantized_on_the_second_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_MIN_QUANTIZED", 10)
    index = ExactIndex(table(0, "plain", 50, 4))
    query = np.ones((1, 4), np.float32)
    index.search(query, 3, Metric.COSINE)
    assert index._quantized is None
    index.search(query, 3, Metric.COSINE)
    assert index._quantized is not None
