"""Rows in 8 bits: a first look at all of them in a quarter of the memory traffic.

A product of one query with all rows waits for memory, not for arithmetic. In 8 bits it is ten times
as fast, and how far it may be from the true product is known (Cauchy and Schwarz on what rounding
took away), so that a search which looks again at all rows that may be among the nearest is exact.
The product is ONNX Runtime's, since numpy has no fast one of whole numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.config import settings
from lookalike.process_state import default_environment
from lookalike.types import Embeddings

_LEVELS = 127
_QUERY_LEVELS = 63
"""7 bits: sums of two products of 7 and 8 bits fit into the 16 bits that AVX2 adds them in."""

_PART = 1 << 27
"""Values in one model at most; a model is held in a message of at most 2 GiB."""

_AT_ONCE = 1 << 16


class QuantizedRows:
    """Embeddings ``(rows, dim)`` rounded to 8 bits, each row with a scale of its own.

    ``scales`` are what a row's whole numbers stand for, ``far`` is the largest length of what
    rounding took from a row, ``relative`` the largest share of a row's length.
    """

    def __init__(self, rows: Embeddings) -> None:
        count, dim = rows.shape
        self.scales = np.empty(count, np.float32)
        self.far = self.relative = 0.0
        self._parts: list[Any] = []
        step = max(_AT_ONCE, _PART // dim // _AT_ONCE * _AT_ONCE)
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            codes = np.empty((dim, part.stop - part.start), np.int8)
            for first in range(part.start, part.stop, _AT_ONCE):
                some = slice(first, min(first + _AT_ONCE, part.stop))
                codes[:, some.start - start : some.stop - start] = self._rounded(rows[some], some).T
            self._parts.append(_product(codes))

    def _rounded(self, rows: Embeddings, place: slice) -> NDArray[np.int8]:
        peaks = np.abs(rows).max(axis=1)
        scales = np.where(peaks > 0, peaks / _LEVELS, 1).astype(np.float32)
        codes: NDArray[np.int8] = np.rint(rows / scales[:, None]).astype(np.int8)
        lost = np.linalg.norm(rows - codes * scales[:, None], axis=1)
        lengths = np.linalg.norm(rows, axis=1)
        shares = np.divide(lost, lengths, out=np.zeros_like(lost), where=lengths > 0)
        self.far = max(self.far, float(lost.max(initial=0)))
        self.relative = max(self.relative, float(shares.max(initial=0)))
        self.scales[place] = scales
        return codes

    def products(
        self, query: NDArray[np.float32]
    ) -> tuple[NDArray[np.int32], float, NDArray[np.float32]]:
        """Return whole numbers ``(rows,)``, a step, and a query ``(dim,)`` as it was rounded.

        The numbers times ``scales`` times the step are about the products with the query.
        """
        peak = np.abs(query).max()
        step = peak / np.float32(_QUERY_LEVELS) if peak > 0 else np.float32(1)
        rounded = np.rint(query / step)
        codes = (rounded + (_QUERY_LEVELS + 1)).astype(np.uint8)[None]
        found = [part.run(None, {"query": codes})[0][0] for part in self._parts]
        whole = found[0] if len(found) == 1 else np.concatenate(found)
        return whole, float(step), rounded * step


def _product(codes: NDArray[np.int8]) -> Any:
    """Return a session that multiplies a query ``(1, dim)`` with columns ``(dim, rows)``."""
    with default_environment(ORT_DISABLE_TELEMETRY="1"):  # read when it is imported
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings().threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(_model(codes), options, providers=["CPUExecutionProvider"])


def _model(codes: NDArray[np.int8]) -> bytes:
    """Return the ONNX model of one MatMulInteger, written out here: six messages of its format.

    The package onnx, which would do it, is large and otherwise needed for training only.
    """
    dim, count = codes.shape
    uint8, int8, int32 = 2, 3, 6
    rows = _message((1, dim), (1, count), (2, int8), (8, b"rows"), (9, codes.tobytes()))
    zero = _message((2, uint8), (8, b"zero"), (9, bytes([_QUERY_LEVELS + 1])))
    node = _message(
        *((1, b"query"), (1, b"rows"), (1, b"zero")), (2, b"products"), (4, b"MatMulInteger")
    )
    graph = _message(
        (1, node),
        (2, b"products"),
        *((5, rows), (5, zero)),
        (11, _described(b"query", uint8, dim)),
        (12, _described(b"products", int32, count)),
    )
    return _message((1, 8), (7, graph), (8, _message((2, 17))))


def _described(name: bytes, kind: int, columns: int) -> bytes:
    """Return the message of an input or output ``(1, columns)``."""
    shape = _message((1, _message((1, 1))), (1, _message((1, columns))))
    return _message((1, name), (2, _message((1, _message((1, kind), (2, shape))))))


def _message(*fields: tuple[int, int | bytes]) -> bytes:
    """Return a protobuf message: whole numbers as varints, bytes with their length before them."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts += [_varint(number << 3), _varint(value)]
        else:
            parts += [_varint(number << 3 | 2), _varint(len(value)), value]
    return b"".join(parts)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
