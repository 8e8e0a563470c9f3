"""Scalar quantization of rows to 8 bits, for a fast first pass over all of them.

The product of a query with all rows is limited by memory bandwidth. In 8 bits it is several times
as fast, and its error is bounded (the Cauchy-Schwarz inequality on the rounding residuals), so that
a search which computes the distances of all rows within that error is exact.

ONNX Runtime computes the products, since numpy has no fast ones for integers. Both operands are
inputs of the model, so that codes in a mapped file are read where they are. A process compiles two
models of one operator each, whatever the number and the size of its indexes.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookalike.process_state import default_environment
from lookalike.stores.candidates import group_maxima
from lookalike.types import Embeddings, Metric

BLOCK = 4096
"""Rows of a block. Part of the format of a store's files: never change it."""

RUNS = 4
"""Numbers per row beside its codes; also part of that format."""

_SCALE, _COSINE_SCALE, _HALF_SQUARE, _SUM = range(RUNS)

_LEVELS = 127
"""Queries have 7 bits: AVX2 adds two products in 16 bits, which sums of 7 by 8 bits do not
exceed."""

_SMALLEST_SCALE = 1e-30
_CACHED = 16
"""Blocks whose scores are computed at a time, so that they stay in the cache."""

_EPSILON = float(np.finfo(np.float32).eps)
_SLACK = 1.001
"""For the rounding of the bounds themselves."""


@dataclass(frozen=True, slots=True)
class QuantizedQueries:
    """Queries rounded to 7 bits, with one step for all of them.

    Args:
        codes: ``(q, dim)`` uint8.
        step: what the difference of a code and ``zero`` is multiplied by.
        zero: the code of 0.
        errors: ``(q,)`` lengths of the rounding residuals.
        lengths: ``(q,)`` lengths of the rounded queries.
    """

    codes: NDArray[np.uint8]
    step: np.float32
    zero: int
    errors: NDArray[np.float64]
    lengths: NDArray[np.float64]

    @classmethod
    def of(cls, queries: NDArray[np.float64]) -> QuantizedQueries:
        """Round queries ``(q, dim)``."""
        low, high = min(float(queries.min()), 0.0), max(float(queries.max()), 0.0)
        step = np.float32((high - low) / _LEVELS) if high > low else np.float32(1)
        zero = round(-low / float(step))
        levels = np.rint(queries / float(step))
        levels = np.minimum(np.maximum(levels, -zero), _LEVELS - zero)
        rounded = levels * float(step)
        residuals = queries - rounded
        return cls(
            (levels + zero).astype(np.uint8),
            step,
            zero,
            np.sqrt(np.vecdot(residuals, residuals)),
            np.sqrt(np.vecdot(rounded, rounded)),
        )


class BlockScores(NamedTuple):
    """Where the scores of one query and some blocks are written.

    Args:
        scores: ``(blocks, rows)`` float32; -inf where a row is excluded.
        maxima: ``(blocks, groups)`` float32 of groups of rows: if they are n, each has every n-th.
        excluded: ``(blocks, rows)`` which rows are excluded; None if none is.
    """

    scores: NDArray[np.float32]
    maxima: NDArray[np.float32]
    excluded: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True)
class QuantizedBlocks:
    """Blocks of rows in 8 bits.

    A score is the larger the nearer a row is: the product of query and row less half the row's
    squared length, or for the metric cosine the product divided by the row's length.

    Args:
        codes: ``(blocks, dim, rows)`` int8, from -127 to 127.
        scales: ``(blocks, RUNS, rows)`` float32: what a row's codes are multiplied by, the same
            divided by the row's length, half its squared length, and the sum of its codes.
        bounds: ``(blocks, 4)`` float64: the largest length of a row's rounding residual, the
            largest one relative to the row's length, and the smallest (but zero) and largest
            length of a row.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    bounds: NDArray[np.float64]

    @classmethod
    def empty(cls, count: int, dim: int, rows: int) -> QuantizedBlocks:
        """Return blocks to be filled."""
        return cls(
            np.empty((count, dim, rows), np.int8),
            np.empty((count, RUNS, rows), np.float32),
            np.empty((count, 4)),
        )

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return int(self.codes.shape[2])

    def fill(self, block: int, vectors: Embeddings) -> None:
        """Quantize vectors ``(rows, dim)`` into a block."""
        values = vectors.astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", values, values))
        peaks = np.maximum(vectors.max(axis=1), -vectors.min(axis=1)).astype(np.float64)
        scales = (peaks / _LEVELS).astype(np.float32)
        scales[scales < _SMALLEST_SCALE] = 1
        levels = values / scales[:, None]
        np.rint(levels, out=levels)
        codes = levels.astype(np.int8)
        self.codes[block] = codes.T  # of bytes, which is several times as fast
        sums = codes.sum(axis=1, dtype=np.int32)
        levels *= scales[:, None]
        values -= levels
        errors = np.sqrt(np.einsum("ij,ij->i", values, values))
        nonzero = lengths > 0
        inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=nonzero)
        with np.errstate(over="ignore", under="ignore"):
            self.scales[block] = scales, scales * inverse, lengths**2 / 2, sums
        self.bounds[block] = (
            errors.max(),
            (errors * inverse).max(),
            lengths[nonzero].min(initial=np.inf),
            lengths.max(),
        )

    def half_squares(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return half the squared lengths of rows by their numbers."""
        blocks, places = np.divmod(rows, self.rows)
        return np.asarray(self.scales[blocks, _HALF_SQUARE, places])

    def errors(
        self, queries: QuantizedQueries, blocks: slice, metric: Metric
    ) -> NDArray[np.float32]:
        """Return bounds ``(blocks, q)`` of the errors of scores."""
        residual, relative, _, largest = self.bounds[blocks, :, None].swapaxes(0, 1)
        # To |q - q'| |x| + |q'| |x - x'| comes the rounding of products in 32 bits.
        codes = _LEVELS * float(queries.step) * math.sqrt(self.codes.shape[1])
        rounding = 8 * _EPSILON * (queries.lengths + codes)
        query_error = (queries.errors + rounding) * _SLACK
        query_length = (queries.lengths + rounding) * _SLACK
        with np.errstate(over="ignore"):
            if metric is Metric.COSINE:
                bound = relative * query_length + query_error
            else:
                bound = largest * query_error + residual * query_length
                bound += 5 * _EPSILON * largest**2
            return np.asarray(bound, np.float32)

    def query_scores(
        self,
        query: QuantizedQueries,
        blocks: slice,
        metric: Metric,
        threads: int,
        out: BlockScores,
    ) -> None:
        """Compute the scores of one query; their product with all blocks in several threads."""
        run = _query_kernel(os.getpid(), threads)
        [products] = run({"query": query.codes[None], "codes": self.codes[blocks]})
        products = products[:, 0]
        scales = self.scales[blocks]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for start in range(0, len(products), _CACHED):
                part = slice(start, start + _CACHED)
                scores, integers, some = out.scores[part], products[part], scales[part]
                if query.zero:
                    np.multiply(some[:, _SUM], np.float32(-query.zero), out=scores)
                    np.add(scores, integers, out=scores, dtype=np.float32, casting="unsafe")
                else:
                    np.copyto(scores, integers, casting="unsafe")
                scores *= query.step
                scores *= some[:, _COSINE_SCALE if metric is Metric.COSINE else _SCALE]
                if metric is Metric.L2:
                    scores -= some[:, _HALF_SQUARE]
                if out.excluded is not None:
                    np.copyto(scores, np.float32(-np.inf), where=out.excluded[part])
                out.maxima[part] = group_maxima(scores, out.maxima.shape[1])

    def batch_scores(
        self,
        queries: QuantizedQueries,
        block: int,
        metric: Metric,
        excluded: NDArray[np.bool_] | None,
        groups: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the scores ``(q, rows)`` of several queries; -inf where rows are excluded.

        Also return the maxima ``(q, groups)`` of groups: if they are n, each has every n-th row.
        """
        scales = self.scales[block]
        is_cosine = metric is Metric.COSINE
        bias = np.zeros(self.rows, np.float32) if is_cosine else -scales[_HALF_SQUARE]
        if excluded is not None:
            bias[excluded] = -np.inf
        scores, maxima = _batch_kernel(os.getpid())(
            {
                "queries": queries.codes,
                "codes": self.codes[block],
                "step": np.asarray(queries.step),
                "scales": scales[_COSINE_SCALE if is_cosine else _SCALE],
                "zero": np.array(queries.zero, np.uint8),
                "bias": bias,
                "shape": np.array([-1, self.rows // groups, groups]),
            }
        )
        return scores, maxima


_Kernel = Callable[[dict[str, NDArray[Any]]], list[NDArray[Any]]]


@functools.cache
def _query_kernel(process: int, threads: int) -> _Kernel:
    """Return the product of one query with many blocks, in several threads.

    A forked process needs its own, since threads are not inherited.
    """
    del process
    return _compiled(_query_model(), threads)


@functools.cache
def _batch_kernel(process: int) -> _Kernel:
    """Return the scores of many queries and one block, in the thread that calls it."""
    del process
    return _compiled(_batch_model(), 1)


def _compiled(model: bytes, threads: int) -> _Kernel:
    with default_environment(ORT_DISABLE_TELEMETRY="1"):  # read when it is imported
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    return functools.partial(session.run, None)


def _query_model() -> bytes:
    """Return the model of MatMulInteger, without a zero point: it has no fast kernel for that."""
    from lookalike.onnx_graph import Graph

    graph = Graph()
    query = graph.input("query", (1, 1, None), np.uint8)
    codes = graph.input("codes", (None, None, None), np.int8)
    graph.output(graph.node("MatMulInteger", query, codes), (None, 1, None), np.int32)
    return graph.to_bytes()


def _batch_model() -> bytes:
    """Return the model of a product whose results are scaled as they are computed.

    Their maxima are computed while they are in the cache.
    """
    from lookalike.onnx_graph import Graph

    graph = Graph()
    queries = graph.input("queries", (None, None), np.uint8)
    codes = graph.input("codes", (None, None), np.int8)
    step = graph.input("step", (), np.float32)
    scales = graph.input("scales", (None,), np.float32)
    zero = graph.input("zero", (), np.uint8)
    bias = graph.input("bias", (None,), np.float32)
    operands = (queries, codes, step, scales, zero, "", bias)
    scores = graph.node("MatMulIntegerToFloat", *operands, domain="com.microsoft")
    graph.output(scores, (None, None))
    shape = graph.input("shape", (3,), np.int64)
    maxima = graph.reduce("ReduceMax", graph.node("Reshape", scores, shape), (1,))
    graph.output(maxima, (None, None))
    return graph.to_bytes()
