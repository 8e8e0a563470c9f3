"""Scalar quantization of rows to 8 bits, for a fast first pass over all of them.

The product of one query with all rows is limited by memory bandwidth. In 8 bits it is ten times as
fast, and its error is bounded (the Cauchy-Schwarz inequality on the rounding residuals), so that a
search which computes the distances of all rows within that error is exact. ONNX Runtime computes
the product, since numpy has no fast one for integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import check_cancelled
from lookalike.config import settings
from lookalike.onnx_graph import Graph
from lookalike.process_state import default_environment
from lookalike.types import Embeddings

_LEVELS = 127
_QUERY_LEVELS = 63
"""7 bits: AVX2 adds two products in 16 bits, which sums of 7 by 8 bits do not exceed."""

_PART = 1 << 27
"""Maximum values per model; a protobuf message has at most 2 GiB."""

_CHUNK = 1 << 16

BLOCK = 4096
"""Rows of a block. The files of a store have blocks of this many; never change it."""

_SMALLEST_SCALE = 1e-30


@dataclass(frozen=True, slots=True)
class QuantizedBlocks:
    """Whole blocks of rows in 8 bits.

    Args:
        codes: ``(blocks, dim, BLOCK)`` int8.
        scales: ``(blocks, 3, BLOCK)`` float32: what a row's codes are multiplied by, the same
            divided by its length, and half its squared length.
        bounds: ``(blocks, 4)`` float64: the largest length of a rounding residual, the largest one
            relative to the row's length, and the smallest (but zero) and largest length of a row.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    bounds: NDArray[np.float64]

    @classmethod
    def empty(cls, count: int, dim: int, block: int = BLOCK) -> QuantizedBlocks:
        """Return blocks to be filled."""
        return cls(
            np.empty((count, dim, block), np.int8),
            np.empty((count, 3, block), np.float32),
            np.empty((count, 4)),
        )

    def quantize(self, number: int, rows: Embeddings) -> None:
        """Fill a block with rows ``(BLOCK, dim)``."""
        exact = rows.astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", exact, exact))
        scales = (np.maximum(exact.max(axis=1), -exact.min(axis=1)) / _LEVELS).astype(np.float32)
        scales[scales < _SMALLEST_SCALE] = 1
        codes = np.rint(exact / scales[:, None])
        self.codes[number] = codes.T
        codes *= scales[:, None]
        exact -= codes
        errors = np.sqrt(np.einsum("ij,ij->i", exact, exact))
        nonzero = lengths > 0
        inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=nonzero)
        with np.errstate(over="ignore", under="ignore"):
            self.scales[number] = scales, scales * inverse, lengths**2 / 2
        self.bounds[number] = (
            errors.max(),
            (errors * inverse).max(),
            lengths[nonzero].min(initial=np.inf),
            lengths.max(),
        )


class QuantizedRows:
    """Embeddings ``(rows, dim)`` rounded to 8 bits, with one scale per row.

    ``scales`` ``(rows,)`` convert codes to values. ``max_error`` is the largest length of a row's
    rounding residual, ``max_relative_error`` the largest one relative to the row's length.
    """

    def __init__(self, rows: Embeddings) -> None:
        count, dim = rows.shape
        self.scales = np.empty(count, np.float32)
        self.max_error = self.max_relative_error = 0.0
        self._parts: list[Any] = []
        step = max(_CHUNK, _PART // dim // _CHUNK * _CHUNK)
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            codes = np.empty((dim, part.stop - part.start), np.int8)
            for first in range(part.start, part.stop, _CHUNK):
                some = slice(first, min(first + _CHUNK, part.stop))
                codes[:, some.start - start : some.stop - start] = self._encode(rows[some], some).T
            self._parts.append(_product(codes))

    def _encode(self, rows: Embeddings, place: slice) -> NDArray[np.int8]:
        peaks = np.abs(rows).max(axis=1)
        scales = np.where(peaks > 0, peaks / _LEVELS, 1).astype(np.float32)
        codes: NDArray[np.int8] = np.rint(rows / scales[:, None]).astype(np.int8)
        errors = np.linalg.norm(rows - codes * scales[:, None], axis=1)
        lengths = np.linalg.norm(rows, axis=1)
        shares = np.divide(errors, lengths, out=np.zeros_like(errors), where=lengths > 0)
        self.max_error = max(self.max_error, float(errors.max(initial=0)))
        self.max_relative_error = max(self.max_relative_error, float(shares.max(initial=0)))
        self.scales[place] = scales
        return codes

    def products(
        self, query: NDArray[np.float32]
    ) -> tuple[NDArray[np.int32], float, NDArray[np.float32]]:
        """Return integer products ``(rows,)``, a step, and the rounded query ``(dim,)``.

        The integers times ``scales`` times the step approximate the products with the query.
        """
        peak = np.abs(query).max()
        step = peak / np.float32(_QUERY_LEVELS) if peak > 0 else np.float32(1)
        rounded = np.rint(query / step)
        codes = (rounded + (_QUERY_LEVELS + 1)).astype(np.uint8)[None]
        products = []
        for part in self._parts:
            check_cancelled()
            products.append(part.run(None, {"query": codes})[0][0])
        joined = products[0] if len(products) == 1 else np.concatenate(products)
        return joined, float(step), rounded * step


def _product(codes: NDArray[np.int8]) -> Any:
    """Return a session that multiplies a query ``(1, dim)`` by codes ``(dim, rows)``."""
    with default_environment(ORT_DISABLE_TELEMETRY="1"):  # read when it is imported
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings().threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(_model(codes), options, providers=["CPUExecutionProvider"])


def _model(codes: NDArray[np.int8]) -> bytes:
    """Return an ONNX model of one MatMulInteger."""
    dim, count = codes.shape
    graph = Graph()
    query = graph.input("query", (1, dim), np.uint8)
    zero = graph.constant(np.array(_QUERY_LEVELS + 1, np.uint8))
    products = graph.node("MatMulInteger", query, graph.constant(codes), zero)
    graph.output(products, (1, count), np.int32)
    return graph.to_bytes()
