"""Messages between the service and its decoders: a JSON header and a payload, with lengths."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

LENGTHS = struct.Struct("!IQ")
"""Lengths of the header and of the payload, in bytes."""

Message = tuple[dict[str, Any], bytes]


def preamble(header: Mapping[str, Any], payload_size: int) -> bytes:
    """Return what precedes a payload of ``payload_size`` bytes: the lengths and the header."""
    text = json.dumps(header).encode()
    return LENGTHS.pack(len(text), payload_size) + text


def read(file: BinaryIO) -> Message | None:
    """Read one message; None at the end of the file."""
    lengths = file.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    header, payload = LENGTHS.unpack(lengths)
    return json.loads(file.read(header)), file.read(payload)


def write(file: BinaryIO, header: Mapping[str, Any], payload: bytes | memoryview) -> None:
    """Write one message."""
    file.write(preamble(header, len(payload)))
    file.write(payload)
    file.flush()
