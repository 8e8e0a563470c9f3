"""The wire format of Protocol Buffers, read and written without their library.

A message is a sequence of fields: a number and a wire type, then a whole number (a varint), four or
eight bytes, or bytes with their length, which may be a message themselves. What the numbers mean is
up to the reader: :mod:`lookalike.onnx_graph` writes ONNX models, and
:mod:`lookalike.encoders.onnx_files` checks those of others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
"""Wire types."""

Chunk = bytes | memoryview
Content = int | float | Chunk | Sequence[Chunk]
"""Of a field to write: a varint, a float32, bytes, or a message as :func:`message` returns it."""

_BITS = (1 << 64) - 1


def message(*fields: tuple[int, Content]) -> list[Chunk]:
    """Return a message of fields ``(number, content)`` in chunks, whose large ones are not copied.

    Whole numbers from ``-2**63`` on are varints, others float32; texts are passed as bytes.
    """
    chunks: list[Chunk] = []
    for number, content in fields:
        if isinstance(content, int):
            chunks += [to_varint(number << 3 | VARINT), to_varint(content & _BITS)]
        elif isinstance(content, float):
            chunks += [to_varint(number << 3 | FIXED_32), struct.pack("<f", content)]
        else:
            inner = [content] if isinstance(content, bytes | memoryview) else content
            size = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in inner)
            chunks += [to_varint(number << 3 | BYTES), to_varint(size), *inner]
    return chunks


def to_varint(value: int) -> bytes:
    """Return a whole number of at least 0 as a varint."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def read_varint(data: memoryview, place: int) -> tuple[int, int]:
    """Return a varint of at most 64 bits at a place, and the place behind it.

    Raises:
        ValueError: it is cut off or too long.
    """
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise ValueError("cut off")
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value & _BITS, place
        shift += 7


def read_fields(
    data: memoryview, budget: list[int]
) -> Iterator[tuple[int, int, int | memoryview, memoryview]]:
    """Yield number, wire type, value (or its bytes) and the whole of each field of a message.

    Args:
        data: the message, of single bytes.
        budget: one number, how many fields may be read, which is counted down.

    Raises:
        ValueError: it is no message, or has too many fields.
    """
    place = 0
    while place < len(data):
        budget[0] -= 1
        if budget[0] < 0:
            raise ValueError("too many fields")
        start = place
        tag, place = read_varint(data, place)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview
        if number == 0:
            raise ValueError("field 0")
        if wire == VARINT:
            value, place = read_varint(data, place)
        else:
            size = {FIXED_64: 8, FIXED_32: 4}.get(wire, 0)
            if wire == BYTES:
                size, place = read_varint(data, place)
            elif not size:
                raise ValueError(f"wire type {wire}")
            if size > len(data) - place:
                raise ValueError("cut off")
            value, place = data[place : place + size], place + size
        yield number, wire, value, data[start:place]
