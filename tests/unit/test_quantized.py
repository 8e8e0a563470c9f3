"""Quantized rows: their error bounds hold, and the models that multiply them are valid."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lookalike.stores import quantized
from lookalike.stores.candidates import group_maxima
from lookalike.stores.quantized import BlockScores, QuantizedBlocks, QuantizedQueries
from lookalike.types import Metric

ROWS = 48


def table(seed: int, kind: str, count: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "extreme":  # the largest possible sums
        return rng.choice(np.array([-1, 1], np.float32), (count, dim))
    rows = rng.normal(size=(count, dim)).astype(np.float32)
    if kind == "crowded":
        rows = (5 + 1e-4 * rows).astype(np.float32)
    if kind == "scales":
        rows *= 10.0 ** rng.integers(-4, 5, (count, 1)).astype(np.float32)
    if kind == "sparse":
        rows[rng.random((count, dim)) < 0.9] = 0
    if kind == "positive":
        rows = np.abs(rows)
    if kind == "spiky":
        rows[:, 0] = 1000
    return rows


KINDS = ("plain", "extreme", "crowded", "scales", "sparse", "positive", "spiky")


def blocks_of(rows: np.ndarray) -> QuantizedBlocks:
    blocks = QuantizedBlocks.empty(len(rows) // ROWS, rows.shape[1], ROWS)
    for block in range(len(blocks)):
        blocks.fill(block, rows[block * ROWS : (block + 1) * ROWS])
    return blocks


def single_scores(blocks: QuantizedBlocks, query: QuantizedQueries, metric: Metric) -> BlockScores:
    count = len(blocks)
    out = BlockScores(np.empty((count, ROWS), np.float32), np.empty((count, 12), np.float32), None)
    blocks.query_scores(query, slice(None), metric, 2, out)
    return out


def true_scores(queries: np.ndarray, rows: np.ndarray, metric: Metric) -> np.ndarray:
    exact = rows.astype(np.float64)
    squares = (exact * exact).sum(axis=1)
    products = queries @ exact.T
    if metric is Metric.L2:
        return np.asarray(products - squares / 2)
    lengths = np.sqrt(squares)
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("dim", [1, 7, 128, 4096])
@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_scores_are_bounded(kind: str, dim: int, metric: Metric) -> None:
    rows = table(1, kind, 4 * ROWS, dim)
    queries = table(2, "positive" if kind == "positive" else "plain", 9, dim).astype(np.float64)
    queries[1] *= 0.01  # rounded with the step of the others
    blocks, rounded = blocks_of(rows), QuantizedQueries.of(queries)
    assert rounded.codes.max() <= 127
    assert blocks.codes.min() >= -127
    errors = blocks.errors(rounded, slice(None), metric)
    truth = true_scores(queries, rows, metric)
    for block in range(len(blocks)):
        part = slice(block * ROWS, (block + 1) * ROWS)
        scores, maxima = blocks.batch_scores(rounded, block, metric, None, 12)
        assert (np.abs(scores - truth[:, part]) <= errors[block][:, None]).all()
        np.testing.assert_array_equal(maxima, group_maxima(scores[None], 12)[0])
    single = QuantizedQueries.of(queries[:1])
    scores, maxima, _ = single_scores(blocks, single, metric)
    np.testing.assert_array_equal(maxima, group_maxima(scores, 12))
    errors = blocks.errors(single, slice(None), metric)[:, 0]
    assert (np.abs(scores.ravel() - truth[0]) <= np.repeat(errors, ROWS)).all()
    if kind not in ("scales", "spiky", "crowded"):  # the bounds are of use
        lengths = np.linalg.norm(rows, axis=1)
        scale = lengths.max() if metric is Metric.L2 else 1
        assert errors.max() <= 0.03 * max(1, dim**0.5 / 8) * scale * np.linalg.norm(queries[0])


def test_excluded_rows_have_no_score() -> None:
    rows = table(1, "plain", ROWS, 16)
    queries = QuantizedQueries.of(table(2, "plain", 3, 16).astype(np.float64))
    excluded = np.arange(ROWS) % 3 == 0
    for metric in Metric:
        scores, _ = blocks_of(rows).batch_scores(queries, 0, metric, excluded, 6)
        np.testing.assert_array_equal(np.isneginf(scores), np.tile(excluded, (3, 1)))


def test_zeros_are_represented() -> None:
    rows = np.zeros((ROWS, 5), np.float32)
    blocks = blocks_of(rows)
    for queries in (np.zeros((2, 5)), np.ones((2, 5))):
        rounded = QuantizedQueries.of(queries)
        np.testing.assert_array_equal(blocks.batch_scores(rounded, 0, Metric.COSINE, None, 6)[0], 0)
        assert rounded.errors.max() < 1e-6


def test_the_models_are_valid_onnx() -> None:
    for model, operators in (
        (quantized._query_model(), ["MatMulInteger"]),
        (quantized._batch_model(), ["MatMulIntegerToFloat", "Reshape", "ReduceMax"]),
    ):
        parsed = onnx.load_from_string(model)
        onnx.checker.check_model(parsed)
        assert [node.op_type for node in parsed.graph.node] == operators


def test_a_process_compiles_each_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []
    compile_model = quantized._compiled

    def counted(model: bytes, threads: int) -> quantized._Kernel:
        compiled.append(threads)
        return compile_model(model, threads)

    monkeypatch.setattr(quantized, "_compiled", counted)
    quantized._query_kernel.cache_clear()
    quantized._batch_kernel.cache_clear()
    for count, dim in ((1, 4), (3, 4), (2, 33)):
        blocks = blocks_of(table(0, "plain", count * ROWS, dim))
        queries = QuantizedQueries.of(np.ones((1, dim)))
        single_scores(blocks, queries, Metric.L2)
        blocks.batch_scores(queries, 0, Metric.L2, None, 6)
    assert compiled == [2, 1]
